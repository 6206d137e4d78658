# SPDX-License-Identifier: Apache-2.0
"""The series of a run, from its journal and its trainers' logs: what belongs to the weights that came out in the end.

When a segment was attempted again, what the later attempt trained again replaces what the earlier one had logged beyond
the point where it resumed.  An attempt that did not start where it was told (GPT-NeoX trains from scratch when it finds
nothing to load) adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path

from gaff.plan.schedule import Reset
from gaff.supervisor.journal import Entry, read_entries
from gaff.trainers.contract import ErrorLogged, Event, IterationLogged, ResumedAt, ValidationLogged
from gaff.trainers.loglines import read_log


@dataclass(frozen=True, slots=True)
class Point:
    """One iteration line.  ``loss`` is the mean over the iterations since the line before; None where unreadable.

    ``partial`` marks the first line after a resume at an iteration that is no multiple of ``log_interval``: GPT-NeoX
    divides a partial sum by the full interval, so its loss and its speed are wrong.  ``elapsed_s`` is the
    time since the line before, in seconds.
    """

    iteration: int
    loss: float | None
    learning_rate: float | None
    ms_per_iteration: float | None
    skipped: int
    nan: int
    segment: int
    partial: bool = False
    elapsed_s: float = 0.0

    @property
    def finite_loss(self) -> float | None:
        """The loss, if it is a number and right."""
        return None if self.partial or self.loss is None or not math.isfinite(self.loss) else self.loss


@dataclass(frozen=True)
class Attempt:
    """One launch of the trainer."""

    segment: int
    attempt: int
    start: int
    points: tuple[Point, ...]
    validations: tuple[ValidationLogged, ...]
    errors: tuple[str, ...]
    total: int | None

    @property
    def trained_s(self) -> float:
        """The time that its logged iterations took, in seconds."""
        return sum(point.elapsed_s for point in self.points)


@dataclass(frozen=True)
class RunMetrics:
    """The series of a run, each in the order of iterations.

    Attributes:
        points: one for each iteration line of the run's final history.
        resets: those that the run's final history went through.
        validations: as the trainer printed them; with pipelines GPT-NeoX prints none.
        attempts: every launch, in order, also those that trained nothing.
        train_iters: the end of the run, None when neither journal nor logs say it.
        log_interval: iterations between two lines, None when it cannot be known yet.
    """

    points: tuple[Point, ...]
    resets: tuple[Reset, ...]
    validations: tuple[ValidationLogged, ...]
    attempts: tuple[Attempt, ...]
    train_iters: int | None
    log_interval: int | None

    @cached_property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """(iteration, loss) of every point whose loss is a finite number and right."""
        return tuple((p.iteration, loss) for p in self.points if (loss := p.finite_loss) is not None)


def load_metrics(run_dir: Path) -> RunMetrics:
    """The series of the run in ``run_dir``, finished or not.  Logs that are missing count as empty."""
    return metrics_of(run_dir, read_entries(run_dir))


def metrics_of(run_dir: Path, entries: Sequence[Entry]) -> RunMetrics:
    """As :func:`load_metrics`, from a journal that was already read."""
    attempts = [_attempt(run_dir, entry) for entry in entries if entry.event == "segment_launched"]
    interval = _first_number(entries, "log_interval") or _interval(attempts)
    attempts = [_finished(attempt, interval) for attempt in attempts]
    points, validations = _history(attempts)
    return RunMetrics(
        points=points,
        resets=_resets(entries),
        validations=validations,
        attempts=tuple(attempts),
        train_iters=_first_number(entries, "train_iters") or next((a.total for a in attempts if a.total), None),
        log_interval=interval,
    )


def _first_number(entries: Iterable[Entry], name: str) -> int | None:
    return next((n for e in entries if e.event == "run_started" and (n := e.number(name))), None)


def _resets(entries: Iterable[Entry]) -> tuple[Reset, ...]:
    """The resets between the segments of the final history.

    A kill can come after a reset and before its ``reset_done``: when training went on from there, the reset was made.
    When training went back to before it (its tag was damaged, say), it is to be made again.
    """
    begun: dict[int, Reset] = {}
    done: dict[int, Reset] = {}
    for entry in entries:
        number, iteration, start = entry.number("reset"), entry.number("iteration"), entry.number("start")
        if number is not None and iteration is not None and entry.event in ("reset_begun", "reset_done"):
            (done if entry.event == "reset_done" else begun)[number] = Reset(number, iteration)
        elif entry.event == "segment_launched" and start is not None:
            done = {n: reset for n, reset in {**begun, **done}.items() if reset.iteration <= start}
            begun = {}
    return tuple(done[number] for number in sorted(done))


def _attempt(run_dir: Path, entry: Entry) -> Attempt:
    segment, start = entry.number("segment") or 0, entry.number("start") or 0
    points: dict[int, Point] = {}
    validations: list[ValidationLogged] = []
    errors: list[str] = []
    resumed, total = None, None
    for event in _events(run_dir / (entry.text("log") or "")):  # one at a time: a log can have a million
        if isinstance(event, IterationLogged):
            total = total or event.total
            if event.iteration > start:
                points[event.iteration] = _point(event, segment)
        elif isinstance(event, ResumedAt):
            resumed = event.iteration if resumed is None else resumed
        elif isinstance(event, ValidationLogged):
            validations.append(event)
        elif isinstance(event, ErrorLogged):
            errors.append(event.message)
    counts = resumed is None or resumed == start
    return Attempt(
        segment=segment,
        attempt=entry.number("attempt") or 1,
        start=start,
        points=tuple(points[i] for i in sorted(points)) if counts else (),
        validations=tuple(validations) if counts else (),
        errors=tuple(errors),
        total=total,
    )


def _events(log: Path) -> Iterator[Event]:
    """What the log says; nothing where it is not written yet, or cleaned away: the run's history then lacks it."""
    try:
        yield from read_log(log)
    except OSError:
        return


def _point(event: IterationLogged, segment: int) -> Point:
    figures = (event.loss, event.learning_rate, event.ms_per_iteration, event.skipped, event.nan)
    return Point(event.iteration, *figures, segment)


def _interval(attempts: Iterable[Attempt]) -> int | None:
    """``log_interval`` from the iterations that were logged: all are multiples of it, and neighbours differ by it."""
    iterations = {p.iteration for attempt in attempts for p in attempt.points}
    return reduce(math.gcd, iterations) if len(iterations) > 1 else None


def _finished(attempt: Attempt, interval: int | None) -> Attempt:
    """``attempt`` with what only the interval tells: which line is partial, and how long each took."""
    # A line's speed is the time since the line before, divided by the full interval, also where that is wrong.
    points = [
        replace(p, elapsed_s=(interval or p.iteration - attempt.start) * (p.ms_per_iteration or 0.0) / 1000)
        for p in attempt.points
    ]
    if points and interval and attempt.start % interval and points[0].iteration - attempt.start < interval:
        points[0] = replace(points[0], partial=True)
    return replace(attempt, points=tuple(points))


def _history(attempts: Iterable[Attempt]) -> tuple[tuple[Point, ...], tuple[ValidationLogged, ...]]:
    points: list[Point] = []
    validations: list[ValidationLogged] = []
    for attempt in attempts:
        if attempt.points:  # else it came to nothing, and took nothing away
            points = [p for p in points if p.iteration <= attempt.start]
            validations = [v for v in validations if v.iteration is not None and v.iteration <= attempt.start]
        points += attempt.points
        validations += attempt.validations
    return tuple(points), tuple(validations)
