# SPDX-License-Identifier: Apache-2.0
"""All series of one run, and the launches that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gaff.plan.schedule import Reset
from gaff.report.metrics.series import Floats, Ints, Series
from gaff.trainers.contract import ValidationLogged


@dataclass(frozen=True, eq=False)
class Attempt:
    """One launch of the trainer.

    Attributes:
        segment, attempt: its numbers in the journal.
        start: the iteration that it was told to go on from.
        series: its lines; none where it did not start where it was told.
        validations: as printed.
        errors: its decisive lines, each once.
        total: iterations of the whole run, as printed; None where no line tells it.
        losses: further losses than the main one, by name: {iteration: loss}.
    """

    segment: int
    attempt: int
    start: int
    series: Series
    validations: tuple[ValidationLogged, ...] = ()
    errors: tuple[str, ...] = ()
    total: int | None = None
    losses: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def trained_s(self) -> float:
        """The time that its logged iterations took, in seconds."""
        return float(self.series.elapsed_s.sum())


@dataclass(frozen=True, eq=False)
class RunMetrics:
    """The series of a run: what belongs to the weights that came out in the end.

    Attributes:
        series: the iteration lines of the run's final history.
        resets: those that the run's final history went through, in order.
        validations: as the trainer printed them, in order; with pipelines GPT-NeoX prints none.
        attempts: every launch, in order, also those that trained nothing.
        train_iters: the end of the run, None when neither journal nor logs say it.
        log_interval: iterations between two lines, None when it cannot be known yet.
        losses: further losses than the main one, by name: {iteration: loss}.
    """

    series: Series
    resets: tuple[Reset, ...]
    validations: tuple[ValidationLogged, ...]
    attempts: tuple[Attempt, ...]
    train_iters: int | None
    log_interval: int | None
    losses: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @cached_property
    def curve(self) -> tuple[Ints, Floats]:
        """(iterations, losses) of every line whose loss is a finite number and right."""
        return self.series.curve
