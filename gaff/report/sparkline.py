# SPDX-License-Identifier: Apache-2.0
"""A loss curve in one row of text.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_WARM_UP = 0.05  # the fall from the untrained loss would flatten all that comes after


def column(iteration: int, end: int, width: int) -> int:
    """The column, from 0, in which ``iteration`` (1 to ``end``) is drawn."""
    return min(width - 1, max(0, (iteration - 1) * width // max(1, end)))


def sparkline(curve: Sequence[tuple[int, float]], end: int, width: int) -> str:
    """``width`` characters for the iterations 1 to ``end``; blanks where nothing is logged yet.

    Each column shows the highest loss that falls into it, so that a short rise after a reset is not lost.
    """
    columns: list[float | None] = [None] * width
    for iteration, loss in curve:
        place = column(iteration, end, width)
        columns[place] = max(loss, columns[place] or loss)
    settled = [loss for iteration, loss in curve if iteration > _WARM_UP * end] or [loss for _, loss in curve]
    if not settled:
        return " " * width
    low, high = min(settled), max(settled)
    first = next(i for i, value in enumerate(columns) if value is not None)
    filled: list[str] = []
    shown = columns[first]
    for i, value in enumerate(columns[: column(curve[-1][0], end, width) + 1]):
        shown = value if value is not None else shown
        filled.append(" " if i < first or shown is None else _block(shown, low, high))
    return "".join(filled).ljust(width)


def _block(loss: float, low: float, high: float) -> str:
    share = (loss - low) / (high - low) if high > low else 0.0
    return _BLOCKS[min(len(_BLOCKS) - 1, max(0, round(share * (len(_BLOCKS) - 1))))]
