# SPDX-License-Identifier: Apache-2.0
"""How a run in a scheduler's job goes on when the job's time is over: put back into the queue, or by a follower.

Only a run that can be carried on goes on, and only where it was time, a preemption or the trainer's death that ended
it: who cancels a job wants it ended.  A scheduler that puts a job back by itself (a lost node, a preemption that came
without warning, ``scontrol requeue``) needs no help.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from gaff.cluster.job import Cause, Job, kind_of
from gaff.cluster.record import record
from gaff.errors import GaffError, Interrupted, Problem
from gaff.supervisor.journal import JOURNAL_NAME, Entry, Journal, read_entries

Mode = Literal["requeue", "follower", "never"]

_FRUITLESS = 3  # calls in a row that trained nothing; the next one would not either
_WARNINGS = ("SIGTERM", "SIGUSR1", "SIGUSR2")  # what schedulers send


@dataclass
class Resubmission:
    """What is done about the next job of a run, from the start of this one on.

    Attributes:
        job: this one.
        mode: ``requeue``, ``follower`` or ``never``.
        root: the run directory, which is held.
        follower: the job that waits behind this one; None for none.
    """

    job: Job
    mode: Mode
    root: Path
    follower: str | None = None

    def __post_init__(self) -> None:
        self.journal = Journal(self.root / JOURNAL_NAME)

    def begin(self, done: bool) -> None:
        """Have the follower queued, at the start, so that it comes however this job ends.

        Args:
            done: whether the run is finished, which ends the chain.

        Raises:
            GaffError: the scheduler does not take it.
        """
        if self.mode == "follower" and not done:
            self.add_follower()

    def add_follower(self) -> str:
        """Have a job queued that begins when this one has ended.  Returns its id.

        Raises:
            GaffError: the scheduler does not take it.
        """
        self.follower = self.job.add_follower()
        record(self.root, kind_of(self.job), self.follower, self.job.script or Path())
        self.journal.write("follower_added", job=self.job.id, follower=self.follower)
        return self.follower

    def wanted(self, error: Interrupted) -> bool:
        """Whether this job is to be put back into the queue, or its follower to stay, after a run that ended so.

        Raises:
            GaffError: it would be, but the last few jobs trained nothing.
        """
        if self.mode == "never" or not self._goes_on(error):
            return False
        fruitless = fruitless_calls(read_entries(self.root))
        if fruitless >= _FRUITLESS:
            what = f"{fruitless} jobs in a row trained no iteration that was saved, so no further one is queued"
            raise GaffError((*error.problems, Problem("no-progress", what, "see what ended them, then submit again")))
        return True

    def _goes_on(self, error: Interrupted) -> bool:
        if error.signal is None:
            return True
        if error.signal not in _WARNINGS:  # a person
            return False
        cause = self.job.cause(error.signal)
        with suppress(OSError, GaffError):  # a full disk, say, must not keep the job from coming back
            self.journal.write("job_signalled", job=self.job.id, signal=error.signal, cause=cause.value)
        return cause in (Cause.TIME, Cause.PREEMPTED) or (cause is Cause.PUT_BACK and self.mode == "follower")

    def end(self, goes_on: bool) -> None:
        """Cancel the follower of a run that is finished, failed or cancelled; tell that this job is to come back.

        Raises:
            GaffError: the scheduler does not answer.
        """
        if goes_on and self.mode == "requeue":
            self.journal.write("requeue_asked", job=self.job.id)
        elif self.follower is not None and not goes_on:
            self.job.drop(self.follower)
            self.journal.write("follower_dropped", job=self.job.id, follower=self.follower)


def fruitless_calls(entries: Sequence[Entry]) -> int:
    """How many of the last calls, without a gap, ended by themselves where they had begun.

    Calls that were stopped by a signal do not count, nor do they end the row: preemptions say nothing about the run.
    """
    begun = [number for number, entry in enumerate(entries) if entry.event == "run_started"]
    fruitless = 0
    for first, end in reversed(list(pairwise([*begun, len(entries)]))):
        call = entries[first:end]
        if any(entry.event in ("segment_done", "reset_done") for entry in call) or _reached_more(call):
            break
        stopped = next((entry for entry in call if entry.event == "run_interrupted"), None)
        if stopped is not None and stopped.text("signal") is None:
            fruitless += 1
    return fruitless


def _reached_more(call: Sequence[Entry]) -> bool:
    began = call[0].number("resume_iteration") or 0
    ends = [entry for entry in call if entry.event == "run_interrupted"]
    return any((entry.number("iteration") or 0) > began for entry in ends)
