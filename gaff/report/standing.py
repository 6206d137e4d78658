# SPDX-License-Identifier: Apache-2.0
"""What a run's state is, judged from all that an onlooker can read of it.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal

from gaff.plan.schedule import Segment
from gaff.report.checkpoints import Newest
from gaff.report.history import History, Launch, Phase, ResetMade
from gaff.report.log_tail import LogTail
from gaff.report.progress import Progress
from gaff.report.replay import replay
from gaff.supervisor.lock_presence import Presence
from gaff.trainers.contract import IterationLogged

State = Literal["not started", "running", "finished", "interrupted", "failed", "died"]

_ENDS: dict[str, State] = {"run_finished": "finished", "run_interrupted": "interrupted", "run_failed": "failed"}


@dataclass(frozen=True)
class Standing:
    """All that was read, and what it means.

    Attributes:
        now: when it was read.
        history: the journal.
        segments: the plan, empty where it is not known.
        train_iters: None where nothing tells.
        launches: the newest, oldest first.
        tails: the ends of the newest launches' logs, as many as were read.
        newest: the newest whole tag.
        owner: who is at work.
        beat: when that one was last heard.
    """

    now: datetime
    history: History
    segments: tuple[Segment, ...]
    train_iters: int | None
    launches: tuple[Launch, ...]
    tails: tuple[LogTail, ...]
    newest: Newest
    owner: Presence
    beat: datetime | None

    @cached_property
    def state(self) -> State:
        history, ended = self.history, self.history.ended
        if self.owner.at_work and (ended is None or not self.is_same_supervisor):
            return "running"
        if ended is not None:
            return _ENDS[ended.event]
        if self.train_iters and self.newest.iteration >= self.train_iters:
            return "finished"
        return "died" if history.last or self.launches or self.newest.iteration else "not started"

    @property
    def is_same_supervisor(self) -> bool:
        """Whether the one at work is the one that the journal tells of last."""
        started, owner = self.history.started, self.owner.owner
        if started is None or owner is None or started.number("pid") is None:
            return True
        return (started.text("host"), started.number("pid")) == (owner.host, owner.pid)

    @property
    def why(self) -> str | None:
        """What the supervisor said when it was interrupted or failed."""
        ended = self.history.ended
        return ended.text("why") if ended and _ENDS[ended.event] == self.state else None

    @cached_property
    def phase(self) -> Phase | None:
        if self.state != "running":
            return None
        if not self.is_same_supervisor:
            return "starting"
        if self.history.phase == "starting" and self.history.trains and self._is_open and self.tails[-1].lines:
            return "training"
        return self.history.phase

    @property
    def _is_open(self) -> bool:
        return bool(self.launches) and self.launches[-1].exited is None

    @cached_property
    def iteration(self) -> int:
        """The last one that was trained, as far as anything tells."""
        told = [self.history.iteration or 0, self.newest.iteration]
        if self.tails and self.tails[-1].lines and (self.history.trains or not self.history.started):
            told.append(self.tails[-1].lines[-1].iteration)
        return max(told)

    @cached_property
    def live(self) -> Progress:
        unread: list[LogTail | None] = [None] * (len(self.launches) - len(self.tails))
        launches = list(zip(self.launches, [*unread, *self.tails], strict=True))
        restart = self.history.restart if self.phase == "waiting to restart" else None
        resume = restart.number("iteration") if restart else None
        return replay(self.segments, self.train_iters or 0, launches, self.phase, self.now, resume)

    @property
    def lines(self) -> list[IterationLogged]:
        return [line for tail in self.tails for line in tail.lines]

    @property
    def resets_done(self) -> list[ResetMade]:
        """Those of the plan that were made, oldest first: told by checkpoint or journal, or trained on from."""
        in_tag = {n: ResetMade(n, self.newest.iteration, None) for n in self.newest.resets}
        told = {**in_tag, **self.history.resets}
        planned = (segment.reset for segment in self.segments if segment.reset)
        made = (r for r in planned if r.iteration < self.iteration or r.number in told)
        return [told.get(r.number, ResetMade(r.number, r.iteration, None)) for r in made]
