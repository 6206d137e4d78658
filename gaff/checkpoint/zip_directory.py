# SPDX-License-Identifier: Apache-2.0
"""Where the records of a ``.pt`` file stand: the zip's directories, read as strictly as torch writes them.

A zip can be read in more than one way: a second end record in a comment, two entries of one name, records that overlap.
torch writes none of that, so all of it is refused here, and what GAFF reads and patches is what ``torch.load`` loads.
Formats are those of PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAX_DIRECTORY_BYTES = 32 << 20  # about a hundred bytes a record
MAX_RECORDS = 250_000

_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_ZIP64_END = struct.Struct("<4sQHHIIQQQQ")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")
_HAS_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_ZIP64, _LIMIT = 0x0001, 0xFFFFFFFF


class DamagedZipError(Exception):
    """The file is not a zip as torch writes it.  Says what is wrong."""


@dataclass(frozen=True)
class Record:
    """One member of the zip.

    ``crc`` is the one of the central directory, ``local_crc`` the one that stands with the record; they differ only
    where a patch was cut short.  ``crc_fields`` are the file offsets of both, each four bytes, little-endian.
    """

    name: str
    data_offset: int
    size: int
    crc: int
    local_crc: int
    crc_fields: tuple[int, int]


@dataclass(frozen=True)
class _Entry:
    """One entry of the central directory.  ``offset`` is its local header's, ``crc_field`` where its CRC stands."""

    name: bytes
    flags: int
    crc: int
    size: int
    offset: int
    crc_field: int


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The descriptor of a regular file, open for reading; nothing else is opened, since a FIFO or device may hang.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def read_records(descriptor: int) -> tuple[str, dict[str, Record]]:
    """What all names begin with, and the records by the rest of their names, in the order of the central directory.

    Raises:
        DamagedZipError: the file is cut off, damaged, or not as torch writes it.
        OSError: it cannot be read.
    """
    start, size, count = _find_directory(descriptor)
    directory = _read(descriptor, start, size)
    entries = list(_entries(directory, start, count))
    prefix = _common_prefix(entries)
    records: dict[str, Record] = {}
    end = 0
    for entry in sorted(entries, key=lambda e: e.offset):
        if entry.offset < end:
            raise DamagedZipError(f"{_shown(entry.name)} overlaps another record")
        record, end = _locate(descriptor, entry, len(prefix) + 1, start)
        records[record.name] = record
    in_order = [entry.name.decode()[len(prefix) + 1 :] for entry in entries]
    if len(records) != len(entries):
        raise DamagedZipError("two of its records have the same name")
    return prefix, {name: records[name] for name in in_order}


