# SPDX-License-Identifier: Apache-2.0
"""Where a recovery stood still.  Pure.

The GAFF paper saw plateaus behind its resets and could not study them.  Here a plateau is a stretch of at least six
lines in which the smoothed loss moves by no more than a twentieth of the spike, while it is still more than a tenth of
the spike above the level before the reset, and which lasts at least as long as the way from the peak to it.  The last
rule tells it from the slow end of an undisturbed recovery: an exponential one spends a fifth of that time between 15%
and 10% of its spike, one that goes with 1/t three fifths.  The longest stretch counts.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from gaff.report.analysis.measures import Plateau
from gaff.report.metrics.series import Floats, Ints

_LEAST_LINES = 6
_MOVES = 0.05  # of the spike
_ABOVE = 0.1  # of the spike
_MOST_LINES = 400  # that are looked at; of more, every second or third …, once smoothed


def find_plateau(iterations: Ints, losses: Floats, before: float, peak: float) -> Plateau | None:
    """The longest plateau of one recovery, None where there is none.

    Args:
        iterations, losses: from the peak on, until the loss was back or the next reset came; shape ``(n,)``.
        before: the level before the reset.
        peak: the highest loss after it, above ``before``.
    """
    spike = peak - before
    if spike <= 0 or len(losses) < _LEAST_LINES:
        return None
    smooth = _smoothed(losses)
    group = -(-len(smooth) // _MOST_LINES)
    looked = smooth[::group]
    first, last = _longest_flat(looked, _MOVES * spike, before + _ABOVE * spike)
    if last - first + 1 < max(2, -(-_LEAST_LINES // group)) or last - first < first:
        return None
    begin, end = first * group, min(last * group, len(losses) - 1)
    level = float(losses[begin : end + 1].mean())
    return Plateau(int(iterations[begin]), int(iterations[end]), level, level - before)


def _smoothed(losses: Floats) -> Floats:
    """The mean over a window of a twentieth of the lines, which shrinks towards the ends."""
    reach = len(losses) // 40
    if not reach:
        return losses
    total = np.concatenate([[0.0], np.cumsum(losses)])
    place = np.arange(len(losses))
    near = np.minimum(reach, np.minimum(place, len(losses) - 1 - place))
    return np.asarray((total[place + near + 1] - total[place - near]) / (2 * near + 1))


def _longest_flat(losses: Floats, moves: float, above: float) -> tuple[int, int]:
    """(first, last) place of the longest stretch above ``above`` whose highest and lowest differ by ``moves``."""
    best, first = (0, -1), 0
    highest: deque[int] = deque()  # places whose losses fall, the stretch's highest in front
    lowest: deque[int] = deque()
    values = losses.tolist()
    for last, value in enumerate(values):
        if value < above:
            first = last + 1
            highest.clear()
            lowest.clear()
            continue
        while highest and values[highest[-1]] <= value:
            highest.pop()
        while lowest and values[lowest[-1]] >= value:
            lowest.pop()
        highest.append(last)
        lowest.append(last)
        while values[highest[0]] - values[lowest[0]] > moves:
            first += 1
            if highest[0] < first:
                highest.popleft()
            if lowest[0] < first:
                lowest.popleft()
        if last - first > best[1] - best[0]:
            best = (first, last)
    return best
