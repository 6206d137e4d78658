# SPDX-License-Identifier: Apache-2.0
"""What the supervisor tells a tracker, and TensorBoard's own reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.plan.config import Config, load_config
from gaff.plan.schedule import schedule
from gaff.report.trackers.tracker import Tracker
from gaff.trainers.contract import IterationLogged

SEGMENTS = schedule(40, 20)
RESET = SEGMENTS[0].reset
assert RESET is not None


def line(iteration: int, loss: float | None = None, **known: Any) -> IterationLogged:
    """What the supervisor tells of an iteration line."""
    given: dict[str, Any] = {
        "loss": 5.0 - iteration / 10 if loss is None else loss,
        "learning_rate": 1e-3,
        "ms_per_iteration": 80.0,
        "samples_per_s": 25.0,
        "skipped": 0,
        "nan": 0,
    }
    return IterationLogged(iteration=iteration, total=40, **{**given, **known})


def train(tracker: Tracker, start: int, stop: int, shift: float = 0.0) -> None:
    """One launch, a line every second iteration; the losses are 5 - iteration / 10, plus ``shift``."""
    tracker.segment_started(next(s for s in SEGMENTS if s.start <= start < s.stop), 1, start)
    for iteration in range(start + 2, stop + 1, 2):
        tracker.event(line(iteration, 5.0 - iteration / 10 + shift))


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Config]:
    """A config that tracks what is given."""

    def load(track: str) -> Config:
        (tmp_path / "run.yml").write_text(
            f"gaff:\n  reset_every: 20\n  track: {track}\n  environment: {{TOKEN: secret}}\n"
            "train_iters: 40\noptimizer: {type: Adam, params: {lr: 0.001}}\n"
        )
        return load_config([tmp_path / "run.yml"])

    return load


@pytest.fixture
def told() -> list[str]:
    """What trackers told a person."""
    return []
