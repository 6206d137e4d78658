# SPDX-License-Identifier: Apache-2.0
"""Whether a measure rises or falls from reset to reset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gaff.plan.schedule import Reset
from gaff.report.analysis.measures import Recovery, Trend
from gaff.report.analysis.trends import trends


def half_lives(values: Sequence[float | None]) -> Trend:
    recoveries = [
        Recovery(Reset(n, n * 100), n * 100, None, None, None, None, None, {}, value, None, None)
        for n, value in enumerate(values, 1)
    ]
    return next(trend for trend in trends(recoveries) if trend.measure == "half_life")


def test_a_steady_fall_is_clear_and_measured() -> None:
    trend = half_lives([100.0 - 5 * n for n in range(10)])
    assert (trend.slope, trend.median, trend.count) == (-5.0, 77.5, 10)
    assert trend.relative == pytest.approx(-5 / 77.5)
    assert trend.is_clear


def test_one_odd_reset_does_not_turn_it() -> None:
    trend = half_lives([100.0, 95.0, 90.0, 85.0, 9000.0, 75.0, 70.0, 65.0, 60.0, 55.0])
    assert trend.slope == pytest.approx(-5.0)
    assert trend.is_clear


def test_noise_is_no_trend() -> None:
    clear = [half_lives(np.random.default_rng(seed).normal(100, 10, 30).tolist()).is_clear for seed in range(100)]
    assert sum(clear) < 15  # 5 are to be expected


def test_p_of_a_known_case() -> None:
    """Ten in order: S = 45, variance 125, z = 44 / sqrt(125)."""
    assert half_lives([float(n) for n in range(10)]).p == pytest.approx(8.3e-5, rel=0.02)


def test_resets_that_lack_the_measure_are_left_out_and_keep_their_distance() -> None:
    trend = half_lives([10.0, None, 20.0, None, 30.0, 35.0])
    assert (trend.count, trend.slope) == (4, 5.0)


@pytest.mark.parametrize("values", [[], [None], [3.0], [3.0, 4.0]])
def test_too_few_have_no_slope(values: Sequence[float | None]) -> None:
    trend = half_lives(values)
    assert (trend.slope, trend.p, trend.is_clear) == (None, None, False)


def test_all_alike_are_no_trend() -> None:
    assert half_lives([5.0] * 6).p == 1.0


def test_thousands_are_compared_too() -> None:
    assert half_lives([10_000.0 - n for n in range(5000)]).slope == pytest.approx(-1.0)
