# SPDX-License-Identifier: Apache-2.0
"""The journal: one JSON object a line, appended and flushed to disk before the effect that it announces.

Every line has ``event``, ``time`` (UTC, ISO 8601) and ``monotonic_s`` (seconds, comparable within one process only).
A line cut off by a crash is skipped by readers and closed by the next writer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic
from typing import Any

from gaff.errors import GaffError, Location, Problem
from gaff.files import fsync_directory
from gaff.supervisor.ownership import IDENTITY_NAME

JOURNAL_NAME = "journal.jsonl"  # in the run directory


class Journal:
    """Append-only history of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = False

    def write(self, event: str, **fields: Any) -> None:
        """Append one line and make it durable.

        Raises:
            OSError: it cannot be written.
            GaffError: the run directory is no longer there: a new file would be a run without its history.  A journal
                that alone was deleted is begun anew.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": now, "monotonic_s": round(monotonic(), 3), **fields})
        is_new = not self.path.exists()
        if is_new and self._begun and not self.path.with_name(IDENTITY_NAME).exists():
            what = "is no longer this run's directory: its journal is gone"
            remedy = "move it back, or carry the run on where it is now"
            raise GaffError(Problem("run-moved", what, remedy, Location(str(self.path.parent))))
        try:
            self._append(line.encode() + b"\n")
        except OSError as error:  # a write that fails does not say where
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if is_new:
            fsync_directory(self.path.parent)
        self._begun = True

    def _append(self, line: bytes) -> None:
        with open(self.path, "ab+") as file:
            if file.tell() and not _ends_whole(self.path):
                file.write(b"\n")
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _ends_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@dataclass(frozen=True)
class Entry:
    """One line of the journal.  ``time`` is None where the line has none that can be read."""

    event: str
    time: datetime | None
    fields: Mapping[str, Any]

    def number(self, name: str) -> int | None:
        """The whole number in field ``name``; None when it is missing or something else."""
        value = self.fields.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, name: str) -> str | None:
        value = self.fields.get(name)
        return value if isinstance(value, str) else None


def read_entries(run_dir: Path) -> tuple[Entry, ...]:
    """All readable lines of the journal, in order; none when there is no journal yet.

    A line that is no JSON object is passed over: a kill in the middle of a write leaves one.
    """
    try:
        content = (run_dir / JOURNAL_NAME).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ()
    entries = (_entry(line) for line in content.splitlines())
    return tuple(entry for entry in entries if entry is not None)


def _entry(line: str) -> Entry | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        return None
    return Entry(event=fields["event"], time=_time(fields.get("time")), fields=fields)


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value.replace("Z", "+00:00"))  # Python 3.10 does not know the Z
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
