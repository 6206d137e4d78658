# SPDX-License-Identifier: Apache-2.0
"""The few messages of TensorBoard's event files that GAFF writes, as bytes.

Field numbers are those of TensorBoard's ``compat/proto``: ``event.proto``, ``summary.proto``, ``tensor.proto``,
``tensor_shape.proto`` and ``types.proto``; the encoding is Protocol Buffers' own.  Libraries that write such files were
measured and left out: importing tensorboardX imports torch where there is one (190 MB), TensorBoard itself is 77 MB on
the disk.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

import google_crc32c

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_START = 1  # SessionLog.START
_DT_STRING = 7


def checksum(data: bytes) -> bytes:
    """The masked CRC-32C of a record file: rotated by 15 bits, plus a constant (TensorFlow's ``lib/hash/crc32c.h``)."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(message: bytes) -> bytes:
    """One record of an event file: length, its checksum, the message, its checksum."""
    length = struct.pack("<Q", len(message))
    return b"".join((length, checksum(length), message, checksum(message)))


def version(at: float) -> bytes:
    """The first event of a file.  From version 2 on TensorBoard purges by ``start`` alone, not by any smaller step."""
    return _event(at, None) + _bytes(3, b"brain.Event:2")


def start(at: float, step: int) -> bytes:
    """A session starts: points of this step and later ones, in the files read so far, are void."""
    return _event(at, step) + _bytes(7, _number(1, _START))


def scalars(at: float, step: int, values: Mapping[str, float]) -> bytes:
    """Tag -> value, as float32."""
    each = (_before_value(tag) + _float32(value) for tag, value in values.items())
    return _event(at, step) + _bytes(5, b"".join(_bytes(1, value) for value in each))


@lru_cache(maxsize=256)
def _before_value(tag: str) -> bytes:
    return _bytes(1, tag.encode()) + _key(2, _FIXED32)


def text(at: float, step: int, tag: str, words: str) -> bytes:
    """One text, for TensorBoard's page of texts."""
    tensor = _number(1, _DT_STRING) + _bytes(2, b"") + _bytes(8, words.encode())
    metadata = _bytes(1, _bytes(1, b"text"))
    value = _bytes(1, tag.encode()) + _bytes(8, tensor) + _bytes(9, metadata)
    return _event(at, step) + _bytes(5, _bytes(1, value))


def _event(at: float, step: int | None) -> bytes:
    return _key(1, _FIXED64) + struct.pack("<d", at) + (b"" if step is None else _number(2, step))


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _key(field: int, wire: int) -> bytes:
    return bytes((field << 3 | wire,))


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """A number from 0 on: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
