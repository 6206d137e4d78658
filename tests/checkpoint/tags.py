# SPDX-License-Identifier: Apache-2.0
"""Looking into tags: their bytes, what differs, and whole parameters put together from torch or from GAFF's reader."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, Copy
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.reader import CopyReader, OpenFiles

NUMEL = 12288  # elements of the fixtures' embedding: 512 rows (padded) of 24


def contents(tag: Path) -> dict[str, bytes]:
    """The bytes of every .pt file of a tag."""
    return {p.name: p.read_bytes() for p in sorted(tag.glob("*.pt"))}


def everything(folder: Path) -> dict[Path, bytes]:
    """The bytes of every file below a folder."""
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def values(
    tag: Path, name: str = INPUT_EMBEDDING, kind: str | None = None, stage: int | None = None
) -> NDArray[np.float32]:
    """A whole parameter by GAFF's reader, in its shape: the weights that training goes on from, or another kind."""
    layout = read_layout(tag)
    parameter = layout.parameters[name]
    with OpenFiles(tag) as files:
        flat = CopyReader(layout).values(files, name, kind or layout.truth(name), 0, parameter.numel, stage)
    return flat.reshape(parameter.shape)


def at(root: Any, path: Iterable[Any]) -> Any:
    """Follow an oracle's path of keys into what torch loaded."""
    for key in path:
        root = root[key]
    return root


def oracle_matrices(tag: Path, known: dict[str, Any]) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Every copy of the embedding as torch loads it from the oracle's places, by kind and stage; flat."""
    import torch

    loaded: dict[str, Any] = {}
    found: dict[tuple[str, str], NDArray[np.float32]] = {}
    for place in known["places"]:
        file = Path(place["file"]).name
        if file not in loaded:
            loaded[file] = torch.load(tag / file, weights_only=False)
        tensor = at(loaded[file], place["path"])
        matrix = found.setdefault((place["kind"], place["copy"]), np.full(NUMEL, np.nan, np.float32))
        flat = tensor.detach().to(torch.float32).reshape(-1)[slice(*place["range"])]
        matrix[slice(*place["global_flat_range"])] = flat.numpy()
    return found


def changed(before: bytes, after: bytes) -> NDArray[np.int64]:
    """Positions of the bytes that differ; the lengths may not."""
    assert len(before) == len(after)
    return np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8))


def members(path: Path) -> dict[str, tuple[int, int]]:
    """Where the data of each member of a .pt file lie, (first byte, past the last), by name without the prefix."""
    found = {}
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from("<HH", whole, info.header_offset + 26)
            first = info.header_offset + 30 + name + extra
            found[info.filename.partition("/")[2]] = (first, first + info.file_size)
    return found


def crc_places(path: Path) -> dict[str, set[int]]:
    """The eight bytes where each member's CRC stands: beside its data, and in its entry of the central directory."""
    whole = path.read_bytes()
    found = {}
    with zipfile.ZipFile(path) as archive:
        position, ends = archive.start_dir, members(path)
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            beside = ends[name][1] + 4 if info.flag_bits & 8 else info.header_offset + 14
            found[name] = {*range(beside, beside + 4), *range(position + 16, position + 20)}
            position += 46 + sum(struct.unpack_from("<HHH", whole, position + 28))
    return found


def flip(path: Path, record: str, offset: int, *, mend_crc: bool = True) -> None:
    """Change one byte of a record, and its CRCs as somebody would who keeps the zip right."""
    data = bytearray(path.read_bytes())
    found = Archive(path).records[record]
    data[found.data_offset + offset] ^= 0x40
    crc = zlib.crc32(data[found.data_offset : found.data_offset + found.size])
    for field in found.crc_fields if mend_crc else ():
        data[field : field + 4] = crc.to_bytes(4, "little")
    path.write_bytes(data)


def all_copies(tag: Path, name: str = INPUT_EMBEDDING) -> tuple[Copy, ...]:
    return read_layout(tag).copies[name]
