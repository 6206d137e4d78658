# SPDX-License-Identifier: Apache-2.0
"""A schedule of resets shrunk to few iterations with its shape kept.  Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gaff.plan.config import Config
from gaff.plan.schedule import schedule
from gaff.plan.settings import GaffSettings
from gaff.plan.typed import at_least

_POINTS_PER_SEGMENT = 10  # logged at least, so that the curve shows each recovery


@dataclass(frozen=True)
class ShrunkSchedule:
    """The small schedule.

    Attributes:
        train_iters: iterations of the small run.
        reset_every, first_reset, last_reset: as in the ``gaff:`` block; None where not given.
        log_interval: divides every stop.
        scale: small ``train_iters`` by the original's.
        unit: the length of a normal segment.
        unit_scale: the same by the original's; what is counted per segment shrinks by it.
    """

    train_iters: int
    reset_every: int | None
    first_reset: int | None
    last_reset: int | None
    log_interval: int
    scale: float
    unit: int
    unit_scale: float

    def settings(self, gaff: GaffSettings) -> GaffSettings:
        """The user's ``gaff:`` block with this schedule."""
        return replace(
            gaff,
            reset_every=self.reset_every,
            first_reset=self.first_reset,
            last_reset=self.last_reset,
        )


def shrink_schedule(config: Config, iterations: int, resets: int) -> ShrunkSchedule:
    """Fit ``resets`` resets into ``iterations``.

    The first and the last segment keep their length relative to a normal one; where one of them is longer than a normal
    segment (a late first reset, or an end of forgetting long before the end of training), it keeps its fraction of the
    whole run instead, but is never shorter than a normal segment.
    """
    assert iterations > resets >= 1, "no room for the resets"
    gaff = config.gaff
    train_iters = at_least(config, "train_iters", 1)
    log_interval = at_least(config, "log_interval", 1)
    scale = iterations / train_iters
    if gaff.reset_every is None:
        small_log = max(1, min(round(log_interval * scale), iterations // (_POINTS_PER_SEGMENT * 4)))
        return ShrunkSchedule(iterations, None, None, None, small_log, scale, iterations, scale)
    segments = schedule(train_iters, gaff.reset_every, gaff.first_reset, gaff.last_reset)
    head, tail = segments[0].iterations, segments[-1].iterations
    unit = _unit(iterations, resets, gaff.reset_every, head, tail, train_iters)
    first = _edge(head, gaff.reset_every, unit, scale)
    last = first + (resets - 1) * unit
    unit, first, last, log = _aligned(unit, first, last, resets, log_interval, unit / gaff.reset_every)
    natural_last = first + (iterations - 1 - first) // unit * unit
    return ShrunkSchedule(
        train_iters=iterations,
        reset_every=unit,
        first_reset=None if first == unit else first,
        last_reset=None if last == natural_last else last,
        log_interval=log,
        scale=scale,
        unit=unit,
        unit_scale=unit / gaff.reset_every,
    )


def _edge(length: int, normal: int, unit: int, scale: float) -> int:
    """A first or last segment of the small run."""
    if length <= normal:
        return max(1, round(unit * length / normal))
    return max(unit, round(length * scale))


def _unit(iterations: int, resets: int, normal: int, head: int, tail: int, train_iters: int) -> int:
    """The longest normal segment with which everything fits."""
    scale = iterations / train_iters
    unit = iterations
    while unit > 1:
        needed = _edge(head, normal, unit, scale) + (resets - 1) * unit + _edge(tail, normal, unit, scale)
        if needed <= iterations:
            break
        unit -= 1
    return unit


def _aligned(
    unit: int, first: int, last: int, resets: int, log_interval: int, unit_scale: float
) -> tuple[int, int, int, int]:
    """(unit, first, last, log interval): a log line at every stop, so that no line after a resume is wrong.

    After a resume between two log lines, GPT-NeoX divides a partial sum by the full interval (contract 6.1).
    """
    log = max(1, min(round(log_interval * unit_scale), unit // _POINTS_PER_SEGMENT))
    if first == unit:
        unit = first = unit // log * log
    else:
        unit, first = max(log, unit // log * log), max(log, first // log * log)
    return unit, first, first + (resets - 1) * unit, log
