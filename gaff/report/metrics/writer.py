# SPDX-License-Identifier: Apache-2.0
"""Keeps ``metrics.jsonl`` while a run goes on.  An observer of the supervisor."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from gaff.plan.schedule import Segment
from gaff.report.metrics.gather import key_of
from gaff.report.metrics.store import NAME, Encoder, end_line, header, launch_line, read_store
from gaff.supervisor.journal import read_entries
from gaff.supervisor.observer import NullObserver
from gaff.trainers.contract import Event, IterationLogged
from gaff.trainers.loglines import read_log

_FLUSH_S = 1.0  # a reader sees a line this much late at most


class MetricsWriter(NullObserver):
    """Appends what the trainer says to the store, and first what an earlier supervisor could not.

    The store is a cache: where it cannot be written (a full disk), the run goes on, and the next launch tries again.
    """

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._file: TextIO | None = None
        self._encoder = Encoder()
        self._flushed_at = clock()

    def segment_started(self, segment: Segment, attempt: int, start: int) -> None:
        self._leave()
        try:
            catch_up(self._run_dir, but=(segment.number, attempt))
            self._file = _open(self._run_dir)
            self._file.write(launch_line(segment.number, attempt, start))
        except OSError:
            self._leave()
        self._encoder = Encoder()

    def event(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            self._file.write(self._encoder.lines(event))
            if not isinstance(event, IterationLogged) or self._clock() - self._flushed_at >= _FLUSH_S:
                self._file.flush()
                self._flushed_at = self._clock()
        except OSError:
            self._leave()

    def segment_finished(self, segment: Segment) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(end_line())
        self._leave()

    def close(self, outcome: str) -> None:
        self._leave()

    def _leave(self) -> None:
        """Let the file go.  A block without its end is made anew from its log, by :func:`catch_up`."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def catch_up(run_dir: Path, but: tuple[int, int] | None = None) -> None:
    """Append every launch of the journal that the store lacks or has without its end, from its log.

    To be called while no trainer is at work, or with the launch that is at work as ``but``.

    Raises:
        OSError: the store cannot be written.
    """
    blocks = read_store(run_dir)
    lacking = [
        entry
        for entry in read_entries(run_dir)
        if entry.event == "segment_launched"
        and (key := key_of(entry)) != but
        and not (key in blocks and blocks[key].has_end)
    ]
    if not lacking:
        return
    with _open(run_dir) as store:
        for entry in lacking:
            encoder = Encoder()
            try:
                lines = [encoder.lines(event) for event in read_log(run_dir / (entry.text("log") or ""))]
            except OSError:  # cleaned away
                continue
            store.write(launch_line(*key_of(entry), entry.number("start") or 0))
            store.writelines(lines)
            store.write(end_line())


def _open(run_dir: Path) -> TextIO:
    """The store, to be appended to; what a kill left of a line is closed by a newline, which costs nothing else."""
    path = run_dir / NAME
    is_new = not path.exists() or not path.stat().st_size
    store = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by the caller
    store.write(header() if is_new else "\n")
    return store
