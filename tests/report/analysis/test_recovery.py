# SPDX-License-Identifier: Apache-2.0
"""How the loss came back after each reset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from naive import naive_recovery

from gaff.plan.schedule import Reset
from gaff.report.analysis.measures import Recovery
from gaff.report.analysis.recovery import recoveries as of_arrays

BEFORE = [(10, 5.0), (20, 3.0), (30, 2.2), (40, 2.0), (50, 1.8)]


def recoveries(curve: Sequence[tuple[int, float]], resets: Sequence[Reset]) -> tuple[Recovery, ...]:
    iterations, losses = np.array([i for i, _ in curve], dtype=np.int64), np.array([loss for _, loss in curve])
    return of_arrays(iterations, losses, resets)


def test_level_before_is_the_mean_of_the_last_three_lines() -> None:
    (recovery,) = recoveries(BEFORE, [Reset(1, 50)])
    assert recovery.before == pytest.approx(2.0)
    assert (recovery.peak, recovery.iterations) == (None, None)


def test_recovery_is_counted_from_the_reset_to_the_first_line_at_the_level() -> None:
    (recovery,) = recoveries([*BEFORE, (60, 4.0), (70, 4.5), (80, 2.5), (90, 2.0), (100, 9.0)], [Reset(1, 50)])
    assert (recovery.peak, recovery.peak_iteration) == (4.5, 70)
    assert (recovery.recovered_iteration, recovery.iterations) == (90, 40)


def test_loss_that_is_not_back_by_the_next_reset_has_not_recovered_though_it_is_later() -> None:
    curve = [*BEFORE, (60, 4.0), (70, 3.0), (80, 5.0), (90, 1.0)]
    first, second = recoveries(curve, [Reset(1, 50), Reset(2, 70)])
    assert (first.recovered_iteration, first.peak) == (None, 4.0)
    assert (second.before, second.recovered_iteration) == (3.5, 90)


def test_level_does_not_reach_back_over_the_reset_before() -> None:
    _, second = recoveries([*BEFORE, (60, 4.0), (70, 5.0)], [Reset(1, 50), Reset(2, 60)])
    assert second.before == 4.0


def test_reset_before_any_line_has_no_level() -> None:
    (recovery,) = recoveries([(60, 4.0)], [Reset(1, 50)])
    assert (recovery.before, recovery.peak, recovery.recovered_iteration) == (None, 4.0, None)


def test_run_without_resets_has_no_recoveries() -> None:
    assert recoveries(BEFORE, []) == ()


def test_the_area_is_what_lies_above_the_level_until_the_loss_is_back() -> None:
    (recovery,) = recoveries([*BEFORE, (60, 4.0), (80, 3.0), (90, 2.0), (100, 9.0)], [Reset(1, 50)])
    assert recovery.area == pytest.approx(10 * 2.0 + 20 * 1.0)
    assert recovery.spike == pytest.approx(2.0)


def test_the_half_life_counts_from_the_peak_and_lies_between_lines() -> None:
    (recovery,) = recoveries([*BEFORE, (60, 3.0), (70, 6.0), (80, 5.0), (90, 3.0)], [Reset(1, 50)])
    assert recovery.half_life == pytest.approx(10 + 10 * (5.0 - 4.0) / 2.0)


def test_within_a_percentage_of_the_level() -> None:
    (recovery,) = recoveries([*BEFORE, (60, 3.0), (70, 2.19), (80, 2.09), (90, 2.03), (100, 2.0)], [Reset(1, 50)])
    assert recovery.within == {10.0: 20, 5.0: 30, 2.0: 40, 1.0: 50}
    assert recovery.iterations == 50


def test_a_loss_that_never_rose_has_nothing_to_recover_from() -> None:
    (recovery,) = recoveries([*BEFORE, (60, 1.5), (70, 1.4)], [Reset(1, 50)])
    assert (recovery.iterations, recovery.area, recovery.half_life, recovery.plateau) == (10, 0.0, None, None)
    assert recovery.spike == pytest.approx(-0.5)


def test_what_was_not_back_by_the_next_reset_was_spent_to_its_end() -> None:
    curve = [*BEFORE, (60, 4.0), (70, 3.0), (80, 5.0), (90, 1.0)]
    first, second = recoveries(curve, [Reset(1, 50), Reset(2, 70)])
    assert (first.spent, second.spent) == (20, 20)
    assert first.relative_decrease == pytest.approx((4.0 - 3.5) / 4.0)


def test_numbers_agree_with_a_plain_computation_line_by_line() -> None:
    random = np.random.default_rng(7)
    curve, marks = [], [400, 800, 1210, 1600]
    for i in range(10, 2001, 10):
        since = i - max([0, *(m for m in marks if m < i)])
        curve.append((i, float(2.0 + 3.0 * np.exp(-since / 60) + 0.05 * random.normal())))
    found = recoveries(curve, [Reset(n, mark) for n, mark in enumerate(marks, 1)])
    for place, recovery in enumerate(found):
        plain = naive_recovery(curve, marks, place)
        assert {name: getattr(recovery, name) for name in plain} == pytest.approx(plain)
