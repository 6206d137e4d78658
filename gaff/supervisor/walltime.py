# SPDX-License-Identifier: Apache-2.0
"""The end of the walltime: when it is, and where a launch is to stop so that its checkpoint is written before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gaff.cluster.job import Job
from gaff.cluster.times import parse_time
from gaff.errors import InputError, Problem
from gaff.plan.schedule import Segment
from gaff.supervisor.pace import Pace

_RESERVE_S = 5.0  # to end in, and to write the report
_RESERVE_SHARE = 0.02  # of the time that is left; 29 minutes of a day are well spent on not losing an hour
_MOST_RESERVE_S = 120.0
_MEASURED = 5  # iterations at least, where no speed is known yet
_FEW = 20  # are trained without a known speed where they end a segment
_ALIGN_SHARE = 0.05  # of the iterations that fit, which may be given up to stop where the trainer logs a line
_MOVED_S = 20.0  # more than clocks and schedulers differ by
_PATIENCE_S = 120.0  # with a scheduler that does not say how much time there is

Goal = Literal["reset", "end", "walltime", "measure"]


class Deadline:
    """A point in time, told in seconds that are left.

    Args:
        seconds: from now.
        clock: seconds, never set back.
        limit: seconds from now that the source cannot put off; None for none.
        source: says the seconds that are left, where they may change; None where it cannot say.

    Attributes:
        cut_short: it was moved forward, as by a preemption.
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        limit: float | None = None,
        source: Callable[[], float | None] | None = None,
    ) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._latest = math.inf if limit is None else clock() + limit
        self._source = source
        self.cut_short = False

    @property
    def may_move(self) -> bool:
        """Whether somebody can be asked anew."""
        return self._source is not None

    def look_again(self) -> None:
        """Ask the source, for a job's end may be moved: by its owner, or by a job that takes its nodes."""
        seconds = self._source() if self._source else None
        if seconds is not None:
            before, self._end = self._end, min(self._clock() + seconds, self._latest)
            self.cut_short = self.cut_short or self._end < before - _MOVED_S

    @property
    def left_s(self) -> float:
        """Until the end itself; negative after it."""
        return self._end - self._clock()

    @property
    def usable_s(self) -> float:
        """Until the supervisor must begin to end."""
        left = self.left_s
        return left - min(max(_RESERVE_S, left * _RESERVE_SHARE), _MOST_RESERVE_S)


def find_deadline(limit: str | None, job: Job | None = None) -> Deadline | None:
    """The end of this run's time: ``--time-limit``, and what the job's scheduler says; of both the earlier.

    Raises:
        InputError: the limit is no time.
    """
    try:
        own = None if limit is None else parse_time(limit)
    except ValueError:
        remedy = "write 90s, 45m, 12h, or as for sbatch: 2-12:00:00 or minutes"
        raise InputError(Problem("time-limit", f"--time-limit {limit!r} is no time", remedy)) from None
    told = None if job is None else job.seconds_left(_PATIENCE_S)
    seconds = min((s for s in (told, own) if s is not None), default=None)
    if seconds is None:
        return None
    moves = job if job is not None and job.scheduler == "Slurm" else None  # Grid Engine does not move a job's end
    return Deadline(seconds, limit=own, source=None if moves is None else moves.seconds_left)


@dataclass(frozen=True)
class Piece:
    """What one launch is to train: up to ``stop``, and why there."""

    stop: int
    goal: Goal


def choose_piece(
    segment: Segment, start: int, pace: Pace, deadline: Deadline | None, saves: Callable[[int], int], log_interval: int
) -> Piece | None:
    """Where a launch from ``start`` stops: at the segment's end where that fits, else at what fits.

    Args:
        segment: ``start`` lies in it.
        pace: what was measured so far.
        deadline: None for no limit.
        saves: how many checkpoints a launch up to an iteration writes.
        log_interval: iterations between two lines of the trainer.

    Returns:
        None where not even one iteration fits.
    """
    whole = Piece(segment.stop, "reset" if segment.reset else "end")
    if deadline is None:
        return whole
    if deadline.usable_s <= 0:
        return None
    fits = pace.iterations_within(deadline.usable_s, saves(segment.stop))
    if fits is None:
        measured = _measurable(start, segment.stop, log_interval)
        return whole if measured is None else Piece(measured, "measure")
    if start + fits >= segment.stop:
        return whole
    if fits < 1:
        return None
    stop = start + fits
    aligned = stop // log_interval * log_interval  # a line that covers half an interval tells wrong figures
    return Piece(aligned if stop - aligned <= fits * _ALIGN_SHARE else stop, "walltime")


def _measurable(start: int, stop: int, log_interval: int) -> int | None:
    """Where a launch ends that tells the speed; None where the segment itself is short.

    Best after two lines of the trainer, as the first includes its warm-up; else after one; else by the time of it all.
    """
    lines = max(2, -(-_MEASURED // log_interval))
    ends = [(start // log_interval + lines) * log_interval]
    if stop - start > _FEW:
        ends += [start + log_interval] if start % log_interval == 0 else []
        ends += [start + _MEASURED]
    return next((end for end in ends if end < stop), None)
