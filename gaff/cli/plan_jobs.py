# SPDX-License-Identifier: Apache-2.0
"""The chain of jobs that a run needs where each has a time limit.

Not an estimate beside the supervisor, but its own decisions: :func:`gaff.supervisor.walltime.choose_piece` is asked
launch by launch, with a clock that is moved on by what each launch takes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gaff.plan.schedule import Segment
from gaff.supervisor.journal import Entry, read_entries
from gaff.supervisor.pace import Pace
from gaff.supervisor.walltime import Deadline, choose_piece


@dataclass(frozen=True)
class Job:
    """One job of the chain: it trains from iteration ``start`` to ``stop`` in so many launches and seconds."""

    start: int
    stop: int
    launches: int
    seconds: float


@dataclass(frozen=True)
class Chain:
    """The jobs of a run, one after the other.

    Attributes:
        limit_s: of each job.
        jobs: in order.
        stuck_at: the iteration at which two jobs in a row end without a new checkpoint, which ends the run as failed;
            None where it is finished.
    """

    limit_s: float
    jobs: tuple[Job, ...]
    stuck_at: int | None

    @property
    def launches(self) -> int:
        return sum(job.launches for job in self.jobs)

    @property
    def seconds(self) -> float:
        """Of all jobs; waiting in the queue is not in it."""
        return sum(job.seconds for job in self.jobs)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; of each job (from, to, launches, seconds)."""
        return {
            "limit_seconds": self.limit_s,
            "jobs": len(self.jobs),
            "launches": self.launches,
            "total_seconds": self.seconds,
            "stuck_at": self.stuck_at,
            "each": [[job.start, job.stop, job.launches, job.seconds] for job in self.jobs],
        }


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class _Run:
    """What does not change from job to job."""

    segments: Sequence[Segment]
    saves: Sequence[int]
    iteration_s: float
    boundary_s: float
    limit_s: float
    log_interval: int
    reckoned: Pace | None

    def segment_after(self, iteration: int) -> Segment:
        return self.segments[bisect_right(self._stops, iteration)]

    @cached_property
    def _stops(self) -> list[int]:
        return [segment.stop for segment in self.segments]

    @cached_property
    def measured(self) -> Pace:
        """What a supervisor knows of the pace once it has seen a launch."""
        if self.reckoned is not None:
            return self.reckoned
        pace = Pace()
        fields = {"ms_per_iteration": self.iteration_s * 1000, "start_s": self.boundary_s, "end_s": 0.0}
        pace.seed([Entry("segment_exited", None, fields)])
        return pace


def chain(
    segments: Sequence[Segment],
    saves: Sequence[int],
    iteration_s: float,
    boundary_s: float,
    limit_s: float,
    log_interval: int,
    reckoned: Pace | None = None,
) -> Chain:
    """The jobs of a run in these segments.

    Args:
        segments: all.
        saves: iterations at which the config itself asks for a checkpoint, ascending.
        iteration_s: of one iteration.
        boundary_s: of one boundary, which each launch costs; all of it is taken to lie before the iterations.
        limit_s: of each job.
        log_interval: iterations between two lines of the trainer.
        reckoned: the pace that the supervisor reckons with from its first launch on, which is that of the slowest
            launches it has seen; by default the times above.
    """
    run = _Run(segments, saves, iteration_s, boundary_s, limit_s, log_interval, reckoned)
    pace, jobs, done, stuck = Pace(), [], 0, False
    while done < segments[-1].stop:
        job, pace = _job(run, done, pace)
        jobs.append(job)
        if job.stop == done:
            if stuck:
                return Chain(limit_s, tuple(jobs), done)
            stuck = True
        else:
            stuck = False
        done = job.stop
    return Chain(limit_s, tuple(jobs), None)


def pace_of(run_dir: Path) -> Pace | None:
    """The pace that a supervisor would reckon with who carries on the run in ``run_dir``; None where none is known."""
    pace = Pace()
    pace.seed(read_entries(run_dir))
    return None if pace.iteration_s is None else pace


def _job(run: _Run, start: int, pace: Pace) -> tuple[Job, Pace]:
    """One job from ``start`` on, and what is known of the pace after it."""
    clock = _Clock()
    deadline = Deadline(run.limit_s, clock)
    done, launches = start, 0
    while done < run.segments[-1].stop:
        segment = run.segment_after(done)
        piece = choose_piece(segment, done, pace, deadline, lambda stop: 1, run.log_interval)
        if piece is None:
            break
        launches, begun = launches + 1, clock.now
        clock.now += run.boundary_s + (piece.stop - done) * run.iteration_s
        if deadline.usable_s <= 0:  # only where no speed was known: the supervisor ends the launch
            reached = _reached(run, clock, deadline, begun, done, piece.stop)
            clock.now = run.limit_s
            known = reached // run.log_interval > done // run.log_interval
            job = Job(start, _newest_save(run, done, reached), launches, clock.now)
            return job, run.measured if known else pace
        pace, done = run.measured, piece.stop
        if piece.goal == "walltime":
            break
    return Job(start, done, launches, clock.now), pace


def _reached(run: _Run, clock: _Clock, deadline: Deadline, begun: float, start: int, stop: int) -> int:
    """The last iteration that a launch towards ``stop`` comes to before the supervisor ends it."""
    for iteration in range(start + 1, stop + 1):
        clock.now = begun + run.boundary_s + (iteration - start) * run.iteration_s
        if deadline.usable_s <= 0:
            return iteration - 1
    return stop


def _newest_save(run: _Run, start: int, reached: int) -> int:
    """Where the next job resumes: the newest checkpoint that the launch has written by itself, else its start."""
    newest = bisect_right(run.saves, reached)
    return run.saves[newest - 1] if newest > bisect_left(run.saves, start + 1) else start
