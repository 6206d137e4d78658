# SPDX-License-Identifier: Apache-2.0
"""Series from logs alone, of runs that GAFF did not supervise: GPT-NeoX's own output, as a scheduler keeps it.

One log may hold several launches (appended to by one job after the other), and one run several logs.  A launch begins
where GPT-NeoX says which iteration it goes on from; without that word it goes on from just before its first line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from gaff.errors import InputError, Location, Problem
from gaff.plan.schedule import Reset
from gaff.report.metrics.columns import COLUMNS, LaunchLines
from gaff.report.metrics.gather import assemble
from gaff.report.metrics.run_metrics import Attempt, RunMetrics
from gaff.report.metrics.series import Series
from gaff.trainers.contract import ResumedAt
from gaff.trainers.loglines import read_log

#: Where resets were made: every so many iterations, after these, or wherever the log resumes.
Resets = int | tuple[int, ...] | Literal["restarts"]


def parse_resets(text: str) -> Resets:
    """``every:1000``, ``1000,2000,3000`` or ``restarts``.

    Raises:
        ValueError: it is none of these.
    """
    if text == "restarts":
        return "restarts"
    kind, colon, number = text.partition(":")
    if colon:
        if kind != "every" or int(number) < 1:
            raise ValueError(text)
        return int(number)
    found = tuple(sorted({int(item) for item in text.split(",")}))
    if not found or found[0] < 1:
        raise ValueError(text)
    return found


def metrics_of_logs(logs: Sequence[Path], resets: Resets = ()) -> RunMetrics:
    """The series of one run.

    Args:
        logs: in the order of time.
        resets: where they were made; those behind the last line are left out.

    Raises:
        InputError: a log cannot be read, or none has an iteration line.
    """
    attempts = [_as_attempt(lines) for log in logs for lines in _launches(log)]
    attempts = [replace(attempt, segment=n, series=_numbered(attempt, n)) for n, attempt in enumerate(attempts, 1)]
    run = assemble(attempts, resets=())
    if not len(run.series):
        what = "there is no iteration line of GPT-NeoX in it"
        raise InputError(
            Problem("log-empty", what, "give the file that the trainer's output went into", Location(str(logs[0])))
        )
    return replace(run, resets=_resets(resets, run))


def _launches(log: Path) -> Iterable[LaunchLines]:
    found = [LaunchLines(1, 1, 0)]
    try:
        for event in read_log(log):
            if isinstance(event, ResumedAt):
                if found[-1].values:
                    found.append(LaunchLines(1, 1, 0))
                found[-1].start = event.iteration
            found[-1].see(event)
    except OSError as error:
        what = f"the log cannot be read: {error.strerror or error}"
        raise InputError(Problem("log-unreadable", what, "name a file that can", Location(str(log)))) from None
    return found


def _as_attempt(lines: LaunchLines) -> Attempt:
    if lines.resumed is None and lines.values:
        lines.start = _start(lines)
    lines.resumed = None  # it went on from where it says
    return lines.as_attempt()


def _start(lines: LaunchLines) -> int:
    """From where a launch went on that does not say it: one interval before its first line."""
    iterations = lines.values[:: len(COLUMNS)]
    first = int(iterations[0])
    interval = int(iterations[1]) - first if len(iterations) > 1 else first
    return max(0, first - max(1, interval))


def _numbered(attempt: Attempt, segment: int) -> Series:
    return attempt.series.with_columns(segment=np.full(len(attempt.series), segment))


def _resets(wanted: Resets, run: RunMetrics) -> tuple[Reset, ...]:
    last = int(run.series.iteration[-1])
    if wanted == "restarts":
        starts = {attempt.start for attempt in run.attempts if attempt.start and len(attempt.series)}
        places: Iterable[int] = sorted(starts)
    elif isinstance(wanted, int):
        places = range(wanted, last, wanted)
    else:
        places = wanted
    return tuple(Reset(number, place) for number, place in enumerate((p for p in places if p < last), 1))
