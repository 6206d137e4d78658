# SPDX-License-Identifier: Apache-2.0
"""Megatron's .bin/.idx files: what is written is read back, and damaged files are refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gaff.data.indexed_dataset import IndexedDataset, bin_path, idx_path, token_dtype, write_dataset
from gaff.errors import InputError

DOCUMENTS = [[1, 2, 3], [4], [], [5, 65000]]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    path = tmp_path / "set_text_document"
    write_dataset(path, DOCUMENTS, np.dtype("<u2"))
    return path


def test_documents_are_read_back(prefix: Path) -> None:
    dataset = IndexedDataset(prefix)
    assert [dataset.sequence(i).tolist() for i in range(len(dataset))] == DOCUMENTS
    assert (dataset.documents, dataset.tokens, dataset.dtype) == (4, 6, np.dtype("<u2"))


def test_part_of_a_document_is_read(prefix: Path) -> None:
    assert IndexedDataset(prefix).sequence(0, 1, 99).tolist() == [2, 3]


def test_files_have_megatrons_layout(prefix: Path) -> None:
    raw = idx_path(prefix).read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack("<QBQQ", raw[9:34]) == (1, 8, 4, 5)  # version, uint16, sequences, document index
    assert np.frombuffer(raw, "<i4", 4, 34).tolist() == [3, 1, 0, 2]
    assert np.frombuffer(raw, "<i8", 4, 50).tolist() == [0, 6, 8, 8]
    assert np.frombuffer(raw, "<i8", 5, 82).tolist() == [0, 1, 2, 3, 4]
    assert len(raw) == 82 + 40
    assert bin_path(prefix).read_bytes() == np.array([1, 2, 3, 4, 5, 65000], "<u2").tobytes()


def test_small_vocabularies_are_stored_as_uint16() -> None:
    assert (token_dtype(512).itemsize, token_dtype(65499).itemsize, token_dtype(65500).itemsize) == (2, 2, 4)


def test_no_temporary_file_stays_behind_and_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def documents():  # type: ignore[no-untyped-def]
        yield [1]
        raise RuntimeError("tokenizer broke")

    with pytest.raises(RuntimeError):
        write_dataset(tmp_path / "x", documents(), np.dtype("<u2"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda prefix: idx_path(prefix).unlink(), "there is no such file"),
        (lambda prefix: bin_path(prefix).unlink(), "there is no such file"),
        (lambda prefix: idx_path(prefix).write_bytes(b"TNTIDX\x00\x00" + b"\0" * 80), "no index of a memory-mapped"),
        (lambda prefix: idx_path(prefix).write_bytes(idx_path(prefix).read_bytes()[:-1]), "index is cut short"),
        (lambda prefix: idx_path(prefix).write_bytes(b""), "no index"),
        (lambda prefix: bin_path(prefix).write_bytes(b"\0\0"), "token file is cut short: 2 bytes instead of 12"),
    ],
)
def test_a_damaged_set_is_refused_with_the_file(prefix: Path, damage, sentence: str) -> None:  # type: ignore[no-untyped-def]
    damage(prefix)
    with pytest.raises(InputError, match=sentence) as caught:
        IndexedDataset(prefix)
    assert str(prefix) in str(caught.value)


def test_another_version_or_token_type_is_refused(prefix: Path) -> None:
    raw = bytearray(idx_path(prefix).read_bytes())
    for offset, value, sentence in ((9, 2, "version 2"), (17, 99, "token type 99")):
        changed = bytearray(raw)
        changed[offset] = value
        idx_path(prefix).write_bytes(changed)
        with pytest.raises(InputError, match=sentence):
            IndexedDataset(prefix)
