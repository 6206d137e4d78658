# SPDX-License-Identifier: Apache-2.0
"""The learning rate of a run as a picture in text, with the resets below it.  Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from gaff.plan.learning_rate import LearningRate

WIDTH, ROWS = 72, 8
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LOOKED_AT = 64  # iterations of one column; restarts and ends of warm-ups come on top
_RESTARTS_LOOKED_AT = 8  # of one column, from each side
_GUTTER = 10


def draw(rate: LearningRate, resets: Sequence[int], *, unicode: bool) -> list[str]:
    """The rates that the steps use, as lines of at most ``WIDTH`` + 12 characters.

    Each column is filled up to the lowest rate among its iterations, and shaded from there to the highest.

    Args:
        rate: of the run.
        resets: iterations to mark.
        unicode: block characters; else ASCII alone.
    """
    bands = [_band(rate, column) for column in range(WIDTH)]
    top = max(high for _, high in bands)
    levels = [(_level(low, top), _level(high, top)) for low, high in bands]
    labels = {ROWS - 1: f"{top:.2e}", ROWS // 2 - 1: f"{top / 2:.2e}"}
    bar, corner, line = "│└─" if unicode else "|+-"
    lines = []
    for row in reversed(range(ROWS)):
        cells = "".join(_cell(low - 8 * row, high - 8 * row, unicode) for low, high in levels)
        lines.append(f"{labels.get(row, ''):>{_GUTTER}} {bar}{cells}".rstrip())
    lines.append(f"{'0':>{_GUTTER}} {corner}{line * WIDTH}")
    marks = [" "] * WIDTH
    for reset in resets:
        marks[(reset - 1) * WIDTH // rate.train_iters] = "▲" if unicode else "^"
    if resets:
        lines.append(f"{'resets':>{_GUTTER}}  {''.join(marks)}".rstrip())
    middle = f"{rate.train_iters // 2:,}" if rate.train_iters > 3 else ""
    end = f"{rate.train_iters:,}"
    axis = "1".ljust(WIDTH // 2 - len(middle) // 2) + middle
    return [*lines, f"{'iteration':>{_GUTTER}}  {axis}{end.rjust(WIDTH - len(axis))}"]


def _band(rate: LearningRate, column: int) -> tuple[float, float]:
    """Lowest and highest rate among the iterations of a column."""
    first = column * rate.train_iters // WIDTH + 1
    last = max(first, (column + 1) * rate.train_iters // WIDTH)
    step = max(1, (last - first) // _LOOKED_AT)
    shown = {*range(first, last + 1, step), last}
    inside = rate.restarts[bisect_left(rate.restarts, first - 1) : bisect_right(rate.restarts, last)]
    turns = {0, *inside[:_RESTARTS_LOOKED_AT], *inside[-_RESTARTS_LOOKED_AT:]}
    warm = math.floor(rate.schedule.warmup_iter)
    near = (turn + steps for turn in turns for steps in (0, 1, warm + 1, warm + 2))
    shown.update(iteration for iteration in near if first <= iteration <= last)
    rates = [rate.used(iteration) for iteration in shown]
    return min(rates), max(rates)


def _level(value: float, top: float) -> int:
    """In eighths of a row; a rate above 0 is never drawn as none."""
    return max(1 if value > 0 else 0, round(value / top * ROWS * 8)) if top > 0 else 0


def _cell(low: int, high: int, unicode: bool) -> str:
    """One character, its column filled to ``low`` and shaded to ``high``, in eighths above the lower edge."""
    full, shade = "█░" if unicode else "#:"
    if high <= 0:
        return " "
    if low >= 8:
        return full
    if high - low >= 8:
        return shade if high >= 4 else " "
    if unicode:
        return _EIGHTHS[min(high, 8)]
    return full if high >= 4 else "."
