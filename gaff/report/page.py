# SPDX-License-Identifier: Apache-2.0
"""``report.html``: one file that needs nothing else, readable offline, in light and in dark.

All text that comes from a run is escaped here: titles and error messages are whatever a trainer or a path name says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from statistics import median
from typing import Any

from gaff.report import format as fmt
from gaff.report import svg
from gaff.report.chart import thinned
from gaff.report.metrics import RunMetrics
from gaff.report.page_template import PAGE
from gaff.report.summary import COLUMNS, reset_cells


def page(metrics: RunMetrics, summary: Mapping[str, Any], title: str) -> str:
    """The page of a run with at least one logged loss; ``summary`` as of :func:`gaff.report.summary.summary_of`."""
    scale = svg.scale_of(metrics)
    return PAGE.substitute(
        title=escape(title),
        tiles="\n".join(_tile(name, value, note) for name, value, note in _tiles(summary)),
        curve=svg.loss_curve_svg(metrics, scale),
        resets=_reset_table(summary),
        notes="\n".join(f"<p>{escape(note)}</p>" for note in _notes(summary)),
        data=_script_json(_hover_data(metrics, scale)),
    )


def _script_json(value: Any) -> str:
    """JSON that no text in it can break out of its script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _tile(name: str, value: str, note: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    done, planned = summary["iterations"]["done"], summary["iterations"]["planned"]
    first, final, seconds = summary["loss"]["first"], summary["loss"]["final"], summary["seconds"]
    back = [r["iterations_to_recover"] for r in summary["resets"]]
    known = [n for n in back if n is not None]
    recovery = f"back after {median(known):,.0f} iterations (median)" if known else "not back yet" if back else ""
    if known and len(known) < len(back):
        recovery += f", {len(known)} of {len(back)}"
    speed = summary["ms_per_iteration"]
    return [
        ("iterations", f"{done:,}", f"of {planned:,}" if planned else ""),
        ("final loss", fmt.loss(final["loss"]), f"from {fmt.loss(first['loss'])}"),
        ("resets", f"{len(back):,}", recovery),
        ("training", fmt.duration(seconds["training"]), f"{fmt.milliseconds(speed)} an iteration"),
        ("boundaries", fmt.duration(seconds["boundaries"]), f"resets {fmt.duration(seconds['resets'])} of it"),
    ]


def _reset_table(summary: Mapping[str, Any]) -> str:
    if not summary["resets"]:
        return "<p>No reset yet.</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS)
    rows = (
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in reset_cells(reset)) + "</tr>"
        for reset in summary["resets"]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def _notes(summary: Mapping[str, Any]) -> list[str]:
    notes = [
        f"Segment {segment} was attempted {n} times; the curve shows what the final weights went through."
        for segment, n in summary["repeated_segments"].items()
    ]
    if summary["skipped_iterations"]:
        notes.append(f"{fmt.count(summary['skipped_iterations'], 'iteration')} skipped (fp16 overflow).")
    if summary["lines_without_finite_loss"]:
        notes.append(f"{fmt.count(summary['lines_without_finite_loss'], 'logged loss', 'logged losses')} not finite.")
    return notes + [f"The trainer said: {error}" for error in summary["errors"]]


def _hover_data(metrics: RunMetrics, scale: svg.Scale) -> dict[str, Any]:
    points = {p.iteration: p for p in metrics.points}
    shown = (points[iteration] for iteration, _ in thinned(metrics.curve, svg.MAX_POINTS))
    return {
        "width": svg.WIDTH,
        "resets": [reset.iteration for reset in metrics.resets],
        "points": [
            [
                *(p.iteration, fmt.loss(p.loss), fmt.rate(p.learning_rate), fmt.milliseconds(p.ms_per_iteration)),
                *(round(scale.x(p.iteration), 1), round(max(svg.TOP, scale.y(p.loss or 0.0)), 1)),
            ]
            for p in shown
        ],
    }
