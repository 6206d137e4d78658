# SPDX-License-Identifier: Apache-2.0
"""What is known about one kind of fault: the words by which it is told, what to do, and how near to the cause it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, IntEnum


class Weight(IntEnum):
    """How near to the cause a message is.  The lowest of a log is its decisive one, and of equals the first."""

    CAUSE = 0  # says what is wrong
    UNKNOWN = 1  # an exception that nothing is known about, or a rank that died without a word
    CONSEQUENCE = 2  # a rank that lost its peers: the cause is another's
    HINT = 3  # what a dying rank or a launcher says in any case


class Course(Enum):
    """What becomes of a fault when the same launch is made again."""

    LASTING = "lasting"  # fails the same way on every node and day: by the config, the checkpoint, the versions
    PASSING = "passing"  # it can be gone by itself: a network, a node, a file system
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fault:
    """One row: a message that ``pattern`` finds, and what to do about it (``\\1`` is the pattern's first group).

    ``alone``: a line of its own, outside any Python traceback.
    """

    pattern: re.Pattern[str]
    remedy: str
    weight: Weight = Weight.CAUSE
    alone: bool = False
    course: Course = Course.UNKNOWN


def rows(weight: Weight, alone: bool, *known: tuple[str, str], course: Course = Course.UNKNOWN) -> tuple[Fault, ...]:
    """Rows of one kind, each given as its pattern and its remedy."""
    return tuple(Fault(re.compile(pattern), remedy, weight, alone, course) for pattern, remedy in known)


# What to do about faults of several kinds.
SHM = "make room in /dev/shm, or start the container with --ipc=host or a larger --shm-size"
COMPILER = "install g++ and Python's headers (python3-dev), and set CXX=g++ in `gaff: environment`"
