# SPDX-License-Identifier: Apache-2.0
"""What a trainer's error message means: how near to the cause it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

from gaff.trainers.contract import ErrorLogged
from gaff.trainers.fault import Course, Weight
from gaff.trainers.fault_table import FAULTS

_ALONE = tuple(fault for fault in FAULTS if fault.alone)
_MAX_MESSAGE = 600


def explain(message: str) -> str | None:
    """What to do about an error message of the trainer, as one clause; None where nothing is known about it."""
    for fault in FAULTS:
        match = fault.pattern.search(message)
        if match:
            return match.expand(fault.remedy)
    return None


def weigh(message: str) -> Weight:
    """How near to the cause the message is; ``Weight.UNKNOWN`` where nothing is known about it."""
    return next((fault.weight for fault in FAULTS if fault.pattern.search(message)), Weight.UNKNOWN)


def course(message: str) -> Course:
    """What becomes of the fault when the same launch is made again."""
    return next((fault.course for fault in FAULTS if fault.pattern.search(message)), Course.UNKNOWN)


def decisive(errors: Iterable[ErrorLogged]) -> ErrorLogged | None:
    """The error that tells most of the cause: a peer that lost its connection loses, whoever of them spoke first."""
    return min(errors, key=lambda error: weigh(error.message), default=None)


def stands_alone(line: str) -> str | None:
    """The message in a line that is no part of a Python traceback, from where it begins; None for all other lines."""
    found = next((match for fault in _ALONE if (match := fault.pattern.search(line))), None)
    return line[found.start() :].strip()[:_MAX_MESSAGE] if found else None
