# SPDX-License-Identifier: Apache-2.0
"""The page's text: tiles, captions, tables.

All text that comes from a run is escaped here: titles and error messages are whatever a trainer or a path name says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from gaff.report import format as fmt
from gaff.report.analysis.measures import Analysis, Boundary, Trend
from gaff.report.page.blocks import chart, choice, drawn, header, section, shortened
from gaff.report.page.chart_data import MAX_BARS, MAX_OVERLAID, MEASURES, PARTS
from gaff.report.page.reported import ReportedRun
from gaff.report.page.table import MAX_ROWS, reset_table
from gaff.report.page.words import config, facts, health

MAX_NOTES = 50


def body(run: ReportedRun, data: Mapping[str, Any]) -> str:
    """Everything between ``<body>`` and the data, which is :func:`gaff.report.page.chart_data.chart_data`'s."""
    parts = [
        '<main id="top">',
        header("GAFF run report", run.title, run.source),
        _tiles(run),
        _loss(run, data),
        *([_recoveries(run, data), _boundaries(run), _resets(run)] if run.metrics.resets else []),
        *([_boundaries(run)] if run.analysis.boundaries and not run.metrics.resets else []),
        health(run.health),
        config(run),
        facts("environment", "Environment", run.environment),
        facts("provenance", "Provenance", run.provenance),
        _footer(run),
        "</main>",
    ]
    return "\n".join(part for part in parts if part)


# --- tiles ---


def _tiles(run: ReportedRun) -> str:
    found = "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in _tile_values(run.summary, run.analysis)
    )
    return f'<dl class="tiles">\n{found}\n</dl>'


def _tile_values(summary: Mapping[str, Any], analysis: Analysis) -> Iterator[tuple[str, str, str]]:
    done, planned = summary["iterations"]["done"], summary["iterations"]["planned"]
    first, final, seconds = summary["loss"]["first"], summary["loss"]["final"], summary["seconds"]
    yield "iterations", f"{done:,}", f"of {planned:,}" if planned else ""
    yield "final loss", fmt.loss(final["loss"]), f"from {fmt.loss(first['loss'])}"
    validation = summary["validation"]
    if validation:
        at = "at the end" if validation["iteration"] is None else f"at iteration {validation['iteration']:,}"
        yield f"{validation['split']} loss", fmt.loss(validation["loss"]), at
    else:
        lowest = summary["loss"]["lowest"]
        yield "lowest loss", fmt.loss(lowest["loss"]), f"at iteration {lowest['iteration']:,}"
    if analysis.recoveries:
        back = [r.iterations for r in analysis.recoveries if r.iterations is not None]
        yield "resets", f"{len(analysis.recoveries):,}", f"{len(back):,} recovered"
        if back:
            yield "back after", f"{median(back):,.6g}", "iterations, median"
        if analysis.share is not None:
            yield "spent recovering", f"{analysis.share:.1%}", f"{fmt.count(analysis.recovering, 'iteration')}"
    yield "training", fmt.duration(seconds["training"]), f"{fmt.milliseconds(summary['ms_per_iteration'])} an iteration"
    if analysis.boundaries:
        yield (
            "outside training",
            fmt.duration(seconds["boundaries"]),
            f"surgery {fmt.duration(seconds['resets'])} of it",
        )


# --- charts ---


def _loss(run: ReportedRun, data: Mapping[str, Any]) -> str:
    iterations, losses = run.metrics.curve
    resets = [r.iteration for r in run.metrics.resets]
    told = ", ".join(f"{i:,}" for i in resets[:20]) + (f" and {len(resets) - 20:,} more" if len(resets) > 20 else "")
    description = (
        f"Training loss over {int(iterations[-1]):,} iterations, from {fmt.loss(float(losses[0]))} to"
        f" {fmt.loss(float(losses[-1]))}, lowest {fmt.loss(float(losses.min()))}."
        f" Resets after iteration: {told or 'none'}. Arrow keys move the cursor, plus and minus zoom, Escape zooms out."
    )
    rates = "Learning rate by iteration, with the same cursor and zoom as the loss."
    curve, change = data["curve"], data["change"]
    points = f"{drawn(curve, 'logged losses')} {drawn(change, 'changes')}"
    views = [("loss", "loss"), ("difference", "change between lines"), ("decrease", "relative decrease")]
    tools = (
        '<div class="tools">'
        + choice("view", "What is shown", views)
        + choice("loss-scale", "Scale of the loss", [("linear", "linear"), ("log", "log")])
        + '<button type="button" id="zoom-out" hidden>whole run</button></div>'
    )
    hint = "Drag to zoom, double click to zoom out. "
    return section(
        "loss",
        "Loss",
        tools,
        chart("loss-chart", description, 380, keys=True),
        chart("rate-chart", rates, 120, hint + points),
    )


