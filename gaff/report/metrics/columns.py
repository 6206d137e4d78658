# SPDX-License-Identifier: Apache-2.0
"""The lines of one launch, gathered one by one without an object for each, then turned into columns."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

import numpy as np

from gaff.report.metrics.run_metrics import Attempt
from gaff.report.metrics.series import Floats, Ints, Series, series
from gaff.trainers.contract import ErrorLogged, Event, IterationLogged, ResumedAt, ValidationLogged

#: Columns that every line has, in the order of ``metrics.jsonl``.
COLUMNS = ("iteration", "loss", "learning_rate", "ms_per_iteration", "samples_per_s")


@dataclass
class LaunchLines:
    """What one launch said, as far as it belongs to the run's series.

    Attributes:
        segment, attempt: its numbers in the journal.
        start: the iteration that it was told to go on from.
        values: :data:`COLUMNS` of each line, one behind the other; NaN for what is unknown.
        skipped, nan: by iteration, where they are not 0.
        not_finite: iterations whose loss was printed and was no finite number.
        loss_scale: by iteration, where it changed.
        losses: further losses by name and iteration.
        resumed: where the trainer says that it started from; None where it says nothing.
    """

    segment: int
    attempt: int
    start: int
    values: array[float] = field(default_factory=lambda: array("d"))
    skipped: dict[int, int] = field(default_factory=dict)
    nan: dict[int, int] = field(default_factory=dict)
    not_finite: set[int] = field(default_factory=set)
    loss_scale: dict[int, float] = field(default_factory=dict)
    losses: dict[str, dict[int, float]] = field(default_factory=dict)
    validations: list[ValidationLogged] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    resumed: int | None = None
    total: int | None = None
    _scale: float | None = None

    def see(self, event: Event) -> None:
        """One event of the launch's log, in order."""
        if isinstance(event, IterationLogged):
            self._iteration(event)
        elif isinstance(event, ResumedAt):
            self.resumed = event.iteration if self.resumed is None else self.resumed
        elif isinstance(event, ValidationLogged):
            self.validations.append(event)
        elif isinstance(event, ErrorLogged):
            self.errors.append(event.message)

    def _iteration(self, event: IterationLogged) -> None:
        iteration, loss = event.iteration, event.loss
        self.total = self.total or event.total
        if loss is not None and not math.isfinite(loss):
            self.not_finite.add(iteration)
            loss = None
        figures = (loss, event.learning_rate, event.ms_per_iteration, event.samples_per_s)
        self.values.append(iteration)
        self.values.extend([math.nan if figure is None else figure for figure in figures])
        if event.skipped:
            self.skipped[iteration] = event.skipped
        if event.nan:
            self.nan[iteration] = event.nan
        if event.loss_scale is not None and event.loss_scale != self._scale:
            self._scale = self.loss_scale[iteration] = event.loss_scale
        for name, value in event.losses.items():
            self.losses.setdefault(name, {})[iteration] = value

    def as_attempt(self) -> Attempt:
        """The launch, once all of it was seen.

        A launch that did not start where it was told (GPT-NeoX trains from scratch when it finds nothing to load) adds
        no lines and no validations.
        """
        counts = self.resumed is None or self.resumed == self.start
        return Attempt(
            segment=self.segment,
            attempt=self.attempt,
            start=self.start,
            series=self._series() if counts else series(iteration=()),
            validations=tuple(self.validations) if counts else (),
            errors=tuple(dict.fromkeys(self.errors)),
            total=self.total,
            losses=self.losses if counts else {},
        )

    def _series(self) -> Series:
        table = np.frombuffer(self.values, dtype=np.float64).reshape(-1, len(COLUMNS))
        table = _in_order(table[table[:, 0] > self.start])
        iteration = table[:, 0].astype(np.int64)
        columns = {name: table[:, place] for place, name in enumerate(COLUMNS) if place}
        return series(
            iteration=iteration,
            **columns,
            not_finite=np.isin(iteration, list(self.not_finite)),
            loss_scale=_held(iteration, self.loss_scale),
            skipped=_sparse(iteration, self.skipped),
            nan=_sparse(iteration, self.nan),
            segment=np.full(len(iteration), self.segment),
        )


def _in_order(table: Floats) -> Floats:
    """Rows in the order of iterations, the last one of several with the same."""
    iteration = table[:, 0]
    if (np.diff(iteration) > 0).all():
        return table
    table = table[np.argsort(iteration, kind="stable")]
    is_last = np.append(np.diff(table[:, 0]) > 0, True)
    return np.compress(is_last, table, axis=0)


def _sparse(iteration: Ints, known: dict[int, int]) -> Ints:
    """The values of ``known`` at their iterations, 0 elsewhere."""
    column = np.zeros(len(iteration), dtype=np.int64)
    if known:
        at = np.fromiter(known, dtype=np.int64)
        place = np.searchsorted(iteration, at)
        inside = (place < len(iteration)) & (iteration[np.minimum(place, len(iteration) - 1)] == at)
        column[place[inside]] = np.fromiter(known.values(), dtype=np.int64)[inside]
    return column


def _held(iteration: Ints, changes: dict[int, float]) -> Floats:
    """The value of the newest change at each iteration, NaN before the first."""
    if not changes or not len(iteration):
        return np.full(len(iteration), np.nan)
    at = np.array(sorted(changes), dtype=np.int64)
    values = np.array([changes[i] for i in at.tolist()])
    place = np.searchsorted(at, iteration, side="right")
    held: Floats = np.asarray(np.where(place > 0, values[np.maximum(place - 1, 0)], np.nan), dtype=np.float64)
    return held
