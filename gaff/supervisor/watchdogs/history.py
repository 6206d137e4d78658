# SPDX-License-Identifier: Apache-2.0
"""What watchdogs remember of a run beyond one launch: its usual speed, its losses, which spells were told already."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

from gaff.plan.schedule import Segment
from gaff.supervisor.journal import Entry

_LINES = 301  # the newest lines, of whose speeds the median counts
_ENOUGH = 5  # fewer make no median
_SLOW_WEIGHT = 10  # of slow lines one in so many counts, so that a slow spell becomes usual ten times later


class History:
    """One for a whole run; the supervisor keeps it over all launches.  Its memory is bounded.

    Attributes:
        first_loss: the run's first finite loss; None where this was not seen.
        reset_peak: the highest loss of the last segment that was seen whole and began with a reset; None without.
        in_a_row: name of a watchdog -> how many lines or iterations in a row it has counted.
        finite_until: the last iteration up to which the loss is known to have been a number; None before a launch.
        slow_s: seconds of the present slow spell.
        first_line_s: the longest that a first line took after the trainer had said where it starts; None until seen.
    """

    def __init__(self) -> None:
        self.first_loss: float | None = None
        self.reset_peak: float | None = None
        self.in_a_row: dict[str, int] = {}
        self.finite_until: int | None = None
        self.slow_s = 0.0
        self.first_line_s: float | None = None
        self._told: set[str] = set()
        self._speeds: deque[float] = deque(maxlen=_LINES)
        self._sorted: list[float] = []
        self._slow_lines = 0
        self._segment: Segment | None = None
        self._peak: float | None = None
        self._is_whole = False  # the present segment was seen from its first line on
        self._at_reset = False  # the next line is that one
        self._from_scratch = False

    def seed(self, entries: Iterable[Entry]) -> None:
        """What earlier supervisors of the run measured.

        Read are ``ms_per_iteration`` of ``segment_exited``, and ``first_loss`` and ``reset_peak`` of ``segment_done``
        (:meth:`losses`).  What an entry lacks stays unknown.
        """
        for entry in entries:
            speed = _positive(entry.fields.get("ms_per_iteration"))
            if entry.event == "segment_exited" and speed:
                for _ in range(_ENOUGH):
                    self._add(speed)
            elif entry.event == "segment_done":
                self.first_loss = _positive(entry.fields.get("first_loss")) or self.first_loss
                self.reset_peak = _positive(entry.fields.get("reset_peak")) or self.reset_peak

    def launched(self, start: int, segment: Segment) -> None:
        """A launch begins, from iteration ``start``, to train in ``segment`` of the plan.

        The next segment carries on what was counted.  The same one again, or an earlier one, starts the counts anew.
        """
        before = self._segment
        if before is None or before.number != segment.number:
            if before is not None and segment.number > before.number:
                self.reset_peak = self._peak_so_far()
            self._peak, self._is_whole = None, False
        if before is not None and segment.number <= before.number:
            self.in_a_row.clear()
            self._told.clear()
            self.slow_s = 0.0
            self.finite_until = None
        self.finite_until = start if self.finite_until is None else self.finite_until
        self._segment = segment
        self._from_scratch = start == 0
        self._at_reset = start == segment.start
        self._is_whole = self._is_whole or self._at_reset

    def begins(self, id: str, is_on: bool) -> bool:
        """Whether a spell of ``id`` begins now, and is to be told; it ends with the first call that says so."""
        if not is_on:
            self._told.discard(id)
            return False
        if id in self._told:
            return False
        self._told.add(id)
        return True

    @property
    def median_ms(self) -> float | None:
        """The usual time of an iteration in the run's iteration lines; None before there are five."""
        count = len(self._sorted)
        if count < _ENOUGH:
            return None
        return (self._sorted[(count - 1) // 2] + self._sorted[count // 2]) / 2

    def add_speed(self, ms: float, is_slow: bool) -> None:
        """The time of an iteration that a line told; not for a launch's first line, which includes its warm-up."""
        self._slow_lines = self._slow_lines + 1 if is_slow else 0
        if self._slow_lines % _SLOW_WEIGHT == 0:
            self._add(ms)

    def add_loss(self, loss: float | None, limit: float | None) -> None:
        """The loss of a line; None where it had none.  Above ``limit`` it counts as that.

        So one high loss does not hide the next, and what is usual can still rise from reset to reset.
        """
        if loss is None:
            self._is_whole = self._is_whole and not self._at_reset
        elif math.isfinite(loss):
            if self.first_loss is None and self._from_scratch:
                self.first_loss = loss
            counted = loss if limit is None else min(loss, limit)
            self._peak = counted if self._peak is None else max(self._peak, counted)
        self._at_reset = False

    @property
    def losses(self) -> dict[str, float | None]:
        """What :meth:`seed` wants to find in the journal when a segment is done."""
        return {"first_loss": self.first_loss, "reset_peak": self._peak_so_far()}

    def _peak_so_far(self) -> float | None:
        counts = self._is_whole and self._segment is not None and self._segment.start > 0 and self._peak is not None
        return self._peak if counts else self.reset_peak

    def _add(self, ms: float) -> None:
        if len(self._speeds) == _LINES:
            del self._sorted[bisect_left(self._sorted, self._speeds[0])]
        self._speeds.append(ms)
        insort(self._sorted, ms)


def _positive(value: object) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if usable else None  # type: ignore[arg-type]
