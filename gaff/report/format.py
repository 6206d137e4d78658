# SPDX-License-Identifier: Apache-2.0
"""Numbers as a person reads them: durations, sizes, losses, learning rates.  Pure."""

from __future__ import annotations

import math

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def duration(seconds: float) -> str:
    """``42 ms``, ``4.2 s``, ``42 s``; from one minute on ``H:MM:SS``, with days in front where there are any."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return clock(seconds)


def clock(seconds: float) -> str:
    """``0:02:10``; ``3 d 4:00:00``."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    text = f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days} d {text}" if days else text


def size(size_bytes: float) -> str:
    """Decimal units, three digits: ``51.5 MB``."""
    for unit in _UNITS:
        if size_bytes < 999.5 or unit == _UNITS[-1]:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    raise AssertionError("the last unit returns")


def loss(value: float | None) -> str:
    if value is None:
        return "—"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def rate(value: float | None) -> str:
    """A learning rate: ``9.1e-4``, without the exponent's leading zero."""
    if value is None:
        return "—"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def milliseconds(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 copy``, ``8 copies``; thousands are set apart."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
