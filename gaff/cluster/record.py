# SPDX-License-Identifier: Apache-2.0
"""What was submitted for a run: ``jobs/submitted.jsonl`` in its directory, one JSON object a line, the newest last."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from gaff.cluster.allocation import FOLDER

RECORD = f"{FOLDER}/submitted.jsonl"  # in the run directory


@dataclass(frozen=True)
class Submission:
    """One job that was submitted.

    Attributes:
        scheduler: ``slurm`` or ``sge``.
        job: its id, with the task's number in an array.
        script: the script, relative to the run directory or absolute.
        time: UTC, ISO 8601.
    """

    scheduler: str
    job: str
    script: str
    time: str


def record(root: Path, scheduler: str, job: str, script: Path) -> None:
    """Append a submission to the record of run directory ``root``."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    path = root / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(Submission(scheduler, job, str(script), now)))
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"  # a crash cut the last one off
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def submissions(root: Path) -> list[Submission]:
    """What the record says, oldest first; lines that cannot be read are left out."""
    try:
        lines = (root / RECORD).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            said = json.loads(line)
            found.append(Submission(*(str(said[name]) for name in ("scheduler", "job", "script", "time"))))
        except (ValueError, KeyError, TypeError):
            continue
    return found
