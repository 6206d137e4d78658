# SPDX-License-Identifier: Apache-2.0
"""Where the time between two segments went, boundary by boundary.  Pure.

From the journal's own times, and from the trainer's for its first iterations.  Only boundaries that one supervisor went
through from end to end are told: what lies between two commands, or behind a failed launch, is no boundary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from gaff.report.analysis.measures import Boundary
from gaff.report.metrics.run_metrics import Attempt, RunMetrics
from gaff.supervisor.journal import Entry


@dataclass
class _Crossing:
    """Two launches of one supervisor, one after the other, and the reset between them."""

    exited: Entry
    launched: Entry
    reset: Entry | None
    then_exited: Entry | None = None


def boundaries(metrics: RunMetrics, entries: Sequence[Entry]) -> tuple[Boundary, ...]:
    """One for each boundary of the run, in order.  ``entries``: the run's whole journal."""
    attempts = {(attempt.segment, attempt.attempt): attempt for attempt in metrics.attempts}
    speeds = metrics.series.ms_per_iteration[np.isfinite(metrics.series.ms_per_iteration) & ~metrics.series.partial]
    typical_s = float(np.median(speeds)) / 1000 if len(speeds) else None
    return tuple(_boundary(crossing, attempts, typical_s) for crossing in _crossings(entries))


def _crossings(entries: Sequence[Entry]) -> Iterator[_Crossing]:
    exited: Entry | None = None
    done = False  # the launch that exited left its checkpoint
    reset: Entry | None = None
    open_one: _Crossing | None = None
    for entry in entries:
        if entry.event == "run_started" or entry.event == "trainer_failed":
            if open_one is not None:
                yield open_one
            exited, done, reset, open_one = None, False, None, None
        elif entry.event == "segment_exited":
            if open_one is not None:
                open_one.then_exited = entry
                yield open_one
            exited, done, reset, open_one = entry, False, None, None
        elif entry.event == "segment_done":
            done = True
        elif entry.event == "reset_done":
            reset = entry
        elif entry.event == "segment_launched":
            open_one = _Crossing(exited, entry, reset) if exited is not None and done else None
            exited = None
    if open_one is not None:
        yield open_one


def _boundary(crossing: _Crossing, attempts: Mapping[tuple[int, int], Attempt], typical_s: float | None) -> Boundary:
    launched, reset = crossing.launched, crossing.reset
    stop_s = _seconds(crossing.exited, "last_line_s")
    surgery_s = None if reset is None else _seconds(reset, "seconds")
    between_s = _between(crossing.exited, launched)
    start_s, first_s = _begin(crossing, attempts, typical_s)
    ended = crossing.exited.time
    return Boundary(
        iteration=launched.number("start") or 0,
        reset=None if reset is None else reset.number("reset"),
        begun=None if ended is None else ended - timedelta(seconds=stop_s or 0.0),
        stop_s=stop_s,
        check_s=None if between_s is None else max(0.0, between_s - (surgery_s or 0.0)),
        surgery_s=surgery_s,
        start_s=start_s,
        first_s=first_s,
    )


def _begin(
    crossing: _Crossing, attempts: Mapping[tuple[int, int], Attempt], typical_s: float | None
) -> tuple[float | None, float | None]:
    """(start, what the first interval took more than usual), in seconds."""
    launched, exited = crossing.launched, crossing.then_exited
    line_s = None if exited is None else _seconds(exited, "first_line_s")
    attempt = attempts.get((launched.number("segment") or 0, launched.number("attempt") or 1))
    if attempt is None or not len(attempt.series):
        return None, None
    first = attempt.series
    took_s = float(first.elapsed_s[0])
    start_s = None if line_s is None else max(0.0, line_s - took_s)
    if typical_s is None:
        return start_s, None
    span = int(first.iteration[0]) - attempt.start
    return start_s, max(0.0, took_s - span * typical_s)


def _between(exited: Entry, launched: Entry) -> float | None:
    """Seconds, by the clock that is never set back where both lines have it."""
    ticks = [_seconds(entry, "monotonic_s") for entry in (exited, launched)]
    if ticks[0] is not None and ticks[1] is not None:
        return max(0.0, ticks[1] - ticks[0])
    if exited.time is None or launched.time is None:
        return None
    return max(0.0, (launched.time - exited.time).total_seconds())


def _seconds(entry: Entry, name: str) -> float | None:
    value = entry.fields.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
