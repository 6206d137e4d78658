# SPDX-License-Identifier: Apache-2.0
"""``slow``: iterations that take many times the run's own median for minutes, told by lines or by the lack of them.

A trainer that is slowed 100-fold and logs each 100th iteration prints no line for hours.  So the time since the last
line counts as slow as soon as it is more than a slow trainer would need up to the next one.

What is no slowness: the first line of a launch (it warms up), saving and validating between two lines, the time in
which this process itself did not run, and a line whose own clock was moved.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gaff.checkpoint.tag import TAG_NAME, tag_name
from gaff.plan.config import Config
from gaff.plan.settings import Policy
from gaff.plan.typed import integer
from gaff.supervisor.watchdogs.alarm import Alarm, Line
from gaff.supervisor.watchdogs.history import History
from gaff.trainers.contract import CheckpointSaved, Event, ResumedAt, StoppedAt, ValidationLogged

_LONGEST_PAUSE_S = 30.0  # between two ticks; after a longer one this process, or the machine, had been stopped
_SHORTEST_MS = 0.1  # the log's resolution
_LATE, _LATE_S = 1.1, 2.0  # a line may claim so many times the time that passed, and so many seconds more


@dataclass(frozen=True)
class Launched:
    """What a launch does, as far as speed depends on it.

    Attributes:
        start, stop: it trains from the one (exclusive) to the other.
        log_interval: iterations between two lines; a line is printed at each multiple.
        due: the iterations at which it saves, ascending.
        save: where.
    """

    start: int
    stop: int
    log_interval: int
    due: tuple[int, ...]
    save: Path


class Slow:
    """See the module.

    Args:
        config: its ``watch`` keys, and when it validates.
        factor: an iteration is slow that takes so many times the median.
        launch: what is watched.
    """

    def __init__(
        self, config: Config, factor: float, history: History, launch: Launched, clock: Callable[[], float]
    ) -> None:
        self._factor, self._history, self._launch = factor, history, launch
        self._limit_s = config.gaff.watch.slow_minutes * 60
        self._policy: Policy = config.gaff.watch.on_slow
        self._eval_interval = integer(config, "eval_interval") if integer(config, "eval_iters") else None
        self._clock = clock
        self._ticked = clock()
        self._ran = 0.0  # seconds that this process has run since the launch
        self._mark = 0.0  # of these, when the last line or the like was seen
        self._allowed_s = math.inf  # from the mark to the next line, if the trainer is not slow
        self._iteration = launch.start
        self._saved = -1  # the newest checkpoint that is said to be written
        self._did_else = False  # the trainer saved or validated since the last line, and the mark is the end of that
        self._validates = False  # and has not said yet that it is done

    def note(self, event: Event) -> None:
        """An event that is no iteration line."""
        self._advance()
        if isinstance(event, ResumedAt):
            self._expect_first_line()
        elif isinstance(event, StoppedAt):
            self._allowed_s = math.inf
        elif isinstance(event, ValidationLogged):
            self._did_else, self._validates, self._mark = True, False, self._ran
        elif isinstance(event, CheckpointSaved):
            named = TAG_NAME.fullmatch(event.tag)
            self._saved = max(self._saved, int(named[1]) if named else -1)
            self._did_else, self._mark = True, self._ran
            if self._saved >= self._launch.stop:
                self._allowed_s = math.inf

    def see(self, line: Line) -> Alarm | None:
        self._advance()
        alarm = self._judge(line)
        took = self._ran - self._mark
        if line.is_first and took <= self._allowed_s:
            self._history.first_line_s = max(took, self._history.first_line_s or 0.0)
        self._mark, self._iteration = self._ran, line.logged.iteration
        self._did_else = False
        self._expect_line()
        return alarm

    def tick(self) -> Alarm | None:
        """Judge the time since the last line."""
        self._advance()
        waited = self._ran - self._mark
        if waited <= self._allowed_s or self._history.slow_s + waited < self._limit_s or self._is_excused():
            return None
        if not self._history.begins("slow", True):
            return None
        before = self._history.slow_s
        usual = self._allowed_s / self._factor
        what = (
            f"no iteration line came for {_time(waited)} after iteration {self._iteration},"
            f" where one usually comes within {_time(usual)}"
            + (f", and iterations were slow for {_time(before)} before" if before else "")
        )
        return self._alarm(what, self._iteration, None, before + waited)

    def _judge(self, line: Line) -> Alarm | None:
        ms, median, history = line.logged.ms_per_iteration, self._history.median_ms, self._history
        if line.is_first or ms is None:
            return None
        ms = max(ms, _SHORTEST_MS)
        took_s, passed_s = ms * line.covers / 1000, self._ran - self._mark
        if took_s > passed_s * _LATE + _LATE_S and not self._did_else:
            return None
        is_slow = median is not None and ms > self._factor * median
        history.add_speed(ms, is_slow)
        if median is None or not is_slow:
            history.slow_s = 0.0
            history.begins("slow", False)
            return None
        if self._did_else:  # for an unknown part of it: what came after is certain
            if passed_s <= self._allowed_s:
                return None
            took_s = passed_s
        history.slow_s += took_s
        if history.slow_s < self._limit_s or not history.begins("slow", True):
            return None
        what = (
            f"iterations take {_time(ms / 1000)} up to iteration {line.logged.iteration},"
            f" {ms / median:.3g} times the usual {_time(median / 1000)}, for {_time(history.slow_s)} now"
        )
        return self._alarm(what, line.logged.iteration, ms, history.slow_s)

    def _alarm(self, what: str, iteration: int, ms: float | None, slow_s: float) -> Alarm:
        facts = {"ms_per_iteration": ms, "median_ms": self._history.median_ms, "slow_seconds": round(slow_s, 3)}
        return Alarm("slow", what, self._policy, iteration, facts)

    def _expect_first_line(self) -> None:
        """What this takes is known from earlier launches only: data and kernels are made ready in it."""
        usual, median = self._history.first_line_s, self._history.median_ms
        self._mark = self._ran
        if usual is not None and median is not None:
            self._allowed_s = self._factor * max(usual, median * self._to_next() / 1000)

    def _expect_line(self) -> None:
        median, coming = self._history.median_ms, self._to_next()
        known = median is not None and coming > 0
        self._allowed_s = self._factor * (median or 0.0) * coming / 1000 if known else math.inf
        every = self._eval_interval
        # Where it validates in each interval, the median has that in it.
        sparse = every is not None and every > self._launch.log_interval
        self._validates = sparse and every is not None and -self._iteration % every < coming

    def _to_next(self) -> int:
        """Iterations to the next line, or to the stop where that comes first."""
        interval = self._launch.log_interval
        return min((self._iteration // interval + 1) * interval, self._launch.stop) - self._iteration

    def _is_excused(self) -> bool:
        """Whether the trainer may be validating, or has begun a checkpoint and not said that it is done."""
        if self._validates:
            return True
        due = self._launch.due
        coming = bisect_left(due, max(self._iteration, self._saved + 1))
        return coming < len(due) and (self._launch.save / tag_name(due[coming])).is_dir()

    def _advance(self) -> None:
        now = self._clock()
        passed, self._ticked = now - self._ticked, now
        if passed <= min(_LONGEST_PAUSE_S, self._limit_s / 2):
            self._ran += passed


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds / 60:.3g} min"
