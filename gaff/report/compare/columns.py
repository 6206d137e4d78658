# SPDX-License-Identifier: Apache-2.0
"""The columns of the table, and what stands in a cell: of one run, or mean and deviation of several seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from gaff.report.compare.axes import Unit, time_unit
from gaff.report.compare.comparison import Comparison
from gaff.report.compare.figures import Figures

NONE = "—"

#: Writes a value: by itself, or with as many decimals as another one has.
Write = Callable[[float, float | None], str]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in the CSV.
        heading: as short as a paper has it.
        meaning: a clause.
        value: of one run; None where it is not known.
        text: how a value is written.
        spread: how a deviation is written; None where that of seeds would say nothing.
        at_least: of one run, below which an unknown value cannot be.
        mark: of one run: sign of a note.
        none_is_zero: whether a column of zeros says nothing.
        absent: what stands for None.
        is_outcome: whether it is about what came out of a run, not about its recoveries or its cost.
    """

    key: str
    heading: str
    meaning: str
    value: Callable[[Figures], float | None]
    text: Write
    spread: Write | None = None
    at_least: Callable[[Figures], float | None] | None = None
    mark: Callable[[Figures], str] | None = None
    none_is_zero: bool = False
    absent: Callable[[Figures], str] = lambda figures: NONE
    is_outcome: bool = False


@dataclass(frozen=True)
class Cell:
    """``value`` is what is sorted by, None where nothing is known."""

    text: str
    value: float | None


def _count(value: float, like: float | None = None) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _about(value: float, like: float | None = None) -> str:
    """Three significant digits, no fewer than the whole number; with as many decimals as ``like`` has, where given."""
    size = abs(value if like is None else like)
    if size >= 100 or (like is None and value == round(value)):
        return f"{value:,.0f}"
    return f"{value:.{1 if size >= 10 else 2}f}"


def _loss(value: float, like: float | None = None) -> str:
    return f"{value:.3f}" if abs(value if like is None else like) < 100 else f"{value:,.1f}"


def _signed(value: float, like: float | None = None) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _percent(value: float, like: float | None = None) -> str:
    return f"{value:.1%}"


DAGGER, DOUBLE_DAGGER, SECTION = "†", "‡", "§"


def final_mark(figures: Figures) -> str:
    """The signs of the notes on a final loss."""
    if figures.final is None:
        return ""
    return DAGGER if figures.final.reset else DOUBLE_DAGGER if figures.final.recovering else ""


def difference_mark(figures: Figures) -> str:
    return SECTION if figures.difference is not None and not figures.difference.is_at_end else ""


def all_columns(comparison: Comparison) -> list[Column]:
    """Every column that there is, whether or not a run has it."""
    return [*(replace(column, is_outcome=True) for column in _outcome(comparison)), *_cost(comparison)]


def _outcome(comparison: Comparison) -> list[Column]:
    base = comparison.baseline.name if comparison.baseline else ""
    same = {"iteration": "iterations", "tokens": "tokens", "hours": "hours of training"}[comparison.align]
    return [
        Column(
            "reset_every",
            "k",
            "iterations between two resets",
            lambda f: f.reset_every,
            _count,
            absent=lambda f: NONE if f.resets else "never",
        ),
        Column("resets", "resets", "resets made", lambda f: f.resets, _count, none_is_zero=True),
        Column("iterations", "iterations", "iterations trained", lambda f: f.iterations, _count),
        Column(
            "final_loss",
            "final loss",
            f"mean of the last {comparison.count} logged losses",
            lambda f: f.final.mean if f.final else None,
            _loss,
            _loss,
            mark=final_mark,
        ),
        Column(
            "final_loss_sd",
            "its s.d.",
            f"standard deviation of these {comparison.count} losses",
            lambda f: f.final.sd if f.final else None,
            _loss,
        ),
        Column(
            "difference",
            f"Δ {base}",
            f"final loss minus that of {base} after as many {same}",
            lambda f: f.difference.value if f.difference else None,
            _signed,
            _loss,
            mark=difference_mark,
        ),
        Column("lowest_loss", "lowest", "lowest logged loss", lambda f: f.lowest, _loss, _loss),
        Column("validation_loss", "valid.", "last validation loss", lambda f: f.validation, _loss, _loss),
    ]


def _cost(comparison: Comparison) -> list[Column]:
    over = ", median over resets"
    training = time_unit(max(f.training_s for f in comparison.figures))
    outside = time_unit(max(f.outside_s or 0.0 for f in comparison.figures))
    return [
        Column(
            "iterations_to_recover",
            "back after",
            f"iterations until the loss is at or below the level before the reset{over}",
            lambda f: f.back.value,
            _about,
            _about,
            at_least=lambda f: f.back.at_least,
        ),
        Column("half_life", "half-life", f"until a spike has halved{over}", lambda f: f.half_life, _about, _about),
        Column("spike", "spike", f"how far the loss rises after a reset{over}", lambda f: f.spike, _loss, _loss),
        Column("share_recovering", "recovering", "share of iterations so spent", lambda f: f.share, _percent, _percent),
        _time(
            "training_s", "training", "time of the iterations, by the trainer's clock", lambda f: f.training_s, training
        ),
        _time(
            "outside_s", "outside", "time outside training: starts, checkpoints, resets", lambda f: f.outside_s, outside
        ),
        Column("launches", "launches", "launches of the trainer", lambda f: f.launches, _count),
        Column("restarts", "restarts", "after trouble, by itself", lambda f: f.restarts, _count, none_is_zero=True),
    ]


def _time(key: str, heading: str, meaning: str, value: Callable[[Figures], float | None], unit: Unit) -> Column:
    def text(seconds: float, like: float | None = None) -> str:
        size = (seconds if like is None else like) / unit.size
        return f"{seconds / unit.size:,.{1 if size < 100 else 0}f}"

    return Column(key, f"{heading} ({unit.name})", meaning, value, text, text)


def columns(comparison: Comparison) -> list[Column]:
    """Those that at least one run has."""
    return [column for column in all_columns(comparison) if any(_has(column, f) for f in comparison.figures)]


def _has(column: Column, figures: Figures) -> bool:
    value = column.value(figures)
    if value is None:
        return column.at_least is not None and column.at_least(figures) is not None
    return bool(value) or not column.none_is_zero


def cell(column: Column, group: Sequence[Figures]) -> Cell:
    """One cell: of a run; of several, mean ± standard deviation, or the number alone where all agree."""
    values = [column.value(figures) for figures in group]
    mark = "".join(dict.fromkeys(column.mark(f) for f in group)) if column.mark else ""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return _partly_known(column, group, known)
    middle = mean(known)
    text = column.text(middle, None)
    if len(set(known)) > 1 and column.spread is not None:
        text = f"{column.text(middle, middle)} ± {column.spread(stdev(known), middle)}"
    return Cell(text + mark, middle)


def _partly_known(column: Column, group: Sequence[Figures], known: Sequence[float]) -> Cell:
    """Where a run's value is not known, all that can be said is what the mean is above, if that."""
    bounds = [column.at_least(f) for f in group] if column.at_least else []
    told = [*known, *(bound for bound in bounds if bound is not None)]
    if len(told) == len(group):
        return Cell(f"≥ {column.text(mean(told), None)}", mean(told))
    return Cell(column.absent(group[0]), None)
