# SPDX-License-Identifier: Apache-2.0
"""Whether a measure rises or falls from reset to reset: Theil-Sen slope, Mann-Kendall test.  Pure.

Medians and ranks, because a run has few resets and one of them is always odd.  Sen, J. Am. Stat. Assoc. 63 (1968);
Mann, Econometrica 13 (1945), with the normal approximation and its correction for ties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gaff.report.analysis.measures import Recovery, Trend
from gaff.report.metrics.series import Floats, Ints

MEASURES = ("spike", "area", "iterations", "half_life")
_LEAST_FOR_SLOPE, _LEAST_FOR_TEST = 3, 4
_MOST = 2000  # resets that are compared with each other; of more, every second or third …


def trends(recoveries: Sequence[Recovery]) -> tuple[Trend, ...]:
    """One for each of :data:`MEASURES`."""
    return tuple(_trend(measure, recoveries) for measure in MEASURES)


def _trend(measure: str, recoveries: Sequence[Recovery]) -> Trend:
    told = [
        (recovery.reset.number, float(value))
        for recovery in recoveries
        if (value := getattr(recovery, measure)) is not None
    ]
    if not told:
        return Trend(measure, 0, None, None, None, None)
    table = np.array(told)[:: -(-len(told) // _MOST)]
    numbers, values = table[:, 0], table[:, 1]
    middle = float(np.median([value for _, value in told]))
    slope = _slope(numbers, values) if len(values) >= _LEAST_FOR_SLOPE else None
    relative = slope / middle if slope is not None and middle else None
    p = _kendall_p(values) if len(values) >= _LEAST_FOR_TEST else None
    return Trend(measure, len(told), middle, slope, relative, p)


def _pairs(count: int) -> tuple[Ints, Ints]:
    first, second = np.triu_indices(count, 1)
    return first, second


def _slope(numbers: Floats, values: Floats) -> float:
    first, second = _pairs(len(values))
    return float(np.median((values[second] - values[first]) / (numbers[second] - numbers[first])))


def _kendall_p(values: Floats) -> float:
    """Two-sided."""
    count = len(values)
    first, second = _pairs(count)
    score = float(np.sign(values[second] - values[first]).sum())
    _, ties = np.unique(values, return_counts=True)
    variance = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    if variance <= 0:  # all are the same
        return 1.0
    z = max(0.0, abs(score) - 1) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))
