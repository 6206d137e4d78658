# SPDX-License-Identifier: Apache-2.0
"""The series of a run directory: what belongs to the weights that came out in the end.

When a segment was attempted again, what the later attempt trained again replaces what the earlier one had logged beyond
the point where it resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gaff.plan.schedule import Reset
from gaff.report.metrics.columns import LaunchLines
from gaff.report.metrics.run_metrics import Attempt, RunMetrics
from gaff.report.metrics.series import Series, joined
from gaff.report.metrics.store import Block, Key, read_store
from gaff.supervisor.journal import Entry, read_entries
from gaff.trainers.contract import ValidationLogged
from gaff.trainers.loglines import read_log


def load_metrics(run_dir: Path) -> RunMetrics:
    """The series of the run in ``run_dir``, finished or not.  Logs that are missing count as empty."""
    return metrics_of(run_dir, read_entries(run_dir))


def metrics_of(run_dir: Path, entries: Sequence[Entry]) -> RunMetrics:
    """As :func:`load_metrics`, from a journal that was already read."""
    return assemble(
        launches(run_dir, entries),
        resets=made_resets(entries),
        train_iters=_first_number(entries, "train_iters"),
        log_interval=_first_number(entries, "log_interval"),
    )


def assemble(
    attempts: Sequence[Attempt],
    *,
    resets: tuple[Reset, ...],
    train_iters: int | None = None,
    log_interval: int | None = None,
) -> RunMetrics:
    """The run that these launches, in the order of time, made."""
    interval = log_interval or _interval(attempts)
    attempts = [_timed(attempt, interval) for attempt in attempts]
    lines, validations = _history(attempts)
    return RunMetrics(
        series=lines,
        resets=resets,
        validations=validations,
        attempts=tuple(attempts),
        train_iters=train_iters or next((a.total for a in attempts if a.total), None),
        log_interval=interval,
        losses=_other_losses(attempts, lines),
    )


# --- the launches ---


def launches(run_dir: Path, entries: Sequence[Entry]) -> list[Attempt]:
    """Every launch in the order of time: those of the store, the others from their logs.

    A journal that was lost does not hide what the store has.
    """
    blocks = read_store(run_dir)
    told = {key_of(entry): entry for entry in entries if entry.event == "segment_launched"}
    return [_launch(run_dir, blocks.get(key), told.get(key)).as_attempt() for key in dict.fromkeys((*blocks, *told))]


def key_of(launched: Entry) -> Key:
    """Under which the store has a launch that the journal tells of."""
    return launched.number("segment") or 0, launched.number("attempt") or 1


def _launch(run_dir: Path, block: Block | None, launched: Entry | None) -> LaunchLines:
    if block is not None and (block.has_end or launched is None):
        return block.lines
    assert launched is not None
    try:
        return read_launch(run_dir, launched)
    except OSError:  # not written yet, or cleaned away: the run's history then lacks it, but for what the store has
        return block.lines if block is not None else _empty(launched)


def read_launch(run_dir: Path, launched: Entry) -> LaunchLines:
    """One launch from its log.

    Raises:
        OSError: it cannot be read.
    """
    lines = _empty(launched)
    for event in read_log(run_dir / (launched.text("log") or "")):
        lines.see(event)
    return lines


def _empty(launched: Entry) -> LaunchLines:
    return LaunchLines(*key_of(launched), launched.number("start") or 0)


# --- the journal ---


def _first_number(entries: Iterable[Entry], name: str) -> int | None:
    return next((n for e in entries if e.event == "run_started" and (n := e.number(name))), None)


def made_resets(entries: Iterable[Entry]) -> tuple[Reset, ...]:
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
            done = {**done, **begun}
            done = done if _all_before(done, start) else {n: r for n, r in done.items() if r.iteration <= start}
            begun = {}
    return tuple(done[number] for number in sorted(done))


def _all_before(resets: dict[int, Reset], start: int) -> bool:
    return not resets or next(reversed(resets.values())).iteration <= start


# --- the history ---


def _interval(attempts: Iterable[Attempt]) -> int | None:
    """``log_interval`` from the iterations that were logged: all are multiples of it, and neighbours differ by it."""
    iterations = [attempt.series.iteration for attempt in attempts]
    found = np.unique(np.concatenate(iterations)) if iterations else np.array([])
    return math.gcd(*found.tolist()) if len(found) > 1 else None


def _timed(attempt: Attempt, interval: int | None) -> Attempt:
    """``attempt`` with what only the interval tells: which line is partial, and how long each took."""
    lines = attempt.series
    if not len(lines):
        return attempt
    spans = np.full(len(lines), interval) if interval else np.diff(lines.iteration, prepend=attempt.start)
    ms = np.nan_to_num(lines.ms_per_iteration)
    partial = np.zeros(len(lines), dtype=np.bool_)
    if interval and attempt.start % interval and lines.iteration[0] - attempt.start < interval:
        partial[0], spans[0] = True, lines.iteration[0] - attempt.start
        ms[0] = np.median(ms[1:]) if len(ms) > 1 else 0.0  # the supervisor takes wrong speeds out, a log has them
    elapsed_s = spans * ms / 1000
    return replace(attempt, series=lines.with_columns(elapsed_s=elapsed_s, partial=partial))


def _history(attempts: Iterable[Attempt]) -> tuple[Series, tuple[ValidationLogged, ...]]:
    pieces: list[Series] = []
    validations: list[ValidationLogged] = []
    for attempt in attempts:
        if len(attempt.series):  # else it came to nothing, and took nothing away
            _cut(pieces, attempt.start)
            validations = [v for v in validations if v.iteration is not None and v.iteration <= attempt.start]
            pieces.append(attempt.series)
        validations += attempt.validations
    return joined(pieces), tuple(validations)


def _cut(pieces: list[Series], start: int) -> None:
    """Drop what lies behind ``start``."""
    while pieces and pieces[-1].iteration[-1] > start:
        kept = pieces.pop().until(start)
        if len(kept):
            pieces.append(kept)


def _other_losses(attempts: Iterable[Attempt], lines: Series) -> dict[str, dict[int, float]]:
    """Further losses of the final history: of each iteration what the newest launch logged."""
    found: dict[str, dict[int, float]] = {}
    for attempt in attempts:
        for name, values in attempt.losses.items():
            found.setdefault(name, {}).update(values)
    if not found:
        return {}
    known = set(lines.iteration.tolist())
    return {name: {i: v for i, v in sorted(values.items()) if i in known} for name, values in found.items()}
