# SPDX-License-Identifier: Apache-2.0
"""Whether a launch that failed is made again, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gaff.errors import GaffError, TrainerError
from gaff.files import TROUBLE
from gaff.plan.settings import WatchSettings
from gaff.supervisor.failures import Failure
from gaff.trainers.fault import Course

_MOST_BACKOFF_S = 600.0


@dataclass(frozen=True)
class Restart:
    """Launch again, the ``number``-th time of ``of`` in a row, after ``delay_s`` seconds."""

    number: int
    of: int
    delay_s: float


class Restarts:
    """The budget of one supervisor.  A new checkpoint fills it again.

    Not tried again is what would fail the same way: a fault of the config or of the installation; a trainer that never
    trained an iteration of a run that has no checkpoint yet; the same fault after the same iteration too often.

    Args:
        settings: how often, and how long to wait.
    """

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._safe = -1
        self._count = 0
        self._last: tuple[int, str] | None = None
        self._same = 0
        self._has_trained = False

    def reached(self, safe: int) -> None:
        """There is a whole checkpoint of iteration ``safe``."""
        if safe > self._safe:
            self._safe, self._count, self._last, self._same = safe, 0, None, 0

    def after(self, failed: Failure, safe: int) -> Restart | GaffError:
        """What follows on a failure.

        Args:
            failed: the launch.
            safe: the newest iteration that has a whole checkpoint.

        Returns:
            When to launch again, or the error to end the run with.
        """
        self.reached(safe)
        self._note(failed)
        settings = self._settings
        if settings.restarts == 0 or failed.final or failed.course is Course.LASTING:
            return failed.error
        if not safe and not self._has_trained and not failed.killed and failed.course is not Course.PASSING:
            return failed.error  # nobody has seen this config run yet
        if self._same >= settings.same_iteration:
            return _ended(failed, f"for the {_ordinal(self._same)} time in a row after iteration {failed.iteration}")
        if self._count >= settings.restarts:
            return _ended(failed, f"after {settings.restarts} restarts without a new checkpoint")
        return self._next()

    def after_trouble(self, error: OSError) -> Restart | None:
        """When to look again after the machine could not read or write a file; None when it is enough."""
        if error.errno not in TROUBLE or self._count >= self._settings.restarts:
            return None
        return self._next()

    def _next(self) -> Restart:
        self._count += 1
        delay = min(self._settings.backoff_seconds * 2.0 ** (self._count - 1), _MOST_BACKOFF_S)
        return Restart(self._count, self._settings.restarts, delay)

    def _note(self, failed: Failure) -> None:
        """Count what looks like the same fault at the same place; what passes by itself may come back there."""
        self._has_trained = self._has_trained or failed.trained
        if failed.course is Course.PASSING or (failed.killed and not failed.trained):
            self._last, self._same = None, 0
            return
        here = (failed.iteration, failed.kind)
        self._same = self._same + 1 if here == self._last else 1
        self._last = here


def _ended(failed: Failure, why: str) -> GaffError:
    problem = failed.problem
    return TrainerError(replace(problem, id="restarts-used-up", what=f"{why}: {problem.what}"))


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
