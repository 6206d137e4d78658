# SPDX-License-Identifier: Apache-2.0
"""The loss of one run minus that of another at the same place, also where they logged at different ones.  Pure.

A logged loss is the mean over the iterations since the line before, so what is summed up over a stretch is known at
each line, and between two lines lies on a straight one.  The mean over a stretch is then exact for every run that has
a line at both of its ends, however many lines it has in between.
"""

from __future__ import annotations

import numpy as np

from gaff.report.metrics.series import Bools, Floats


def mean_over(x: Floats, losses: Floats, edges: Floats) -> Floats:
    """Mean loss of each stretch between two edges.

    Args:
        x, losses: a curve, ``x`` rising and above 0, shape ``(n,)``.
        edges: rising, within 0 and the last ``x``, shape ``(m + 1,)``.

    Returns:
        Shape ``(m,)``.
    """
    total = np.concatenate([[0.0], np.cumsum(losses * np.diff(x, prepend=0.0))])
    return np.asarray(np.diff(np.interp(edges, np.concatenate([[0.0], x]), total)) / np.diff(edges))


def loss_difference(x: Floats, losses: Floats, base_x: Floats, base_losses: Floats) -> tuple[Floats, Floats]:
    """(places, differences) as far as both curves go, at the lines of the one that logged more seldom."""
    if not len(x) or not len(base_x):
        return np.zeros(0), np.zeros(0)
    own, base = rising(x), rising(base_x)
    x, losses, base_x, base_losses = x[own], losses[own], base_x[base], base_losses[base]
    begin, end = max(x[0], base_x[0]), min(x[-1], base_x[-1])
    within = [at[(at >= begin) & (at <= end)] for at in (x, base_x)]
    grid = min(within, key=len)
    if not len(grid):
        return np.zeros(0), np.zeros(0)
    before = base_x if grid is within[1] else x
    place = int(np.searchsorted(before, grid[0]))
    edges = np.concatenate([[before[place - 1] if place else 0.0], grid])
    return grid, mean_over(x, losses, edges) - mean_over(base_x, base_losses, edges)


def rising(x: Floats) -> Bools:
    """Which points lie behind all points before them; on an axis of time some may not."""
    return np.asarray(np.diff(np.maximum.accumulate(x), prepend=0.0) > 0)
