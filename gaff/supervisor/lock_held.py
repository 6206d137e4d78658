# SPDX-License-Identifier: Apache-2.0
"""A lock file while it is held: the beat, and before each the look whether the file still names this process."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gaff.supervisor.lock_owner import Owner, open_lock, parse_record, read_from, read_record, this_process
from gaff.supervisor.lock_presence import Periods

_TORN_S = 0.1  # in which a record that was read in the middle of its being written is whole
_LET_GO_S = 10.0  # for a beat that hangs in a file system, when the lock is let go


@dataclass(frozen=True)
class Takeover:
    """A run directory that its last owner did not let go.

    Attributes:
        owner: who that was; None when the lock file did not say.
        silent_s: for how long it was watched in vain; 0 when its process is known to be gone.
    """

    owner: Owner | None
    silent_s: float


class Lock:
    """A lock file that this process holds, or is about to.

    Attributes:
        token: by which it knows its own record.
        taken_over: whose it was, when that one did not let go.
        lost: None while the lock is held.  A clause that says who has it, or had it, when somebody else was at work
            here while this process stood still: this one must then stop, and touch nothing.
    """

    def __init__(self, path: Path, periods: Periods, taken_over: Takeover | None) -> None:
        self.taken_over = taken_over
        self.lost: str | None = None
        self._path = path
        self._periods = periods
        self.token = uuid.uuid4().hex
        self._owner = this_process(self.token)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="gaff-lock", daemon=True)

    def confirm(self) -> str | None:
        """Look now whether the lock is still held, as before something that cannot be taken back.  Returns ``lost``.

        A file that cannot be read proves nothing, nor does one that somebody has removed or scribbled into.
        """
        with suppress(OSError):
            content = read_record(self._path)
            if content and parse_record(content) is None:
                time.sleep(_TORN_S)
                content = read_record(self._path)
            self._judge(content)
        return self.lost

    def _judge(self, content: bytes) -> None:
        owner = parse_record(content)
        if owner is not None and owner.token != self.token:
            self.lost = f"{owner} has taken this run directory over while this process stood still"
        elif not content:
            self.lost = "another supervisor has worked in this run directory while this process stood still"

    def write(self, path: Path) -> None:
        """Write this process's name into a lock file.

        Raises:
            OSError: it cannot be written.
        """
        descriptor = open_lock(path, os.O_RDWR | os.O_CREAT)
        try:
            _write_record(descriptor, self._owner)
        finally:
            os.close(descriptor)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def release(self) -> None:
        """Stop to beat and empty the file, which says that nobody is at work.  It is left as it is if it was lost."""
        self._ended.set()
        if self._thread.ident is None:
            self._empty()
        else:
            self._thread.join(_LET_GO_S)

    def _keep(self) -> None:
        # Signals are for the main thread, whose waiting they are to end.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while self.lost is None and not self._ended.wait(self._periods.beat_s):
            with suppress(OSError):  # full, hung, gone for a while: the next beat tries again
                self._beat()
        self._empty()

    def _beat(self) -> None:
        self._owner = replace(self._owner, beat=self._owner.beat + 1)
        if self.confirm() is not None:
            return
        try:
            self._change(lambda descriptor: _write_record(descriptor, self._owner))
        except FileNotFoundError:
            self.write(self._path)

    def _empty(self) -> None:
        if self.confirm() is None:
            with suppress(OSError):
                self._change(lambda descriptor: os.ftruncate(descriptor, 0))

    def _change(self, change: Callable[[int], None]) -> None:
        """Look once more, and change that very file: one that is put in its place in between is not touched."""
        descriptor = open_lock(self._path, os.O_RDWR)
        try:
            self._judge(read_from(descriptor))
            if self.lost is None:
                change(descriptor)
        finally:
            os.close(descriptor)  # which is when NFS hands it to the server


def _write_record(descriptor: int, owner: Owner) -> None:
    record = owner.record()
    if os.pwrite(descriptor, record, 0) < len(record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, len(record))
