# SPDX-License-Identifier: Apache-2.0
"""The view of a run while it runs: a panel on a terminal, plain lines anywhere else.

Both are observers of the supervisor.  A view never ends a run: where its stream is gone (a closed pipe, a lost
terminal) it falls silent.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TextIO, cast

from gaff.plan.schedule import Reset, Segment
from gaff.report import format as fmt
from gaff.report.progress import Phase, Progress
from gaff.report.stream import SurvivingStream
from gaff.trainers.contract import (
    CheckpointSaved,
    ErrorLogged,
    Event,
    IterationLogged,
    LoadFailed,
    ValidationLogged,
)
from gaff.trainers.faults import explain

_SECONDS_BETWEEN_LINES = 2.0
_ENDS: Mapping[str, Phase] = {"interrupted": "interrupted", "failed": "failed"}


class LiveView(ABC):
    """Puts the supervisor's calls into words; what becomes of them, ``say`` and ``iteration``, is the subclass's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = Progress(clock)

    @abstractmethod
    def say(self, text: str) -> None:
        """One line of news."""

    @abstractmethod
    def iteration(self, event: IterationLogged) -> None:
        """A new iteration line; ``progress`` knows it already."""

    def run_started(self, plan_segments: Sequence[Segment], train_iters: int, resume_iteration: int) -> None:
        self.progress.run_started(plan_segments, train_iters, resume_iteration)
        resets = sum(1 for segment in plan_segments if segment.reset)
        plan = f"{train_iters:,} iterations in {fmt.count(len(plan_segments), 'segment')}, {fmt.count(resets, 'reset')}"
        self.say(f"carrying on after iteration {resume_iteration:,} of {plan}" if resume_iteration else plan)

    def segment_started(self, segment: Segment, attempt: int, start: int) -> None:
        self.progress.segment_started(segment, attempt)
        again = f", attempt {attempt}" if attempt > 1 else ""
        span = f"iterations {segment.start + 1:,} to {segment.stop:,}"
        self.say(f"segment {segment.number}/{len(self.progress.segments)}: {span}{again}: starting the trainer")

    def event(self, event: Event) -> None:
        self.progress.event(event)
        if isinstance(event, IterationLogged):
            if self.progress.diverged_now:
                self.say(f"the loss is {fmt.loss(event.loss)} since iteration {event.iteration:,}")
            self.iteration(event)
        else:
            text = self._words(event)
            if text:
                self.say(text)

    def reset_started(self, reset: Reset) -> None:
        self.progress.phase = "resetting"
        total = sum(1 for segment in self.progress.segments if segment.reset)
        self.say(f"reset {reset.number}/{total} after iteration {reset.iteration:,}: forgetting")

    def reset_done(self, reset: Reset, seconds: float, copies: int, bytes_written: int) -> None:
        self.progress.phase = "preparing"
        places = fmt.count(copies, "copy", "copies")
        self.say(f"reset {reset.number} done in {fmt.duration(seconds)}: {places} rewritten, {fmt.size(bytes_written)}")

    def segment_finished(self, segment: Segment) -> None:
        self.progress.segment_finished(segment)
        self.progress.phase = "preparing"

    def waiting(self) -> None:
        self.progress.phase = "waiting"

    def message(self, text: str) -> None:
        self.say(text)

    def close(self, outcome: str) -> None:
        self.progress.phase = _ENDS.get(outcome, "finished")
        self.say(outcome)

    def _words(self, event: Event) -> str | None:
        if isinstance(event, CheckpointSaved):
            return f"checkpoint {event.tag} saved"
        if isinstance(event, ValidationLogged):
            when = "at the end" if event.iteration is None else f"at iteration {event.iteration:,}"
            return f"{event.split} loss {fmt.loss(event.loss)} {when}"
        if isinstance(event, LoadFailed) and not (self.progress.segment and self.progress.segment.start):
            return None  # a run that begins finds nothing to load, and GPT-NeoX says so
        if isinstance(event, LoadFailed | ErrorLogged):
            advice = explain(event.message)
            return f"trainer: {event.message}" + (f" ({advice})" if advice else "")
        return None


class PlainView(LiveView):
    """One line for each event worth one.  Iteration lines at most every two seconds, but always a segment's last."""

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = datetime.now,
    ) -> None:
        super().__init__(clock)
        self._stream = stream
        self._clock = clock
        self._wall = wall
        self._last_line: float | None = None
        self._held = False

    def say(self, text: str) -> None:
        self._flush_held()
        self._write(text)

    def iteration(self, event: IterationLogged) -> None:
        now = self._clock()
        segment = self.progress.segment
        is_last = segment is not None and event.iteration >= segment.stop
        if not is_last and self._last_line is not None and now - self._last_line < _SECONDS_BETWEEN_LINES:
            self._held = True
            return
        self._held, self._last_line = False, now
        self._write(iteration_line(self.progress))

    def segment_finished(self, segment: Segment) -> None:
        self._flush_held()
        super().segment_finished(segment)

    def _flush_held(self) -> None:
        if self._held:
            self._held = False
            self._write(iteration_line(self.progress))

    def _write(self, text: str) -> None:
        # A trainer's message may hold anything; a line stays one line.
        self._stream.write(f"{self._wall():%H:%M:%S}  {' '.join(text.split())}\n")
        self._stream.flush()


def iteration_line(progress: Progress) -> str:
    """``iteration 120/400 · loss 3.210 · lr 9.1e-4 · 85 ms · segment 2/4 · next reset in 80 · 0:02:10 left``."""
    event, segment, reset = progress.last, progress.segment, progress.next_reset
    assert event, "asked after the first iteration line"
    parts = [f"iteration {event.iteration:,}/{progress.train_iters:,}", f"loss {fmt.loss(event.loss)}"]
    if event.learning_rate is not None:
        parts.append(f"lr {fmt.rate(event.learning_rate)}")
    if event.ms_per_iteration is not None:
        parts.append(fmt.milliseconds(event.ms_per_iteration))
    if event.skipped:
        parts.append(f"{event.skipped} skipped" + (f" ({event.nan} NaN)" if event.nan else ""))
    if segment is not None:
        parts.append(f"segment {segment.number}/{len(progress.segments)}")
        if segment.reset and segment.stop == event.iteration:
            parts.append("reset now")
        elif reset:
            parts.append(f"next reset in {reset.iteration - event.iteration:,}")
    left = progress.seconds_left()
    if left is not None:
        parts.append(f"{fmt.clock(left)} left")
    return " · ".join(parts)


def make_view(stream: TextIO) -> LiveView:
    """The view that suits ``stream``: a panel where it is a terminal that can redraw, plain lines elsewhere.

    NO_COLOR takes the panel's colours away (https://no-color.org).
    """
    safe = cast(TextIO, SurvivingStream(stream))
    if safe.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        from gaff.report.panel import PanelView  # rich only where it is shown

        return PanelView(safe)
    return PlainView(safe)
