# SPDX-License-Identifier: Apache-2.0
"""Where a running run stands, and how long it will take: fed by the observer's calls, read by the views.  No output.

The time left is the iterations left at the measured speed, plus the boundaries left at the measured time of one: with
short segments the trainer's starts, not its iterations, decide when a run is done.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from gaff.plan.schedule import Reset, Segment
from gaff.trainers.contract import Event, IterationLogged, ResumedAt

Phase = Literal["preparing", "waiting", "starting", "training", "resetting", "finished", "interrupted", "failed"]

_SPEED_LINES = 20  # the median of so many lines: the first line after each start is slow
_MAX_CURVE = 4096


@dataclass(frozen=True)
class _Mark:
    """The last iteration line: from it the time left is counted down."""

    time_s: float
    iteration: int
    gap: int
    segment: int


class Progress:
    """The state of one run.  ``clock`` gives seconds from any origin; it must not go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.segments: tuple[Segment, ...] = ()
        self.train_iters = 0
        self.segment: Segment | None = None
        self.attempt = 1
        self.iteration = 0
        self._safe = 0  # what the checkpoints hold, as far as it was told
        self.last: IterationLogged | None = None
        self.phase: Phase = "preparing"
        self.curve: list[tuple[int, float]] = []
        self.diverged_now = False
        self._speeds: deque[float] = deque(maxlen=_SPEED_LINES)
        self._boundaries: list[float] = []
        self._start_s: float | None = None
        self._launched_at = clock()
        self._mark: _Mark | None = None

    # --- what the supervisor tells ---

    def run_started(self, segments: Sequence[Segment], train_iters: int, resume_iteration: int) -> None:
        self.segments, self.train_iters = tuple(segments), train_iters
        self.iteration = self._safe = resume_iteration

    def segment_started(self, segment: Segment, attempt: int) -> None:
        if self._mark and (attempt > 1 or self._mark.segment + 1 != segment.number):
            self._mark = None  # what lies between is no boundary
        self.segment, self.attempt, self.phase = segment, attempt, "starting"
        self.iteration = max(self._safe, segment.start)
        self._launched_at = self._clock()

    def event(self, event: Event) -> None:
        if isinstance(event, ResumedAt) and self.segment and self.segment.start <= event.iteration:
            self.iteration = event.iteration
        elif isinstance(event, IterationLogged):
            self._line(event)

    def segment_finished(self, segment: Segment) -> None:
        self.iteration = self._safe = segment.stop

    # --- what the views ask ---

    @property
    def next_reset(self) -> Reset | None:
        """The first reset that is not done yet by the iterations trained."""
        resets = (s.reset for s in self.segments if s.reset)
        return next((reset for reset in resets if reset.iteration > self.iteration), None)

    @property
    def ms_per_iteration(self) -> float | None:
        return median(self._speeds) if self._speeds else None

    @property
    def boundary_s(self) -> float | None:
        """Measured time of one boundary.  Before there was one: the start of the trainer, which is most of it."""
        return sum(self._boundaries) / len(self._boundaries) if self._boundaries else self._start_s

    def seconds_left(self) -> float | None:
        """Until the last iteration; None until a line with a speed has come."""
        ms = self.ms_per_iteration
        if ms is None:
            return None
        pending = sum(1 for s in self.segments if s.start >= self.iteration and s.stop > self.iteration)
        boundary = self.boundary_s or 0.0
        left = (self.train_iters - self.iteration) * ms / 1000 + pending * boundary
        if self.phase == "training" and self._mark:
            # A trainer that says nothing is not getting on: count down to its next line, then wait.
            waited = min(self._clock() - self._mark.time_s, self._mark.gap * ms / 1000)
        else:
            since = self._mark.time_s if self._mark else self._launched_at
            waited = min(self._clock() - since, boundary) if pending else 0.0
        return max(0.0, left - waited)

    def seconds_to_reset(self) -> float | None:
        """Training time until the next reset, at the measured speed."""
        ms, reset = self.ms_per_iteration, self.next_reset
        return None if ms is None or reset is None else (reset.iteration - self.iteration) * ms / 1000

    def _line(self, event: IterationLogged) -> None:
        now, before = self._clock(), self.iteration
        self.diverged_now = _diverged(event) and not (self.last and _diverged(self.last))
        gap = max(1, event.iteration - before)
        if event.ms_per_iteration is not None:
            self._speeds.append(event.ms_per_iteration)
            if self.phase == "starting":
                self._measure_start(event, now, gap)
        self.phase, self.last, self.iteration = "training", event, event.iteration
        self._mark = _Mark(now, event.iteration, gap, self.segment.number if self.segment else 0)
        if event.loss is not None and not _diverged(event):
            self.curve = [p for p in self.curve if p[0] < event.iteration] if self._goes_back(event) else self.curve
            self.curve.append((event.iteration, event.loss))
            if len(self.curve) > _MAX_CURVE:
                self.curve = self.curve[::2]

    def _goes_back(self, event: IterationLogged) -> bool:
        return bool(self.curve) and event.iteration <= self.curve[-1][0]

    def _measure_start(self, event: IterationLogged, now: float, gap: int) -> None:
        assert event.ms_per_iteration is not None
        ms = event.ms_per_iteration
        self._start_s = max(0.0, now - self._launched_at - gap * ms / 1000)
        if self._mark:
            trained = (event.iteration - self._mark.iteration) * ms / 1000
            self._boundaries.append(max(0.0, now - self._mark.time_s - trained))


def _diverged(event: IterationLogged) -> bool:
    return event.loss is not None and not math.isfinite(event.loss)
