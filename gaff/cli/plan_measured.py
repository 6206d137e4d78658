# SPDX-License-Identifier: Apache-2.0
"""How long an iteration and a boundary take: as the command line says, or as a finished run measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaff.errors import InputError, Location, Problem
from gaff.plan.config import Config, load_config
from gaff.plan.cost import Timing
from gaff.plan.typed import precision

#: What the time of an iteration, or of a start, hangs on.
_ALIKE = (
    *("num_layers", "hidden_size", "num_attention_heads", "seq_length", "precision", "train_batch_size"),
    *("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "model_parallel_size", "pipe_parallel_size"),
    *("global_num_gpus", "zero_optimization.stage", "gaff.trainer", "gaff.device"),
)


def timing(config: Config, measured: Path | None, iteration_ms: float | None, boundary_seconds: float | None) -> Timing:
    """The times to reckon with: those that are given, else those of the run directory ``measured``.

    Raises:
        InputError: a time is no positive number, or the run has no summary with a time in it.
    """
    _refuse("--iteration-ms", iteration_ms, zero=False)
    _refuse("--boundary-seconds", boundary_seconds, zero=True)
    found = Timing() if measured is None else _measured(measured, config)
    if iteration_ms is not None:
        found = replace(found, iteration_s=iteration_ms / 1000, iteration_source="--iteration-ms")
    if boundary_seconds is not None:
        found = replace(found, boundary_s=boundary_seconds, boundary_source="--boundary-seconds")
    return found


def _refuse(option: str, value: float | None, *, zero: bool) -> None:
    if value is not None and not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        what = f"`{option} {value:g}` is no time"
        raise InputError(Problem("not-a-time", what, "give a positive number"))


def _measured(run: Path, config: Config) -> Timing:
    """The median iteration and the mean boundary of a run."""
    from gaff.report.summary import SUMMARY_NAME

    path = run / SUMMARY_NAME
    summary = _read(path)
    speed, boundaries = _number(summary, "ms_per_iteration"), _number(summary.get("seconds"), "boundaries")
    if not speed:
        what = "this run has measured no iteration"
        raise InputError(Problem("nothing-measured", what, "name another, or give --iteration-ms", Location(str(path))))
    launches = _number(summary, "attempts") or _number(summary, "segments")
    boundary = boundaries / launches if boundaries is not None and launches else None
    source = f"measured in {run}"
    return Timing(speed / 1000, source, boundary, source if boundary is not None else "", _differences(run, config))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "name the directory of a run that has come to an end, which writes it, or give --iteration-ms"
        raise InputError(Problem("no-summary", "there is no such file", remedy, Location(str(path)))) from None
    except (OSError, ValueError) as error:
        what = f"it cannot be read ({error})"
        raise InputError(Problem("no-summary", what, "give --iteration-ms", Location(str(path)))) from None
    return found if isinstance(found, dict) else {}


def _number(values: object, name: str) -> float | None:
    value = values.get(name) if isinstance(values, Mapping) else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if usable and value is not None else None


def _differences(run: Path, config: Config) -> tuple[str, ...]:
    """Keys in which the measured run is another than ``config``; none where its config cannot be read."""
    from gaff.supervisor.run_directory import RunDirectory

    try:
        other = load_config([RunDirectory(run, run).config])
    except (InputError, OSError):
        return ()
    return tuple(key for key in _ALIKE if _value(config, key) != _value(other, key))


def _value(config: Config, key: str) -> object:
    """A key's value as far as speed hangs on it: whether GPT-NeoX was found by ``auto`` or asked for is the same."""
    if key == "gaff.trainer":
        return config.gaff.trainer == "bundled"
    if key == "gaff.device":
        return config.gaff.device == "gpu"
    return precision(config) if key == "precision" else config.get(key)
