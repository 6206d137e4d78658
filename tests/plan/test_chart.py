# SPDX-License-Identifier: Apache-2.0
"""The picture of the learning rate: heights, marks and labels are where the numbers say."""

from __future__ import annotations

import pytest

from gaff.cli.plan_chart import GUTTER, ROWS, WIDTH, draw
from gaff.plan.annealing import Schedule
from gaff.plan.learning_rate import LearningRate

LINEAR = Schedule(start_lr=1e-3, min_lr=0.0, warmup_iter=0.0, end_iter=7200, decay_style="linear", num_iters=0)


def picture(rate: LearningRate, resets: list[int], *, unicode: bool) -> tuple[list[str], list[str]]:
    """(cells of the rows from the top, the lines below)."""
    lines = draw(rate, resets, rate.train_iters, unicode=unicode)
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
    lines = draw(LearningRate(LINEAR, (), 7200), [], 7200, unicode=True)
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


CYCLES = tuple(range(1000, 72000, 1000))  # one column each in the picture of the whole run


def many_cycles(restarts: tuple[int, ...] = CYCLES, train_iters: int = 72000) -> LearningRate:
    return LearningRate(Schedule(1e-3, 0.0, 0.0, 1000, "linear", 0), restarts, train_iters)


def test_cycles_too_narrow_to_see_are_drawn_enlarged_instead_of_a_grey_block() -> None:
    lines = draw(many_cycles(), CYCLES, 72000, unicode=True)
    whole, empty, title, *enlarged = lines[:2], lines[2], lines[3], *lines[4:]
    assert whole[0] == f"{'resets':>{GUTTER}}  " + "▲" * 71
    assert whole[1].split() == ["iteration", "1", "36,000", "72,000"]
    assert (empty, title) == ("", "learning rate and segments 1 and 2, enlarged:")
    cells = [line.partition("│")[2].ljust(WIDTH) for line in enlarged[:ROWS]]
    assert [i for i, cell in enumerate(cells[0]) if cell == "█"] == [0, 36], "both cycles begin at the top"
    assert not any("░" in row for row in cells[1:-1]), "nothing is shaded"
    heights = [sum(row[column] != " " for row in cells) for column in range(WIDTH)]
    assert heights[:36] == heights[36:] == sorted(heights[:36], reverse=True)
    assert enlarged[-2] == f"{'segments':>{GUTTER}}  " + "█" * 36 + "▒" * 36
    assert enlarged[-1].split() == ["iteration", "1", "1,000", "2,000"]


def test_a_first_segment_of_another_length_is_not_the_one_that_is_enlarged() -> None:
    resets = tuple(range(5500, 72000, 1000))
    lines = draw(many_cycles(resets), resets, 72000, unicode=True)
    assert "learning rate and segments 2 and 3, enlarged:" in lines
    assert lines[-1].split() == ["iteration", "5,501", "6,500", "7,500"]


def test_a_long_rest_after_many_cycles_is_drawn_with_the_whole_run() -> None:
    resets = CYCLES[:40]
    lines = draw(many_cycles(resets), resets, 72000, unicode=True)
    assert lines[ROWS].lstrip().startswith("0 └")
    assert lines[ROWS + 1].count("▲") == 40
    assert "learning rate and segments 1 and 2, enlarged:" in lines


def test_with_one_schedule_the_curve_stays_whole_and_segments_are_enlarged() -> None:
    lines = draw(LearningRate(LINEAR, (), 7200), list(range(10, 7200, 10)), 7200, unicode=True)
    assert sum("│" in line for line in lines) == ROWS
    assert "            each mark stands for up to 10 resets" in lines
    assert lines[lines.index("segments 1 and 2, enlarged:") + 2].endswith("█" * 36 + "▒" * 36)


def test_segments_stand_in_turn_dark_and_light_above_each_other() -> None:
    *_, resets, segments, _ = draw(LearningRate(LINEAR, (), 7200), [1800, 5400], 7200, unicode=True)
    assert segments == f"{'segments':>{GUTTER}}  " + "█" * 18 + "▒" * 36 + "█" * 18
    assert [i - GUTTER - 2 for i, mark in enumerate(resets) if mark == "▲"] == [17, 53], "after the last iteration"


def test_a_cosine_that_rises_again_and_again_is_enlarged_too() -> None:
    """With a decay of 36 steps it is back at the top a hundred times in 72 columns; with one of 360 ten times, which
    can be seen."""
    waves = LearningRate(Schedule(1e-3, 0.0, 0.0, 36, "cosine", 0), (), 7200)
    lines = draw(waves, [], 7200, unicode=True)
    assert lines[0].split() == ["iteration", "1", "3,600", "7,200"]
    assert lines[2] == "learning rate, enlarged:"
    assert lines[-1].split() == ["iteration", "1", "72", "144"]
    cells = [line.partition("│")[2].ljust(WIDTH) for line in lines[3 : 3 + ROWS]]
    assert cells[0][0] != " "
    assert cells[0][36] != " ", "at the top again"
    assert cells[-1][18] in " ▁", "at the bottom between"
    calm = LearningRate(Schedule(1e-3, 0.0, 0.0, 360, "cosine", 0), (), 7200)
    assert not any("enlarged" in line for line in draw(calm, [], 7200, unicode=True))


def test_without_a_learning_rate_segments_and_resets_are_drawn_all_the_same() -> None:
    lines = draw(None, [100, 200, 300], 400, unicode=False)
    assert [line.split()[0] for line in lines] == ["resets", "segments", "iteration"]
    assert lines[1].endswith("#" * 18 + "-" * 18 + "#" * 18 + "-" * 18)
    assert draw(None, [], 400, unicode=False) == []


@pytest.mark.parametrize("width", [48, 72])
def test_no_line_is_longer_than_asked(width: int) -> None:
    for resets in ((), CYCLES, CYCLES[:40], (36000,)):
        lines = draw(many_cycles(resets), resets, 72000, unicode=True, width=width)
        assert max(map(len, lines)) <= width + GUTTER + 2


def test_a_run_shorter_than_the_picture_is_drawn_too() -> None:
    rows, below = picture(LearningRate(LINEAR, (), 3), [1], unicode=True)
    assert all(len(row) == WIDTH for row in rows)
    assert "▲" in below[1]


def test_ascii_is_ascii() -> None:
    lines = draw(LearningRate(LINEAR, (3600,), 7200), [3600], 7200, unicode=False)
    assert "\n".join(lines).isascii()


@pytest.mark.parametrize(("length", "axis"), [(1, "1 1"), (2, "1 2"), (4, "1 2 4")])
def test_the_axis_of_a_very_short_run_counts_upwards(length: int, axis: str) -> None:
    lines = draw(LearningRate(LINEAR, (), length), [], length, unicode=True)
    assert lines[-1].split() == ["iteration", *axis.split()]
