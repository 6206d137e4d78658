# SPDX-License-Identifier: Apache-2.0
"""The matrix: which fault comes when, and with which trainer.

``bundled`` is real DeepSpeed, wherever the state of a trainer matters; the ``stand-in`` writes real checkpoints and
carries on what resets wrote, where the fault hits the supervisor alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults import damage, inject, moments
from tests.faults.inject import Fault
from tests.faults.moments import Moment

BUNDLED, STAND_IN = "bundled", "stand-in"


@dataclass(frozen=True)
class Case:
    """One cell of the matrix.  ``quick`` ones run with the whole suite, the others in ``make test-exhaustive``."""

    trainer: str
    fault: Fault
    moment: Moment
    quick: bool = False

    @property
    def name(self) -> str:
        when = f"after a kill -9: {self.moment.name}" if self.fault.between else self.moment.name
        return f"{self.fault.name}, {when} [{self.trainer}]"


def _all(trainer: str, fault: Fault, *when: Moment) -> list[Case]:
    return [Case(trainer, fault, moment) for moment in when]


m, f, d = moments, inject, damage

CASES = [
    # kill -9
    *_all(BUNDLED, f.KILL_SUPERVISOR, m.FIRST_SEGMENT, m.STARTING, m.MIDDLE, m.LAST_ITERATION, m.SAVED, m.LAST_SEGMENT),
    Case(BUNDLED, f.KILL_SUPERVISOR, m.SAVING),
    *_all(STAND_IN, f.KILL_SUPERVISOR, m.OPENING, m.UNMARKED, m.BEFORE_INTENT, m.INTENT, m.UNRECORDED, m.RECORDED),
    *_all(STAND_IN, f.KILL_SUPERVISOR, m.BETWEEN, m.CONDEMNED, m.PROOF_LEFT, m.REPORTING, m.BACKOFF),
    Case(STAND_IN, f.KILL_SUPERVISOR, m.IN_WRITE, quick=True),
    Case(STAND_IN, f.KILL_SUPERVISOR, m.DELETING, quick=True),
    Case(STAND_IN, f.KILL_SUPERVISOR, m.UNFINISHED, quick=True),
    *_all(BUNDLED, f.KILL_RANK, m.FIRST_SEGMENT, m.MIDDLE, m.LAST_ITERATION, m.SAVING, m.LAST_SEGMENT),
    Case(BUNDLED, f.KILL_LAUNCHER, m.STARTING),
    *_all(BUNDLED, f.KILL_GUARDIAN, m.STARTING, m.MIDDLE, m.SAVING),
    *_all(BUNDLED, f.KILL_ALL, m.MIDDLE, m.SAVING, m.SAVED),
    *_all(STAND_IN, f.KILL_ALL, m.IN_WRITE, m.BACKOFF),
    Case(STAND_IN, f.KILL_ALL, m.BETWEEN, quick=True),
    Case(STAND_IN, f.ORPHAN, m.MIDDLE, quick=True),
    # signals
    *_all(BUNDLED, f.SIGTERM, m.STARTING, m.SAVING),
    Case(BUNDLED, f.SIGTERM, m.MIDDLE),
    *_all(STAND_IN, f.SIGTERM, m.IN_WRITE, m.DELETING, m.BACKOFF),
    Case(BUNDLED, f.SIGINT, m.MIDDLE),
    Case(BUNDLED, f.SIGUSR1, m.MIDDLE),
    Case(STAND_IN, f.SIGHUP, m.MIDDLE, quick=True),
    *_all(BUNDLED, f.SIGINT_TWICE, m.MIDDLE, m.LAST_SEGMENT),
    *_all(BUNDLED, f.RANK_TERMINATED, m.MIDDLE),
    *_all(BUNDLED, f.RANK_CRASHED, m.MIDDLE, m.SAVING),
    # what stands still
    Case(BUNDLED, f.TRAINER_FROZEN, m.MIDDLE),
    Case(BUNDLED, f.TRAINER_FROZEN, m.SAVING),
    Case(BUNDLED, f.SUPERVISOR_FROZEN, m.MIDDLE),
    Case(STAND_IN, f.SUPERVISOR_FROZEN, m.LAST_SEGMENT, quick=True),
    # a full disk
    Case(BUNDLED, f.NO_ROOM, m.MIDDLE),
    Case(BUNDLED, f.DISK_FULL, m.LAST_SEGMENT),
    *_all(STAND_IN, f.DISK_FULL, m.WRITING_INTENT, m.WRITING_RECORD, m.UNMARKED),
    Case(STAND_IN, f.JOURNAL_FULL, m.JOURNALLING, quick=True),
    # damage between two commands
    *_all(BUNDLED, d.TRUNCATED, m.LAST_SEGMENT),
    *_all(BUNDLED, d.FLIPPED, m.LAST_SEGMENT),
    *_all(STAND_IN, d.FILE_LOST, m.LAST_SEGMENT),
    Case(STAND_IN, d.CONFIGS_LOST, m.LAST_SEGMENT, quick=True),
    *_all(STAND_IN, d.LATEST_LOST, m.LAST_SEGMENT),
    *_all(STAND_IN, d.LATEST_GARBAGE, m.BETWEEN),
    Case(STAND_IN, d.LATEST_DIRECTORY, m.LAST_SEGMENT, quick=True),
    *_all(STAND_IN, d.LATEST_MISSING, m.MIDDLE),
    Case(STAND_IN, d.JOURNAL_CUT, m.IN_WRITE, quick=True),
    *_all(STAND_IN, d.JOURNAL_LOST, m.BETWEEN),
    *_all(STAND_IN, d.JOURNAL_GARBAGE, m.UNMARKED),
    Case(STAND_IN, f.JOURNAL_DELETED_AT_WORK, m.MIDDLE),
    *_all(STAND_IN, d.LOCK_GARBAGE, m.MIDDLE),
    *_all(STAND_IN, d.LOCK_LOST, m.INTENT),
    *_all(STAND_IN, f.OTHER_NODE, m.LAST_SEGMENT),
    *_all(STAND_IN, d.SEGMENTS_LOST, m.LAST_SEGMENT),
    *_all(STAND_IN, d.LOGS_LOST, m.MIDDLE),
    # the clock, a second supervisor, the walltime
    *_all(BUNDLED, f.CLOCK_BACK, m.MIDDLE, m.SAVING),
    *_all(BUNDLED, f.CLOCK_FORWARD, m.MIDDLE, m.SAVING),
    *_all(STAND_IN, f.CLOCK_BACK_BETWEEN, m.LAST_SEGMENT),
    *_all(STAND_IN, f.CLOCK_FORWARD_BETWEEN, m.IN_WRITE),
    Case(BUNDLED, f.SECOND, m.MIDDLE),
    Case(BUNDLED, f.WALLTIME, m.ANY),
]
