# SPDX-License-Identifier: Apache-2.0
"""Any range of any parameter, whole or one rank's block, is what slicing the whole matrix gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER, MODEL
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.reader import CopyReader, OpenFiles, in_parallel, pieces
from gaff.errors import CheckpointError
from tests.checkpoint.tags import values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
EDGES = [(0, 1), (5, 29), (23, 25), (6143, 6145), (6000, 7000), (12287, 12288), (0, 12288)]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_any_range_of_the_embedding_is_a_slice_of_it(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    layout = read_layout(tag)
    whole = values(tag).reshape(-1)
    with OpenFiles(tag) as files:
        for start, stop in EDGES:
            found = CopyReader(layout).values(files, INPUT_EMBEDDING, layout.truth(INPUT_EMBEDDING), start, stop)
            assert found.dtype == np.float32
            assert np.array_equal(found, whole[start:stop])


@pytest.mark.parametrize("kind", [MODEL, MASTER, "exp_avg"])
def test_any_range_of_a_column_split_weight_is_a_slice_of_it(kind: str, checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    layout, name = read_layout(tag), "3.mlp.linear2.weight"
    assert layout.parameters[name].split == 1
    whole = values(tag, name, kind).reshape(-1)
    width = layout.parameters[name].width
    with OpenFiles(tag) as files:
        reader = CopyReader(layout)
        for start in (0, 1, width // 2 - 1, width - 1, width, 3 * width + 5):
            for stop in (start + 1, start + width // 2, start + 2 * width + 3, len(whole)):
                assert np.array_equal(reader.values(files, name, kind, start, stop), whole[start:stop])
        block = reader.block(files, name, kind, 1, 0, len(whole) // 2).reshape(-1, width // 2)
    assert np.array_equal(block, whole.reshape(-1, width)[:, width // 2 :])


def test_each_stage_of_a_tied_embedding_can_be_read(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    assert read_layout(tag).stages(INPUT_EMBEDDING, MASTER) == (0, 1)
    assert np.array_equal(values(tag, kind=MASTER, stage=0), values(tag, kind=MASTER, stage=1))


def test_a_file_that_ends_too_soon_is_said(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    layout = read_layout(tag)
    reader = CopyReader(layout)
    (copy,) = layout.of_kind(INPUT_EMBEDDING, MODEL)
    reader.open_all([copy])
    os.truncate(tag / copy.file, reader.offset(copy) + 100)
    with OpenFiles(tag) as files:
        assert reader.copy(files, copy, 0, 25).shape == (25,)
        with pytest.raises(CheckpointError, match="ends inside a record"):
            reader.copy(files, copy, 0, 26)


def test_files_are_closed_when_the_block_ends(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    with OpenFiles(tag) as files:
        descriptor = files["mp_rank_00_model_states.pt"]
        assert files["mp_rank_00_model_states.pt"] == descriptor
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_is_written_is_read_again(checkpoint: GetTag, tmp_path: Path) -> None:
    shutil.copy(checkpoint("zero1-fp32-pp1-tp1-dp1") / "mp_rank_00_model_states.pt", tmp_path / "file")
    data = np.arange(1000, dtype=np.float32)
    with OpenFiles(tmp_path, os.O_RDWR) as files:
        files.write("file", 300, data.view(np.uint8).data)
        assert np.array_equal(files.read("file", 300, 1000, "float32"), data)


@pytest.mark.parametrize(("start", "stop", "step"), [(0, 10, 3), (5, 5, 3), (2, 8, 6), (0, 7, 100)])
def test_pieces_cover_a_range_once(start: int, stop: int, step: int) -> None:
    found = list(pieces(start, stop, step))
    assert [i for first, last in found for i in range(first, last)] == list(range(start, stop))
    assert all(0 < last - first <= step for first, last in found)


def test_results_of_parallel_work_come_in_order_and_errors_come_through() -> None:
    def work(number: int) -> int:
        if number == 99:
            raise KeyError(number)
        return number * number

    assert in_parallel(work, range(50)) == [n * n for n in range(50)]
    assert in_parallel(work, []) == []
    with pytest.raises(KeyError, match="99"):
        in_parallel(work, [1, 99, 2])


def test_files_of_many_ranks_are_not_all_kept_open(tmp_path: Path) -> None:
    names = [f"{number}.bin" for number in range(500)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(number.to_bytes(4, "little"))
    kept = len(os.listdir("/proc/self/fd"))
    with OpenFiles(tmp_path, os.O_RDWR) as files:
        for _ in range(2):
            assert [int(files.read(name, 0, 1, "float32").view("<u4")[0]) for name in names] == list(range(500))
        files.write(names[0], 0, memoryview(b"\1\0\0\0"))
        assert len(os.listdir("/proc/self/fd")) < kept + 50
    assert len(os.listdir("/proc/self/fd")) == kept
    assert (tmp_path / names[0]).read_bytes() == b"\1\0\0\0"
