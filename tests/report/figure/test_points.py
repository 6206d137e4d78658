# SPDX-License-Identifier: Apache-2.0
"""Which points are drawn, and which range."""

from __future__ import annotations

import numpy as np
import pytest

from gaff.report.figure.points import edges_of, evenly, extremes, labelled, loss_range, segment_means, smoothed


def arrays(points: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([i for i, _ in points], dtype=np.int64), np.array([loss for _, loss in points])


def test_first_fall_is_cut_off_where_it_would_hide_the_resets() -> None:
    settled = [(i, 4.0 if i == 60 else 3.0) for i in range(10, 100)]
    low, high = loss_range(*arrays([(1, 11.0), (2, 9.0), *settled]), 100)
    assert low < 3.0
    assert 4.0 < high < 5.0


def test_first_fall_is_shown_where_it_hides_nothing() -> None:
    low, high = loss_range(*arrays([(1, 4.2), (50, 4.0), (100, 2.0)]), 100)
    assert low < 2.0
    assert high > 4.2


def test_a_run_that_is_at_its_beginning_has_a_range() -> None:
    assert loss_range(*arrays([(1, 5.0)]), 1000) == pytest.approx((4.95, 5.1))


@pytest.mark.parametrize("count", [20_000, 20_001, 19_999])
def test_thinning_keeps_the_spikes_and_the_ends(count: int) -> None:
    values = 2.0 + np.arange(count) % 7 / 100
    values[12_345], values[777], values[count - 2] = 9.0, 0.5, 8.0
    kept = extremes(values, 1000)
    assert len(kept) <= 1010
    assert {0, 777, 12_345, count - 2, count - 1} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


def test_few_points_are_all_drawn() -> None:
    assert extremes(np.array([3.0, 1.0, 2.0]), 3).tolist() == [0, 1, 2]


def test_every_stretch_has_its_lowest_and_highest() -> None:
    values = np.random.default_rng(5).normal(size=1000)
    kept = set(extremes(values, 100).tolist())
    for begin in range(0, 1000, 20):
        stretch = values[begin : begin + 20]
        assert {begin + int(stretch.argmin()), begin + int(stretch.argmax())} <= kept


def test_evenly_chosen_has_both_ends() -> None:
    assert evenly(5, 60).tolist() == [0, 1, 2, 3, 4]
    chosen = evenly(999, 60)
    assert (len(chosen), chosen[0], chosen[-1]) == (60, 0, 998)
    assert set(np.diff(chosen).tolist()) == {16, 17}


def test_curve_is_cut_after_the_line_at_the_reset() -> None:
    iterations = np.array([50, 100, 150], dtype=np.int64)
    assert edges_of(iterations, [100]) == [0, 2, 3]
    assert edges_of(iterations, []) == [0, 3]
    assert edges_of(iterations, [20, 150, 200]) == [0, 3]


def test_the_mean_of_a_piece_keeps_its_ends_and_its_level() -> None:
    losses = np.array([5.0 if i == 1 else 2.0 + (-1) ** i * 0.5 for i in range(1, 201)])
    mean = smoothed(losses, [0, 200])
    assert (mean[0], mean[-1]) == (losses[0], losses[-1])
    assert (np.abs(mean[20:-10] - 2.0) < 0.2).all()
    assert mean[100] == pytest.approx(losses[95:106].mean())


def test_a_short_piece_is_not_smoothed_and_does_not_touch_its_neighbour() -> None:
    losses = np.concatenate([np.full(39, 9.0), np.full(40, 1.0)])
    mean = smoothed(losses, [0, 39, 79])
    assert np.isnan(mean[:39]).all()
    assert mean[39:] == pytest.approx(np.ones(40))


def test_means_of_segments() -> None:
    middles, means = segment_means(
        np.array([10, 20, 30, 40], dtype=np.int64), np.array([1.0, 3.0, 5.0, 9.0]), [0, 2, 4]
    )
    assert (middles.tolist(), means.tolist()) == ([15.0, 35.0], [2.0, 7.0])


def test_many_resets_get_few_texts() -> None:
    assert labelled(3) == [0, 1, 2]
    assert [place + 1 for place in labelled(142)] == [20, 40, 60, 80, 100, 120, 140]
