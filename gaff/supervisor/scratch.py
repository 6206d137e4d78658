# SPDX-License-Identifier: Apache-2.0
"""Temporary files of a trainer: in a directory of the run's own, which is removed when the launch is over.

A trainer that is killed leaves behind what it had there at the moment (DeepSpeed compiles small probes when it is
imported, say), and nobody else would remove it.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

VARIABLE = "TMPDIR"


def make_scratch(run_id: str) -> Path | None:
    """The run's directory for temporary files on this machine, created if need be; None where it cannot be."""
    path = _path(run_id)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return path if _is_own(path) else None


def remove_scratch(run_id: str) -> None:
    """Remove it with all that is in it.  Nothing of the run may be at work."""
    path = _path(run_id)
    if _is_own(path):
        shutil.rmtree(path, ignore_errors=True)


def _path(run_id: str) -> Path:
    """Short, for sockets may be made in it, whose paths have 108 bytes at the most."""
    return Path(tempfile.gettempdir()) / f"gaff-{run_id[:12]}"


def _is_own(path: Path) -> bool:
    """Whether it is a directory of this user's, and no link that somebody put in a place that all can write to."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
