# SPDX-License-Identifier: Apache-2.0
from gaff.report.chart import smoothed


def test_the_mean_of_a_piece_keeps_its_ends_and_its_level() -> None:
    piece = [(i, 5.0 if i == 1 else 2.0 + (-1) ** i * 0.5) for i in range(1, 201)]
    mean = smoothed(piece)
    assert [i for i, _ in mean] == [i for i, _ in piece]
    assert mean[0] == piece[0]
    assert mean[-1] == piece[-1]
    assert all(abs(loss - 2.0) < 0.2 for _, loss in mean[20:-10])


def test_a_short_piece_is_not_smoothed() -> None:
    assert smoothed([(i, float(i)) for i in range(39)]) == []
