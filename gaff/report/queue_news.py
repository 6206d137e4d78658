# SPDX-License-Identifier: Apache-2.0
"""How far a run is, in the queue's own listing: the job's name and comment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from gaff.cluster.job import Job
from gaff.plan.schedule import Reset, Segment
from gaff.report import format as fmt
from gaff.supervisor.observer import NullObserver
from gaff.trainers.contract import Event, IterationLogged

_PERIOD_S = 60.0  # a controller serves thousands of jobs
_LAST_S = 5.0  # for the last words, when the run ends


class QueueNews(NullObserver):
    """An observer that tells the scheduler, from a thread of its own: a controller that hangs holds nobody up.

    Args:
        job: this one.
        name: of the run.
        period_s: between two news.
        clock: seconds, never set back.
    """

    def __init__(
        self, job: Job, name: str, period_s: float = _PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._job, self._name, self._period_s, self._clock = job, name, period_s, clock
        self._iteration = self._total = self._resets = self._done_resets = 0
        self._loss: float | None = None
        self._told_at: float | None = None
        self._thread: threading.Thread | None = None

    def run_started(self, plan_segments: Sequence[Segment], train_iters: int, resume_iteration: int) -> None:
        self._iteration, self._total = resume_iteration, train_iters
        resets = [segment.reset for segment in plan_segments if segment.reset]
        self._resets = len(resets)
        self._done_resets = sum(1 for reset in resets if reset.iteration < resume_iteration)
        self._tell()

    def event(self, event: Event) -> None:
        if isinstance(event, IterationLogged):
            self._iteration, self._loss = event.iteration, event.loss
            self._tell()

    def reset_done(self, reset: Reset, seconds: float, copies: int, bytes_written: int) -> None:
        self._done_resets = reset.number
        self._tell()

    def close(self, outcome: str) -> None:
        self._told_at = None
        self._wait()
        self._tell(outcome)
        self._wait()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join(_LAST_S)

    def _tell(self, outcome: str | None = None) -> None:
        now = self._clock()
        is_busy = self._thread is not None and self._thread.is_alive()
        if is_busy or (self._told_at is not None and now - self._told_at < self._period_s):
            return
        self._told_at = now
        words = (self._name_now(), self._comment(outcome))
        self._thread = threading.Thread(target=self._job.tell, args=words, name="gaff-queue-news", daemon=True)
        self._thread.start()

    def _name_now(self) -> str:
        return f"{self._name}:{100 * self._iteration // max(self._total, 1)}%"

    def _comment(self, outcome: str | None) -> str:
        parts = [
            f"iteration {self._iteration} of {self._total}",
            f"reset {self._done_resets} of {self._resets}",
            *([] if self._loss is None else [f"loss {fmt.loss(self._loss)}"]),
            *([outcome] if outcome else []),
        ]
        return f"gaff: {', '.join(parts)}"
