# SPDX-License-Identifier: Apache-2.0
"""The observer that keeps a tracker informed, and the run safe from it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gaff.plan.schedule import Reset, Segment
from gaff.report.trackers.contents import line_values, validation_values
from gaff.supervisor.observer import NullObserver
from gaff.trainers.contract import Event, IterationLogged, ResumedAt, ValidationLogged


class Sink(Protocol):
    """Where points go.  Any method may raise anything; none may wait, but for ``close`` within bounds."""

    def begin(self, start: int) -> None:
        """Training goes on after iteration ``start``: points beyond it no longer belong to the run."""
        ...

    def values(self, step: int, values: Mapping[str, float], at: float) -> None:
        """Name -> value after iteration ``step``, seen at this time (seconds since the epoch)."""
        ...

    def reset(self, reset: Reset, at: float) -> None:
        """The marker of a reset."""
        ...

    def close(self, outcome: str) -> None:
        """The run ends: ``finished``, ``interrupted`` or ``failed``."""
        ...

    def abandon(self) -> None:
        """Let go of everything at once, after an error."""
        ...


class Tracker(NullObserver):
    """See :class:`gaff.supervisor.observer.Observer`.  The first error of its sink is told, and is its end.

    Launches that did not start where they were told are left out, as in :mod:`gaff.report.metrics.gather`.  Figures
    that GPT-NeoX divides wrongly do not get here: the supervisor takes them out of the events.

    Args:
        name: of the tracker, for a person.
        open_sink: called when the run starts.
        message: tells a person, in one line.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        open_sink: Callable[[], Sink],
        message: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._open, self._message, self._clock = name, open_sink, message, clock
        self._sink: Sink | None = None
        self._start = self._step = 0
        self._strayed = False

    def run_started(self, plan_segments: Sequence[Segment], train_iters: int, resume_iteration: int) -> None:
        def begin() -> None:
            self._sink = self._open()
            self._sink.begin(resume_iteration)

        self._start = self._step = resume_iteration
        self._attempt(begin)

    def segment_started(self, segment: Segment, attempt: int, start: int) -> None:
        self._start = self._step = start
        self._strayed = False
        self._tell(lambda sink: sink.begin(start))

    def event(self, event: Event) -> None:
        if isinstance(event, ResumedAt):
            self._strayed = self._strayed or event.iteration != self._start
        elif self._strayed:
            return
        elif isinstance(event, IterationLogged) and event.iteration > self._start:
            self._step = event.iteration
            self._point(event.iteration, line_values(event))
        elif isinstance(event, ValidationLogged):
            self._point(self._step if event.iteration is None else event.iteration, validation_values(event))

    def reset_done(self, reset: Reset, seconds: float, copies: int, bytes_written: int) -> None:
        now = self._clock()
        self._tell(lambda sink: sink.reset(reset, now))

    def close(self, outcome: str) -> None:
        self._tell(lambda sink: sink.close(outcome))
        self._sink = None

    def _point(self, step: int, values: Mapping[str, float]) -> None:
        now = self._clock()
        self._tell(lambda sink: sink.values(step, values, now))

    def _tell(self, call: Callable[[Sink], None]) -> None:
        sink = self._sink
        if sink is not None:
            self._attempt(lambda: call(sink))

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a library or a disk comes up with, the run goes on
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            sink, self._sink = self._sink, None
            if sink is not None:
                with contextlib.suppress(Exception):
                    sink.abandon()
            self._message(f"{self._name} gets no more of this run's metrics: {why}")
