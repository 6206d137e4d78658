# SPDX-License-Identifier: Apache-2.0
"""The journal: one JSON object a line, appended and flushed to disk before the effect that it announces.

Every line has ``event``, ``time`` (UTC, ISO 8601) and ``monotonic_s`` (seconds, comparable within one process only).
A line cut off by a crash is skipped by readers and closed by the next writer.
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gaff.files import fsync_directory


class Journal:
    """Append-only history of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **fields: Any) -> None:
        """Append one line and make it durable."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": now, "monotonic_s": round(time.monotonic(), 3), **fields})
        is_new = not self.path.exists()
        with open(self.path, "ab+") as file:
            if file.tell() and not _ends_whole(self.path):
                file.write(b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            fsync_directory(self.path.parent)


def _ends_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
