# SPDX-License-Identifier: Apache-2.0
"""File systems: of which kind, how much room, and how fast a checkpoint can be written."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

#: Kinds that several machines share, or that lie behind a network.
NETWORK = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.sshfs", "9p", "afs", "panfs"]
)
#: Kinds that are gone with the machine or its container.
MEMORY = frozenset(["tmpfs", "ramfs"])
_PIECE = 8_000_000
_MOST_BYTES = 64_000_000
_MOST_S = 2.0


@dataclass(frozen=True)
class FileSystem:
    """Attributes:
    directory: the nearest directory that is there.
    kind: as ``/proc/mounts`` calls it; ``unknown`` off Linux.
    free, total: bytes that this user may still write, and in all.
    files_free: further files it takes; None where it sets no limit.
    """

    directory: Path
    kind: str
    free: int
    total: int
    files_free: int | None


def existing(path: Path) -> Path:
    """``path``, or the nearest of its parents that is a directory."""
    path = path.absolute()
    while not os.path.isdir(path) and path != path.parent:
        path = path.parent
    return path


def file_system(path: Path, mounts: str | None = None) -> FileSystem:
    """The file system that ``path`` is on, or will be on.

    Args:
        path: need not be there.
        mounts: text as that of ``/proc/mounts``; None to read that file.
    """
    directory = existing(path)
    room = os.statvfs(directory)
    return FileSystem(
        directory=directory,
        kind=kind_of(directory, _read_mounts() if mounts is None else mounts),
        free=room.f_bavail * room.f_frsize,
        total=room.f_blocks * room.f_frsize,
        files_free=room.f_favail if room.f_files else None,
    )


def _read_mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def kind_of(directory: Path, mounts: str) -> str:
    """The kind of the mount that holds ``directory``: the deepest mount point above it, the last of equals."""
    real, best, kind = os.path.realpath(directory), -1, "unknown"
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if os.path.commonpath([real, point]) == point and len(point) >= best:
            best, kind = len(point), fields[2]
    return kind


def write_speed(directory: Path) -> float:
    """Bytes per second at which a file of up to 64 MB is written and flushed to the disk; it is removed again.

    Raises:
        OSError: it cannot be written.
    """
    piece = os.urandom(_PIECE)  # nothing that a file system compresses
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".gaff-doctor-") as file:
        begun, written = time.monotonic(), 0
        while written < _MOST_BYTES and time.monotonic() - begun < _MOST_S:
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())  # each time: one flush of everything could take minutes
            written += len(piece)
        spent = time.monotonic() - begun
        with contextlib.suppress(OSError):
            file.truncate(0)
    return written / max(spent, 1e-6)
