# SPDX-License-Identifier: Apache-2.0
"""Files that survive a crash: written beside, flushed, renamed, and the directory flushed too.

A rename is atomic on one file system (POSIX); that it is seen by other nodes at once is not promised by NFS or Lustre.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Errors of the machine under a file, which say nothing about the file: a hung or lost file system, no resources left.
TROUBLE = frozenset(
    [
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENODEV, errno.EMFILE, errno.ENFILE),
        *(errno.ENOMEM, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN),
        *(errno.ENETUNREACH, errno.ECONNRESET, errno.ECONNABORTED),
    ]
)

_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file (btrfs, XFS)

# What a file system without locks answers: NFS, the same of a descriptor that is read-only, Lustre (ENOSYS) and Cray
# DVS, which lets the kernel's own ENOTSUPP (524) out, for which Python has no name.
_NO_LOCKS = (errno.ENOLCK, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, 524)


@contextmanager
def exclusive_lock(descriptor: int) -> Iterator[bool]:
    """Hold the advisory lock of an open file or directory while the block runs.

    The kernel drops it when its owner dies, however it dies.  It holds between machines only where the file system
    passes ``flock`` on (NFS v4 and Lustre mounted with ``flock`` do).

    Yields:
        Whether a lock is held; False where the file system has none.

    Raises:
        BlockingIOError: another process holds it.
    """
    held = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        held = False
    yield held


def fsync_file(path: Path) -> None:
    """Make the content of a file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(directory: Path) -> None:
    """Make renames, creations and removals in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clone_or_copy(source: Path, target: Path) -> None:
    """Copy a file with its times and mode; where the file system can share blocks (reflink), nothing is copied."""
    with open(source, "rb") as reading, open(target, "wb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
        except OSError:
            shutil.copyfile(source, target)
    shutil.copystat(source, target)


def make_writable(path: Path) -> None:
    """Let the owner write to a file or directory."""
    path.chmod(path.stat().st_mode | (stat.S_IRWXU if path.is_dir() else stat.S_IWUSR))


def write_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: after a crash it holds all of the old or all of the new."""
    temporary = path.with_name(f".{path.name}.gaff-tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_directory(path.parent)


def write_json_durably(path: Path, value: Any) -> None:
    write_durably(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def make_directory_durably(path: Path) -> None:
    """Create ``path`` (and parents) and make its existence durable."""
    path.mkdir(parents=True, exist_ok=True)
    fsync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there, and make that durable."""
    path.unlink(missing_ok=True)
    fsync_directory(path.parent)
