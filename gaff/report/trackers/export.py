# SPDX-License-Identifier: Apache-2.0
"""The event files of a run that is over, or of an imported log."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gaff.errors import InputError, Location, Problem
from gaff.plan.directories import make_directory
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.metrics.series import Floats, Series
from gaff.report.trackers import contents
from gaff.report.trackers.event_file import EventFile

NAME = "events.out.tfevents.0000000000.gaff-report"
_ROWS = 10_000  # at a time
_REMEDY = "name another directory"


def write_events(metrics: RunMetrics, out: Path, ended: float | None = None) -> Path:
    """Write one event file for TensorBoard; one that was written before is replaced.

    Args:
        metrics: of any run.
        out: the directory, made where it is missing.
        ended: when the last iteration was trained, seconds since the epoch; now unless given.  Wall time counts the
            time of the logged iterations alone, back from there.

    Returns:
        The file.

    Raises:
        InputError: ``out`` cannot be used, or holds event files of something else, which TensorBoard would mix in.
        OSError: the file cannot be written.
    """
    make_directory(out.absolute(), "the directory for event files", _REMEDY)
    others = sorted(name for name in os.listdir(out) if "tfevents" in name and name != NAME)
    if others:
        what = f"holds event files already ({others[0]}), and TensorBoard would show both as one run"
        raise InputError(Problem("event-files-there", what, _REMEDY, Location(str(out))))
    series = metrics.series
    times = _wall_times(series, time.time() if ended is None else ended)
    last = int(series.iteration[-1]) if len(series) else 0
    temporary = out / f".{NAME.replace('tfevents', 'unfinished')}"
    with open(temporary, "wb") as buffered:
        file = EventFile(buffered)
        for step, values, at in _points(metrics, times):
            file.values(step, values, at)
        for validation in metrics.validations:
            step = last if validation.iteration is None else validation.iteration
            file.values(step, contents.validation_values(validation), _time_of(step, series, times))
        for reset in metrics.resets:
            file.reset(reset, _time_of(reset.iteration, series, times))
    os.replace(temporary, out / NAME)
    return out / NAME


def _wall_times(series: Series, ended: float) -> Floats:
    elapsed = np.cumsum(np.nan_to_num(series.elapsed_s))
    return ended - (elapsed[-1] if len(elapsed) else 0.0) + elapsed


def _time_of(step: int, series: Series, times: Floats) -> float:
    """When iteration ``step`` was over: at the last line up to there, or the first one."""
    row = max(int(np.searchsorted(series.iteration, step, side="right")) - 1, 0)
    return float(times[row]) if len(times) else 0.0


def _points(metrics: RunMetrics, times: Floats) -> Iterator[tuple[int, dict[str, float], float]]:
    """(iteration, name -> value, wall time) of every line; what is unknown or wrong is left out."""
    further = {contents.further_loss(name): values for name, values in metrics.losses.items()}
    for first in range(0, len(times), _ROWS):
        chosen = slice(first, first + _ROWS)
        part = metrics.series.rows(chosen)
        known = {
            contents.LOSS: (part.loss, (np.isfinite(part.loss) | part.not_finite) & ~part.partial),
            contents.LEARNING_RATE: (part.learning_rate, np.isfinite(part.learning_rate)),
            contents.LOSS_SCALE: (part.loss_scale, np.isfinite(part.loss_scale)),
            contents.MS_PER_ITERATION: (part.ms_per_iteration, np.isfinite(part.ms_per_iteration) & ~part.partial),
            contents.SAMPLES_PER_S: (part.samples_per_s, np.isfinite(part.samples_per_s) & ~part.partial),
        }
        columns = [(tag, values.tolist(), is_known.tolist()) for tag, (values, is_known) in known.items()]
        rows = zip(part.iteration.tolist(), times[chosen].tolist(), part.partial.tolist(), strict=True)
        for row, (step, at, partial) in enumerate(rows):
            point = {tag: values[row] for tag, values, is_known in columns if is_known[row]}
            if not partial:
                point |= {tag: values[step] for tag, values in further.items() if step in values}
            if point:
                yield step, point, at
