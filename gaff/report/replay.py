# SPDX-License-Identifier: Apache-2.0
"""The live view's :class:`~gaff.report.progress.Progress` of a run that is looked at from outside.

It is told, at the times at which they happened, what the supervisor of the run told its own: so the time left is the
same estimate.  What lies in the logs' ends is told line by line, earlier launches by what the journal says of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from gaff.plan.schedule import Segment
from gaff.report import progress
from gaff.report.history import Launch, Phase
from gaff.report.log_tail import LogTail
from gaff.report.progress import Progress
from gaff.supervisor.journal import Entry
from gaff.trainers.contract import IterationLogged, ResumedAt

_Timed = tuple[float, IterationLogged]

_PHASES: dict[Phase | None, progress.Phase] = {"training": "training", "resetting": "resetting", "starting": "starting"}


class _Clock:
    """Shows the time that it was last set to; is never set back."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def set(self, seconds: float) -> None:
        self.now_s = max(self.now_s, seconds)


def replay(
    segments: Sequence[Segment],
    train_iters: int,
    launches: Sequence[tuple[Launch, LogTail | None]],
    phase: Phase | None,
    now: datetime,
    resume: int | None = None,
) -> Progress:
    """The progress of a run.

    Args:
        segments: the plan, empty where it is not known.
        train_iters: 0 where it is not known.
        launches: oldest first, each with the end of its log where that was read.
        phase: what the run is doing.
        now: to which the time left is worked out.
        resume: the iteration that the next launch will start from, where that is known; else it goes on from the last.
    """
    clock = _Clock()
    live = Progress(clock)
    live.run_started(segments, train_iters, launches[0][0].start if launches else 0)
    for launch, tail in launches:
        at = launch.launched.time
        clock.set(at.timestamp() if at else 0.0)
        segment = segment_of(launch, segments)
        # What lies between two supervisors is no boundary, nor is what lies between two attempts.
        live.segment_started(segment, 2 if launch.is_first else launch.attempt)
        live.event(ResumedAt(launch.start))
        for seconds, line in _lines(launch, tail):
            clock.set(seconds)
            live.event(line)
        if launch.done:
            live.segment_finished(segment)
    if resume is not None:
        live.run_started(segments, train_iters, resume)
    live.phase = _PHASES.get(phase, "preparing")
    clock.set(now.timestamp())
    return live


def segment_of(launch: Launch, segments: Sequence[Segment]) -> Segment:
    """The segment that a launch was made for: the plan's, or, without it, what the launch was asked for."""
    asked = Segment(launch.segment, launch.start, launch.launched.number("stop") or launch.start, None)
    return next((segment for segment in segments if segment.number == launch.segment), asked)


def _lines(launch: Launch, tail: LogTail | None) -> Iterator[_Timed]:
    if tail is not None and tail.lines:
        yield from _dated(tail.lines, _last_line_s(launch.exited) or (tail.written and tail.written.timestamp()) or 0.0)
    elif launch.exited is not None:
        yield from _measured(launch, launch.exited)


def _last_line_s(exited: Entry | None) -> float | None:
    """When a launch that is over logged its last iteration, as far as the journal tells."""
    end_s = _seconds(exited, "end_s") if exited else None
    return exited.time.timestamp() - end_s if exited and exited.time and end_s is not None else None


def _dated(lines: Sequence[IterationLogged], last_s: float) -> list[_Timed]:
    """Lines with their times, told by the time of the last one and the speeds."""
    dated: list[_Timed] = []
    at, after = last_s, None
    for line in reversed(lines):
        if after is not None:
            at -= (after.iteration - line.iteration) * (after.ms_per_iteration or 0.0) / 1000
        dated.append((at, line))
        after = line
    return dated[::-1]


def _measured(launch: Launch, exited: Entry) -> list[_Timed]:
    """The first and the last line of a launch whose log is not read, as what the journal has measured tells them."""
    ms, start_s, last_s = exited.fields.get("ms_per_iteration"), _seconds(exited, "start_s"), _last_line_s(exited)
    reached, at = exited.number("iteration"), launch.launched.time
    if not isinstance(ms, int | float) or start_s is None or last_s is None or reached is None or at is None:
        return []
    lines = [(at.timestamp() + start_s + ms / 1000, launch.start + 1), (last_s, reached)]
    return [
        (seconds, IterationLogged(iteration, 0, None, None, ms, None, 0, 0))
        for seconds, iteration in lines
        if iteration > launch.start
    ]


def _seconds(entry: Entry, name: str) -> float | None:
    value = entry.fields.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
