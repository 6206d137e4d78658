# SPDX-License-Identifier: Apache-2.0
"""Which rows of a parameter an operation changes: all, those of a list, or a drawn fraction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaff.errors import InputError, Location, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LARGEST_FILE = 64 << 20


@dataclass(frozen=True)
class RowSelection:
    """Rows as runs ``(first, past the last)``, ascending and apart from each other.

    ``rows`` is how many rows the parameter has.
    """

    rows: int
    runs: tuple[tuple[int, int], ...]

    @classmethod
    def of_numbers(cls, numbers: NDArray[np.int64], rows: int) -> RowSelection:
        """Rows by number, in any order, perhaps repeated."""
        import numpy as np

        ordered = np.unique(numbers)
        if not len(ordered):
            return cls(rows, ())
        breaks = np.flatnonzero(np.diff(ordered) > 1)
        firsts = ordered[np.concatenate(([0], breaks + 1))]
        lasts = ordered[np.concatenate((breaks, [len(ordered) - 1]))] + 1
        return cls(rows, tuple(zip(firsts.tolist(), lasts.tolist(), strict=True)))

    @property
    def count(self) -> int:
        return sum(stop - start for start, stop in self.runs)

    def between(self, first: int, last: int) -> list[tuple[int, int]]:
        """The runs within rows ``first`` to ``last``."""
        from bisect import bisect_right

        found = []
        index = max(0, bisect_right(self.runs, (first, self.rows)) - 1)
        for start, stop in self.runs[index:]:
            if start >= last:
                break
            if stop > first:
                found.append((max(start, first), min(stop, last)))
        return found

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "runs": [list(run) for run in self.runs]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RowSelection:
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: the fields are no selection.
        """
        rows, runs = int(fields["rows"]), tuple((int(a), int(b)) for a, b in fields["runs"])
        edges = [edge for run in runs for edge in run]
        if any(a >= b for a, b in pairwise(edges)) or (edges and not 0 <= edges[0] < edges[-1] <= rows):
            raise ValueError(f"the runs are not ascending, or not of rows 0 to {rows - 1}")
        return cls(rows, runs)


def all_rows(rows: int) -> RowSelection:
    return RowSelection(rows, ((0, rows),))


def drawn_rows(fraction: float, key: tuple[int, int], rows: int) -> RowSelection:
    """``round(fraction * rows)`` rows drawn without replacement, the same on every machine."""
    from gaff.checkpoint.random_rows import row_order

    return RowSelection.of_numbers(row_order(key, rows)[: round(fraction * rows)], rows)


def listed_rows(path: Path, rows: int) -> RowSelection:
    """The rows that a text file lists: one number or range ``FIRST-LAST`` (both included) a line, ``#`` for comments.

    Raises:
        InputError: it cannot be read, a line is something else, or a row is not there.
    """
    import numpy as np

    numbers: list[NDArray[np.int64]] = []
    for line, text in enumerate(_lines(path), 1):
        entry = text.partition("#")[0].strip()
        if not entry:
            continue
        first, dash, last = entry.partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            what = f"line {line} is {entry[:40]!r}, not a row or a range such as 100-199"
            raise InputError(Problem("rows-file", what, "give one a line", Location(str(path), line))) from None
        if not 0 <= low <= high < rows:
            what = f"line {line} names rows {entry[:40]}, but there are rows 0 to {rows - 1}"
            raise InputError(Problem("rows-file", what, "give rows of the embedding", Location(str(path), line)))
        numbers.append(np.arange(low, high + 1))
    if not numbers:
        raise InputError(Problem("rows-file", "lists no rows", "give one a line", Location(str(path))))
    return RowSelection.of_numbers(np.concatenate(numbers), rows)


def _lines(path: Path) -> list[str]:
    try:
        if not path.is_file():
            raise OSError("it is not there, or not a plain file")
        if path.stat().st_size > _LARGEST_FILE:
            raise OSError("it is too large")
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            Problem("rows-file", f"cannot be read ({error})", "check the path", Location(str(path)))
        ) from None
