# SPDX-License-Identifier: Apache-2.0
"""Which points of a curve are drawn, which range of losses is shown.  Pure, and fast with a million points.

A curve is two arrays of shape ``(n,)``: iterations, rising, and finite losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gaff.report.metrics.series import Floats, Ints

FEW_RESETS = 40  # with more, the marks are drawn faintly and recoveries are left to the table
MANY_RESETS = 120  # with more, a segment is a few pixels wide, and the means of segments are drawn too

WARM_UP = 0.04  # of a run, in which the loss falls from that of an untrained model
_HEAD_ROOM = 0.12
_MAX_TEXTS = 9
_LEAST_SMOOTHED = 40  # points


def loss_range(iterations: Ints, losses: Floats, end: int) -> tuple[float, float]:
    """Lowest and highest loss of the axis, of at least one point; ``end`` is the last iteration of the axis.

    The first fall from the untrained loss is cut off where it would press all the rest, resets included, into the
    lower part; where it is cut, the highest value shown is below ``losses[0]``.
    """
    settled = losses[iterations > WARM_UP * end]
    if not len(settled):
        settled = losses
    low, high, start = float(settled.min()), float(settled.max()), float(losses.max())
    if start - low < 1.5 * (high - low):
        high = start
    margin = (high - low) * _HEAD_ROOM or 0.1
    return max(0.0, low - margin / 2), high + margin


def extremes(values: Floats, limit: int) -> Ints:
    """Places of at most about ``limit`` values: the ends, and the lowest and the highest of each stretch.

    All stretches are of the same length, so no spike is lost; where there are no more values than ``limit``, all are
    taken.  ``values`` has no NaN.
    """
    count = len(values)
    if count <= limit:
        return np.arange(count)
    length = math.ceil(2 * count / limit)
    whole = count // length * length
    stretches = values[:whole].reshape(-1, length)
    begins = np.arange(0, whole, length)
    kept = [np.array([0, count - 1]), begins + stretches.argmin(axis=1), begins + stretches.argmax(axis=1)]
    if whole < count:
        kept.append(whole + np.array([values[whole:].argmin(), values[whole:].argmax()]))
    return np.unique(np.concatenate(kept))


def evenly(count: int, limit: int) -> Ints:
    """Places of at most ``limit`` of ``count`` things, the first and the last among them, evenly apart."""
    if count <= limit:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, limit).round().astype(np.int64))


def edges_of(iterations: Ints, resets: Sequence[int]) -> list[int]:
    """Places at which the curve is cut: behind the line at each reset; no line is drawn across one."""
    inner = np.searchsorted(iterations, np.asarray(resets, dtype=np.int64), side="right")
    return sorted({0, *(int(place) for place in inner), len(iterations)})


def smoothed(losses: Floats, edges: Sequence[int]) -> Floats:
    """The curve as the mean over a window around each point, piece by piece; NaN in pieces of too few points.

    The window is a twentieth of the piece and shrinks towards its ends, so the spike behind a reset stays.
    """
    means = np.full(len(losses), np.nan)
    for begin, end in pairwise(edges):
        count = end - begin
        if count < _LEAST_SMOOTHED:
            continue
        sums = np.concatenate([[0.0], np.cumsum(losses[begin:end])])
        place = np.arange(count)
        near = np.minimum(count // 40, np.minimum(place, count - 1 - place))
        means[begin:end] = (sums[place + near + 1] - sums[place - near]) / (2 * near + 1)
    return means


def segment_means(iterations: Ints, losses: Floats, edges: Sequence[int]) -> tuple[Floats, Floats]:
    """(iteration in the middle, mean loss) of each piece; ``edges`` as of :func:`edges_of`, for at least one point."""
    begins = np.asarray(edges[:-1])
    counts = np.diff(edges)
    middles: Floats = (iterations[begins] + iterations[np.asarray(edges[1:]) - 1]) / 2
    return middles, np.add.reduceat(losses, begins) / counts


def labelled(count: int) -> list[int]:
    """Which of ``count`` resets get a text, by place: all while they are few, then every second, fifth, tenth …"""
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if count / n <= _MAX_TEXTS)
    return [place for place in range(count) if (place + 1) % every == 0]