def _recoveries(run: ReportedRun, data: Mapping[str, Any]) -> str:
    recoveries = run.analysis.recoveries
    if not data["recoveries"]["lines"]:
        return section("recoveries", "Recoveries", "<p>No loss is logged after a reset yet.</p>")
    some = f" {MAX_OVERLAID} of {len(recoveries):,} are drawn, evenly chosen." if len(recoveries) > MAX_OVERLAID else ""
    back = [r.iterations for r in recoveries if r.iterations is not None]
    came = f"{len(back):,} of {len(recoveries):,} came back to the level before" + (
        f", the median one after {median(back):,.6g} iterations." if back else "."
    )
    tools = (
        '<div class="tools">'
        + choice("overlay-level", "Height", [("above", "above the level before"), ("loss", "loss")])
        + choice("overlay-smooth", "Losses", [("smooth", "smoothed"), ("raw", "as logged")])
        + choice("overlay-scale", "Iterations after the reset", [("linear", "linear iterations"), ("log", "log")])
        + "</div>"
    )
    description = f"Losses after each reset, laid over each other by iterations after the reset. {came}"
    caption = f"From the reset to the next one. {came}{some}"
    small = "".join(
        f'<div class="small"><h3>{escape(MEASURES[trend.measure][0])}</h3>'
        + (chart(f"measure-{trend.measure}", _trend_text(trend), 170) if trend.count else "")
        + f"<p>{escape(_trend_text(trend))}</p>"
        + "</div>"
        for trend in run.analysis.trends
        if trend.measure in MEASURES
    )
    return section(
        "recoveries",
        "Recoveries",
        tools,
        chart("overlay-chart", description, 340, caption, keys=True),
        f'<div class="smalls">{small}</div>' if small else "",
    )


def _trend_text(trend: Trend) -> str:
    """``Median 53 iterations over 4 resets; no clear trend.``"""
    unit = MEASURES[trend.measure][1]
    if trend.median is None:
        return "Not known of any reset."
    known = f"Median {trend.median:,.4g} {unit} over {fmt.count(trend.count, 'reset')}"
    if trend.slope is None or trend.p is None:
        return f"{known}; too few for a trend."
    chance = f"p = {trend.p:.2g}" if trend.p >= 0.001 else "p < 0.001"
    change = f"{trend.slope:+,.3g} {unit} per reset"
    relative = f", {trend.relative:+.2%} of the median" if trend.relative is not None else ""
    word = "Trend" if trend.is_clear else "No clear trend"
    return f"{known}. {word}: {change}{relative} ({chance})."


def _boundaries(run: ReportedRun) -> str:
    found = run.analysis.boundaries
    if not found:
        return ""
    total = sum(b.total_s for b in found)
    middle = median(b.total_s for b in found)
    many = f" With more than {MAX_BARS}, a bar is the mean of neighbours." if len(found) > MAX_BARS else ""
    missing = [name for part, name in PARTS if all(getattr(b, part) is None for b in found)]
    untold = f" The journal does not tell: {', '.join(missing)}." if missing else ""
    caption = (
        f"{fmt.count(len(found), 'boundary', 'boundaries')}, {fmt.duration(total)} in all, {fmt.duration(middle)} the"
        f" median one.{untold}{many}"
    )
    description = f"Seconds spent at each boundary, by part. {caption} {_slowest(found)}"
    return section("boundaries", "Boundaries", chart("boundary-chart", description, 240, caption, keys=True))


def _slowest(found: Sequence[Boundary]) -> str:
    slowest = max(found, key=lambda b: b.total_s)
    return f"The longest, after iteration {slowest.iteration:,}, took {fmt.duration(slowest.total_s)}."


# --- tables ---


def _resets(run: ReportedRun) -> str:
    count = len(run.analysis.recoveries)
    some = f"<p>{MAX_ROWS:,} of {count:,} resets, evenly chosen.</p>" if count > MAX_ROWS else ""
    box = '<div class="scroll" role="region" aria-label="Table of resets" tabindex="0">'
    hint = '<p class="hint">Losses in nats. Click a heading to sort; a heading says what it means when pointed at.</p>'
    return section("resets", "Resets", some, hint, f"{box}{reset_table(run.analysis.recoveries)}</div>")


def _footer(run: ReportedRun) -> str:
    notes = list(_notes(run))
    more = [f"{len(notes) - MAX_NOTES:,} more notes are left out."] if len(notes) > MAX_NOTES else []
    told = "\n".join(f"<p>{escape(shortened(note))}</p>" for note in (*notes[:MAX_NOTES], *more))
    return f"<footer>\n{told}\n</footer>" if told else ""


def _notes(run: ReportedRun) -> Iterator[str]:
    summary = run.summary
    for segment, count in summary["repeated_segments"].items():
        yield f"Segment {segment} was attempted {count} times; the curve shows what the final weights went through."
    if summary["skipped_iterations"]:
        yield f"{fmt.count(summary['skipped_iterations'], 'iteration')} skipped (fp16 overflow)."
    if summary["lines_without_finite_loss"]:
        yield f"{fmt.count(summary['lines_without_finite_loss'], 'logged loss', 'logged losses')} not finite."
    for error in summary["errors"]:
        yield f"The trainer said: {error}"
    yield from run.notes
