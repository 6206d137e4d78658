# SPDX-License-Identifier: Apache-2.0
"""CRC-32 of bytes, and of records whose bytes are not at hand: joined, patched, or all zero.

CRC-32 is linear over GF(2): if ``d`` is the exclusive or of old and new bytes, the record's CRC changes by the CRC of
``d`` pushed through as many zero bytes as follow the changed range.  Pushing through n zero bytes is a multiplication
by x^(8n) modulo the CRC polynomial, done by repeated squaring, so it costs O(log n) whatever the record's size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_POLYNOMIAL = 0xEDB88320  # CRC-32 (ISO-HDLC), reflected; the one of zip (APPNOTE 4.4.7)
_ALL_ONES = 0xFFFFFFFF  # what the register starts with, and what its end is inverted by
_CHUNK_BYTES = 1 << 22


@cache
def _fastest() -> Callable[[ReadableBuffer, int], int]:
    """ISA-L's function, many times as fast as zlib's, or zlib's where ISA-L is not packaged; both free the GIL."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib.crc32
    return isal_zlib.crc32


def crc32(data: ReadableBuffer, value: int = 0) -> int:
    """CRC-32 of contiguous ``data``; ``value`` is the CRC of what came before it."""
    return _fastest()(data, value)


def file_crc(path: Path) -> int | None:
    """The CRC-32 of a whole file; None where it cannot be read."""
    crc = 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                crc = crc32(chunk, crc)
    except OSError:
        return None
    return crc


def combined_crc(crc1: int, crc2: int, length2: int) -> int:
    """CRC-32 of two stretches of bytes one after the other, from the CRC of each and the second's length in bytes."""
    return _multiply(crc1, _zero_bytes_operator(length2)) ^ crc2


def zeros_crc(length: int) -> int:
    """CRC-32 of ``length`` zero bytes."""
    return _multiply(_ALL_ONES, _zero_bytes_operator(length)) ^ _ALL_ONES


def patched_crc(record_crc: int, old_range_crc: int, new_range_crc: int, bytes_after: int) -> int:
    """CRC-32 of a record after one range of it was replaced by as many other bytes.

    Args:
        record_crc: CRC-32 of the whole record before.
        old_range_crc: CRC-32 (:func:`crc32`) of the range's old bytes alone.
        new_range_crc: the same of its new bytes.
        bytes_after: how many bytes of the record follow the range.
    """
    return record_crc ^ _multiply(old_range_crc ^ new_range_crc, _zero_bytes_operator(bytes_after))


def _multiply(a: int, b: int) -> int:
    """a * b modulo the CRC polynomial, both reflected (bit 31 is x^0)."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=1024)  # pieces of one operation come in few lengths
def _zero_bytes_operator(count: int) -> int:
    """x^(8 * count) modulo the CRC polynomial."""
    result = 1 << 31  # x^0
    for power in range(count.bit_length()):
        if count >> power & 1:
            result = _multiply(_zero_bytes_power(power), result)
    return result


@cache
def _zero_bytes_power(power: int) -> int:
    """x^(8 * 2^power) modulo the CRC polynomial."""
    if power == 0:
        return 1 << 23  # x^8
    half = _zero_bytes_power(power - 1)
    return _multiply(half, half)
