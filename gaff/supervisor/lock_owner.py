# SPDX-License-Identifier: Apache-2.0
"""The one record of a lock file: who holds the run directory, and a beat that this one counts up while it lives."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

LOCK_NAME = "lock"  # in the run directory
RECORD_BYTES = 512  # every record has this length: written in one piece, and over the one before it without a new block

_BLANK = b"\0 \n"  # what a power failure leaves, besides nothing
_LONGEST_HOST = 64  # linux: HOST_NAME_MAX

# What only one machine writes to: ext4, XFS, btrfs, tmpfs, ramfs, overlay, F2FS (linux/magic.h), and ZFS.
_LOCAL = (0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x858458F6, 0x794C7630, 0xF2F52010, 0x2FC12FC1)
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock file.

    Attributes:
        host, pid: its names, for people.
        boot: the running kernel it is under; "" in the record of a GAFF that knew no beats.
        namespace: in which its ``pid`` counts: containers have their own.
        started: when it began, in clock ticks since the boot, which tells it from a later process of the same number.
        token: random, of this one holding.
        beat: counts up while the owner lives.
    """

    host: str
    pid: int
    boot: str = ""
    namespace: str = ""
    started: int | None = None
    token: str = ""
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def record(self) -> bytes:
        """The content of the lock file."""
        return json.dumps(asdict(self)).encode().ljust(RECORD_BYTES - 1) + b"\n"

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its process, if it lives, can be seen from here."""
        if not self.boot:
            return self.host == _host()
        return (self.boot, self.namespace) == (_boot(), _namespace())

    @property
    def is_of_earlier_boot(self) -> bool:
        """Whether this machine, going by its name, has been booted since."""
        return self.host == _host() and self.boot not in ("", _boot())

    @property
    def lives(self) -> bool:
        """Whether its process is there; to be asked on its own machine alone."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        status = _status(self.pid)
        if status is None:  # processes of other users can be hidden
            return True
        state, started = status
        return state not in "ZX" and self.started in (None, started)


def this_process(token: str) -> Owner:
    """The record of the process that calls."""
    _, started = _status(os.getpid()) or ("", None)
    return Owner(_host(), os.getpid(), _boot(), _namespace(), started, token)


def read_record(path: Path) -> bytes:
    """What the lock file holds now, as other machines see it; empty when it names nobody.

    Opening a file anew is what makes NFS look whether another machine has changed it (close-to-open consistency), if
    its time of change differs; what this machine still has of it in memory is dropped, for that it might not.

    Raises:
        OSError: it is not there, no file, or cannot be read.
    """
    descriptor = open_lock(path, os.O_RDONLY)
    try:
        return read_from(descriptor)
    finally:
        os.close(descriptor)


def open_lock(path: Path, flags: int) -> int:
    """A descriptor of the lock file, which is a file, and nothing that an open or a read would wait for.

    Raises:
        OSError: it is not there, no file, or cannot be opened so.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return descriptor


def read_from(descriptor: int) -> bytes:
    """What the lock file, just opened, holds; empty when it names nobody."""
    with suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    content = os.pread(descriptor, RECORD_BYTES, 0)
    return content if content.strip(_BLANK) else b""


def parse_record(content: bytes) -> Owner | None:
    """The owner that a record names; None when it is none of GAFF's."""
    try:
        fields = json.loads(content)
        known = {name: fields[name] for name in Owner.__dataclass_fields__ if name in fields}
        owner = Owner(**known)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (owner.host, owner.boot, owner.namespace, owner.token)
    numbers = (owner.pid, owner.beat, 0 if owner.started is None else owner.started)
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        return None
    return owner if all(type(number) is int for number in numbers) and 0 < owner.pid < 1 << 31 else None


def read_owner(path: Path) -> Owner | None:
    """Whom the lock file names, dead or alive; None when nobody, or when it cannot be read."""
    try:
        return parse_record(read_record(path))
    except OSError:
        return None


def is_local(path: Path) -> bool:
    """Whether the file system is known to be one that no other machine writes to."""
    facts = ctypes.create_string_buffer(1024)  # struct statfs, which begins with the type
    return _libc.statfs(os.fsencode(path), facts) == 0 and ctypes.c_long.from_buffer(facts).value in _LOCAL


def _host() -> str:
    return socket.gethostname()[:_LONGEST_HOST]


def _boot() -> str:
    """Names the running kernel of this machine: another after each boot, the same in all its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown on {_host()}"


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _status(pid: int) -> tuple[str, int] | None:
    """State and start of a process, from fields 3 and 22 of its ``stat``; not by the wall clock, which is moved."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError):
        return None
