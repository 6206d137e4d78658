# SPDX-License-Identifier: Apache-2.0
"""The CRC-32 of a record after part of it changed, from the old CRC and the changed bytes alone.

CRC-32 is linear over GF(2): if ``d`` is the exclusive or of old and new bytes, the record's CRC changes by the CRC of
``d`` pushed through as many zero bytes as follow the changed range.  Pushing through n zero bytes is a multiplication
by x^(8n) modulo the CRC polynomial, done by repeated squaring, so it costs O(log n) whatever the record's size.
"""

from __future__ import annotations

_POLYNOMIAL = 0xEDB88320  # CRC-32 (ISO-HDLC), reflected; the one of zip (APPNOTE 4.4.7)


def _multiply(a: int, b: int) -> int:
    """a * b modulo the CRC polynomial, both reflected (bit 31 is x^0)."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _zero_bytes_operator(count: int) -> int:
    """x^(8 * count) modulo the CRC polynomial."""
    result, square = 1 << 31, 1 << 23  # x^0 and x^8
    while count:
        if count & 1:
            result = _multiply(square, result)
        square = _multiply(square, square)
        count >>= 1
    return result


def patched_crc(record_crc: int, old_range_crc: int, new_range_crc: int, bytes_after: int) -> int:
    """CRC-32 of a record after one range of it was replaced by as many other bytes.

    Args:
        record_crc: CRC-32 of the whole record before.
        old_range_crc: CRC-32 (``zlib.crc32``) of the range's old bytes alone.
        new_range_crc: the same of its new bytes.
        bytes_after: how many bytes of the record follow the range.
    """
    return record_crc ^ _multiply(old_range_crc ^ new_range_crc, _zero_bytes_operator(bytes_after))
