# SPDX-License-Identifier: Apache-2.0
"""Real ``.pt`` files as GAFF reads them, against zipfile and torch."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.unpickle import TensorRef
from gaff.errors import CheckpointError

LAYER = "layer_00-model_00-model_states.pt"
REAL = "zero1-bf16-tp2-dp2"
Checkpoint = Callable[[str], Path]


def test_records_are_those_that_zipfile_finds(unpacked_checkpoints: Path) -> None:
    for path in sorted(unpacked_checkpoints.rglob("*.pt")):
        archive = Archive(path)
        with zipfile.ZipFile(path) as file:
            infos = file.infolist()
            assert [f"{archive.prefix}/{name}" for name in archive.records] == [info.filename for info in infos]
            for info, record in zip(infos, archive.records.values(), strict=True):
                assert archive.read(record, 0, record.size) == file.read(info), path
                assert info.CRC == record.crc == record.local_crc == archive.range_crc(record, 0, record.size)


def test_the_crc_fields_are_where_the_crcs_stand(checkpoint: Checkpoint) -> None:
    path = checkpoint(REAL) / LAYER
    data = path.read_bytes()
    for record in Archive(path).records.values():
        for field in record.crc_fields:
            assert int.from_bytes(data[field : field + 4], "little") == record.crc


def test_a_changed_byte_is_found_and_so_is_a_changed_crc(checkpoint: Checkpoint) -> None:
    path = checkpoint(REAL) / LAYER
    whole = path.read_bytes()
    record = Archive(path).records["data/0"]
    for place in (record.data_offset + 7, *record.crc_fields):
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        assert Archive(path).damaged_records() == ["data/0"]


def test_elements_are_those_of_torch(checkpoint: Checkpoint) -> None:
    torch = pytest.importorskip("torch")
    path = checkpoint(REAL) / LAYER
    archive = Archive(path)
    tensor = archive.root["word_embeddings.weight"]
    assert (tensor.dtype, tensor.shape) == ("bfloat16", (256, 24))
    expected = torch.load(path)["word_embeddings.weight"].float().numpy().reshape(-1)
    found = archive.elements(archive.record_of(tensor), tensor.dtype, 0, tensor.numel)
    assert np.array_equal(found.astype(np.float32), expected)
    part = archive.elements(archive.record_of(tensor), tensor.dtype, 2 * 100, 24)
    assert np.array_equal(part.astype(np.float32), expected[100:124])


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (TensorRef("data/0", "float32", 0, (256, 24), (24, 1)), "missing-record"),
        (TensorRef("data/0", "bfloat16", 1, (256, 24), (24, 1)), "missing-record"),
        (TensorRef("data/77", "bfloat16", 0, (1,), (1,)), "missing-record"),
        (TensorRef("data/0", "bfloat16", 0, ((1 << 63) - 1,) * 64, (1,) * 64), "missing-record"),
        (TensorRef("data/0", "bfloat16", 0, (24, 256), (1, 24)), "strided-tensor"),
    ],
)
def test_a_tensor_that_its_record_cannot_hold_is_refused(
    tensor: TensorRef, problem: str, checkpoint: Checkpoint
) -> None:
    archive = Archive(checkpoint(REAL) / LAYER)
    with pytest.raises(CheckpointError) as raised:
        archive.record_of(tensor)
    assert raised.value.problems[0].id == problem


def test_reading_beyond_a_record_or_a_file_that_shrank_is_an_error(checkpoint: Checkpoint) -> None:
    path = checkpoint(REAL) / LAYER
    archive = Archive(path)
    record = archive.records["data/0"]
    for start, stop in ((0, record.size + 1), (-1, 5), (5, 4)):
        with pytest.raises(CheckpointError, match="no bytes"):
            archive.read(record, start, stop)
    with open(path, "r+b") as file:
        file.truncate(record.data_offset + 5)
    with pytest.raises(CheckpointError, match="ends inside"):
        archive.read(record, 0, record.size)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        archive.read(record, 0, record.size)
