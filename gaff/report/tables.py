# SPDX-License-Identifier: Apache-2.0
"""The series and the resets of a run as CSV, for spreadsheets and scripts (docs/metrics.md names the columns)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gaff.report.analysis.measures import Analysis, Recovery
from gaff.report.metrics.series import Floats, Series

METRICS_NAME = "metrics.csv"
RESETS_NAME = "resets.csv"

_AT_ONCE = 100_000  # lines

_FIGURES = (
    *("before", "peak", "peak_iteration", "spike", "area", "half_life", "recovered_iteration", "iterations", "spent"),
    *("loss_after", "relative_decrease"),
)


def loss_steps(lines: Series) -> tuple[Floats, Floats]:
    """(loss difference, relative decrease) of each line against the line before, NaN where either is unknown.

    As the nanoGPT experiment of the GAFF paper measured it: l(t) - l(t-1), and (l(t-1) - l(t)) / l(t-1).
    """
    loss = np.where(lines.is_right, lines.loss, np.nan)
    earlier = np.concatenate([[np.nan], loss[:-1]])[: len(loss)]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = (earlier - loss) / earlier
    return loss - earlier, np.where(np.isfinite(relative), relative, np.nan)


def metrics_csv(lines: Series) -> Iterator[str]:
    """One row for each iteration line, in pieces; a million rows are 100 MB.  What is not known is empty."""
    difference, decrease = loss_steps(lines)
    columns = {
        "iteration": lines.iteration,
        "segment": lines.segment,
        "loss": np.where(lines.partial, np.nan, lines.loss),
        "loss_difference": difference,
        "relative_decrease": decrease,
        "learning_rate": lines.learning_rate,
        "ms_per_iteration": lines.ms_per_iteration,
        "samples_per_s": lines.samples_per_s,
        "loss_scale": lines.loss_scale,
        "skipped": lines.skipped,
        "nan": lines.nan,
    }
    yield ",".join(columns) + "\n"
    for begin in range(0, len(lines), _AT_ONCE):
        cells = [_cells(column[begin : begin + _AT_ONCE]) for column in columns.values()]
        yield "\n".join(map(",".join, zip(*cells, strict=True))) + "\n"


def _cells(column: np.ndarray) -> list[str]:
    if column.dtype != np.float64:
        return [str(value) for value in column.tolist()]
    if np.isnan(column).all():
        return [""] * len(column)
    return ["" if value != value else f"{value:.9g}" for value in column.tolist()]


def resets_csv(analysis: Analysis) -> str:
    """One row for each reset: every measure of :class:`gaff.report.analysis.measures.Recovery`."""
    percentages = list(analysis.recoveries[0].within) if analysis.recoveries else []
    plateau = ("plateau_first", "plateau_last", "plateau_level", "plateau_excess")
    head = ["reset", "iteration", *_FIGURES, *(f"within_{x:g}_percent" for x in percentages), *plateau]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(_reset_row(recovery, percentages) for recovery in analysis.recoveries)
    return out.getvalue()


def _reset_row(recovery: Recovery, percentages: Sequence[float]) -> list[object]:
    plateau = recovery.plateau
    return list(
        _blank(
            [
                recovery.reset.number,
                recovery.reset.iteration,
                *(getattr(recovery, name) for name in _FIGURES),
                *(recovery.within[x] for x in percentages),
                *((None,) * 4 if plateau is None else (plateau.first, plateau.last, plateau.level, plateau.excess)),
            ]
        )
    )


def _blank(values: Iterable[object]) -> Iterator[object]:
    return ("" if value is None else value for value in values)
