# SPDX-License-Identifier: Apache-2.0
"""Megatron's memory-mapped token files: ``PREFIX.bin`` (tokens) and ``PREFIX.idx`` (where they are), read and written.

Layout of the index, little endian: magic ``MMIDIDX\\0\\0``, u64 version 1, u8 dtype code, u64 number of sequences,
u64 length of the document index, int32 sizes (tokens), int64 pointers (bytes), int64 document index.  The document
index starts with 0 and ends with the number of sequences; document d holds sequences ``[doc_idx[d], doc_idx[d+1])``.
Fact from GPT-NeoX's ``megatron/data/indexed_dataset.py`` and from files that its ``preprocess_data.py`` wrote.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gaff.errors import InputError, Location, Problem

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f4"),
    7: np.dtype("<f8"),
    8: np.dtype("<u2"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_UINT16_LIMIT = 65500  # vocabularies below this are stored as uint16, as GPT-NeoX's preprocess_data.py does


def bin_path(prefix: str | Path) -> Path:
    """The token file of a data path, which is given without suffix as in GPT-NeoX's configs."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    """The index file of a data path."""
    return Path(f"{prefix}.idx")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The dtype in which tokens of a vocabulary of this size are stored."""
    return np.dtype("<u2") if vocab_size < _UINT16_LIMIT else np.dtype("<i4")


def _bad(path: Path, what: str, remedy: str = "prepare the data again") -> InputError:
    return InputError(Problem("bad-dataset", what, remedy, Location(str(path))))


class IndexedDataset:
    """One ``.bin/.idx`` pair, memory-mapped.

    Attributes:
        prefix: path without suffix.
        sizes: tokens of each sequence.
        pointers: byte offset of each sequence in the ``.bin`` file.
        doc_idx: first sequence of each document, and the number of sequences at the end.

    Raises:
        InputError: a file is missing, is of another format, or is shorter than its index says.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        index, tokens = idx_path(prefix), bin_path(prefix)
        for path in (index, tokens):
            if not path.is_file():
                remedy = "give data_path without .bin or .idx, and prepare the data if it does not exist"
                raise InputError(Problem("missing-data", "there is no such file", remedy, Location(str(path))))
        raw = np.fromfile(index, dtype=np.uint8)
        self.dtype, count, doc_count = _read_header(index, raw)
        offsets = np.cumsum([_HEADER.size, 4 * count, 8 * count, 8 * doc_count])
        if len(raw) < offsets[3]:
            raise _bad(index, f"the index is cut short: {len(raw)} bytes instead of {offsets[3]}")
        self.sizes: NDArray[np.int32] = raw[offsets[0] : offsets[1]].view("<i4")
        self.pointers: NDArray[np.int64] = raw[offsets[1] : offsets[2]].view("<i8")
        self.doc_idx: NDArray[np.int64] = raw[offsets[2] : offsets[3]].view("<i8")
        self._check(index, tokens)
        size = tokens.stat().st_size
        self._tokens = np.memmap(tokens, dtype=np.uint8, mode="r") if size else np.empty(0, np.uint8)

    def _check(self, index: Path, tokens: Path) -> None:
        if len(self.doc_idx) == 0 or self.doc_idx[0] != 0 or self.doc_idx[-1] != len(self.sizes):
            raise _bad(index, "the document index does not cover the sequences")
        if len(self.sizes):
            end = int((self.pointers + self.sizes.astype(np.int64) * self.dtype.itemsize).max())
            size = tokens.stat().st_size
            if size < end:
                raise _bad(tokens, f"the token file is cut short: {size} bytes instead of {end}")

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.sizes)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.doc_idx) - 1

    @property
    def tokens(self) -> int:
        """Number of tokens in all sequences."""
        return int(self.sizes.sum(dtype=np.int64))

    def sequence(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Tokens ``[start, stop)`` of one sequence, a read-only view of the file."""
        size = int(self.sizes[index])
        stop = size if stop is None else min(stop, size)
        first = int(self.pointers[index])
        item = self.dtype.itemsize
        return self._tokens[first + start * item : first + stop * item].view(self.dtype)


def _read_header(path: Path, raw: NDArray[np.uint8]) -> tuple[np.dtype[Any], int, int]:
    if len(raw) < _HEADER.size or bytes(raw[: len(MAGIC)]) != MAGIC:
        raise _bad(path, "this is no index of a memory-mapped dataset (data_impl: mmap)")
    _, version, code, count, doc_count = _HEADER.unpack(bytes(raw[: _HEADER.size]))
    if version != VERSION:
        raise _bad(path, f"the index has version {version}, only {VERSION} is known")
    if code not in _DTYPES:
        raise _bad(path, f"the index names token type {code}, known are {sorted(_DTYPES)}")
    return _DTYPES[code], count, doc_count


@dataclass(frozen=True)
class Written:
    """What :func:`write_dataset` wrote."""

    documents: int
    tokens: int


def write_dataset(prefix: str | Path, documents: Iterable[Sequence[int]], dtype: np.dtype[Any]) -> Written:
    """Write documents, one sequence each, as ``PREFIX.bin`` and ``PREFIX.idx``.

    Both are written beside their final names, flushed to disk and renamed, the index last: an index that is there
    belongs to a token file that is whole.
    """
    prefix = Path(prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    sizes: list[int] = []
    with _Replacing(bin_path(prefix)) as file:
        for document in documents:
            array = np.asarray(document, dtype=dtype)
            file.write(array.tobytes())
            sizes.append(len(array))
    count = np.asarray(sizes, dtype=np.int64)
    pointers = (np.cumsum(count) - count) * dtype.itemsize
    with _Replacing(idx_path(prefix)) as file:
        file.write(_HEADER.pack(MAGIC, VERSION, _CODES[np.dtype(dtype)], len(sizes), len(sizes) + 1))
        file.write(count.astype("<i4").tobytes())
        file.write(pointers.astype("<i8").tobytes())
        file.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())
    return Written(documents=len(sizes), tokens=int(count.sum()))


class _Replacing:
    """A file that appears under its name only when it is whole and on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> BinaryIO:
        self._file: BinaryIO = open(self._temporary, "wb")
        return self._file

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)
