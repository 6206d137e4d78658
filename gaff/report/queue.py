# SPDX-License-Identifier: Apache-2.0
"""The newest job of a run in its scheduler's queue, as far as this machine can ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaff.cluster.profile import SchedulerName
from gaff.cluster.record import submissions
from gaff.cluster.schedulers import scheduler

_PERIOD_S = 30.0  # between two questions to a controller that serves thousands of jobs


class QueueLook:
    """Looks the job up, and not too often.

    Args:
        run_dir: the run directory.
        clock: seconds, never set back.
    """

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_dir, self._clock = run_dir, clock
        self._asked: tuple[str, float] | None = None
        self._state: str | None = None

    def read(self) -> dict[str, Any] | None:
        """The job as plain JSON values; None for a run that was never submitted.

        ``state`` is the scheduler's own word, ``""`` for a job that is neither waiting nor running, None where it
        cannot be asked.
        """
        told = submissions(self._run_dir)
        if not told:
            return None
        newest = told[-1]
        now = self._clock()
        if self._asked is None or self._asked[0] != newest.job or now - self._asked[1] >= _PERIOD_S:
            self._asked, self._state = (newest.job, now), _state(newest.scheduler, newest.job)
        return {
            "scheduler": newest.scheduler,
            "id": newest.job,
            "state": self._state,
            "submitted": newest.time,
            "script": newest.script,
        }


def _state(name: str, job: str) -> str | None:
    known: dict[str, SchedulerName] = {"slurm": "slurm", "sge": "sge"}
    if name not in known:
        return None
    kind = scheduler(known[name])
    return None if kind.missing() else kind.state(job)
