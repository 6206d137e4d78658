# SPDX-License-Identifier: Apache-2.0
"""Which tags the trainer finished, and the mark that says so when file times are lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint.completeness import mark_complete, operated_files, why_unfinished
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from tests.checkpoint.killing import killed_at
from tests.checkpoint.tags import everything
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]


def lose_times(tag: Path) -> None:
    """As ``cp -r`` without ``-p`` does: the config first, the weights later."""
    for path in (tag / "configs").glob("*"):
        os.utime(path, (1_000_000, 1_000_000))
    for path in tag.glob("*.pt"):
        os.utime(path, (2_000_000, 2_000_000))


@pytest.mark.parametrize("name", ALL_NAMES)
def test_real_tags_are_finished_before_and_after_a_reset(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    assert why_unfinished(tag, 5) is None
    assert why_unfinished(tag, 6) == "holds iteration 5"
    touched = reset(tag, ResetRequest(1, 1)).operation.touched
    for file in touched:
        os.utime(tag / file)  # newer than configs/, as surgery leaves it
    assert operated_files(tag) == touched
    assert why_unfinished(tag, 5) is None


@pytest.mark.parametrize("name", ["zero1-fp32-tp2-pp2-dp2", "zero0-fp32-dp2", "zero3-fp32-nopipe-dp2"])
def test_a_mark_outlives_lost_times_but_no_other_file(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    mark_complete(tag)
    before = everything(tag)
    mark_complete(tag)
    assert everything(tag) == before
    lose_times(tag)
    assert why_unfinished(tag, 5) is None
    reset(tag, ResetRequest(1, 1))
    lose_times(tag)
    assert why_unfinished(tag, 5) is None, "what surgery changed is excused"
    untouched = min({p.name for p in tag.glob("*.pt")} - operated_files(tag))
    data = bytearray((tag / untouched).read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 16] ^= 1  # a CRC: the file is another one
    (tag / untouched).write_bytes(data)
    assert "was not committed" in str(why_unfinished(tag, 5))


def test_without_a_mark_lost_times_mean_unfinished(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    lose_times(tag)
    assert "is newer than configs/" in str(why_unfinished(tag, 5))
    shutil.rmtree(tag / "configs")
    assert "has no configs/" in str(why_unfinished(tag, 5))


def test_a_half_operated_tag_counts_as_finished(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    assert killed_at(40, lambda: reset(tag, ResetRequest(1, 1)))
    assert why_unfinished(tag, 5) is None
    assert operated_files(tag)
