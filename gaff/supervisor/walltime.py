# SPDX-License-Identifier: Apache-2.0
"""The end of the walltime: when it is, and where a launch is to stop so that its checkpoint is written before."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gaff.errors import InputError, Problem
from gaff.plan.schedule import Segment
from gaff.supervisor.pace import Pace

_RESERVE_S = 5.0  # to end in, and to write the report
_RESERVE_SHARE = 0.02  # of the time that is left; 29 minutes of a day are well spent on not losing an hour
_MOST_RESERVE_S = 120.0
_MEASURED = 5  # iterations at least, where no speed is known yet
_FEW = 20  # are trained without a known speed where they end a segment
_ALIGN_SHARE = 0.05  # of the iterations that fit, which may be given up to stop where the trainer logs a line
_ASK_SLURM_S = 20.0
_SLURM_LIMIT = re.compile(r"\bEndTime=(\S+)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PARTS = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")

Goal = Literal["reset", "end", "walltime", "measure"]


class Deadline:
    """A point in time, told in seconds that are left.

    Args:
        seconds: from now.
        clock: seconds, never set back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left_s(self) -> float:
        """Until the end itself; negative after it."""
        return self._end - self._clock()

    @property
    def usable_s(self) -> float:
        """Until the supervisor must begin to end."""
        left = self.left_s
        return left - min(max(_RESERVE_S, left * _RESERVE_SHARE), _MOST_RESERVE_S)


def parse_time_limit(text: str) -> float:
    """Seconds of a time: with a unit, ``90s`` or ``12h``, or as ``sbatch --time`` takes it, ``1:30:00`` or ``2-12``.

    Raises:
        InputError: it is none.
    """
    unit = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    seconds = float(unit[1]) * _UNITS[unit[2]] if unit else _slurm_time(text)
    if seconds <= 0:
        raise _no_time(text)
    return seconds


def _slurm_time(text: str) -> float:
    """sbatch(1): minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds]."""
    match = _PARTS.fullmatch(text.strip())
    if not match:
        raise _no_time(text)
    parts = [int(part) for part in match["rest"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(match["days"]) * 86400.0 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 1:
        return parts[0] * 60.0
    hours, minutes, seconds = ([0, *parts] if len(parts) == 2 else parts)[:3]
    return hours * 3600.0 + minutes * 60 + seconds


def _no_time(text: str) -> InputError:
    what = f"--time-limit {text!r} is no time"
    return InputError(Problem("time-limit", what, "write 90s, 45m, 12h, or as for sbatch: 2-12:00:00 or minutes"))


def slurm_seconds_left(environment: Mapping[str, str] = os.environ) -> float | None:
    """What Slurm leaves to the job that this process is in; None outside of one, without a limit, or unanswered.

    Newer versions say the end in SLURM_JOB_END_TIME; 22.05 is asked with ``scontrol``, which blocks for a while when
    its controller is down.
    """
    job = environment.get("SLURM_JOB_ID", "")
    if not job.isdecimal():
        return None
    end = environment.get("SLURM_JOB_END_TIME", "")
    if end.isdecimal():
        return float(end) - time.time()
    try:
        asked = ["scontrol", "show", "job", job]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=_ASK_SLURM_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = _SLURM_LIMIT.search(answer)
    try:
        return datetime.fromisoformat(told[1]).timestamp() - time.time() if told else None
    except ValueError:  # "Unknown", "UNLIMITED"
        return None


def find_deadline(limit: str | None) -> Deadline | None:
    """The end of this run's time: ``--time-limit``, else what Slurm says; of both the earlier."""
    found = [slurm_seconds_left(), None if limit is None else parse_time_limit(limit)]
    seconds = min((s for s in found if s is not None), default=None)
    return None if seconds is None else Deadline(seconds)


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
