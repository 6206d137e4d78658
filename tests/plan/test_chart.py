# SPDX-License-Identifier: Apache-2.0
"""The picture of the learning rate: heights, marks and labels are where the numbers say."""

from __future__ import annotations

import pytest

from gaff.cli.plan_chart import ROWS, WIDTH, draw
from gaff.plan.annealing import Schedule
from gaff.plan.learning_rate import LearningRate

LINEAR = Schedule(start_lr=1e-3, min_lr=0.0, warmup_iter=0.0, end_iter=7200, decay_style="linear", num_iters=0)


def picture(rate: LearningRate, resets: list[int], *, unicode: bool) -> tuple[list[str], list[str]]:
    """(cells of the rows from the top, the lines below)."""
    lines = draw(rate, resets, unicode=unicode)
    bar = "│" if unicode else "|"
    return [line.partition(bar)[2].ljust(WIDTH) for line in lines[:ROWS]], lines[ROWS:]


@pytest.mark.parametrize("unicode", [True, False])
def test_the_height_of_each_column_is_its_rate(unicode: bool) -> None:
    rate = LearningRate(LINEAR, (), 7200)
    rows, _ = picture(rate, [], unicode=unicode)
    for column in range(WIDTH):
        filled = sum(row[column] != " " for row in rows)
        exact = rate.used(column * 100 + 1) / 1e-3 * ROWS
        assert exact - 0.6 <= filled <= exact + 1.1, column
    assert all(len(row) == WIDTH for row in rows)


def test_axis_and_labels() -> None:
    lines = draw(LearningRate(LINEAR, (), 7200), [], unicode=True)
    assert lines[0].startswith("  1.00e-03 │")
    assert lines[ROWS // 2].startswith("  5.00e-04 │")
    assert lines[ROWS] == "         0 └" + "─" * WIDTH
    assert lines[-1].split() == ["iteration", "1", "3,600", "7,200"]
    assert len(lines[-1]) == len(lines[ROWS])


def test_resets_are_marked_where_they_happen() -> None:
    rate = LearningRate(LINEAR, (), 7200)
    _, below = picture(rate, [100, 3600, 7199], unicode=True)
    marks = below[1][12:]
    assert [i for i, mark in enumerate(marks) if mark == "▲"] == [0, 35, 71]
    ascii_marks = picture(rate, [3600], unicode=False)[1][1]
    assert ascii_marks.index("^") == 12 + 35


def test_a_restart_lifts_the_curve_to_the_top_again() -> None:
    cycle = Schedule(1e-3, 1e-4, 0.0, 1800, "linear", 0)
    rows, _ = picture(LearningRate(cycle, (1800, 3600, 5400), 7200), [], unicode=True)
    assert [i for i, cell in enumerate(rows[0]) if cell == "█"] == [0, 18, 36, 54]
    assert " " not in rows[-1]  # min_lr is a tenth of the highest


def test_many_restarts_in_one_column_are_a_shade_from_lowest_to_highest() -> None:
    cycle = Schedule(1e-3, 0.0, 0.0, 10, "linear", 0)
    rows, _ = picture(LearningRate(cycle, tuple(range(10, 72000, 10)), 72000), [], unicode=True)
    assert {cell for row in rows[:-1] for cell in row} == {"░"}


def test_a_run_shorter_than_the_picture_is_drawn_too() -> None:
    rows, below = picture(LearningRate(LINEAR, (), 3), [1], unicode=True)
    assert all(len(row) == WIDTH for row in rows)
    assert "▲" in below[1]


def test_ascii_is_ascii() -> None:
    lines = draw(LearningRate(LINEAR, (3600,), 7200), [3600], unicode=False)
    assert "\n".join(lines).isascii()


@pytest.mark.parametrize(("length", "axis"), [(1, "1 1"), (2, "1 2"), (4, "1 2 4")])
def test_the_axis_of_a_very_short_run_counts_upwards(length: int, axis: str) -> None:
    lines = draw(LearningRate(LINEAR, (), length), [], unicode=True)
    assert lines[-1].split() == ["iteration", *axis.split()]
