# SPDX-License-Identifier: Apache-2.0
"""Several observers of one run, each told everything in turn."""

from __future__ import annotations

from collections.abc import Sequence

from gaff.plan.schedule import Reset, Segment
from gaff.supervisor.observer import Observer
from gaff.trainers.contract import Event


class Several:
    """See :class:`gaff.supervisor.observer.Observer`."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def run_started(self, plan_segments: Sequence[Segment], train_iters: int, resume_iteration: int) -> None:
        for one in self._observers:
            one.run_started(plan_segments, train_iters, resume_iteration)

    def segment_started(self, segment: Segment, attempt: int, start: int) -> None:
        for one in self._observers:
            one.segment_started(segment, attempt, start)

    def event(self, event: Event) -> None:
        for one in self._observers:
            one.event(event)

    def reset_started(self, reset: Reset) -> None:
        for one in self._observers:
            one.reset_started(reset)

    def reset_done(self, reset: Reset, seconds: float, copies: int, bytes_written: int) -> None:
        for one in self._observers:
            one.reset_done(reset, seconds, copies, bytes_written)

    def segment_finished(self, segment: Segment) -> None:
        for one in self._observers:
            one.segment_finished(segment)

    def waiting(self) -> None:
        for one in self._observers:
            one.waiting()

    def message(self, text: str) -> None:
        for one in self._observers:
            one.message(text)

    def close(self, outcome: str) -> None:
        for one in self._observers:
            one.close(outcome)
