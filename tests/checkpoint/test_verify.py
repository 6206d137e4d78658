# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout import Copy, read_layout
from gaff.checkpoint.surgery import ResetRequest, reset
from gaff.checkpoint.verify import verify_tag
from tests.conftest import ZERO1_NAMES

GetTag = Callable[[str], Path]


def flip(path: Path, record: str, offset: int, *, mend_crc: bool) -> None:
    """Change one byte of a record; with ``mend_crc`` as somebody would who also keeps the zip right."""
    found = Archive(path).records[record]
    with open(path, "r+b") as file:
        file.seek(found.data_offset + offset)
        old = file.read(1)[0]
        file.seek(found.data_offset + offset)
        file.write(bytes([old ^ 0x40]))
        file.seek(found.data_offset)
        crc = zlib.crc32(file.read(found.size))
        for field in found.crc_fields if mend_crc else ():
            file.seek(field)
            file.write(crc.to_bytes(4, "little"))


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_real_tags_are_sound_before_and_after_a_reset(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    assert verify_tag(tag) == []
    reset(tag, ResetRequest(1, 1))
    assert verify_tag(tag) == []


def test_a_flipped_bit_is_found_by_its_crc(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    path = tag / "layer_03-model_01-model_states.pt"
    flip(path, "data/0", 5, mend_crc=False)
    assert [f.id for f in verify_tag(tag)] == ["bad-crc"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_one_byte_of_any_copy_that_differs_is_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    reset(tag, ResetRequest(1, 1))
    for copy in read_layout(tag).copies:
        for offset in (copy.offset, copy.offset + copy.length - 1):
            flip(tag / copy.file, copy.record, offset, mend_crc=True)
            assert verify_tag(tag), copy
            flip(tag / copy.file, copy.record, offset, mend_crc=True)
    assert verify_tag(tag) == []


def neighbour(copy: Copy, tag: Path) -> int | None:
    """The first byte of the same record behind a copy, if there is one."""
    end = copy.offset + copy.length
    return end if end < Archive(tag / copy.file).records[copy.record].size else None


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_one_byte_beside_a_copy_that_changed_since_the_reset_is_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    reset(tag, ResetRequest(1, 1))
    beside = [(c, offset) for c in read_layout(tag).copies if (offset := neighbour(c, tag)) is not None]
    assert beside
    for copy, offset in beside:
        flip(tag / copy.file, copy.record, offset, mend_crc=False)
        assert [f.id for f in verify_tag(tag)] == ["bad-crc"]
        flip(tag / copy.file, copy.record, offset, mend_crc=False)
    assert verify_tag(tag) == []


def test_a_second_master_that_went_its_own_way_is_found(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    copy = next(c for c in read_layout(tag).copies if c.kind == "master" and c.stage == 1)
    flip(tag / copy.file, copy.record, copy.offset, mend_crc=True)
    assert [(f.id, Path(str(f.where)).name) for f in verify_tag(tag)] == [("copies-disagree", copy.file)]


def test_a_tag_that_was_trained_over_is_sound_without_its_old_record(
    checkpoint: GetTag, unpacked_checkpoints: Path
) -> None:
    name = "zero1-fp32-tp2-pp2-dp2"
    tag = checkpoint(name)
    reset(tag, ResetRequest(1, 1))
    for path in (unpacked_checkpoints / name / "global_step5").glob("*.pt"):
        shutil.copy(path, tag / path.name)
    assert verify_tag(tag) == []
