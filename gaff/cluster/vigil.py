# SPDX-License-Identifier: Apache-2.0
"""Whether the scheduler still takes this process for its job.

A supervisor can outlive its job: a killed slurmstepd leaves it behind without a signal, and a node that Slurm gave up
may train on.  Slurm starts the job anew elsewhere, so the first one must make way (measured with Slurm 22.05).
"""

from __future__ import annotations

import os
import threading

from gaff.cluster.job import Job

_PERIOD_S = 60.0


class Vigil:
    """Keeps asking, in a thread of its own, while it is entered.

    Args:
        job: this one.
        period_s: between two questions to the scheduler.
    """

    def __init__(self, job: Job, period_s: float = _PERIOD_S) -> None:
        self._job, self._period_s = job, period_s
        # A job script of ours makes way for GAFF, whose parent is then the scheduler's; others end before it at times.
        self._parent = os.getppid() if job.script else None
        self._superseded = False
        self._end = threading.Event()

    @property
    def lost(self) -> str | None:
        """Why this process is no longer the job, a clause; None while it is, as far as is known."""
        if self._parent is not None and os.getppid() != self._parent:
            return f"{self._job.scheduler}'s own process of job {self._job.id} is gone"
        if self._superseded:
            return f"{self._job.scheduler} has started job {self._job.id} anew"
        return None

    def __enter__(self) -> Vigil:
        threading.Thread(target=self._watch, name="gaff-vigil", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()

    def _watch(self) -> None:
        while not self._end.wait(self._period_s) and not self._superseded:
            self._superseded = self._job.is_superseded()
