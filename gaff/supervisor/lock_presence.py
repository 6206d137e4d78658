# SPDX-License-Identifier: Apache-2.0
"""Whether a supervisor is at work in a run directory, judged from outside: from any node, writing nothing.

Nobody's clock is trusted.  On its own machine an owner is judged by its process, elsewhere by its beat, which moves or
does not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from gaff.supervisor.lock_owner import Owner, is_local, parse_record, read_record


@dataclass(frozen=True)
class Periods:
    """Seconds between the beats of an owner; of silence after which one is taken for dead; to let two that start at the
    same moment see each other.

    The silence is many beats long, as a shared file system that takes a large checkpoint can keep a small write waiting
    for that long.  It is waited out only where the owner was on another machine and left no word.
    """

    beat_s: float = 5.0
    stale_s: float = 60.0
    settle_s: float = 2.0


PERIODS = Periods()


@dataclass(frozen=True)
class Presence:
    """What is known of a lock file's owner.

    Attributes:
        owner: whom the file names; None when nobody, or when its content is none of GAFF's.
        at_work: whether a supervisor holds the run directory.  None while that cannot be told: the owner is on another
            machine, and its beat has not moved since the first look.
        silent_s: for how long, at least, the file has not changed; 0 at the first look.
    """

    owner: Owner | None
    at_work: bool | None
    silent_s: float


class Onlooker:
    """Looks at a lock file from outside, as often as it is asked to."""

    def __init__(self, path: Path, periods: Periods = PERIODS) -> None:
        self._path = path
        self._periods = periods
        self._content: bytes | None = None
        self._moves = False
        self._silent_s = 0.0
        self._looked = time.monotonic()

    def look(self) -> Presence:
        """Read the file again and compare.

        Raises:
            OSError: it is there and cannot be read.
        """
        try:
            content = read_record(self._path)
        except FileNotFoundError:
            content = b""
        now = time.monotonic()
        if content == self._content:
            # A look that took long was kept waiting by the file system, and so perhaps was the owner.
            self._silent_s += min(now - self._looked, self._periods.beat_s)
        else:
            self._moves = self._content is not None
            self._silent_s = 0.0
        self._content, self._looked = content, now
        owner = parse_record(content)
        return Presence(owner, self._at_work(owner), self._silent_s)

    def _at_work(self, owner: Owner | None) -> bool | None:
        if not self._content:
            return False
        if owner is not None and owner.is_of_this_machine:
            return owner.lives
        if owner is not None and owner.is_of_earlier_boot and is_local(self._path):
            return False
        if self._silent_s >= self._periods.stale_s:
            return False
        return True if self._moves else None


def presence(path: Path, periods: Periods = PERIODS) -> Presence:
    """Whether a supervisor is at work, for one who can wait for up to two beats to know it: see :class:`Presence`.

    It takes no time where nobody is, or where the owner is of this machine.

    Raises:
        OSError: the file is there and cannot be read.
    """
    onlooker = Onlooker(path, periods)
    deadline = time.monotonic() + 2 * periods.beat_s
    while True:
        seen = onlooker.look()
        if seen.at_work is not None or time.monotonic() > deadline:
            return seen
        time.sleep(periods.beat_s / 20)
