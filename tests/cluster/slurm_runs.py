# SPDX-License-Identifier: Apache-2.0
"""Runs of the bundled trainer as jobs of a real Slurm, and looking at how they get on."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.slurm import PATIENCE_S, Slurm, wait_for
from tests.live import different, finish, gaff, journal, log_text

ITERATIONS, K = 80, 40  # of the configs: one reset, after iteration 40

_LOGGED = re.compile(r"\| iteration +(\d+)/")
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
_LOOK_S, _SEARCH_S = 0.01, 0.5


@dataclass(frozen=True)
class Run:
    """A run that is given to Slurm.

    Attributes:
        slurm: takes it.
        config, profile: files.
        root: its run directory.
    """

    slurm: Slurm
    config: Path
    profile: Path
    root: Path

    def try_to_submit(self, *options: str) -> tuple[int, str, str]:
        """Exit code and output of ``gaff submit``."""
        words = ("--config", self.config, "--profile", self.profile, "--run-dir", self.root)
        return finish(gaff("submit", *words, *options))

    def submit(self, *options: str) -> str:
        """The job's id."""
        code, output, errors = self.try_to_submit("--json", *options)
        assert code == 0, errors
        return str(json.loads(output)["job"])

    def log(self, job: str) -> str:
        path = self.root / "jobs" / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def status(self) -> dict[str, Any]:
        code, output, errors = finish(gaff("status", self.root, "--json"))
        assert code == 0, errors
        said: dict[str, Any] = json.loads(output)
        return said

    @property
    def tag(self) -> Path:
        """The last one."""
        return self.root / "checkpoints" / f"global_step{ITERATIONS}"

    @property
    def logged(self) -> list[int]:
        """Every iteration that the trainer has logged, in all launches."""
        return sorted(map(int, _LOGGED.findall(log_text(self.root))))

    @property
    def done_twice(self) -> list[int]:
        return sorted(iteration for iteration, count in Counter(self.logged).items() if count > 1)

    def reach(self, iteration: int) -> None:
        """Wait until it has been logged."""
        wait_for(f"iteration {iteration} of {self.root}", lambda: iteration in self.logged)

    def journal(self, event: str) -> list[dict[str, Any]]:
        return journal(self.root, event) if (self.root / "journal.jsonl").exists() else []


def end_of(slurm: Slurm, job: str, within_s: float = PATIENCE_S) -> dict[str, str]:
    """What Slurm says of a job that is over.  After a requeue it need not wait the two minutes that others wait."""
    hastened: set[str] = set()

    def over() -> dict[str, str] | None:
        facts = slurm.facts(job)
        if facts["JobState"] == "PENDING" and facts["Reason"] == "BeginTime" and facts["Restarts"] not in hastened:
            hastened.add(facts["Restarts"])
            hasten(slurm, job)
        return facts if facts["JobState"] in _OVER else None

    found: dict[str, str] = wait_for(f"the end of job {job}", over, within_s)
    return found


@dataclass(frozen=True)
class Outcome:
    """How a job and its run ended.

    Attributes:
        state, code: of the job, as Slurm says them.
        restarts: how often the job was requeued.
        status: of the run, as GAFF says it.
        resets: their numbers, in the order in which they were made.
        different: tensors of the last tag that differ from the undisturbed run's.
        left: processes.
    """

    state: str = "COMPLETED"
    code: str = "0:0"
    restarts: int = 0
    status: str = "finished"
    resets: tuple[int, ...] = (1,)
    different: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def outcome(run: Run, job: str, undisturbed: Path, within_s: float = PATIENCE_S) -> Outcome:
    """Wait for the end of a job that finishes its run."""
    facts = end_of(run.slurm, job, within_s)
    assert run.tag.exists(), f"{facts['JobState']} {facts['ExitCode']}:\n{run.log(job)}"
    return Outcome(
        facts["JobState"],
        facts["ExitCode"],
        int(facts["Restarts"]),
        run.status()["state"],
        tuple(entry["reset"] for entry in run.journal("reset_done")),
        tuple(different(run.tag, undisturbed)),
        tuple(str(process) for process in processes_of(run.root)),
    )


def hasten(slurm: Slurm, job: str) -> None:
    """Have a job that was requeued start soon; a node refuses one that it has ended in the same second."""
    slurm.update(job, StartTime="now+3")


def cut_short(slurm: Slurm, job: str, seconds: int) -> None:
    """Move the end of a job's time forward and warn it at once, where Slurm would within half a minute."""
    slurm.update(job, EndTime=f"now+{seconds}")
    slurm.ask("scancel", "--batch", "--signal=USR1", job)


def put_back(slurm: Slurm, job: str, restarts: int = 1) -> None:
    """Wait until Slurm has it in the queue again, or already started anew."""
    wait_for(f"job {job} to be requeued", lambda: int(slurm.facts(job)["Restarts"]) >= restarts)


def processes_of(root: Path) -> list[psutil.Process]:
    """All that work in a run directory: supervisors, trainers, ranks."""
    return [process for process, words in _command_lines() if any(_is_in(word, root) for word in words)]


def ranks_of(root: Path) -> list[psutil.Process]:
    """Processes of the bundled trainer."""
    trains = "gaff.trainers.bundled"
    return [p for p, words in _command_lines() if trains in words and any(_is_in(word, root) for word in words)]


def _command_lines() -> Iterator[tuple[psutil.Process, list[str]]]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has just ended
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process, process.cmdline()


def _is_in(word: str, root: Path) -> bool:
    return word == str(root) or word.startswith(f"{root}/")


@contextmanager
def slowed(root: Path, per_second: float, after: int = 0) -> Iterator[None]:
    """While the block runs, the trainer makes no more iterations a second, as on a slower machine.

    Args:
        root: the run directory.
        per_second: iterations.
        after: launches that begin with an earlier iteration are left alone.
    """
    end = threading.Event()
    brake = threading.Thread(target=_brake, args=(root, per_second, after, end), daemon=True)
    brake.start()
    try:
        yield
    finally:
        end.set()
        brake.join()


def _brake(root: Path, per_second: float, after: int, end: threading.Event) -> None:
    ranks: list[psutil.Process] = []
    log, began, first, searched, stopped = root, 0.0, 0, 0.0, False
    while not end.wait(_LOOK_S):
        now = time.monotonic()
        if now - searched > _SEARCH_S:
            searched, ranks = now, ranks_of(root) if root.exists() else []
        newest = max(root.glob("segments/*/attempt-*.log"), key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is None or not ranks:
            continue
        if newest != log:
            log, first = newest, 0
        iteration = _last_logged(log)
        if iteration and not first:
            began, first = now, iteration
        too_fast = first > after and iteration - first >= (now - began) * per_second
        if too_fast != stopped:
            _signal(ranks, signal.SIGSTOP if too_fast else signal.SIGCONT)
            stopped = too_fast
    _signal(ranks, signal.SIGCONT)


def _last_logged(log: Path) -> int:
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - 2000))
        found = _LOGGED.findall(file.read().decode(errors="replace"))
    return int(found[-1]) if found else 0


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)
