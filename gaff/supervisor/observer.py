# SPDX-License-Identifier: Apache-2.0
"""Who watches a run: what the supervisor tells while it works.

The supervisor knows its audience only by :class:`Observer`; what becomes of the news (a live panel, plain lines,
nothing) is decided above it.  An observer must return quickly and must not raise: it is called between the trainer's
lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gaff.plan.schedule import Reset, Segment
from gaff.trainers.contract import Event


class Observer(Protocol):
    """Called by the supervisor, from one thread, in the order of what happens."""

    def run_started(self, plan_segments: Sequence[Segment], train_iters: int, resume_iteration: int) -> None:
        """First of all.  ``resume_iteration`` is what the checkpoints already hold, 0 for a new run."""
        ...

    def segment_started(self, segment: Segment, attempt: int, start: int) -> None:
        """The trainer is about to be launched, from iteration ``start``.  ``attempt`` counts from 1 in the segment."""
        ...

    def event(self, event: Event) -> None:
        """The trainer printed something that means something."""
        ...

    def reset_started(self, reset: Reset) -> None:
        """The checkpoint is about to be edited."""
        ...

    def reset_done(self, reset: Reset, seconds: float, copies: int, bytes_written: int) -> None:
        """The checkpoint is edited and verified: in so many copies of the parameter, so many bytes in all."""
        ...

    def segment_finished(self, segment: Segment) -> None:
        """The segment's last checkpoint is there and whole."""
        ...

    def waiting(self) -> None:
        """The launch failed; the next one comes after a while."""
        ...

    def message(self, text: str) -> None:
        """Anything else that a person should know; one line."""
        ...

    def close(self, outcome: str) -> None:
        """Last of all, also after an error.  ``outcome`` is one line for a person."""
        ...


class NullObserver:
    """Watches nothing."""

    def run_started(self, plan_segments: Sequence[Segment], train_iters: int, resume_iteration: int) -> None:
        return

    def segment_started(self, segment: Segment, attempt: int, start: int) -> None:
        return

    def event(self, event: Event) -> None:
        return

    def reset_started(self, reset: Reset) -> None:
        return

    def reset_done(self, reset: Reset, seconds: float, copies: int, bytes_written: int) -> None:
        return

    def segment_finished(self, segment: Segment) -> None:
        return

    def waiting(self) -> None:
        return

    def message(self, text: str) -> None:
        return

    def close(self, outcome: str) -> None:
        return
