# SPDX-License-Identifier: Apache-2.0
"""One supervisor per run directory: an advisory lock on a file of it, which dies with its owner."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gaff.errors import InputError, Location, Problem
from gaff.files import exclusive_lock

LOCK_NAME = "lock"  # in the run directory


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs.

    Raises:
        InputError: another process holds it; the message says which.
    """
    with open(path, "a+", encoding="utf-8") as file, ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(file.fileno()))
        except BlockingIOError:
            file.seek(0)
            what = f"another supervisor is at work in this run directory ({_owner(file.read())})"
            where = Location(str(path.parent))
            raise InputError(Problem("run-locked", what, "wait for it or stop it", where)) from None
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
