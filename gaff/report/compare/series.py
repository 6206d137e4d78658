# SPDX-License-Identifier: Apache-2.0
"""The curves of several runs made ready to be drawn over each other: smoothed alike, cut at resets, thinned.  Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gaff.report.compare.difference import mean_over
from gaff.report.compare.runs import ComparedRun
from gaff.report.metrics.series import Floats

_MANY_RESETS = 60
_STRETCHES, _LEAST_STRETCHES = 250, 50


def common_reach(runs: Sequence[ComparedRun]) -> float:
    """Half the window of the running mean, in iterations, the same for all runs: else the smoother one looks better.

    A hundredth of the longest run, but no more than a tenth of the shortest stretch between two resets.
    """
    longest = max(run.done for run in runs)
    stretches = [
        int(gap)
        for run in runs
        if (marks := [0, *(reset.iteration for reset in run.metrics.resets)])
        for gap in np.diff(marks)
    ]
    return min(longest / 100, min(stretches, default=longest) / 10)


def common_stretch(runs: Sequence[ComparedRun]) -> int | None:
    """Iterations over which curves with very many resets are averaged, the same for all; None where none has so many.

    A multiple of every k, where one is near enough, so that each mean has the same share of recoveries.
    """
    if max(len(run.metrics.resets) for run in runs) <= _MANY_RESETS:
        return None
    longest = max(run.done for run in runs)
    wanted = max(1, longest // _STRETCHES)
    common = math.lcm(*(run.reset_every for run in runs if run.reset_every))
    return -(-wanted // common) * common if common * _LEAST_STRETCHES <= longest else wanted


def stretch_means(x: Floats, losses: Floats, width: float) -> tuple[Floats, Floats]:
    """(ends, means) of the stretches of this width that the curve covers whole, shape ``(m,)`` each.

    Args:
        x, losses: a curve of at least one point, ``x`` rising, shape ``(n,)``.
    """
    end = float(x[-1])
    ends = np.minimum(width * np.arange(1.0, int(end / width * (1 + 1e-12)) + 1), end)
    return ends, mean_over(x, losses, np.concatenate([[0.0], ends]))


def smoothed(losses: Floats, edges: Sequence[int], lines: int) -> Floats:
    """The running mean over so many lines to both sides, piece by piece, shape ``(n,)``.

    The window shrinks towards the ends of a piece, so that the spike behind a reset stays.

    Args:
        edges: places at which the pieces begin, and the end.
    """
    means: Floats = losses.copy()
    for begin, end in pairwise(edges):
        place = np.arange(end - begin)
        near = np.minimum(lines, np.minimum(place, end - begin - 1 - place))
        sums = np.concatenate([[0.0], np.cumsum(losses[begin:end])])
        means[begin:end] = (sums[place + near + 1] - sums[place - near]) / (2 * near + 1)
    return means


def with_gaps(columns: Sequence[Floats], places: Sequence[int], cut: Sequence[bool]) -> list[Floats]:
    """Each column with an element before each of ``places``: NaN where it is cut, else half way between neighbours."""
    inner = [place for place in places if 0 < place < len(columns[0])]
    return [
        np.insert(column, inner, [np.nan if is_cut else (column[p - 1] + column[p]) / 2 for p in inner])
        for column, is_cut in zip(columns, cut, strict=True)
    ]
