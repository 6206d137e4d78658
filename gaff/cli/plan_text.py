# SPDX-License-Identifier: Apache-2.0
"""A plan as plain text, for a terminal or a log: facts, segments, learning rate, moments, changes, warnings."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from gaff.cli.plan_chart import GUTTER, draw
from gaff.cli.plan_chart import WIDTH as CHART_WIDTH
from gaff.cli.plan_facts import facts
from gaff.cli.plan_layout import WIDTH, Row, broken_lines, paragraph, wrapped
from gaff.cli.plan_layout import columns as columns
from gaff.plan.changes import Planned
from gaff.plan.moments import Moments
from gaff.plan.plan import Plan
from gaff.plan.schedule import Segment

if TYPE_CHECKING:
    from gaff.cli.plan_forecast import Forecast

_LEAST_WIDTH = 80  # a terminal narrower than that breaks the lines itself
_ROWS_SHOWN = 12  # segments; a longer list is cut in the middle
_ITEMS_SHOWN = 4  # of a list that is written into a config
_VALUE_SHARE = 0.4  # of the width, for what is written into a config
_LONG_TEXT = 30  # characters of one value; a longer one is cut in front


def render_plan(
    plan: Plan, forecast: Forecast | None = None, *, unicode: bool | None = None, width: int | None = None
) -> str:
    """The plan as aligned text in at most 100 columns, but for words that are longer.

    Args:
        plan: what is shown.
        forecast: epochs and cost, where they were looked into.
        unicode: whether block characters can be shown; by default what the encoding of standard output says.
        width: columns; by default as many as the terminal has, up to 100.
    """
    unicode = _takes_unicode() if unicode is None else unicode
    width = _width() if width is None else max(_LEAST_WIDTH, min(width, WIDTH))
    blocks = [wrapped(facts(plan, forecast.data_rows() if forecast else ()), width)]
    if forecast:
        blocks.append(wrapped(forecast.cost_rows(), width))
    blocks.append(_segments(plan.segments))
    resets = [reset.iteration for reset in plan.resets]
    chart_width = min(CHART_WIDTH, width - GUTTER - 2)
    blocks.append(draw(plan.learning_rate, resets, plan.train_iters, unicode=unicode, width=chart_width))
    if plan.moments:
        blocks.append(_moments(plan.moments, width))
    if plan.changes:
        blocks.append(["written into each segment's config on your behalf:", *_changes(plan.changes, width)])
    warnings = [*plan.warnings, *(forecast.warnings if forecast else ())]
    if warnings:
        blocks.append([line for warning in warnings for line in paragraph(f"warning: {warning}", width)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _width() -> int:
    """Columns of the terminal; ``WIDTH`` where standard output is none."""
    if not sys.stdout.isatty():
        return WIDTH
    return max(_LEAST_WIDTH, min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH))


def _takes_unicode() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


def _segments(segments: Sequence[Segment]) -> list[str]:
    rows: list[Row] = [("segment", "from", "to", "iterations", "then")]
    rows += [
        (
            f"{s.number:,}",
            f"{s.start:,}",
            f"{s.stop:,}",
            f"{s.iterations:,}",
            f"reset {s.reset.number:,}" if s.reset else "end",
        )
        for s in segments
    ]
    lines = columns(rows, right=4)
    hidden = len(segments) - _ROWS_SHOWN
    if hidden <= 1:
        return lines
    half = _ROWS_SHOWN // 2
    return [*lines[: 1 + half], f"  … {hidden:,} more segments …", *lines[-half:]]


def _moments(moments: Moments, width: int) -> list[str]:
    steps = ("step after a reset", *(f"{step:,}" for step, _ in moments.values))
    factors = ("factor", *(f"{factor:.2f}" if factor < 1000 else f"{factor:.0e}" for _, factor in moments.values))
    betas = f"betas [{moments.beta1:g}, {moments.beta2:g}]"
    said = f"updates of what is forgotten, {betas}: moments are zeroed, and Adam's shared step count corrects no bias"
    peak = "never above 1"
    if moments.peak:
        peak = f"{moments.peak[1]:.2f} at its highest, at step {moments.peak[0]:,} after a reset"
    settled = "the next reset comes before it is within a tenth of 1"
    if moments.settled is not None:
        settled = f"within a tenth of 1 from step {moments.settled:,} on"
    ends = f"{peak}; {settled}"
    if moments.with_warmup:
        step, factor = moments.with_warmup
        ends += f"; with the restarted learning rate {factor:.2f} times the full rate at most, at step {step:,}"
    return [*paragraph(said, width), *columns([steps, factors], right=len(steps)), *paragraph(ends, width)]


def _changes(changes: Sequence[Planned], width: int) -> list[str]:
    room = int(width * _VALUE_SHARE)
    cells = [([f"  {change.key}"], broken_lines(_written(change), room), _why(change)) for change in changes]
    indent = max(len(key) for [key], _, _ in cells) + max(len(line) for _, value, _ in cells for line in value) + 4
    broken = (zip_longest(key, value, broken_lines(why, width - indent), fillvalue="") for key, value, why in cells)
    return columns([row for rows in broken for row in rows])


def _why(change: Planned) -> str:
    late = change.written[0] is None and any(value is not None for value in change.written)
    return f"from segment 2 on: {change.why}" if late else change.why


def _written(change: Planned) -> str:
    """The value in all segments; or in the first two that have one, and in the last."""
    values = list(dict.fromkeys(_yaml(value) for value in change.written if value is not None))
    said = " … ".join(filter(None, [", ".join(values[:-1]), *values[-1:]])) or "left out"
    return said if change.given is None else f"{said} (yours: {_yaml(change.given)})"


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        shown = [_yaml(item) for item in value]
        if len(shown) > _ITEMS_SHOWN:
            shown = [*shown[:2], "…", shown[-1]]
        return f"[{', '.join(shown)}]"
    if isinstance(value, str) and len(value) > _LONG_TEXT:
        return f"…{value[-_LONG_TEXT:]}"
    return str(value).lower() if isinstance(value, bool) else str(value)
