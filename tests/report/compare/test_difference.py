# SPDX-License-Identifier: Apache-2.0
"""Loss differences between curves whose lines are not at the same places."""

from __future__ import annotations

import numpy as np
import pytest

from gaff.report.compare.difference import loss_difference, mean_over


def test_of_lines_at_the_same_places_it_is_the_plain_difference() -> None:
    x, one, other = np.arange(1.0, 6), np.array([5.0, 4, 3, 2, 1]), np.array([5.0, 5, 1, 2, 0.5])
    grid, found = loss_difference(x, one, x, other)
    assert grid.tolist() == x.tolist()
    assert found == pytest.approx(one - other, abs=1e-12)


def test_many_lines_are_averaged_over_the_stretch_that_one_line_of_the_other_is_the_mean_of() -> None:
    fine, fine_losses = np.arange(1.0, 21), np.linspace(5, 3, 20)
    coarse, coarse_losses = np.array([5.0, 10, 15, 20]), np.array([4.0, 4, 4, 4])
    expected = fine_losses.reshape(4, 5).mean(axis=1) - 4
    for sign, curves in (
        (1, (fine, fine_losses, coarse, coarse_losses)),
        (-1, (coarse, coarse_losses, fine, fine_losses)),
    ):
        grid, found = loss_difference(*curves)
        assert grid.tolist() == coarse.tolist()
        assert found == pytest.approx(sign * expected, abs=1e-12)


def test_it_goes_as_far_as_both() -> None:
    long, short = np.arange(1.0, 101), np.arange(1.0, 31)
    for curves in ((long, long, short, short + 1), (short, short, long, long + 1)):
        grid, found = loss_difference(*curves)
        assert grid[[0, -1]].tolist() == [1, 30]
        assert found == pytest.approx(-np.ones(30))


def test_lines_that_do_not_meet_are_interpolated() -> None:
    x, other = np.arange(7.0, 100, 7), np.arange(10.0, 100, 10)
    grid, found = loss_difference(x, 100 - x + 3.5, other, 100 - other + 5)  # means of 100 - x over their stretches
    assert grid.tolist() == other.tolist()
    assert found[1:-1] == pytest.approx(0, abs=0.7)  # a tenth of a step; of the lines as they stand, up to 7
    assert len(loss_difference(x, x, np.array([500.0]), np.array([1.0]))[0]) == 0
    assert len(loss_difference(x, x, np.zeros(0), np.zeros(0))[0]) == 0


def test_places_that_do_not_rise_are_passed_over() -> None:
    x = np.array([1.0, 2, 2, 3])  # hours, where a line does not tell how long it took
    grid, found = loss_difference(x, np.ones(4), np.arange(1.0, 4), np.zeros(3))
    assert grid.tolist() == [1, 2, 3]
    assert found.tolist() == [1, 1, 1]


def test_mean_over_stretches() -> None:
    x, losses = np.array([2.0, 4, 6]), np.array([1.0, 3, 5])
    assert mean_over(x, losses, np.array([0.0, 2, 4, 6])).tolist() == [1, 3, 5]
    assert mean_over(x, losses, np.array([0.0, 3, 5])) == pytest.approx([(2 * 1 + 3) / 3, (3 + 5) / 2])
