# SPDX-License-Identifier: Apache-2.0
"""Work that is killed at its n-th durable effect, in a child process, so that every kill can be enumerated.

An effect is whatever the disk remembers: a call that creates, writes, renames, links, flushes or removes.  The child
sends itself SIGKILL before the n-th; of a write, half the bytes are written first, and the half counts on its own.
"""

from __future__ import annotations

import builtins
import io
import os
import pathlib
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

# Those of ``os`` that GAFF or the standard library call; ``open`` counts only where it creates or empties a file.
EFFECTS = ("fsync", "fdatasync", "replace", "rename", "unlink", "remove", "rmdir", "mkdir", "link", "symlink",
           "truncate", "ftruncate", "utime", "chmod", "setxattr")  # fmt: skip
WRITES = ("write", "pwrite")
COPIES = {"sendfile": 3, "copy_file_range": 2}  # how many bytes to copy: the argument's place


def killed_at(effect: int, work: Callable[[], object], *, threads: bool = False) -> bool:
    """Do ``work`` in a child process that dies just before its ``effect``-th effect, counted from 0.

    Args:
        threads: let it use several cores; otherwise its effects come in the same order every time.

    Returns:
        Whether it was killed, and not done before.
    """
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), "the work failed; see its traceback above"
        return code == -signal.SIGKILL
    try:
        if not threads:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        _Counter(effect).intercept()
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class _Counter:
    def __init__(self, left: int) -> None:
        self._left = left
        self._lock = threading.Lock()

    def count(self) -> None:
        with self._lock:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1

    def intercept(self) -> None:
        """Put counting functions in the place of those that have effects.  Never taken back: the process ends."""
        accessor = getattr(pathlib, "_normal_accessor", None)  # Python 3.10 keeps functions of its own
        for name in (*EFFECTS, *WRITES, *COPIES, "open"):
            if not hasattr(os, name):
                continue
            real = getattr(os, name)
            wrapped = self._wrapped(name, real)
            setattr(os, name, wrapped)
            if accessor is not None and hasattr(accessor, name):
                setattr(accessor, name, wrapped)
        builtins.open = io.open = self._open(builtins.open)  # type: ignore[assignment]

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*arguments: Any, **options: Any) -> Any:
            self.count()
            return real(*arguments, **options)

        def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> Any:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self.count()
            return real(path, flags, *arguments, **options)

        def write(descriptor: int, data: Any, *offset: int) -> int:
            self.count()
            half = len(data) // 2
            if half:
                real(descriptor, data[:half], *offset)
                self.count()
                done = half + real(descriptor, data[half:], *(o + half for o in offset))
            else:
                done = real(descriptor, data, *offset)
            return int(done)

        def copy(*arguments: Any) -> Any:
            self.count()
            place = COPIES[name]
            count = min(arguments[place], 1 << 14)  # so that a copy takes several calls, and dies between two
            return real(*arguments[:place], count, *arguments[place + 1 :])

        if name == "open":
            return opened
        if name in WRITES:
            return write
        return copy if name in COPIES else effect

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real(path, mode, *arguments, **options)
            self.count()
            return _CountedFile(real(path, mode, *arguments, **options), self)

        return call


class _CountedFile:
    """A file opened for writing that passes every write on at once, in two halves."""

    def __init__(self, file: Any, counter: _Counter) -> None:
        self._file = file
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _CountedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            self._counter.count()
            self._file.write(part)
            self._file.flush()
        return len(data)
