# SPDX-License-Identifier: Apache-2.0
"""Faults planted in real checkpoints, with CRCs that are right, as by somebody who also keeps the zip in order."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from gaff.checkpoint.archive import Archive, numpy_dtype
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import Copy
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.pickle_document import PickleDocument
from gaff.checkpoint.pickle_nodes import CallNode, DictNode, Scalar


def poke(path: Path, record: str, offset: int, data: bytes, *, mend_crc: bool = True) -> None:
    """Write ``data`` at a byte offset of a record."""
    found = Archive(path).records[record]
    assert offset + len(data) <= found.size
    with open(path, "r+b") as file:
        file.seek(found.data_offset + offset)
        file.write(data)
        file.seek(found.data_offset)
        crc = zlib.crc32(file.read(found.size))
        for field in found.crc_fields if mend_crc else ():
            file.seek(field)
            file.write(crc.to_bytes(4, "little"))


def flip(path: Path, record: str, offset: int, *, mend_crc: bool) -> None:
    """Change one bit of one byte of a record."""
    archive = Archive(path)
    (old,) = archive.read(archive.records[record], offset, offset + 1)
    poke(path, record, offset, bytes([old ^ 0x40]), mend_crc=mend_crc)


def flip_copy(tag: Path, copy: Copy, *, mend_crc: bool = True) -> None:
    """Change one bit of the last element of a copy: its exponent's highest one."""
    flip(tag / copy.file, copy.record, copy.offset + copy.length - 1, mend_crc=mend_crc)


def change(tag: Path, copies: Iterable[Copy], new: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the values of copies by ``new`` of the old ones."""
    for copy in copies:
        archive = Archive(tag / copy.file)
        values = archive.elements(archive.records[copy.record], copy.dtype, copy.offset, copy.numel)
        poke(tag / copy.file, copy.record, copy.offset, new(values).astype(numpy_dtype(copy.dtype)).tobytes())


def copies_of(layout: Layout, *names: str) -> list[Copy]:
    """All copies of some parameters, or of all."""
    return [copy for name in names or layout.parameters for copy in layout.copies[name]]


def become_another_run(tag: Path) -> None:
    """Turn a tag into one of another model at the same step: every weight and moment has its sign changed."""
    change(tag, copies_of(read_layout(tag)), np.negative)


def count_from(tag: Path, old: int, new: int) -> None:
    """Set the iteration and all step counts that are ``old`` to ``new``."""
    for path in tag.glob("*.pt"):
        set_numbers(path, ("iteration", "global_steps", "num_iters", "step"), old, new)


def set_numbers(path: Path, names: Iterable[str], old: int, new: int) -> None:
    """Overwrite integers in a file's pickle, wherever an entry of one of these names has the old value."""
    archive = Archive(path)
    document = PickleDocument(archive.read(archive.records["data.pkl"], 0, archive.records["data.pkl"].size))
    for node in document.nodes():
        for key, value in node.pairs if isinstance(node, (DictNode, CallNode)) else ():
            if key.value in names and isinstance(value, Scalar) and value.value == old:
                patch = document.scalar_patch(value, new)
                assert patch is not None
                poke(path, "data.pkl", patch[0], patch[2])
