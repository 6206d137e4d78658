# SPDX-License-Identifier: Apache-2.0
"""Rows by number, by list and by share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gaff.checkpoint.random_rows import key_for
from gaff.checkpoint.selection import RowSelection, all_rows, drawn_rows, listed_rows

KEY = key_for("gaff-rows", 1, 1, "0.word_embeddings.weight")


def rows_of(selection: RowSelection) -> list[int]:
    return [row for start, stop in selection.runs for row in range(start, stop)]


def test_numbers_in_any_order_become_runs_apart_from_each_other() -> None:
    selection = RowSelection.of_numbers(np.array([9, 3, 4, 4, 0, 5, 7]), 10)
    assert selection.runs == ((0, 1), (3, 6), (7, 8), (9, 10))
    assert selection.count == 6
    assert RowSelection.of_numbers(np.array([], np.int64), 10).runs == ()
    assert all_rows(10) == RowSelection.of_numbers(np.arange(10), 10)


def test_rows_between_two_are_those_that_a_plain_list_gives() -> None:
    numbers = np.flatnonzero(np.random.default_rng(3).random(60) < 0.5)
    selection = RowSelection.of_numbers(numbers, 60)
    for first in range(0, 60, 7):
        for last in range(first, 61, 5):
            found = [row for start, stop in selection.between(first, last) for row in range(start, stop)]
            assert found == [n for n in numbers if first <= n < last], (first, last)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.25, 1 / 3, 0.9999, 1.0])
@pytest.mark.parametrize("rows", [1, 7, 512, 50_304])
def test_a_share_is_exact_and_every_row_at_most_once(fraction: float, rows: int) -> None:
    selection = drawn_rows(fraction, KEY, rows)
    assert selection.count == round(fraction * rows)
    assert all(b < c for (_, b), (c, _) in zip(selection.runs, selection.runs[1:], strict=False))
    assert all(0 <= row < rows for row in rows_of(selection))
    assert selection == drawn_rows(fraction, KEY, rows)


def test_a_larger_share_of_the_same_reset_holds_the_smaller() -> None:
    assert set(rows_of(drawn_rows(0.2, KEY, 1000))) < set(rows_of(drawn_rows(0.3, KEY, 1000)))


def test_shares_are_drawn_from_everywhere() -> None:
    """A fifth of 10,000 rows: each tenth of them holds 200 on average, with a standard deviation of 12."""
    rows = np.array(rows_of(drawn_rows(0.2, KEY, 10_000)))
    counts = np.histogram(rows, bins=10, range=(0, 10_000))[0]
    assert counts.min() > 140
    assert counts.max() < 260


def test_it_is_the_same_after_json() -> None:
    selection = drawn_rows(0.4, KEY, 100)
    assert RowSelection.from_json(json.loads(json.dumps(selection.to_json()))) == selection


def test_a_list_may_have_ranges_comments_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("# first\r\n  4 - 6\n\n2\t# two\n5\n99", encoding="utf-8")
    assert listed_rows(path, 100).runs == ((2, 3), (4, 7), (99, 100))
