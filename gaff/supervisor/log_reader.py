# SPDX-License-Identifier: Apache-2.0
"""Follows a log while it is written, in bounded memory whatever is written into it."""

from __future__ import annotations

import os
from pathlib import Path

_CHUNK = 1 << 20  # bytes of one read
_LONGEST_LINE = 1 << 18  # bytes; a launcher quotes command lines of 128 KiB


class LogReader:
    """Reads what is appended to a file, from its present end on, also once the file has lost its name.

    Attributes:
        grew: whether the last :meth:`read` found anything new, if only half a line.
        at_end: whether it found all that there was.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._file.seek(0, os.SEEK_END)
        self._rest = b""
        self.grew = False
        self.at_end = True

    def read(self, *, last: bool = False) -> list[str]:
        """The next lines, of a megabyte at most.

        Of a line beyond 256 KiB each such piece is one.  Bytes that are no UTF-8 are replaced.

        Args:
            last: nothing will be added to the file: what comes after its last newline is a line as well.
        """
        if os.fstat(self._file.fileno()).st_size < self._file.tell():  # somebody emptied it
            self._file.seek(0)
            self._rest = b""
        data = self._file.read(_CHUNK)
        self.grew, self.at_end = bool(data), len(data) < _CHUNK
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > _LONGEST_LINE or (rest and last and self.at_end):
            lines.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._rest = rest
        return [line.decode("utf-8", errors="replace") for line in lines]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
