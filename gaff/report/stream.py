# SPDX-License-Identifier: Apache-2.0
"""A text stream that is never the reason for a run to end."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TextIO


class SurvivingStream(io.TextIOBase):
    """Passes text on to ``stream``, and falls silent for good when that is gone (a closed pipe, a lost terminal).

    Characters that the stream's encoding lacks come out as ``?``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (OSError, ValueError):  # ValueError: the stream is closed
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        if not self._gone:
            try:
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError):
                self._gone = True
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if not self._gone:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._gone = True
