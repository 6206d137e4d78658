# SPDX-License-Identifier: Apache-2.0
"""The trackers that a config asks for, and what keeps them from working here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.report.trackers.contents import parameters
from gaff.report.trackers.event_file import open_event_file
from gaff.report.trackers.process import TrackerProcess, command
from gaff.report.trackers.tracker import Sink, Tracker

DIRECTORY = "trackers"  # in the run directory: logs and files of W&B and MLflow
TENSORBOARD = "tensorboard"  # in the run directory

_TITLES = {"tensorboard": "TensorBoard", "wandb": "W&B", "mlflow": "MLflow"}
_CHECK_S = 60.0


def trackers(config: Config, root: Path, run_id: str, message: Callable[[str], None]) -> list[Tracker]:
    """The observers for what ``track`` names.  Nothing is written or started before they are told of the run.

    Args:
        config: checked, by :func:`tracker_problems` too.
        root: the run directory.
        run_id: of the run.
        message: tells a person, in one line.
    """
    return [_tracker(name, config, root, run_id, message) for name in config.gaff.track]


def _tracker(name: str, config: Config, root: Path, run_id: str, message: Callable[[str], None]) -> Tracker:
    if name == "tensorboard":
        return Tracker(_TITLES[name], partial(open_event_file, root / TENSORBOARD), message)
    directory = root / DIRECTORY
    about: dict[str, Any] = {
        "run_id": run_id,
        "name": root.name,
        "directory": str(directory),
        "parameters": parameters(config),
        **{key: config.get(f"wandb_{key}") for key in ("project", "team", "group")},
    }

    def open_process() -> Sink:
        return TrackerProcess(name, about, directory / f"{name}.log", lambda text: message(f"{_TITLES[name]}: {text}"))

    return Tracker(_TITLES[name], open_process, message)


def tracker_problems(config: Config) -> list[Problem]:
    """Everything that would keep a tracker of ``config`` from working here.

    Asks no server.  A database file that MLflow is to make is made.
    """
    found = (_problem(name) for name in config.gaff.track)
    return [config.problem(id, "gaff.track", what, remedy) for id, what, remedy in filter(None, found)]


def _problem(name: str) -> tuple[str, str, str] | None:
    """(id, what, remedy)."""
    if name == "tensorboard":
        return None
    if importlib.util.find_spec(name) is None:
        what = f"`track: {name}` is asked for, and the Python package {name} is missing"
        return "tracker-missing", what, f"pip install 'gaff[{name}]'"
    if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
        what = "`track: mlflow` is asked for, and MLFLOW_TRACKING_URI does not say where MLflow's server is"
        return "tracker-not-ready", what, "export MLFLOW_TRACKING_URI=http://HOST:5000, or sqlite:////PATH/mlflow.db"
    return _library_problem(name)


def _library_problem(name: str) -> tuple[str, str, str] | None:
    """What the library itself says, asked in a process of its own."""
    try:
        done = subprocess.run(command(name, "--check"), capture_output=True, timeout=_CHECK_S, check=False)
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):  # it is slow, or could not say; the run will
        return None
    return found and ("tracker-not-ready", f"`track: {name}` is asked for, and {found[0]}", found[1])
