# SPDX-License-Identifier: Apache-2.0
"""The watchdog of checkpoints that do not come, and which are due."""

from __future__ import annotations

import os
from bisect import bisect_left
from pathlib import Path

from gaff.checkpoint.tag import tag_name
from gaff.plan.config import Config
from gaff.plan.estimates import tags
from gaff.plan.settings import Policy
from gaff.plan.typed import integer
from gaff.supervisor.watchdogs.alarm import Alarm, Line
from gaff.supervisor.watchdogs.history import History


def due_tags(config: Config, start: int, stop: int) -> tuple[int, ...]:
    """The iterations, ascending, at which a launch from ``start`` to ``stop`` writes a checkpoint.

    Iteration 0 is among them where the launch starts there and the config wants its tag.
    """
    every = tags(config, (stop,), integer(config, "train_iters") or stop)
    return tuple(i for i in every if start < i <= stop or i == start == 0)


class LateCheckpoint:
    """``checkpoint-late``: an iteration was logged beyond a checkpoint that is not there.

    GPT-NeoX saves after the iteration and trains on when all ranks are done, so one further line proves it.  Only the
    newest checkpoint is looked for: older ones may have been deleted.
    """

    def __init__(self, due: tuple[int, ...], save: Path, policy: Policy, history: History) -> None:
        self._due, self._save, self._policy, self._history = due, save, policy, history
        self._passed = 0  # how many of them training has gone past

    def see(self, line: Line) -> Alarm | None:
        iteration = line.logged.iteration
        passed = bisect_left(self._due, iteration)
        if passed == self._passed:
            return None
        self._passed, tag = passed, self._due[passed - 1]
        if not self._history.begins("checkpoint-late", not self._is_there(tag_name(tag))):
            return None
        what = f"iteration {iteration} was logged, and there is no {tag_name(tag)} in {self._save}"
        return Alarm("checkpoint-late", what, self._policy, iteration, {"checkpoint": tag})

    def _is_there(self, name: str) -> bool:
        """Where it cannot be told, it is taken to be there."""
        try:
            # A shared file system may remember for a while that a name was missing; reading the directory asks anew.
            return (self._save / name).is_dir() or name in os.listdir(self._save)
        except FileNotFoundError:
            return False
        except OSError:
            return True
