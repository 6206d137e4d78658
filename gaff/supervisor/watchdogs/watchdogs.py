# SPDX-License-Identifier: Apache-2.0
"""All watchdogs of one launch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gaff.plan.config import Config
from gaff.plan.typed import integer
from gaff.supervisor.watchdogs.alarm import Alarm, Line
from gaff.supervisor.watchdogs.checkpoints import LateCheckpoint, due_tags
from gaff.supervisor.watchdogs.figures import HighLoss, LossScale, NotANumber, Skipped
from gaff.supervisor.watchdogs.history import History
from gaff.supervisor.watchdogs.slow import Launched, Slow
from gaff.trainers.contract import Event, IterationLogged


class _Watchdog(Protocol):
    def see(self, line: Line) -> Alarm | None: ...


class Watchdogs:
    """Judges one launch by the events of its log and by the time between them.

    Args:
        config: its ``watch`` keys; a threshold that is ``never`` has no watchdog.
        history: of the whole run, told of this launch already (:meth:`History.launched`).
        start, stop: what the launch trains, from the one (exclusive) to the other.
        save: where it writes its checkpoints.
        clock: seconds, never set back.
    """

    def __init__(
        self,
        config: Config,
        history: History,
        start: int,
        stop: int,
        save: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = max(1, integer(config, "log_interval") or 1)
        self._start = self._iteration = start
        due = due_tags(config, start, stop)
        launch = Launched(start, stop, self._interval, due, save)
        factor = config.gaff.watch.slow_factor
        self._slow = None if factor is None else Slow(config, factor, history, launch, clock)
        self._watchdogs = _of_lines(config, history)
        self._watchdogs.append(LateCheckpoint(due, save, config.gaff.watch.on_late_checkpoint, history))
        if self._slow:
            self._watchdogs.append(self._slow)

    def see(self, event: Event) -> list[Alarm]:
        """Call with every event, figures that are known to be wrong left out (:meth:`Watch.read`)."""
        if not isinstance(event, IterationLogged):
            if self._slow:
                self._slow.note(event)
            return []
        if event.iteration <= self._iteration:
            return []
        covers = min(self._interval, event.iteration - self._iteration)
        line = Line(event, covers, is_first=self._iteration == self._start)
        self._iteration = event.iteration
        return [alarm for watchdog in self._watchdogs if (alarm := watchdog.see(line))]

    def tick(self) -> list[Alarm]:
        """Call some ten times a second, whether anything was logged or not."""
        alarm = self._slow.tick() if self._slow else None
        return [alarm] if alarm else []


def _of_lines(config: Config, history: History) -> list[_Watchdog]:
    keys = config.gaff.watch
    found: list[_Watchdog] = []
    if keys.nan_lines is not None:
        found.append(NotANumber(keys.nan_lines, keys.on_nan, history))
    if keys.skipped_in_a_row is not None:
        found.append(Skipped(keys.skipped_in_a_row, keys.on_skipped, history))
    found.append(LossScale(config, history))
    if keys.high_loss_factor is not None:
        found.append(HighLoss(keys.high_loss_factor, keys.on_high_loss, history))
    return found
