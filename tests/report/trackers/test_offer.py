# SPDX-License-Identifier: Apache-2.0
"""What is told before the first launch of a tracker that cannot work, and what a config without a word gets."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.errors import Location
from gaff.plan.config import Config
from gaff.report.trackers.offer import tracker_problems, trackers
from tests.report.trackers.conftest import SEGMENTS, train
from tests.report.trackers.event_files import scalars

Load = Callable[[str], Config]


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_told_with_its_command(
    config: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else there(asked))
    [problem] = tracker_problems(config(name))
    assert (problem.id, problem.remedy) == ("tracker-missing", f"pip install 'gaff[{name}]'")
    assert problem.what == f"`track: {name}` is asked for, and the Python package {name} is missing"
    assert problem.where == Location(str(tmp_path / "run.yml"), 3)


def test_nothing_is_needed_for_nothing(config: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None)
    assert tracker_problems(config("none")) == tracker_problems(config("tensorboard")) == []
    assert trackers(config("none"), Path("run"), "id", print) == []


def test_mlflow_without_a_server(config: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: asked)
    [problem] = tracker_problems(config("mlflow"))
    assert problem.id == "tracker-not-ready"
    assert "MLFLOW_TRACKING_URI does not say where" in problem.what


@pytest.mark.exhaustive
def test_mlflow_with_a_file_that_cannot_be(config: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/run.yml/mlflow.db")
    [problem] = tracker_problems(config("mlflow"))
    assert problem.what.startswith("`track: mlflow` is asked for, and MLflow cannot use MLFLOW_TRACKING_URI=sqlite:")


@pytest.mark.exhaustive
def test_wandb_without_a_key(config: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    [problem] = tracker_problems(config("wandb"))
    assert problem.what == "`track: wandb` is asked for, and there is no API key for W&B"
    assert problem.remedy.startswith("run `wandb login`")
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {'a' * 40}\n")
    assert tracker_problems(config("wandb")) == []
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracker_problems(config("wandb")) == []


def test_by_default_there_is_tensorboard(config: Load, tmp_path: Path, told: list[str]) -> None:
    [one] = trackers(config("[tensorboard]"), tmp_path / "run", "id", told.append)
    assert not (tmp_path / "run").exists()
    one.run_started(SEGMENTS, 40, 0)
    train(one, 0, 4)
    one.close("finished")
    assert scalars(tmp_path / "run" / "tensorboard") == [(2, 4.8), (4, 4.6)]
    assert told == []


class Broken:
    """A sink that can do nothing, not even end."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("broken")


def test_whatever_a_sink_raises_is_told_once(told: list[str]) -> None:
    from gaff.report.trackers.tracker import Tracker

    sink: Any = Broken()
    one = Tracker("W&B", lambda: sink, told.append)
    one.run_started(SEGMENTS, 40, 0)
    train(one, 0, 20)
    one.close("failed")
    assert told == ["W&B gets no more of this run's metrics: broken"]
