# SPDX-License-Identifier: Apache-2.0
"""One supervisor per run directory: an advisory lock that the kernel drops when its owner dies, however it dies.

``flock`` holds between processes of one machine, and between machines where the file system passes it on (NFS v4 and
Lustre with ``-o flock`` do); elsewhere two nodes could both believe they own the run.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaff.errors import InputError, Location, Problem


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs.

    Raises:
        InputError: another process holds it; the message says which.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            what = f"another supervisor is at work in this run directory ({_owner(file.read())})"
            raise InputError(
                Problem("run-locked", what, "wait for it or stop it", Location(str(path.parent)))
            ) from None
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        yield


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "it left no name"
