# SPDX-License-Identifier: Apache-2.0
"""What differs between the configs of runs, and which runs differ in their seeds alone.  Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gaff.plan.config import Config
from gaff.plan.gaff_block import dump_block
from gaff.report.compare.names import common_name
from gaff.report.compare.runs import ComparedRun
from gaff.report.page.redaction import without_secrets

#: Keys that a repetition of the same setting changes.
SEEDS = ("seed", "gaff.seed")

#: Keys that say where a run keeps things or what it is called there, which each run has of its own.
PLACES = (
    *("save", "load", "log_dir", "tensorboard_dir", "master_port", "master_addr", "hostfile"),
    *("wandb_run_name", "wandb_group", "wandb_project", "wandb_team", "comet_experiment_name", "comet_tags"),
)

NOT_GIVEN, DEFAULT, UNKNOWN = "not given", "default", "unknown"


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seeds and stand at the same iteration; most often a single one.

    Attributes:
        name: the run's, or what the names of several have in common.
        runs: their places among the runs compared.
    """

    name: str
    runs: tuple[int, ...]


def flat_config(config: Config) -> dict[str, Any]:
    """Every key with its value; keys inside mappings are dotted, ours begin with ``gaff.``."""
    return dict(_leaves({**config.neox, "gaff": dump_block(config.gaff)}, ""))


def _comparable(config: Config, run_dir: Path) -> dict[str, Any]:
    """The flat config with what lies inside the run directory told from there: a rehearsal's data, say."""
    inside = f"{run_dir.resolve()}/"
    return {
        key: f"<run>/{value.removeprefix(inside)}" if isinstance(value, str) and value.startswith(inside) else value
        for key, value in flat_config(config).items()
    }


def _leaves(values: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _leaves(value, f"{prefix}{key}.")
        elif value is not None:  # null means not given
            found.append((f"{prefix}{key}", value))
    return found


def differences(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Each key whose value is not the same in all configs, with the runs' values as YAML writes them in a line.

    Ours come first.  What each run has of its own anyway (:data:`PLACES`) is left out, and a run without a readable
    config does not count.
    """
    configs = [None if run.config is None else _comparable(run.config, run.path) for run in runs]
    known = [config for config in configs if config is not None]
    keys = dict.fromkeys(key for config in known for key in config)
    differing = [key for key in keys if key not in PLACES and len({_same(config.get(key)) for config in known}) > 1]
    return {
        key: [UNKNOWN if config is None else _shown(key, config) for config in configs]
        for key in sorted(differing, key=lambda key: not key.startswith("gaff."))
    }


def _same(value: Any) -> str:
    """Equal for values that say the same: 1 and 1.0, too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def _shown(key: str, config: Mapping[str, Any]) -> str:
    if key not in config:
        return DEFAULT if key.startswith("gaff.") else NOT_GIVEN
    text = yaml.safe_dump(config[key], default_flow_style=True, width=10_000, allow_unicode=True)
    named = f"{key}: "
    return without_secrets(named + text.removesuffix("...\n").strip()).removeprefix(named)


def settings(runs: Sequence[ComparedRun]) -> list[Setting]:
    """The runs by setting, in the order of their first run."""
    groups: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        groups.setdefault(_setting_key(run, place), []).append(place)
    commons = [common_name([runs[place].name for place in group]) for group in groups.values()]
    return [
        Setting(common if _is_free(common, group, commons, runs) else runs[group[0]].name, tuple(group))
        for common, group in zip(commons, groups.values(), strict=True)
    ]


def _is_free(name: str, group: Sequence[int], commons: Sequence[str], runs: Sequence[ComparedRun]) -> bool:
    """Whether neither another setting nor another run has this name."""
    return commons.count(name) == 1 and all(run.name != name or place in group for place, run in enumerate(runs))


def _setting_key(run: ComparedRun, place: int) -> str:
    if run.config is None:
        return f"run {place}"
    kept = {key: _same(v) for key, v in _comparable(run.config, run.path).items() if key not in (*SEEDS, *PLACES)}
    return json.dumps([run.done, kept], sort_keys=True)
