# SPDX-License-Identifier: Apache-2.0
"""What every part of a supervisor at work has in hand, and how it tells what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gaff.cluster.job import Job
from gaff.plan.config import Config
from gaff.plan.schedule import Segment
from gaff.supervisor.journal import Journal
from gaff.supervisor.notify import Notifier
from gaff.supervisor.observer import Observer
from gaff.supervisor.pace import Pace
from gaff.supervisor.run_directory import RunDirectory
from gaff.supervisor.signals import Signals
from gaff.supervisor.walltime import Deadline
from gaff.supervisor.watchdogs.alarm import Alarm
from gaff.supervisor.watchdogs.history import History
from gaff.trainers.contract import Trainer


def _never_lost() -> str | None:
    return None


@dataclass(frozen=True)
class RunContext:
    """One run in one supervisor.

    Attributes:
        config: checked.
        segments: the whole plan, also what is done.
        directory, run_id: an opened run directory, whose lock is held.
        trainer: checked.
        observer, journal, notifier: whom to tell what happens.
        signals: what has come from outside.
        deadline: the end of the walltime; None without.
        job: the scheduler's job that this is; None outside of any.
        lost: why the run is no longer this supervisor's, as far as it has noticed; None while it is.
        confirm: the same, looked up now.
        gone: why its job is no longer this process, and will be started anew; None while it is.
        pace, history: what was measured and seen so far.
    """

    config: Config
    segments: tuple[Segment, ...]
    directory: RunDirectory
    run_id: str
    trainer: Trainer
    observer: Observer
    journal: Journal
    notifier: Notifier
    signals: Signals = field(default_factory=Signals)
    deadline: Deadline | None = None
    job: Job | None = None
    lost: Callable[[], str | None] = _never_lost
    confirm: Callable[[], str | None] = _never_lost
    gone: Callable[[], str | None] = _never_lost
    pace: Pace = field(default_factory=Pace)
    history: History = field(default_factory=History)

    @property
    def log_interval(self) -> int:
        """Iterations between two lines of the trainer; GPT-NeoX's default is 100."""
        return int(self.config.get("log_interval") or 100)

    def warn(self, name: str, what: str, iteration: int, **facts: Any) -> None:
        """Something that a person should know of, though the run goes on."""
        self.journal.write("warning", id=name, what=what, iteration=iteration, **facts)
        self.observer.message(f"warning: {what}")
        self.notifier.tell("warning", what, iteration, key=name)

    def alarm(self, alarm: Alarm) -> None:
        """A watchdog's alarm, whatever is done about it."""
        facts: Mapping[str, Any] = {k: v for k, v in alarm.facts.items() if k not in ("what", "iteration", "policy")}
        self.warn(alarm.id, alarm.what, alarm.iteration, policy=alarm.policy, **facts)
