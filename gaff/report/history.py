# SPDX-License-Identifier: Apache-2.0
"""What a run's journal tells of where the run stands.  Pure; whatever is missing or unknown in it leaves a gap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from gaff.supervisor.journal import Entry

Phase = Literal["starting", "training", "resetting", "waiting to restart"]

_MOST_LAUNCHES = 20  # newest, which is what measured times are taken from
_MOST_WARNINGS = 10

_PHASES: dict[str, Phase] = {
    "run_started": "starting",
    "segment_launched": "starting",
    "segment_exited": "starting",
    "reset_begun": "resetting",
    "reset_done": "starting",
    "restart_planned": "waiting to restart",
}
_ENDS = ("run_finished", "run_interrupted", "run_failed")


@dataclass
class Launch:
    """One launch of the trainer, and how it ended as far as that is told."""

    launched: Entry
    exited: Entry | None = None
    done: bool = False  # with the checkpoint at the segment's end
    is_first: bool = False  # of its supervisor

    @property
    def start(self) -> int:
        return self.launched.number("start") or 0

    @property
    def segment(self) -> int:
        return self.launched.number("segment") or 0

    @property
    def log(self) -> str | None:
        return self.launched.text("log")

    @property
    def goal(self) -> str | None:
        return self.launched.text("goal")

    @property
    def attempt(self) -> int:
        return self.launched.number("attempt") or 1


@dataclass(frozen=True)
class ResetMade:
    """A reset in the run's history; ``time`` is None where no line tells when it was done."""

    number: int
    iteration: int
    time: datetime | None


@dataclass
class History:
    """The journal, read once from its first line to its last.

    Attributes:
        started: the last ``run_started``.
        ended: how the supervisor of that ended; None when it did not say.
        phase: what it was doing last.
        iteration: where the run stood by the last line that says so; None where none does.
        launches: the newest, oldest first.
        resets: those that the present weights went through, oldest first.
        restarts: how many were made automatically over the whole run.
        restart, failure: the newest ``restart_planned`` and ``trainer_failed``.
        warned: how many warnings there were over the whole run, notifications that failed among them.
        warnings: the newest of them, oldest first.
        set_aside: every ``tag_set_aside``.
        stop_asked: since ``started``.
        trains: the newest launch came after ``started``.
        last: the last line that has a time.
    """

    started: Entry | None = None
    ended: Entry | None = None
    phase: Phase = "starting"
    iteration: int | None = None
    launches: deque[Launch] = field(default_factory=lambda: deque(maxlen=_MOST_LAUNCHES))
    resets: dict[int, ResetMade] = field(default_factory=dict)
    restarts: int = 0
    restart: Entry | None = None
    failure: Entry | None = None
    warned: int = 0
    warnings: deque[Entry] = field(default_factory=lambda: deque(maxlen=_MOST_WARNINGS))
    set_aside: list[Entry] = field(default_factory=list)
    stop_asked: Entry | None = None
    trains: bool = False
    last: Entry | None = None
    _begun: dict[int, ResetMade] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        """Go on by one line."""
        event = entry.event
        self.last = entry if entry.time else self.last
        self.phase = _PHASES.get(event, self.phase)
        if event == "run_started":
            self.started, self.ended, self.stop_asked, self.trains = entry, None, None, False
            self._stands_at(entry.number("resume_iteration"))
        elif event in _ENDS:
            self.ended = entry
            self._stands_at(entry.number("iteration"))
        elif event.startswith("segment_"):
            self._segment(entry)
        elif event in ("reset_begun", "reset_done"):
            self._reset(entry)
        elif event in ("warning", "notify_failed"):  # who waits to be told in vain should see it here
            self.warned += 1
            self.warnings.append(entry)
        elif event == "trainer_failed":
            self.failure = entry
        elif event == "restart_planned":
            self.restarts, self.restart = self.restarts + 1, entry
        elif event == "stop_asked":
            self.stop_asked = entry
        elif event == "tag_set_aside":
            self.set_aside.append(entry)

    def _stands_at(self, iteration: int | None) -> None:
        self.iteration = self.iteration if iteration is None else iteration

    def _segment(self, entry: Entry) -> None:
        if entry.event == "segment_launched":
            start = entry.number("start")
            self.launches.append(Launch(entry, is_first=not self.trains))
            self.trains = True
            self._stands_at(start)
            if start is not None:  # what lies beyond is not in these weights; what lies before is, told or not
                self.resets = {n: r for n, r in {**self._begun, **self.resets}.items() if r.iteration <= start}
            self._begun = {}
            return
        if entry.event == "segment_exited" and self.launches:
            self.launches[-1].exited = entry
        if entry.event == "segment_done" and self.launches:
            self.launches[-1].done = True
        self._stands_at(entry.number("iteration"))

    def _reset(self, entry: Entry) -> None:
        number, iteration = entry.number("reset"), entry.number("iteration")
        if number is None or iteration is None:
            return
        if entry.event == "reset_done":
            self.resets[number] = ResetMade(number, iteration, entry.time)
        else:
            self._begun[number] = ResetMade(number, iteration, None)


def read_history(entries: Iterable[Entry]) -> History:
    """All of a journal."""
    history = History()
    for entry in entries:
        history.take(entry)
    return history
