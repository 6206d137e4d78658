# SPDX-License-Identifier: Apache-2.0
"""What the picture and the page draw alike: which range of losses is shown, which points, which ticks.  Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Curve = Sequence[tuple[int, float]]

_WARM_UP = 0.04
_HEAD_ROOM = 0.12
_MAX_TEXTS = 9
_LEAST_SMOOTHED = 40  # points
FEW_RESETS = 40  # with more, the marks are thinned out and recoveries are left to the table


def loss_range(curve: Curve, end: int) -> tuple[float, float]:
    """Lowest and highest loss of the axis.

    The first fall from the untrained loss is cut off where it would press all the rest, resets included, into the
    lower part; where it is cut, the highest value shown is below ``curve[0]``.
    """
    settled = [loss for iteration, loss in curve if iteration > _WARM_UP * end] or [loss for _, loss in curve]
    low, high = min(settled), max(settled)
    start = max(loss for _, loss in curve)
    if start - low < 1.5 * (high - low):
        high = start
    margin = (high - low) * _HEAD_ROOM or 0.1
    return max(0.0, low - margin / 2), high + margin


def thinned(curve: Curve, limit: int) -> list[tuple[int, float]]:
    """At most about ``limit`` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(curve) <= limit:
        return list(curve)
    length = math.ceil(2 * len(curve) / limit)
    kept: set[tuple[int, float]] = {curve[0], curve[-1]}
    for begin in range(0, len(curve), length):
        stretch = curve[begin : begin + length]
        kept.add(min(stretch, key=lambda point: point[1]))
        kept.add(max(stretch, key=lambda point: point[1]))
    return sorted(kept)


def runs(curve: Curve, resets: Sequence[int]) -> list[list[tuple[int, float]]]:
    """The curve cut at each reset: no line is drawn across one."""
    edges = [-math.inf, *resets, math.inf]
    pieces = ([p for p in curve if low < p[0] <= high] for low, high in pairwise(edges))
    return [piece for piece in pieces if piece]


def smoothed(piece: Curve) -> list[tuple[int, float]]:
    """A piece of the curve as the mean over a window around each point; nothing where it has too few points.

    The window is a twentieth of the piece and shrinks towards its ends, so the spike behind a reset stays.
    """
    if len(piece) < _LEAST_SMOOTHED:
        return []
    reach = len(piece) // 40
    losses = [loss for _, loss in piece]
    means = []
    for place, (iteration, _) in enumerate(piece):
        near = min(reach, place, len(piece) - 1 - place)
        window = losses[place - near : place + near + 1]
        means.append((iteration, sum(window) / len(window)))
    return means


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, roughly ``about`` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if raw <= power * m)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def labelled(resets: Sequence[int]) -> set[int]:
    """Which resets, by place in the list, get a text: all while they are few, then every second, fifth, tenth …"""
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if len(resets) / n <= _MAX_TEXTS)
    return {i for i in range(len(resets)) if (i + 1) % every == 0}
