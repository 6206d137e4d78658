# SPDX-License-Identifier: Apache-2.0
"""A launch from its first process to its last line, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gaff.errors import TrainerError
from gaff.plan.config import Config
from gaff.supervisor.child import RUN_ID, Child, end_leftovers
from gaff.supervisor.observer import NullObserver
from gaff.trainers.contract import Event, IterationLogged, Launch, SegmentRequest
from tests.supervisor import drive
from tests.supervisor.drive import build
from tests.supervisor.fake_trainer import ITERATION_LINE, FakeTrainer

SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def launch_of(code: str, folder: Path) -> Launch:
    return Launch((sys.executable, "-c", code), folder, {})


# --- nobody outlives the guardian ---


def test_a_guardian_killed_with_9_takes_the_trainer_along_by_itself(tmp_path: Path) -> None:
    """No supervisor looks for leftovers here: the kernel does it, whoever else is dead."""
    log = tmp_path / "log"
    with Child(launch_of(SLEEP, tmp_path), log, "a-run") as child:
        wait_for(lambda: log.read_text().endswith("\n"), "the trainer's first line")
        trainer = psutil.Process(int(log.read_text()))
        try:
            assert trainer.ppid() == child.pid
            os.kill(child.pid, signal.SIGKILL)
            wait_for(lambda: not lives(trainer), "the trainer's end")
        finally:
            if lives(trainer):
                trainer.kill()
    assert child.poll() == -signal.SIGKILL


# --- leftovers ---


def test_leftovers_are_gone_when_they_are_said_to_be_ended(tmp_path: Path) -> None:
    """They hold memory, ports and open checkpoints until then; a launch must not race them."""

    def start(run_id: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SLEEP], env={**os.environ, RUN_ID: run_id}, stdout=output)

    with open(tmp_path / "out", "wb") as output:
        mine, other = [start("this-run") for _ in range(5)], start("this-run-not")
    try:
        wait_for(lambda: (tmp_path / "out").read_bytes().count(b"\n") == 6, "six processes")
        ended = end_leftovers("this-run")
        assert [p.pid for p in mine if psutil.pid_exists(p.pid)] == []  # not even as zombies, which nobody else reaps
        assert sorted(ended) == sorted(p.pid for p in mine)
        assert other.poll() is None, "another run's processes are left alone"
        assert end_leftovers("this-run") == []
    finally:
        for process in (*mine, other):
            process.kill()
            process.wait()


# --- the log, to its last line ---

LINES = 2000
SHOUT = f"""
import sys
line = {ITERATION_LINE!r}
lines = (line.format(iteration=i, total={LINES}, loss=1.0, ms=20.0) for i in range(1, {LINES} + 1))
sys.stdout.write("\\n".join(lines) + "\\n")
sys.stdout.flush()
raise RuntimeError("the very last words")
"""


@dataclass
class Shouter(FakeTrainer):
    """Prints thousands of lines at once, and is gone."""

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        return launch_of(SHOUT, request.directory)


class Listener(NullObserver):
    def __init__(self) -> None:
        self.heard: list[int] = []

    def event(self, event: Event) -> None:
        if isinstance(event, IterationLogged):
            self.heard.append(event.iteration)


def listen(root: Path) -> list[int]:
    """Run a supervisor over a trainer that shouts.  Returns the iterations that its observer was told of."""
    supervisor = build(root, root, {})
    listener = Listener()
    supervisor = drive.changed(supervisor, trainer=Shouter(root, 40), observer=listener)
    with pytest.raises(TrainerError, match="the very last words"):
        supervisor.run()
    return listener.heard


def test_no_line_is_lost_when_the_trainer_exits_at_once(tmp_path: Path) -> None:
    for attempt in range(3):
        assert listen(tmp_path / f"run-{attempt}") == list(range(1, LINES + 1))


def test_no_line_is_lost_that_was_written_while_the_supervisor_asked_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may hold the supervisor up between any two of its steps; here it does so until the trainer is gone."""
    real = Child.poll

    def held_up(child: Child) -> int | None:
        while (code := real(child)) is None:
            time.sleep(0.01)
        return code

    monkeypatch.setattr(Child, "poll", held_up)
    assert listen(tmp_path / "run") == list(range(1, LINES + 1))
