# SPDX-License-Identifier: Apache-2.0
"""A launch that is to end: at its next checkpoint where that comes in time, else at once."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gaff.plan.settings import WatchSettings
from gaff.supervisor.launch import with_notice
from gaff.supervisor.pace import Pace
from gaff.supervisor.signals import Signals
from gaff.supervisor.stopping import Stopping, Verdict
from gaff.supervisor.walltime import Deadline
from gaff.trainers.contract import IterationLogged
from tests.supervisor.fake_trainer import write_tag

SETTINGS = WatchSettings(grace_seconds=20, warning_seconds=100)


class Scene:
    """A launch from 100 to 200, a second an iteration and 5 s to end, seen after iteration 150."""

    def __init__(
        self,
        save: Path,
        saves: tuple[int, ...] = (200,),
        deadline_s: float | None = None,
        jobs_end: Callable[[], float] | None = None,
    ) -> None:
        self.now = 0.0
        self.pace = Pace(lambda: self.now)
        self.told: list[tuple[str, int | None]] = []
        for stop in (100, 200):
            self.pace.launched(stop - 100, stop)
            for iteration in range(stop - 90, stop + 1, 10):
                self.now += 10
                self.pace.see(IterationLogged(iteration, 1000, 3.0, 1e-3, 1000.0, None, 0, 0))
                if iteration == 150:
                    break
            else:
                self.now += 5
                self.pace.ended()
        self.signals = Signals(lambda: self.now)
        self.deadline = None if deadline_s is None else Deadline(deadline_s, lambda: self.now, source=jobs_end)
        fields: dict[str, Any] = {"deadline": self.deadline, "told": lambda *news: self.told.append(news)}
        self.stopping = Stopping(self.signals, SETTINGS, self.pace, saves, save, clock=lambda: self.now, **fields)

    def signal(self, name: str, warned: bool = False) -> None:
        self.signals.name, self.signals.warned, self.signals.since = name, warned, self.now

    def warn(self) -> None:
        self.signals._receive(signal.SIGUSR1, None)

    def verdict(self, iteration: int = 150) -> Verdict:
        return self.stopping.verdict(iteration)


def test_nothing_asks_for_an_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.verdict() is Verdict.GO_ON
    assert scene.stopping.reason is None


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_checkpoint_that_is_far_is_not_waited_for(name: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.signal(name)
    assert scene.verdict() is Verdict.ASK
    assert scene.told == [(name, None)]
    assert scene.stopping.reason == name


def test_a_warning_leaves_the_time_for_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.signal("SIGUSR1", warned=True)
    assert scene.verdict() is Verdict.GO_ON
    assert scene.told == [("SIGUSR1", 200)]
    scene.now += 99
    assert scene.verdict() is Verdict.GO_ON
    scene.now += 2
    assert scene.verdict() is Verdict.ASK, "it did not come in time"


def test_after_a_warning_sigterm_leaves_less(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.signal("SIGUSR1", warned=True)
    assert scene.verdict() is Verdict.GO_ON
    scene.signal("SIGTERM")
    assert scene.verdict() is Verdict.ASK
    assert scene.told == [("SIGUSR1", 200), ("SIGTERM", None)]


def test_a_checkpoint_of_the_users_own_will_do(tmp_path: Path, unpacked_checkpoints: Path) -> None:
    scene = Scene(tmp_path, saves=(120, 160, 200))
    scene.signal("SIGTERM")
    assert scene.verdict() is Verdict.GO_ON
    assert scene.stopping.waits_for == 160
    scene.now += 12
    assert scene.verdict(160) is Verdict.GO_ON, "it is being written"
    write_tag(tmp_path, unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5", 160)
    scene.now += 1
    assert scene.verdict(160) is Verdict.ASK


def test_one_that_was_just_written_is_not_waited_for_again(tmp_path: Path, unpacked_checkpoints: Path) -> None:
    scene = Scene(tmp_path, saves=(150, 200))
    write_tag(tmp_path, unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5", 150)
    scene.signal("SIGTERM")
    assert scene.verdict(150) is Verdict.ASK
    shutil.rmtree(tmp_path / "global_step150")
    again = Scene(tmp_path, saves=(150, 200))
    again.signal("SIGTERM")
    assert again.verdict(150) is Verdict.GO_ON, "it is about to be written"


def test_an_unknown_speed_is_no_reason_to_wait(tmp_path: Path) -> None:
    signals = Signals()
    stopping = Stopping(signals, SETTINGS, Pace(), (200,), tmp_path)
    signals.name, signals.warned = "SIGUSR1", True
    assert stopping.verdict(150) is Verdict.ASK


def test_the_end_of_the_walltime_ends_a_launch_that_is_late(tmp_path: Path) -> None:
    scene = Scene(tmp_path, deadline_s=30)
    assert scene.verdict() is Verdict.GO_ON
    scene.now += 26
    assert scene.verdict() is Verdict.ASK
    assert scene.verdict() is Verdict.ASK
    assert scene.told == [("the end of the walltime", None)]
    assert scene.stopping.reason == "the end of the walltime"
    assert scene.verdict(200) is Verdict.GO_ON, "its own last checkpoint is being written"
    scene.now += 3
    assert scene.verdict(200) is Verdict.ASK


def test_a_run_that_is_another_supervisors_is_left_at_once(tmp_path: Path) -> None:
    stopping = Stopping(Signals(), SETTINGS, Pace(), (200,), tmp_path, lost=lambda: "it is another's")
    assert stopping.verdict(150) is Verdict.KILL
    assert stopping.reason == "it is another's"


def test_urgent_is_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.signal("SIGINT")
    scene.signals.urgent = True
    assert scene.verdict() is Verdict.KILL


def test_a_last_checkpoint_whose_iteration_is_not_logged_is_seen_by_its_directory(tmp_path: Path) -> None:
    scene = Scene(tmp_path, saves=(153,), deadline_s=30)
    scene.now += 26
    (tmp_path / "global_step153").mkdir()
    assert scene.verdict(150) is Verdict.GO_ON
    scene.now += 3
    assert scene.verdict(150) is Verdict.ASK


def test_a_trainer_that_ends_by_itself_is_left_to_it(tmp_path: Path, unpacked_checkpoints: Path) -> None:
    """Its last checkpoint is whole, and its ranks are about to leave: nothing is gained by ending them."""
    scene = Scene(tmp_path)
    scene.signal("SIGUSR1", warned=True)
    assert scene.verdict() is Verdict.GO_ON
    write_tag(tmp_path, unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5", 200)
    scene.now += 10
    assert scene.verdict(200) is Verdict.GO_ON


def test_a_warning_close_to_a_jobs_end_leaves_it_to_the_deadline(tmp_path: Path) -> None:
    scene = Scene(tmp_path, deadline_s=5000.0, jobs_end=lambda: 300.0)
    scene.warn()
    assert scene.verdict() is Verdict.GO_ON
    assert scene.stopping.reason is None
    assert scene.deadline is not None
    assert (scene.deadline.left_s, scene.deadline.cut_short) == (300.0, True)
    scene.now += 298
    assert scene.verdict() is Verdict.ASK, "its time is over"


def test_a_warning_far_from_a_jobs_end_asks_for_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path, deadline_s=5000.0, jobs_end=lambda: 5000.0)
    scene.warn()
    assert scene.verdict() is Verdict.GO_ON, "55 s to the checkpoint at 200, and 100 are allowed"
    assert scene.stopping.waits_for == 200
    assert scene.stopping.reason == "SIGUSR1"


@pytest.mark.parametrize(("notice_s", "allowed_s"), [(None, 100.0), (60.0, 30.0), (600.0, 100.0)])
def test_a_scheduler_that_kills_soon_after_its_warning_shortens_the_wait(
    notice_s: float | None, allowed_s: float
) -> None:
    job: Any = SimpleNamespace(notice_s=notice_s)
    assert with_notice(SETTINGS, job).warning_seconds == allowed_s
    assert with_notice(SETTINGS, None) == SETTINGS