def _read(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise DamagedZipError("it ends too early")
    return data


def _shown(name: bytes) -> str:
    return ascii(name[:80].decode("utf-8", "replace"))


def _find_directory(descriptor: int) -> tuple[int, int, int]:
    """Offset, size and number of entries of the central directory, from the end records that follow it."""
    length = os.fstat(descriptor).st_size
    if length < _END.size:
        raise DamagedZipError("it is empty" if length == 0 else "it ends too early")
    end_at = length - _END.size
    signature, *disks, here, count, size, start, comment = _END.unpack(_read(descriptor, end_at, _END.size))
    if signature != b"PK\x05\x06" or comment:
        raise DamagedZipError("it does not end as a zip file that torch wrote")
    if end_at >= _ZIP64_LOCATOR.size:
        locator = _ZIP64_LOCATOR.unpack(_read(descriptor, end_at - _ZIP64_LOCATOR.size, _ZIP64_LOCATOR.size))
        if locator[0] == b"PK\x06\x07":
            end_at -= _ZIP64_LOCATOR.size + _ZIP64_END.size
            if end_at != locator[2]:
                raise DamagedZipError("its zip64 end record is not where it should be")
            zip64 = _ZIP64_END.unpack(_read(descriptor, end_at, _ZIP64_END.size))
            if zip64[:2] != (b"PK\x06\x06", _ZIP64_END.size - 12) or locator[1] or locator[3] != 1:
                raise DamagedZipError("its zip64 end record is damaged")
            disks, (here, count, size, start) = list(zip64[4:6]), zip64[6:]
    if any(disks) or here != count:
        raise DamagedZipError("it is one of several parts")
    if start + size != end_at:
        raise DamagedZipError("its central directory is not where it should be")
    if size > MAX_DIRECTORY_BYTES or count > MAX_RECORDS:
        raise DamagedZipError(f"it has a directory of {count} records in {size} bytes, more than a checkpoint can need")
    return start, size, count


def _entries(directory: bytes, start: int, count: int) -> Iterator[_Entry]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL_ENTRY.size > len(directory):
            raise DamagedZipError("its central directory ends too early")
        fields = _CENTRAL_ENTRY.unpack_from(directory, position)
        name_at = position + _CENTRAL_ENTRY.size
        extra_at = name_at + fields[10]
        after = extra_at + fields[11] + fields[12]
        if fields[0] != b"PK\x01\x02" or after > len(directory):
            raise DamagedZipError("its central directory is damaged")
        name, extra = directory[name_at:extra_at], directory[extra_at : extra_at + fields[11]]
        flags, method, disk = fields[3], fields[4], fields[13]
        if method or flags & ~(_HAS_DESCRIPTOR | _UTF8) or disk:
            raise DamagedZipError(f"{_shown(name)} is compressed, encrypted or elsewhere, not a plain stored record")
        size, stored, offset = _sizes(name, (fields[9], fields[8], fields[16]), extra)
        if size != stored:
            raise DamagedZipError(f"{_shown(name)} has two sizes")
        yield _Entry(name, flags, fields[7], size, offset, start + position + 16)
        position = after
    if position != len(directory):
        raise DamagedZipError("its central directory has something left over")


def _sizes(name: bytes, fields: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Size, stored size and offset, from the zip64 field where the entry's own is full (APPNOTE 4.5.3)."""
    wide: list[int] = []
    while len(extra) >= 4 and not wide:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _ZIP64:
            body = extra[4 : 4 + length]
            wide = [value for (value,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        extra = extra[4 + length :]
    needed = sum(field == _LIMIT for field in fields)
    if needed > len(wide):
        raise DamagedZipError(f"{_shown(name)} lacks its zip64 field")
    values = iter(wide)
    size, stored, offset = (next(values) if field == _LIMIT else field for field in fields)
    return size, stored, offset


def _common_prefix(entries: list[_Entry]) -> str:
    """The one directory in which all records stand."""
    if not entries:
        raise DamagedZipError("it has no records")
    first = entries[0].name.partition(b"/")[0]
    for entry in entries:
        prefix, slash, rest = entry.name.partition(b"/")
        parts = rest.split(b"/")
        if (
            not slash
            or prefix != first
            or b"\0" in entry.name
            or any(p in (b"", b".", b"..") for p in (prefix, *parts))
        ):
            raise DamagedZipError(f"it has a record of the name {_shown(entry.name)}, as torch gives to none")
        try:
            entry.name.decode()
        except UnicodeDecodeError:
            raise DamagedZipError(f"it has a record of the name {_shown(entry.name)}, which is not UTF-8") from None
    return first.decode()


def _locate(descriptor: int, entry: _Entry, prefix_length: int, directory_start: int) -> tuple[Record, int]:
    """A record, by its local header, and where it ends, its data descriptor included."""
    shown = _shown(entry.name)
    if entry.offset + _LOCAL_HEADER.size + len(entry.name) > directory_start:
        raise DamagedZipError(f"{shown} lies beyond the records")
    header = _read(descriptor, entry.offset, _LOCAL_HEADER.size + len(entry.name))
    signature, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL_HEADER.unpack_from(header)
    if signature != b"PK\x03\x04" or (flags, method) != (entry.flags, 0):
        raise DamagedZipError(f"{shown} is not where the central directory says")
    if name_length != len(entry.name) or header[_LOCAL_HEADER.size :] != entry.name:
        raise DamagedZipError(f"{shown} has another name in its own header")
    data_offset = entry.offset + len(header) + extra_length
    end = data_offset + entry.size
    crc_field = entry.offset + 14
    if flags & _HAS_DESCRIPTOR:
        # the signature is optional (APPNOTE 4.3.9.3)
        crc_field = end + (4 if os.pread(descriptor, 4, end) == b"PK\x07\x08" else 0)
        end = crc_field + 12
    if end > directory_start:
        raise DamagedZipError(f"{shown} reaches beyond the records")
    local_crc = int.from_bytes(_read(descriptor, crc_field, 4), "little")
    crc_fields = (entry.crc_field, crc_field)
    name = entry.name.decode()[prefix_length:]
    return Record(name, data_offset, entry.size, entry.crc, local_crc, crc_fields), end
