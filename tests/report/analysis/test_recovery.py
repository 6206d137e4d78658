# SPDX-License-Identifier: Apache-2.0
"""How the loss came back after each reset."""

from __future__ import annotations

import pytest

from gaff.plan.schedule import Reset
from gaff.report.recovery import recoveries

BEFORE = [(10, 5.0), (20, 3.0), (30, 2.2), (40, 2.0), (50, 1.8)]


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
