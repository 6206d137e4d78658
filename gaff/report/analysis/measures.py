# SPDX-License-Identifier: Apache-2.0
"""The results of an analysis, as plain data: what the page, the tables and the comparison show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gaff.plan.schedule import Reset


@dataclass(frozen=True)
class Plateau:
    """A stretch of a recovery in which the loss stayed where it was, above the level before the reset.

    Attributes:
        first, last: its first and last logged iteration.
        level: mean loss in it.
        excess: ``level`` above the level before the reset.
    """

    first: int
    last: int
    level: float
    excess: float

    @property
    def iterations(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Recovery:
    """The loss around one reset; each number is None where no line tells it.

    Attributes:
        reset: its number and iteration.
        until: the last logged iteration that counts: the next reset, or the end of the series.
        before: mean of the last logged losses (up to three, of the same segment) up to the reset.
        peak: the highest logged loss after it, until it has recovered or the next reset comes.
        peak_iteration: where that was logged.
        area: under the spike, loss times iterations: what lies above ``before``, until it has recovered or the next
            reset comes.
        recovered_iteration: the first logged iteration after the reset with a loss at or below ``before``, up to the
            next reset; None when it has not come back by then.
        within: by percentage x, iterations from the reset to the first line at or below ``before`` * (1 + x/100); None
            when it has not come back so far.
        half_life: iterations from the peak until what is above ``before`` has halved, interpolated between lines.
        plateau: the longest one, None where there is none.
        loss_after: the mean of the last logged losses (up to three) up to ``until``: where healing ended.
    """

    reset: Reset
    until: int
    before: float | None
    peak: float | None
    peak_iteration: int | None
    area: float | None
    recovered_iteration: int | None
    within: Mapping[float, int | None]
    half_life: float | None
    plateau: Plateau | None
    loss_after: float | None

    @property
    def iterations(self) -> int | None:
        """From the reset until the loss was back, as fine as the trainer's log interval."""
        return None if self.recovered_iteration is None else self.recovered_iteration - self.reset.iteration

    @property
    def spike(self) -> float | None:
        """How far the loss rose."""
        return None if self.peak is None or self.before is None else self.peak - self.before

    @property
    def spent(self) -> int:
        """Iterations from the reset until it had recovered, or until the next reset where it had not."""
        return (self.until if self.recovered_iteration is None else self.recovered_iteration) - self.reset.iteration

    @property
    def relative_decrease(self) -> float | None:
        """How much of the peak was lost again by the end, as a fraction of it (the nanoGPT experiment's measure)."""
        return None if not self.peak or self.loss_after is None else (self.peak - self.loss_after) / self.peak


@dataclass(frozen=True)
class Trend:
    """How a measure changes from reset to reset.

    Attributes:
        measure: a name among ``spike``, ``area``, ``iterations`` and ``half_life``.
        count: resets that have it.
        median: of the measure.
        slope: per reset, the median of the slopes between any two (Theil and Sen); None below 3 resets.
        relative: ``slope`` as a fraction of ``median``.
        p: two-sided probability of such an order by chance (Mann and Kendall); None below 4 resets.
    """

    measure: str
    count: int
    median: float | None
    slope: float | None
    relative: float | None
    p: float | None

    @property
    def change(self) -> float | None:
        """From the first reset to the last at this slope, as a fraction of ``median``."""
        return None if self.relative is None else self.relative * (self.count - 1)

    @property
    def is_clear(self) -> bool:
        """Whether chance alone is an unlikely explanation (p below 0.05)."""
        return self.p is not None and self.p < 0.05


@dataclass(frozen=True)
class Boundary:
    """What happened between two segments, in seconds; each is None where the journal does not tell it.

    Attributes:
        iteration: after which the trainer stopped.
        reset: number of the reset that was made there, None where there was none.
        begun: when the last iteration was logged.
        stop_s: from the last logged iteration to the trainer's end; its checkpoint is written in it.
        check_s: judging the checkpoint, and all else until the edit or the launch began.
        surgery_s: the edit, verification included; None without a reset.
        start_s: from the launch to the begin of the first iteration.
        first_s: the first iteration, or the first interval where the trainer logs every few, above what as many
            take at the run's median.
    """

    iteration: int
    reset: int | None
    begun: datetime | None
    stop_s: float | None
    check_s: float | None
    surgery_s: float | None
    start_s: float | None
    first_s: float | None

    @property
    def total_s(self) -> float:
        """The sum of what is known."""
        parts = (self.stop_s, self.check_s, self.surgery_s, self.start_s, self.first_s)
        return sum(part for part in parts if part is not None)


@dataclass(frozen=True)
class Analysis:
    """All of it.

    Attributes:
        recoveries: one for each reset.
        trends: by measure.
        recovering: iterations spent recovering, in all.
        share: of the iterations trained, the fraction spent recovering; None before any.
        recovering_s: what these iterations took, in seconds by the trainer's own clock.
        boundaries: in order.
    """

    recoveries: tuple[Recovery, ...]
    trends: tuple[Trend, ...]
    recovering: int
    share: float | None
    recovering_s: float
    boundaries: tuple[Boundary, ...]
