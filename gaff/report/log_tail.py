# SPDX-License-Identifier: Apache-2.0
"""The newest log of a run, and the last iteration lines of a log, however long it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from gaff.plan.schedule import Segment
from gaff.report.history import Launch
from gaff.supervisor.journal import Entry
from gaff.trainers.contract import IterationLogged
from gaff.trainers.loglines import read_events

_SIZES = (1 << 18, 1 << 22)  # bytes: the stacks of many ranks can follow the last iteration line
_LONGEST_LINE = 1 << 18


@dataclass(frozen=True)
class LogTail:
    """The end of one launch's log.

    Attributes:
        lines: iteration lines, oldest first, each iteration once.
        written: when the log was last written to; None where there is none.
    """

    lines: tuple[IterationLogged, ...]
    written: datetime | None


def read_tail(log: Path, start: int, log_interval: int | None) -> LogTail:
    """The last lines of a log that may be growing, missing or cut off.

    Args:
        log: the file.
        start: the iteration that the launch began from; lines up to there come from a trainer that began elsewhere.
        log_interval: iterations between two lines, as far as known.  The line before which it resumed inside an
            interval comes without the figures that GPT-NeoX divides wrongly.
    """
    try:
        with open(log, "rb") as file:
            facts = os.fstat(file.fileno())
            found: Sequence[IterationLogged] = ()
            for size in _SIZES:
                found = _iterations(_read_end(file.fileno(), facts.st_size, size))
                if found or size >= facts.st_size:
                    break
    except OSError:  # not written yet, or cleaned away
        return LogTail((), None)
    lines = {line.iteration: line for line in found if line.iteration > start}
    corrected = (_without_wrong_figures(line, start, log_interval) for line in lines.values())
    return LogTail(
        tuple(sorted(corrected, key=lambda line: line.iteration)), datetime.fromtimestamp(facts.st_mtime, timezone.utc)
    )


def launches_by_logs(run_dir: Path, segments: Sequence[Segment]) -> tuple[Launch, ...]:
    """The newest launch, by the logs alone: for a run whose journal is lost."""
    logs = [
        (int(log.parent.name), int(log.stem.removeprefix("attempt-")), log)
        for log in run_dir.glob("segments/*/attempt-*.log")
        if log.parent.name.isdecimal() and log.stem.removeprefix("attempt-").isdecimal()
    ]
    if not logs:
        return ()
    number, attempt, log = max(logs)
    start = next((segment.start for segment in segments if segment.number == number), 0)
    fields = {"segment": number, "attempt": attempt, "start": start, "log": str(log.relative_to(run_dir))}
    return (Launch(Entry("segment_launched", None, fields)),)


def _read_end(descriptor: int, length: int, size: int) -> bytes:
    begin = max(0, length - size)
    data = os.pread(descriptor, length - begin, begin)
    data = data.rpartition(b"\n")[0]  # the last line is still being written
    return data.partition(b"\n")[2] if begin else data


def _iterations(data: bytes) -> list[IterationLogged]:
    text = (line[:_LONGEST_LINE] for line in data.decode("utf-8", errors="replace").split("\n"))
    return [event for event in read_events(text) if isinstance(event, IterationLogged)]


def _without_wrong_figures(line: IterationLogged, start: int, log_interval: int | None) -> IterationLogged:
    if log_interval and start % log_interval and line.iteration - start < log_interval:
        return replace(line, loss=None, losses={}, ms_per_iteration=None, samples_per_s=None)
    return line
