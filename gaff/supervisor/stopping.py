# SPDX-License-Identifier: Apache-2.0
"""When a launch is ended from outside: at its next checkpoint where that comes in time, else at once.

Unmodified GPT-NeoX cannot be told to save.  All that can be chosen is whether to wait for the checkpoint that it writes
next by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from gaff.checkpoint.completeness import why_unfinished
from gaff.checkpoint.tag import tag_name
from gaff.errors import CheckpointError
from gaff.plan.settings import WatchSettings
from gaff.supervisor.pace import Pace
from gaff.supervisor.signals import Signals
from gaff.supervisor.walltime import Deadline

WALLTIME = "the end of the walltime"
_LAST_S = 2.0  # before the end of the walltime, for what must not be cut off
_NEAR_S = 900.0  # a warning that comes so long before the end of the walltime is of that end
_LOOK_S = 0.5  # how often a tag that is waited for is looked at


def stop_asked(signals: Signals, deadline: Deadline | None) -> str | None:
    """The name of the signal that asks for an end; None while none does.

    A warning (SIGUSR1, SIGUSR2) has the deadline looked up again where a scheduler moves it, for it may be of a
    preemption.  Close to the deadline it says nothing new: that decides then how far is trained.
    """
    if not signals.warned or deadline is None or not deadline.may_move:
        return signals.name
    if signals.is_new_warning():
        deadline.look_again()
    return None if deadline.left_s <= _NEAR_S else signals.name


class Verdict(Enum):
    """What becomes of the trainer now."""

    GO_ON = 0
    ASK = 1  # to end, with the guardian's grace
    KILL = 2


class Stopping:
    """Asked again and again while a launch runs.

    Args:
        signals: what came from outside.
        settings: how long each kind of signal leaves.
        pace: knows how far the launch is.
        saves: iterations at which this launch writes a checkpoint, ascending; its stop is the last.
        save: where.
        deadline: the end of the walltime.
        lost: why the run is no longer this supervisor's, or None.
        told: is given each new reason to stop, and the checkpoint that is waited for, or None.

    Attributes:
        waits_for: the checkpoint that is waited for since a signal came; None without.
    """

    def __init__(
        self,
        signals: Signals,
        settings: WatchSettings,
        pace: Pace,
        saves: Sequence[int] = (),
        save: Path | None = None,
        deadline: Deadline | None = None,
        lost: Callable[[], str | None] = lambda: None,
        told: Callable[[str, int | None], None] = lambda reason, iteration: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signals = signals
        self._settings = settings
        self._pace = pace
        self._saves = tuple(saves)
        self._save = save
        self._deadline = deadline
        self._lost = lost
        self._told = told
        self._clock = clock
        self._heard: str | None = None
        self._looked = 0.0
        self.waits_for: int | None = None

    @property
    def reason(self) -> str | None:
        """Why the launch was ended from outside, or will be; None while nothing asks for it."""
        if self._lost():
            return self._lost()
        if asked := stop_asked(self._signals, self._deadline):
            return asked
        return WALLTIME if self._is_late() else None

    def verdict(self, iteration: int) -> Verdict:
        """What to do now that the trainer has logged ``iteration``."""
        if self._signals.urgent or self._lost():
            return Verdict.KILL
        if self._is_late() and not self._is_about_to_end(iteration):
            if self._heard != WALLTIME:
                self._heard = WALLTIME
                self._told(WALLTIME, None)
            return Verdict.ASK
        asked = stop_asked(self._signals, self._deadline)
        if asked is None:
            return Verdict.GO_ON
        if asked != self._heard:  # the first one, or one that leaves less time
            self._heard = asked
            self.waits_for = self._next_save(iteration)
            self._told(self._heard, self.waits_for)
        if self.waits_for is None or self._clock() >= self._signals.since + self._allowed_s():
            return Verdict.ASK
        return Verdict.ASK if self._is_written(self.waits_for) else Verdict.GO_ON

    def _is_late(self) -> bool:
        return self._deadline is not None and self._deadline.usable_s <= 0

    def _is_about_to_end(self, iteration: int) -> bool:
        """Only the checkpoint of its own stop is left to be written, and there are some seconds for it."""
        if not self._saves or self._deadline is None or self._deadline.left_s <= _LAST_S:
            return False
        own = self._saves[-1]
        if iteration >= own:
            return True
        try:  # its iteration is logged only where it is a multiple of log_interval
            return self._save is not None and (self._save / tag_name(own)).is_dir()
        except OSError:
            return False

    def _allowed_s(self) -> float:
        return self._settings.warning_seconds if self._signals.warned else self._settings.grace_seconds

    def _next_save(self, iteration: int) -> int | None:
        """The checkpoint to wait for; None where none comes in time."""
        coming = next((s for s in self._saves if s >= iteration and not self._is_whole(s)), None)
        seconds = None if coming is None else self._pace.seconds_to(coming)
        return coming if seconds is not None and seconds <= self._allowed_s() else None

    def _is_written(self, iteration: int) -> bool:
        """Whether the tag is whole, so that nothing is gained by waiting; its own stop ends the trainer by itself."""
        if iteration == self._saves[-1] or self._clock() - self._looked < _LOOK_S:
            return False
        self._looked = self._clock()
        return self._is_whole(iteration)

    def _is_whole(self, iteration: int) -> bool:
        tag = (self._save or Path()) / tag_name(iteration)
        try:
            return tag.is_dir() and why_unfinished(tag, iteration) is None
        except (CheckpointError, OSError):  # it cannot be told now
            return False
