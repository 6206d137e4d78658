# SPDX-License-Identifier: Apache-2.0
"""How long a launch takes before, in and after its iterations: measured, to choose what fits before a time limit."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from statistics import median

from gaff.supervisor.journal import Entry
from gaff.trainers.contract import Event, IterationLogged

_LINES = 50  # the newest speeds, of which the median counts
_LAUNCHES = 5  # the newest launches, of which the slowest start and end count
_SPEED_MARGIN = 1.1
_END_MARGIN = 1.5  # the time of a save varies with the load of the file system


class Pace:
    """The speed of a run.

    Attributes:
        start_s: seconds from a launch to the begin of its first iteration; None until measured.
        iteration_s: seconds of one iteration, the median of the newest lines; None until measured.
        mean_s: seconds of an iteration over a whole launch, pauses between lines included, in the slowest of the newest
            launches; None until measured.  A long launch takes this, not the median.
        end_s: seconds from a launch's last iteration to its end, the checkpoint written; None until measured.
        first_line_s: of the present launch alone, seconds from it to its first iteration line; None before that.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._speeds: deque[float] = deque(maxlen=_LINES)
        self._means: deque[float] = deque(maxlen=_LAUNCHES)
        self._starts: deque[float] = deque(maxlen=_LAUNCHES)
        self._ends: deque[float] = deque(maxlen=_LAUNCHES)
        self._launched_at = self._line_at = clock()
        self._iteration = self._started_from = self._stop = 0
        self._lines = 0
        self._first: tuple[float, int] | None = None
        self._span_s, self._span = 0.0, 0
        self.first_line_s: float | None = None

    @property
    def since_last_line_s(self) -> float | None:
        """Seconds since the present launch's last iteration line; None before its first."""
        return self._clock() - self._line_at if self._lines else None

    @property
    def mean_s(self) -> float | None:
        return max(self._means, default=None)

    @property
    def start_s(self) -> float | None:
        return max(self._starts, default=None)

    @property
    def iteration_s(self) -> float | None:
        return median(self._speeds) if self._speeds else None

    @property
    def end_s(self) -> float | None:
        return max(self._ends, default=None)

    def seed(self, entries: Iterable[Entry]) -> None:
        """What earlier supervisors of the run measured (``segment_exited``)."""
        for entry in entries:
            if entry.event == "segment_exited":
                for name, held, unit in (
                    ("ms_per_iteration", self._speeds, 1000.0),
                    ("mean_ms", self._means, 1000.0),
                    ("start_s", self._starts, 1.0),
                    ("end_s", self._ends, 1.0),
                ):
                    value = entry.fields.get(name)
                    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
                        held.append(value / unit)

    def see(self, event: Event) -> None:
        """An event of the launch."""
        if not isinstance(event, IterationLogged) or event.iteration <= self._iteration:
            return
        now, gap = self._clock(), event.iteration - self._iteration
        if self._lines:
            self._span_s, self._span = self._span_s + now - self._line_at, self._span + gap
        self._line_at, self._iteration = now, event.iteration
        self._lines += 1
        if self._lines == 1:
            self.first_line_s = self._line_at - self._launched_at
            self._first = self.first_line_s, gap
        if event.ms_per_iteration is None:
            return
        speed = event.ms_per_iteration / 1000
        if self._first is not None:  # with the second line's speed, where the first tells none that is right
            took, iterations = self._first
            self._starts.append(max(0.0, took - iterations * speed))
            self._first = None
        if self._lines > 1 or not self._speeds:  # the first one warms up
            self._speeds.append(speed)

    def launched(self, start: int, stop: int) -> None:
        """A launch begins, from iteration ``start``, to end after ``stop``."""
        self._launched_at = self._line_at = self._clock()
        self._started_from = self._iteration = start
        self._stop = stop
        self._lines = 0
        self._first = self.first_line_s = None
        self._span_s, self._span = 0.0, 0

    def ended(self) -> None:
        """The launch ended after its stop, having saved there."""
        now, speed = self._clock(), self.iteration_s
        if self._span:
            self._means.append(self._span_s / self._span)
        if not self._lines:
            self._bound((now - self._launched_at) / max(1, self._stop - self._started_from))
        elif speed is not None:
            self._ends.append(max(0.0, now - self._line_at - (self._stop - self._iteration) * speed))

    def _bound(self, speed: float) -> None:
        """A launch logged nothing: all of its time counts as iterations', which is on the safe side."""
        known = self.iteration_s
        if known is None or speed < known:
            self._speeds.clear()
            self._speeds.append(speed)
        if not self._starts:
            self._starts.append(0.0)

    def seconds_to(self, iteration: int) -> float | None:
        """From now until the checkpoint of ``iteration`` is written; None when the speed is not known."""
        speed = self.iteration_s
        if speed is None:
            return None
        left = (iteration - self._iteration) * speed - (self._clock() - self._line_at)
        return max(0.0, left) + (self.end_s or 0.0)

    def iterations_within(self, seconds: float, saves: int = 1) -> int | None:
        """How many iterations a launch can make in ``seconds``, start and ``saves`` checkpoints included.

        With a margin for what varies.  None when the speed is not known.
        """
        if self.iteration_s is None:
            return None
        speed = max(self.iteration_s, self.mean_s or 0.0)
        left = seconds - (self.start_s or 0.0) * _SPEED_MARGIN - (self.end_s or 0.0) * _END_MARGIN * saves
        return max(0, math.floor(left / (speed * _SPEED_MARGIN))) if speed > 0 else 0
