# SPDX-License-Identifier: Apache-2.0
"""A whole comparison, and as JSON (schema ``gaff.compare/1``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gaff.errors import InputError, Location, Problem
from gaff.report.compare.axes import Align, check_align
from gaff.report.compare.configs import Setting, differences, settings
from gaff.report.compare.figures import Figures, common_count, figures
from gaff.report.compare.runs import ComparedRun

SCHEMA = "gaff.compare/1"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs beside each other.

    Attributes:
        runs: in the order given.
        figures: of each run.
        settings: the runs by setting.
        baseline: the setting that the others are compared with; None where none is.
        differing: key of the config: its value in each run.
        align: along what the runs are laid, and compared with the baseline.
        count: losses in a final mean.
    """

    runs: tuple[ComparedRun, ...]
    figures: tuple[Figures, ...]
    settings: tuple[Setting, ...]
    baseline: Setting | None
    differing: dict[str, list[str]]
    align: Align
    count: int

    @property
    def has_losses(self) -> bool:
        return any(one.final is not None for one in self.figures)

    def of(self, setting: Setting) -> list[Figures]:
        """The figures of its runs."""
        return [self.figures[place] for place in setting.runs]


def compare(
    runs: Sequence[ComparedRun],
    align: Align = "iteration",
    baseline: Path | None = None,
    last: int | None = None,
) -> Comparison:
    """Compare runs.

    Args:
        baseline: one of them, by its directory; None takes the first that is trained without resets, if there is one.
        last: how many losses the final one is the mean of; None takes what :func:`common_count` says.

    Raises:
        InputError: the runs cannot be laid along ``align``, ``baseline`` is none of them, or one that has logged any
            losses has logged less than ``last``.
    """
    check_align(runs, align)
    grouped = tuple(settings(runs))
    chosen = _baseline(runs, grouped, baseline)
    count = _count(runs, last)
    base = [runs[place] for place in chosen.runs] if chosen else []
    return Comparison(
        runs=tuple(runs),
        figures=tuple(figures(run, count, base, align) for run in runs),
        settings=grouped,
        baseline=chosen,
        differing=differences(runs),
        align=align,
        count=count,
    )


def _baseline(runs: Sequence[ComparedRun], grouped: Sequence[Setting], named: Path | None) -> Setting | None:
    if named is None:
        return next((setting for setting in grouped if runs[setting.runs[0]].is_baseline), None)
    wanted = named.resolve()
    for setting in grouped:
        if any(runs[place].path.resolve() == wanted or runs[place].name == str(named) for place in setting.runs):
            return setting
    what = "this baseline is none of the runs compared"
    raise InputError(Problem("baseline", what, "name one of the runs given", Location(str(named))))


def _count(runs: Sequence[ComparedRun], last: int | None) -> int:
    if last is None:
        return common_count(runs)
    for run in runs:
        logged = len(run.metrics.curve[0])
        if 0 < logged < last:
            what = f"this run has logged {logged:,} losses, less than --last {last:,}"
            raise InputError(Problem("last", what, "give a lower number", Location(str(run.path))))
    return last


def to_json(comparison: Comparison, notes: Sequence[str]) -> dict[str, Any]:
    """All numbers, unrounded; docs/report.md has the schema."""
    name_of = {place: setting.name for setting in comparison.settings for place in setting.runs}
    return {
        "schema": SCHEMA,
        "align": comparison.align,
        "baseline": comparison.baseline.name if comparison.baseline else None,
        "losses_in_final_mean": comparison.count,
        "settings": [
            {"name": setting.name, "runs": [comparison.runs[place].name for place in setting.runs]}
            for setting in comparison.settings
        ],
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "setting": name_of[place],
                "finished": run.is_finished,
                "tokens_per_iteration": run.tokens_per_iteration,
                **asdict(numbers),
            }
            for place, (run, numbers) in enumerate(zip(comparison.runs, comparison.figures, strict=True))
        ],
        "config": {
            key: {run.name: value for run, value in zip(comparison.runs, values, strict=True)}
            for key, values in comparison.differing.items()
        },
        "notes": list(notes),
    }
