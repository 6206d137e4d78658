# SPDX-License-Identifier: Apache-2.0
"""What one launch's output tells the supervisor while it runs, and when the lack of it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gaff.plan.settings import Policy
from gaff.supervisor.watchdogs.alarm import Alarm
from gaff.trainers.contract import ErrorLogged, Event, IterationLogged, LoadFailed, ResumedAt, StoppedAt
from gaff.trainers.faults import decisive
from gaff.trainers.hangs import Finding, judge
from gaff.trainers.loglines import LogParser
from gaff.trainers.stacks import StackReader

_MAX_DETAIL, _MAX_LINE = 5, 200
_SLOW_LOG = 3  # a hang is no shorter than so many of the run's own intervals between iteration lines


class Watch:
    """Reads the lines of one launch.

    Args:
        start: the iteration that the trainer was told to start from.
        silence_minutes: after so long without a word :meth:`is_silent` says so; None for never.
        log_interval: iterations between two iteration lines, as far as known.
        on_silence: what is to be done then.
        clock: seconds, never set back.

    Attributes:
        fatal, fatal_line: why the trainer must be ended at once, or None; the number of the log's line that says so.
        iteration: the last one that the trainer logged, ``start`` before.
        stopped: the trainer said that it stops by itself.
        lines: how many lines were read.
        hung: it was silent for too long; see :meth:`hang`.
        alarm: what a watchdog saw that ends the launch, set by who asked it; None otherwise.
        ranks_asked: how many ranks were then told to say where they stand.
    """

    def __init__(
        self,
        start: int,
        silence_minutes: float | None = None,
        log_interval: int | None = None,
        on_silence: Policy = "restart",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.start = start
        self.silence_minutes = silence_minutes
        self.on_silence = on_silence
        self.alarm: Alarm | None = None
        self.fatal: str | None = None
        self.fatal_line = 0
        self.iteration = start
        self.stopped = False
        self.lines = 0
        self.hung = False
        self.ranks_asked = 0
        self._locks: tuple[Path, ...] = ()
        self._log_interval = log_interval
        self._clock = clock
        self._heard = clock()
        self._line_s = 0.0  # from one iteration line to the next, as the newest one tells
        self._parser = LogParser()
        self._stacks = StackReader()
        self._errors: list[tuple[int, ErrorLogged]] = []

    def read(self, line: str) -> list[Event]:
        """Take in one line.  Returns what it means, without figures that are known to be wrong.

        What comes after a hang are the ranks' stacks and their end, and means nothing more.
        """
        self.hear()
        self.lines += 1
        if self.hung:
            self._stacks.feed(line)
            return []
        return [self._take(event) for event in self._parser.feed(line)]

    def hear(self) -> None:
        """Something was written, if only a part of a line, as by a progress bar."""
        self._heard = self._clock()

    def is_silent(self) -> bool:
        """Whether nothing was heard for too long: ``silence_minutes``, and more than a slow run's own log takes."""
        if self.silence_minutes is None or self.hung:
            return False
        return self._clock() - self._heard > max(self.silence_minutes * 60, _SLOW_LOG * self._line_s)

    def hang(self, ranks: int, locks: Sequence[Path]) -> None:
        """So many ranks were told to print their stacks and end.  ``locks``: see :func:`gaff.trainers.hangs.judge`."""
        self.hung = True
        self.ranks_asked = ranks
        self._locks = tuple(locks)

    @property
    def finding(self) -> Finding | None:
        """What the hang was, as far as the ranks have said it; None where there was none."""
        return judge(self._stacks.stacks(), self._locks) if self.hung else None

    @property
    def error(self) -> ErrorLogged | None:
        """The decisive error, None where there was none."""
        return decisive(error for _, error in self._errors)

    @property
    def error_line(self) -> int:
        """The number of its line in the log, counted from 1; 0 where there was none."""
        chosen = self.error
        return next((number for number, error in self._errors if error is chosen), 0)

    def detail(self) -> tuple[str, ...]:
        """The decisive lines of the log: those of the decisive error, then what else went wrong.

        None where they would only say the error's message again.
        """
        chosen = self.error
        lines = list(chosen.lines if chosen else ())
        lines += [error.lines[-1] for _, error in self._errors if error is not chosen and error.lines]
        if chosen and lines == [chosen.message]:
            return ()
        return tuple(line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…" for line in lines[:_MAX_DETAIL])

    def _take(self, event: Event) -> Event:
        if isinstance(event, ErrorLogged):
            self._errors.append((self.lines, event))
        elif isinstance(event, LoadFailed) and self.start:
            self._errors.append((self.lines, ErrorLogged(event.message, (event.message,))))
        elif isinstance(event, ResumedAt) and event.iteration != self.start:
            self.fatal_line = self.lines
            self.fatal = (
                f"the trainer starts from iteration {event.iteration} where {self.start} was asked, and was stopped"
            )
        elif isinstance(event, StoppedAt):
            self.stopped = True
        elif isinstance(event, IterationLogged):
            self.iteration = max(self.iteration, event.iteration)
            if self._is_partial(event.iteration):
                return replace(event, loss=None, losses={}, ms_per_iteration=None, samples_per_s=None)
            self._line_s = (event.ms_per_iteration or 0) / 1000 * (self._log_interval or 1)
        return event

    def _is_partial(self, iteration: int) -> bool:
        """GPT-NeoX divides the sums of the first line by the whole interval, also where it resumed inside one."""
        interval = self._log_interval
        return bool(interval and self.start % interval and 0 < iteration - self.start < interval)
