# SPDX-License-Identifier: Apache-2.0
"""The iteration lines of a run as columns.  A million lines are 80 MB and no Python objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Series:
    """One element of each array for each iteration line, in the order of iterations; all are of shape ``(n,)``.

    Attributes:
        iteration: of the line; rising.
        loss: in nats per token, mean over the iterations since the line before; NaN where it could not be read or was
            no finite number.
        not_finite: a loss was printed, and it was NaN or infinite.
        learning_rate, samples_per_s, loss_scale: as printed; NaN where it could not be read.
        ms_per_iteration: as printed, milliseconds.
        skipped, nan: iterations since the line before that were skipped (fp16 overflow), and whose loss was NaN.
        segment: number of the segment.
        partial: the first line after a resume at an iteration that is no multiple of ``log_interval``: GPT-NeoX
            divides a partial sum by the full interval, so its loss and its speed are wrong.
        elapsed_s: time since the line before, in seconds, by the trainer's own clock.
    """

    iteration: Ints
    loss: Floats
    not_finite: Bools
    learning_rate: Floats
    ms_per_iteration: Floats
    samples_per_s: Floats
    loss_scale: Floats
    skipped: Ints
    nan: Ints
    segment: Ints
    partial: Bools
    elapsed_s: Floats

    def __len__(self) -> int:
        return len(self.iteration)

    @cached_property
    def is_right(self) -> Bools:
        """Where the loss is a finite number and right."""
        return np.isfinite(self.loss) & ~self.partial

    @cached_property
    def curve(self) -> tuple[Ints, Floats]:
        """(iterations, losses) of the lines whose loss is a finite number and right."""
        return self.iteration[self.is_right], self.loss[self.is_right]

    def rows(self, chosen: slice | Bools) -> Series:
        """Some of the lines."""
        return Series(*(getattr(self, item.name)[chosen] for item in fields(self)))

    def until(self, iteration: int) -> Series:
        """The lines up to and with this iteration."""
        return self.rows(slice(0, int(np.searchsorted(self.iteration, iteration, side="right"))))

    def after(self, iteration: int) -> Series:
        """The lines behind this iteration."""
        return self.rows(slice(int(np.searchsorted(self.iteration, iteration, side="right")), len(self)))

    def with_columns(self, **columns: Any) -> Series:
        """The same lines with some columns replaced."""
        return replace(self, **columns)


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("iteration", "skipped", "nan", "segment"), np.int64),
    **dict.fromkeys(("not_finite", "partial"), np.bool_),
}


def series(**columns: Any) -> Series:
    """A series of columns of equal length, of which ``iteration`` must be given; what is missing is unknown, or 0.

    Raises:
        ValueError: the columns are not equally long.
    """
    count = len(columns["iteration"])
    made: dict[str, Any] = {}
    for item in fields(Series):
        kind = _KINDS.get(item.name, np.float64)
        if item.name in columns:
            made[item.name] = np.asarray(columns[item.name], dtype=kind)
        elif kind is np.float64 and item.name != "elapsed_s":
            made[item.name] = np.full(count, np.nan)
        else:
            made[item.name] = np.zeros(count, dtype=kind)
        if len(made[item.name]) != count:
            raise ValueError(f"{item.name} has {len(made[item.name])} elements, iteration has {count}")
    return Series(**made)


def joined(pieces: Sequence[Series]) -> Series:
    """The pieces one behind the other."""
    if not pieces:
        return series(iteration=())
    if len(pieces) == 1:
        return pieces[0]
    return Series(*(np.concatenate([getattr(piece, item.name) for piece in pieces]) for item in fields(Series)))
