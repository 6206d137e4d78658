# SPDX-License-Identifier: Apache-2.0
"""Edits and patches of bytes: CRCs worked out from the change alone, copies of files, doing it twice."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaff.checkpoint import patching
from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.operation import Operation, Patch, record_crcs
from gaff.checkpoint.patching import clone_or_copy, patch_files
from gaff.checkpoint.surgery.perform import new_operation
from gaff.checkpoint.surgery.reset import ResetRequest, plan_reset
from tests.checkpoint.tags import changed, contents, crc_places, members, values

GetTag = Callable[[str], Path]
NAME = "zero1-fp16-tp2-dp2"
FILE = "mp_rank_01_model_states.pt"


def patched(tag: Path, offset: int, after: bytes) -> Operation:
    """An operation that replaces some bytes of a pickle."""
    before = Archive(tag / FILE)
    record = before.records["data.pkl"]
    old = before.read(record, offset, offset + len(after))
    patch = Patch(FILE, "data.pkl", offset, old.hex(), after.hex(), "some bytes")
    return new_operation("restart-lr", read_layout(tag), {}, (), patches=(patch,))


@pytest.mark.parametrize("after", [b"\x00", b"four", bytes(range(100))])
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_bytes_in_a_record_are_replaced_and_its_crcs_follow(after: bytes, place: str, checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    before = contents(tag)
    first, last = members(tag / FILE)["data.pkl"]
    offset = {"start": 0, "middle": (last - first) // 2, "end": last - first - len(after)}[place]
    operation = patched(tag, offset, after)
    outcome = patch_files(tag, operation)
    assert outcome.crcs_after == {FILE: record_crcs(tag / FILE)}
    assert Archive(tag / FILE).damaged_records() == []
    with zipfile.ZipFile(tag / FILE) as archive:
        assert archive.testzip() is None
    now = contents(tag)
    assert now[FILE][first + offset : first + offset + len(after)] == after
    moved = set(changed(before.pop(FILE), now.pop(FILE)).tolist())
    assert moved <= {*range(first + offset, first + offset + len(after))} | crc_places(tag / FILE)["data.pkl"]
    assert now == before


def test_edits_and_patches_of_one_file_go_together(checkpoint: GetTag) -> None:
    """In a tag without the pipeline, weights and numbers stand in the same file."""
    tag = checkpoint("zero2-fp32-nopipe-dp2")
    operation = plan_reset(read_layout(tag), ResetRequest(1, 1))
    file = "mp_rank_00_model_states.pt"
    assert file in operation.touched
    first, _ = members(tag / file)["data.pkl"]
    old = (tag / file).read_bytes()[first + 10 : first + 12]
    both = replace(operation, patches=(Patch(file, "data.pkl", 10, old.hex(), b"xy".hex(), "some bytes"),))
    outcome = patch_files(tag, both)
    assert (tag / file).read_bytes()[first + 10 : first + 12] == b"xy"
    for name, crcs in outcome.crcs_after.items():
        assert record_crcs(tag / name) == crcs
        assert Archive(tag / name).damaged_records() == []


@pytest.mark.parametrize("fraction", [None, 0.3])
@pytest.mark.parametrize("cut", [None, 100])
def test_doing_it_again_and_in_smaller_pieces_gives_the_same_files(
    fraction: float | None, cut: int | None, checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = checkpoint(NAME)
    operation = plan_reset(read_layout(tag), ResetRequest(1, 1, fraction=fraction))
    first = patch_files(tag, operation)
    files = contents(tag)
    if cut:
        real = patching.pieces
        monkeypatch.setattr(patching, "TASK_ELEMENTS", 10 * cut)
        monkeypatch.setattr(patching, "pieces", lambda start, stop, step=cut: real(start, stop, step))
        for file in operation.touched:  # as a crash may leave it: some of the new bytes, none of them, others
            begin, end = members(tag / file)[next(e.copy.record for e in operation.edits if e.copy.file == file)]
            whole = bytearray(files[file])
            if fraction is None:
                edit = next(e for e in operation.edits if e.copy.file == file)
                whole[begin + edit.copy.offset : begin + edit.copy.offset + edit.copy.length // 2] = bytes(
                    edit.copy.length // 2
                )
            (tag / file).write_bytes(whole)
            assert end > begin
    again = patch_files(tag, operation)
    assert again == first
    assert contents(tag) == files
    assert np.array_equal(values(tag, kind="model"), values(tag).astype(np.float16).astype(np.float32))
    assert operation.edits[0].copy.parameter == INPUT_EMBEDDING


def test_a_clone_has_content_times_and_mode(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(100_000))
    os.chmod(source, 0o640)
    os.utime(source, (1_000_000, 2_000_000))
    target.write_bytes(b"left over, and longer" * 10_000)
    clone_or_copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert (target.stat().st_mtime, target.stat().st_mode) == (2_000_000, source.stat().st_mode)
    assert target.stat().st_ino != source.stat().st_ino
