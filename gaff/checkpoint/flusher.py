# SPDX-License-Identifier: Apache-2.0
"""Keeps the disk busy while values are being made: files are flushed in the background as they are written.

Durability does not rest on it: whoever writes flushes each file once more at the end, and finds little left to do.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType

_WORTH_FLUSHING = 64 << 20  # bytes


class Flusher:
    """A thread that flushes each file after every so many bytes written to it."""

    def __init__(self) -> None:
        self._pending: dict[Path, int] = {}
        self._changed = Condition()
        self._over = False
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Flusher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def written(self, path: Path, length: int) -> None:
        """Note that ``length`` bytes were written to a file."""
        with self._changed:
            self._pending[path] = self._pending.get(path, 0) + length
            if self._pending[path] >= _WORTH_FLUSHING:
                if self._thread.ident is None:
                    self._thread.start()
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                ready = self._ready()
                while not ready and not self._over:
                    self._changed.wait()
                    ready = self._ready()
                if self._over:
                    return
                path = ready[0]
                self._pending[path] = 0
            _flush(path)

    def _ready(self) -> list[Path]:
        return [path for path, length in self._pending.items() if length >= _WORTH_FLUSHING]


def _flush(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.fdatasync(descriptor)
    except OSError:
        pass  # the last flush will say so
    finally:
        os.close(descriptor)
