# SPDX-License-Identifier: Apache-2.0
"""Resets of some rows: those of a list or a drawn share, and not a byte beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.reset import ResetRequest, plan_reset, reset
from gaff.checkpoint.verify import verify_tag
from gaff.errors import InputError
from gaff.plan.settings import InitSpec
from tests.checkpoint import synthetic
from tests.checkpoint.tags import changed, contents, crc_places, everything, members, values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
REQUEST = ResetRequest(number=1, seed=1234)
LISTED = {0, 5, 6, 7, 255, 256, 300, 511}  # both sides of the boundary between two tensor ranks, and the last row


@pytest.fixture
def listed(tmp_path: Path) -> ResetRequest:
    path = tmp_path / "rows.txt"
    path.write_text("# of one language\n511\n5-7   # three\n\n0\n255-256\n300\n6\n")
    return replace(REQUEST, rows=path)


def row_bytes(tag: Path, rows: set[int]) -> dict[str, set[int]]:
    """By file, the bytes of the given rows in every copy of the embedding."""
    layout = read_layout(tag)
    parameter = layout.parameters[INPUT_EMBEDDING]
    found: dict[str, set[int]] = {}
    for copy in layout.copies[INPUT_EMBEDDING]:
        begin = members(tag / copy.file)[copy.record][0] + copy.offset
        top = parameter.first_row(copy.tensor_rank) * parameter.width
        for row in rows:
            low = max(copy.start, row * parameter.width - top)
            high = min(copy.stop, (row + 1) * parameter.width - top)
            edges = (begin + (edge - copy.start) * copy.item_size for edge in (low, high))
            found.setdefault(copy.file, set()).update(range(*edges))
    return found


def check_only(tag: Path, before: dict[str, bytes], rows: set[int]) -> None:
    """Only bytes of these rows differ from ``before``, and the CRCs of their records."""
    allowed = row_bytes(tag, rows)
    for file, whole in contents(tag).items():
        crcs = set().union(*crc_places(tag / file).values()) if file in allowed else set()
        assert set(changed(before[file], whole).tolist()) <= allowed.get(file, set()) | crcs, file
    assert verify_tag(tag) == []


@pytest.mark.parametrize("name", ALL_NAMES)
def test_only_listed_rows_change_byte_for_byte(name: str, listed: ResetRequest, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    before = contents(tag)
    old, moment = values(tag), values(tag, kind="exp_avg_sq")
    operation = reset(tag, listed).operation
    check_only(tag, before, LISTED)
    new = values(tag)
    others = [r for r in range(512) if r not in LISTED]
    assert set(np.flatnonzero((new != old).all(axis=1))) == LISTED
    assert np.array_equal(new[others], old[others])
    after = values(tag, kind="exp_avg_sq")
    assert not after[sorted(LISTED)].any()
    assert np.array_equal(after[others], moment[others])
    assert after.any()
    whole = sum(e.copy.length for e in operation.edits)
    assert operation.bytes_changed * 512 == whole * len(LISTED)


def test_listed_rows_get_the_values_that_a_reset_of_all_rows_gives_them(
    listed: ResetRequest, checkpoint: GetTag
) -> None:
    some, every = checkpoint("zero1-fp16-tp2-dp2"), checkpoint("zero1-fp32-pp1-tp1-dp1")
    reset(some, listed)
    reset(every, REQUEST)
    assert np.array_equal(values(some)[sorted(LISTED)], values(every)[sorted(LISTED)])


@pytest.mark.parametrize("fraction", [0.25, 1 / 512, 0.999, 1.0])
def test_a_share_is_exact_and_the_same_rows_in_every_layout(fraction: float, checkpoint: GetTag) -> None:
    chosen = set()
    rows: set[int] = set()
    for name in ALL_NAMES:
        tag = checkpoint(name)
        before, old = contents(tag), values(tag)
        reset(tag, replace(REQUEST, fraction=fraction))
        rows = set(np.flatnonzero((values(tag) != old).any(axis=1)).tolist())
        chosen.add(frozenset(rows))
        if name in ("zero1-bf16-tp2-dp2", "zero3-fp32-nopipe-dp2"):
            check_only(tag, before, rows)
    assert len(chosen) == 1
    assert len(rows) == round(fraction * 512)


def test_another_reset_draws_other_rows(checkpoint: GetTag) -> None:
    layout = read_layout(checkpoint("zero1-fp32-pp1-tp1-dp1"))
    wanted = replace(REQUEST, fraction=0.25)
    drawn = [
        plan_reset(layout, one).selections[INPUT_EMBEDDING].runs
        for one in (wanted, replace(wanted, number=2), replace(wanted, seed=7), wanted)
    ]
    assert drawn[0] == drawn[3]
    assert len({drawn[0], drawn[1], drawn[2]}) == 3


@pytest.mark.parametrize("moments", ["zero", "keep"])
def test_rows_that_two_ranks_share_are_reset_on_both(moments: str, tmp_path: Path) -> None:
    """8 x 6 embedding over three data ranks of 17 elements: rows 2 and 5 are cut."""
    pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    tag = synthetic.write_tag(tmp_path / "save", rows=8, width=6, neighbour=3, data_ranks=3)
    (tmp_path / "rows").write_text("2\n5\n")
    before = contents(tag)
    old, moment = values(tag), values(tag, kind="exp_avg")
    result = reset(tag, replace(REQUEST, rows=tmp_path / "rows", moments=moments, init=InitSpec("uniform", 0.5)))
    check_only(tag, before, {2, 5})
    assert set(np.flatnonzero((values(tag) != old).all(axis=1))) == {2, 5}
    assert result.operation.bytes_changed == 2 * 6 * 4 * (2 if moments == "keep" else 4)
    expected = moment.copy()
    if moments == "zero":
        expected[[2, 5]] = 0
    assert np.array_equal(values(tag, kind="exp_avg"), expected)


def test_rows_of_columns_split_weights_change_on_every_rank(tmp_path: Path, checkpoint: GetTag) -> None:
    (tmp_path / "rows").write_text("3\n20-23\n")
    names = ("2.attention.dense.weight",)
    wanted = replace(REQUEST, rows=tmp_path / "rows", parameters=names)
    split, whole = checkpoint("zero1-fp32-tp2-pp2-dp2"), checkpoint("zero1-fp32-pp1-tp1-dp1")
    before = values(split, *names)
    for tag in (split, whole):
        reset(tag, wanted)
        assert verify_tag(tag) == []
    after = values(split, *names)
    rows = [3, 20, 21, 22, 23]
    assert list(np.flatnonzero((after != before).all(axis=1))) == rows
    assert np.array_equal(np.delete(after, rows, axis=0), np.delete(before, rows, axis=0))
    assert np.array_equal(after[rows], values(whole, *names)[rows])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no rows"), ("# nothing\n\n", "lists no rows"), ("512\n", r"rows-file|rows 0 to 511"),
        ("1\n2\n-1\n", "line 3"), ("5-3\n", "rows 5-3"), ("1 2\n", "'1 2', not a row"), ("all\n", "'all', not a row"),
        ("1.5\n", "'1.5', not a row"), ("0-512\n", "rows 0 to 511"), ("\udcff", "cannot be read"),
    ],
)  # fmt: skip
def test_a_file_that_lists_no_rows_is_refused_with_its_line(
    text: str, said: str, checkpoint: GetTag, tmp_path: Path
) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    before = everything(tag)
    (tmp_path / "rows").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=said) as caught:
        reset(tag, replace(REQUEST, rows=tmp_path / "rows"))
    assert caught.value.problems[0].where is not None
    assert caught.value.problems[0].where.file == str(tmp_path / "rows")
    assert everything(tag) == before


def test_a_share_below_one_row_is_refused(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    before = everything(tag)
    with pytest.raises(InputError, match="less than one row"):
        reset(tag, replace(REQUEST, fraction=0.0005))
    assert everything(tag) == before


def test_the_same_file_with_other_rows_is_another_reset(checkpoint: GetTag, listed: ResetRequest) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    assert not reset(tag, listed).already_done
    assert reset(tag, listed).already_done
    assert listed.rows is not None
    listed.rows.write_text("17\n")
    old = values(tag)
    assert not reset(tag, listed).already_done
    assert np.flatnonzero((values(tag) != old).any(axis=1)).tolist() == [17]
