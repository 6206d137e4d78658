# SPDX-License-Identifier: Apache-2.0
"""Text in columns that fits a terminal: tables, wrapped paragraphs, amounts of bytes.  Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

WIDTH = 100  # columns at most

Row = tuple[str, ...]


def columns(rows: Sequence[Row], right: int = 0) -> list[str]:
    """Rows with aligned columns: the first ``right`` to the right, the last one unpadded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if i < right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def wrapped(rows: Sequence[Row], width: int = WIDTH) -> list[str]:
    """Rows with aligned columns, the last of which is broken into lines so that all fits into ``width``."""
    indent = sum(max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]) - 1))
    return columns([part for row in rows for part in _broken(row, width - indent)])


def _broken(row: Row, width: int) -> Iterator[Row]:
    first, *rest = broken_lines(row[-1], width)
    yield (*row[:-1], first)
    yield from ((*("" for _ in row[:-1]), line) for line in rest)


def paragraph(text: str, width: int = WIDTH) -> list[str]:
    """The text in lines of at most ``width``, all but the first of which begin with two spaces."""
    first, *rest = broken_lines(text, width)
    return [first, *(f"  {line}" for line in broken_lines(" ".join(rest), width - 2) if line)]


def broken_lines(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width``, but for words that are longer; one empty line for none."""
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False) or [""]


def size(amount: int) -> str:
    """Bytes in decimal units: ``51.5 MB``."""
    value = float(amount)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
