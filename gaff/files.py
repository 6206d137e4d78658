# SPDX-License-Identifier: Apache-2.0
"""Files that survive a crash: written beside, flushed, renamed, and the directory flushed too.

A rename is atomic on one file system (POSIX); that it is seen by other nodes at once is not promised by NFS or Lustre.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def fsync_directory(directory: Path) -> None:
    """Make renames, creations and removals in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
