# SPDX-License-Identifier: Apache-2.0
"""Numbers on the command line, refused by argparse with what they may be."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

_MOST_MINUTES = 10_000.0  # a week


def whole_number(minimum: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least ``minimum``."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text} is no integer") from None
        if number < minimum:
            raise ArgumentTypeError(f"{number} is not at least {minimum}")
        return number

    return parse


def minutes(text: str) -> float:
    """An argparse type: how long something may take."""
    try:
        number = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text} is no number") from None
    if not 0 < number <= _MOST_MINUTES:
        raise ArgumentTypeError(f"{text} is not above 0 and at most {_MOST_MINUTES:,.0f}")
    return number


def percentage(text: str) -> float:
    """An argparse type: above 0 and at most 100."""
    try:
        number = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text} is no number") from None
    if not 0 < number <= 100:
        raise ArgumentTypeError(f"{text} is not above 0 and at most 100")
    return number
