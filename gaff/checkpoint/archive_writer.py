# SPDX-License-Identifier: Apache-2.0
"""Writes a ``.pt`` file as torch does, from records that are streamed in.

The format is that of torch's ``PyTorchStreamWriter`` (``caffe2/serialize/inline_container.cc``) over miniz: a zip of
stored records, each with its data at a multiple of 64 bytes, which an extra field ``FB`` in its local header pads to;
no sizes in the local header but in a data descriptor and in the central directory; fields of eight bytes only where a
size or an offset needs them; always a zip64 end record.  What torch wrote is written again byte for byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from gaff.checkpoint.crc import crc32

Buffer: TypeAlias = "bytes | bytearray | memoryview"

ALIGNMENT = 64
_LIMIT = 0xFFFFFFFF  # from here on a field has eight bytes
_COUNT_LIMIT = 0xFFFF
_UTF8, _DESCRIPTOR = 0x0800, 0x0008
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_ZIP64_END = struct.Struct("<4sQHHIIQQQQ")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")
_MADE_BY, _NEEDED = 0x031E, 0x2D  # as miniz puts them


@dataclass(frozen=True)
class _Entry:
    name: bytes
    header_offset: int
    size: int
    crc: int

    @property
    def flags(self) -> int:
        return _UTF8 | (_DESCRIPTOR if self.size else 0)

    def zip64(self, stored_size: int) -> bytes:
        """The zip64 extra field: what does not fit into four bytes (APPNOTE 4.5.3)."""
        sizes = [self.size, stored_size] if self.size >= _LIMIT else []
        offsets = [self.header_offset] if self.header_offset >= _LIMIT else []
        fields = sizes + offsets
        return struct.pack(f"<HH{len(fields)}Q", 1, 8 * len(fields), *fields) if fields else b""


def write_archive(path: Path, prefix: str, records: Iterable[tuple[str, int, Iterable[Buffer]]]) -> dict[str, int]:
    """Write a ``.pt`` file, and make its bytes durable.

    The directory entry is not: the caller writes beside the file's place, renames, and makes that durable.

    Args:
        path: the file to write; replaced if it is there.
        prefix: what record names begin with in the zip, ``Archive.prefix``.
        records: name without the prefix, size in bytes, and content in pieces; in the order in which they are to stand.
            One piece is in memory at a time.

    Returns:
        The CRC-32 of each record, by name.

    Raises:
        OSError: the disk is full, say.
    """
    with open(path, "wb") as file:
        crcs = write_records(file, prefix, records)
        file.flush()
        os.fsync(file.fileno())
    return crcs


def write_records(file: BinaryIO, prefix: str, records: Iterable[tuple[str, int, Iterable[Buffer]]]) -> dict[str, int]:
    """The same, to an open file from its position on.  Offsets in the zip are the file's."""
    position = file.tell()
    entries: list[_Entry] = []
    crcs: dict[str, int] = {}
    for name, size, pieces in records:
        assert name not in crcs, f"the record {name} is written twice"
        entry = _Entry(f"{prefix}/{name}".encode(), position, size, 0)
        position += file.write(_local_header(entry))
        crcs[name] = _write_pieces(file, name, size, pieces)
        entries.append(_Entry(entry.name, entry.header_offset, size, crcs[name]))
        position += size + file.write(_descriptor(entries[-1]))
    _write_directory(file, position, entries)
    return crcs


def _write_pieces(file: BinaryIO, name: str, size: int, pieces: Iterable[Buffer]) -> int:
    crc, written = 0, 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        crc = crc32(view, crc)
        written += file.write(view)
    assert written == size, f"the record {name} has {written} bytes, not {size}"
    return crc


def _local_header(entry: _Entry) -> bytes:
    """Header, zip64 field and padding, up to where the data begins."""
    zip64 = entry.zip64(stored_size=0)  # not known yet, to one who streams; torch leaves it 0
    start = entry.header_offset + _LOCAL_HEADER.size + len(entry.name) + len(zip64) + 4
    padding = -start % ALIGNMENT
    extra = zip64 + b"FB" + struct.pack("<H", padding) + b"Z" * padding
    fixed = (b"PK\x03\x04", 0, entry.flags, 0, 0, 0, 0, 0, 0, len(entry.name), len(extra))
    return _LOCAL_HEADER.pack(*fixed) + entry.name + extra


def _descriptor(entry: _Entry) -> bytes:
    """What follows a record's data.  Its sizes have eight bytes where the record has a zip64 field."""
    if not entry.size:
        return b""
    return struct.pack(
        "<4sIQQ" if entry.zip64(entry.size) else "<4sIII", b"PK\x07\x08", entry.crc, entry.size, entry.size
    )


def _central_entry(entry: _Entry) -> bytes:
    size, zip64 = min(entry.size, _LIMIT), entry.zip64(entry.size)
    lengths = (len(entry.name), len(zip64), 0)
    offset = min(entry.header_offset, _LIMIT)
    fixed = (b"PK\x01\x02", 0, 0, entry.flags, 0, 0, 0, entry.crc, size, size, *lengths, 0, 0, 0, offset)
    return _CENTRAL_ENTRY.pack(*fixed) + entry.name + zip64


def _write_directory(file: BinaryIO, start: int, entries: list[_Entry]) -> None:
    size = sum(file.write(_central_entry(entry)) for entry in entries)
    count = len(entries)
    file.write(_ZIP64_END.pack(b"PK\x06\x06", 44, _MADE_BY, _NEEDED, 0, 0, count, count, size, start))
    file.write(_ZIP64_LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1))
    count = min(count, _COUNT_LIMIT)
    file.write(_END.pack(b"PK\x05\x06", 0, 0, count, count, min(size, _LIMIT), min(start, _LIMIT), 0))
