# SPDX-License-Identifier: Apache-2.0
"""The table of resets: every column of a recovery, sortable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from gaff.report import format as fmt
from gaff.report.analysis.measures import Recovery
from gaff.report.figure.points import evenly

MAX_ROWS = 1200
_NONE = "—"


@dataclass(frozen=True)
class Column:
    """``value`` is what is sorted by; ``text`` is how it is written."""

    heading: str
    meaning: str
    value: Callable[[Recovery], float | None]
    text: Callable[[float], str]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


_COLUMNS = (
    Column("reset", "its number", lambda r: r.reset.number, _count),
    Column("after iteration", "it was made after this iteration", lambda r: r.reset.iteration, _count),
    Column("loss before", "mean of the last logged losses up to the reset", lambda r: r.before, fmt.loss),
    Column("highest", "highest logged loss after it", lambda r: r.peak, fmt.loss),
    Column("at iteration", "where the highest loss was logged", lambda r: r.peak_iteration, _count),
    Column("spike", "highest loss minus the loss before", lambda r: r.spike, fmt.loss),
    Column("area", "under the spike, nats times iterations", lambda r: r.area, _short),
    Column("half-life", "iterations until the spike has halved", lambda r: r.half_life, _short),
    Column("back after", "iterations until the loss is at or below the loss before", lambda r: r.iterations, _count),
)
_LAST_COLUMNS = (
    Column("spent", "iterations until it was back, or until the next reset", lambda r: r.spent, _count),
    Column(
        "plateau",
        "length of the longest plateau, iterations",
        lambda r: r.plateau.iterations if r.plateau else None,
        _count,
    ),
    Column("from", "first iteration of the plateau", lambda r: r.plateau.first if r.plateau else None, _count),
    Column("its level", "mean loss in the plateau", lambda r: r.plateau.level if r.plateau else None, fmt.loss),
    Column(
        "above before",
        "plateau's level minus the loss before",
        lambda r: r.plateau.excess if r.plateau else None,
        fmt.loss,
    ),
    Column("loss at end", "mean of the last logged losses before the next reset", lambda r: r.loss_after, fmt.loss),
    Column("decrease", "from the highest loss to that at the end, relative", lambda r: r.relative_decrease, _percent),
)


def columns(recoveries: Sequence[Recovery]) -> tuple[Column, ...]:
    """Those of these recoveries: one for each percentage that they tell of, none for plateaus where there are none."""
    within = (_within(percent) for percent in sorted({percent for r in recoveries for percent in r.within}))
    has_plateau = any(r.plateau for r in recoveries)
    last = (c for c in _LAST_COLUMNS if has_plateau or "plateau" not in f"{c.heading} {c.meaning}")
    return (*_COLUMNS, *within, *last)


def _within(percent: float) -> Column:
    meaning = f"iterations until the loss is within {percent:g}% of the loss before"
    return Column(f"within {percent:g}%", meaning, lambda r: r.within.get(percent), _count)


def reset_table(recoveries: Sequence[Recovery]) -> str:
    """The table as HTML; above ``MAX_ROWS`` resets, as many of them, evenly chosen."""
    shown = [recoveries[place] for place in evenly(len(recoveries), MAX_ROWS)]
    chosen = columns(recoveries)
    head = "".join(
        f'<th scope="col" aria-sort="none" title="{escape(c.meaning)}"><button type="button">{escape(c.heading)}'
        "</button></th>"
        for c in chosen
    )
    rows = "\n".join("<tr>" + "".join(_cell(column, r) for column in chosen) + "</tr>" for r in shown)
    return f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>'


def _cell(column: Column, recovery: Recovery) -> str:
    value = column.value(recovery)
    if value is None:
        return f"<td>{'not yet' if _is_pending(column, recovery) else _NONE}</td>"
    return f'<td data-v="{value:.10g}">{column.text(value)}</td>'


def _is_pending(column: Column, recovery: Recovery) -> bool:
    """Whether the loss has not come back, as opposed to: no line tells it."""
    is_wait = column.heading == "back after" or column.heading.startswith("within")
    return is_wait and recovery.peak is not None and recovery.before is not None
