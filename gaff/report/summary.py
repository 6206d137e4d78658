# SPDX-License-Identifier: Apache-2.0
"""A run in numbers: ``summary.json`` (schema ``gaff.summary/1``) and the same for the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gaff.report import format as fmt
from gaff.report.analysis.analyse import analyse
from gaff.report.analysis.measures import Analysis, Boundary, Recovery
from gaff.report.analysis.timing import times
from gaff.report.metrics.gather import metrics_of
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.supervisor.journal import Entry, read_entries

SCHEMA = "gaff.summary/1"
SUMMARY_NAME = "summary.json"


def summarize(run_dir: Path) -> dict[str, Any]:
    """The summary of the run in ``run_dir``, finished or not.  Writes nothing."""
    entries = read_entries(run_dir)
    metrics = metrics_of(run_dir, entries)
    return summary_of(metrics, entries, analyse(metrics, entries))


def summary_of(metrics: RunMetrics, entries: Sequence[Entry], analysis: Analysis) -> dict[str, Any]:
    """The summary as plain JSON values: losses in nats, times in seconds, None for what no line or entry tells."""
    lines = metrics.series
    spent = times(entries, metrics.attempts, float(lines.elapsed_s.sum()))
    speeds = lines.ms_per_iteration[np.isfinite(lines.ms_per_iteration) & ~lines.partial]
    launches = Counter(attempt.segment for attempt in metrics.attempts)
    pieces = Counter(segment for segment, _ in {(a.segment, a.start) for a in metrics.attempts})
    again = {segment: n - pieces[segment] + 1 for segment, n in sorted(launches.items())}
    validation = metrics.validations[-1] if metrics.validations else None
    return {
        "schema": SCHEMA,
        "iterations": {"done": _done(metrics, entries), "planned": metrics.train_iters},
        "loss": _losses(metrics),
        "validation": None
        if validation is None
        else {"iteration": validation.iteration, "loss": _finite(validation.loss), "split": validation.split},
        "resets": [_reset(recovery) for recovery in analysis.recoveries],
        "recovering": {
            "iterations": analysis.recovering,
            "share": analysis.share,
            "seconds": analysis.recovering_s,
        },
        "trends": [{**asdict(t), "change": t.change, "clear": t.is_clear} for t in analysis.trends],
        "boundaries": _boundaries(analysis.boundaries),
        "ms_per_iteration": float(np.median(speeds)) if len(speeds) else None,
        "seconds": {
            "active": spent.active_s,
            "training": spent.training_s,
            "boundaries": spent.boundary_s,
            "resets": spent.resets_s,
        },
        "skipped_iterations": int(lines.skipped.sum()),
        "lines_without_finite_loss": int(lines.not_finite.sum()),
        "segments": len(launches),
        "attempts": sum(launches.values()),
        "repeated_segments": {str(segment): n for segment, n in again.items() if n > 1},
        "errors": list(dict.fromkeys(error for attempt in metrics.attempts for error in attempt.errors)),
    }


def _done(metrics: RunMetrics, entries: Sequence[Entry]) -> int:
    """The last iteration trained.  The journal knows it where the last one is no multiple of the log interval."""
    fields = {"run_started": "resume_iteration", "segment_launched": "start", "segment_done": "iteration"}
    told = [n for e in entries if e.event in fields and (n := e.number(fields[e.event])) is not None]
    return max(told[-1] if told else 0, int(metrics.series.iteration[-1]) if len(metrics.series) else 0)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _losses(metrics: RunMetrics) -> dict[str, dict[str, float] | None]:
    iterations, losses = metrics.curve
    if not len(losses):
        return dict.fromkeys(("first", "final", "lowest"))
    places = {"first": 0, "final": -1, "lowest": int(np.argmin(losses))}
    return {name: {"iteration": int(iterations[at]), "loss": float(losses[at])} for name, at in places.items()}


def _reset(recovery: Recovery) -> dict[str, Any]:
    plateau = recovery.plateau
    return {
        "reset": recovery.reset.number,
        "iteration": recovery.reset.iteration,
        "loss_before": recovery.before,
        "peak": recovery.peak,
        "peak_iteration": recovery.peak_iteration,
        "spike": recovery.spike,
        "area": recovery.area,
        "half_life": recovery.half_life,
        "within": {f"{x:g}": n for x, n in recovery.within.items()},
        "recovered_iteration": recovery.recovered_iteration,
        "iterations_to_recover": recovery.iterations,
        "iterations_spent": recovery.spent,
        "plateau": None if plateau is None else asdict(plateau),
        "loss_after": recovery.loss_after,
        "relative_decrease": recovery.relative_decrease,
    }


def _boundaries(found: Sequence[Boundary]) -> dict[str, Any]:
    """How many, and the median of each part, in seconds; None where no boundary tells it."""
    parts = ("stop_s", "check_s", "surgery_s", "start_s", "first_s", "total_s")
    told = {part: [value for one in found if (value := getattr(one, part)) is not None] for part in parts}
    return {"count": len(found), "median": {part: median(values) if values else None for part, values in told.items()}}


# --- for the terminal ---

COLUMNS = ("reset", "after iteration", "loss before", "highest after", "half-life", "back after")
_ROWS_SHOWN = 24  # of the table of resets; a longer one is cut in the middle
_WORDS = {"spike": "the spike", "area": "the area under it", "iterations": "the way back", "half_life": "the half-life"}


def render_summary(summary: Mapping[str, Any]) -> str:
    """The summary in a few plain lines, with a table of the resets."""
    done, planned = summary["iterations"]["done"], summary["iterations"]["planned"]
    first, final = summary["loss"]["first"], summary["loss"]["final"]
    head = f"{done:,} of {planned:,} iterations" if planned else fmt.count(done, "iteration")
    if first and final:
        head += f" · loss {fmt.loss(first['loss'])} → {fmt.loss(final['loss'])}"
    lines = [head, _time_line(summary)]
    if summary["repeated_segments"]:
        again = ", ".join(f"segment {s}: {n} attempts" for s, n in summary["repeated_segments"].items())
        lines.append(f"repeated: {again}")
    if summary["skipped_iterations"]:
        lines.append(f"skipped: {fmt.count(summary['skipped_iterations'], 'iteration')}")
    if summary["resets"]:
        lines += ["", *_shortened(_table([COLUMNS, *(reset_cells(reset) for reset in summary["resets"])]))]
        lines += ["", *_recovering(summary)]
    return "\n".join(lines)


def _shortened(table: list[str]) -> list[str]:
    hidden = len(table) - 1 - _ROWS_SHOWN
    if hidden <= 1:
        return table
    half = _ROWS_SHOWN // 2
    return [*table[: 1 + half], f"… {hidden:,} more resets, all in {SUMMARY_NAME} …", *table[-half:]]


def _recovering(summary: Mapping[str, Any]) -> list[str]:
    """What recovering cost, and whether it gets faster."""
    spent = summary["recovering"]
    lines = [] if spent["share"] is None else [f"recovering: {spent['share']:.1%} of the iterations"]
    told = [trend_words(trend) for trend in summary["trends"] if trend["p"] is not None and trend["change"]]
    return lines + ([f"from the first reset to the last: {'; '.join(told)}"] if told else [])


def trend_words(trend: Mapping[str, Any]) -> str:
    """A trend in words, as "the half-life falls by 41% (p = 0.003)"; it says so where chance would do as well."""
    name = _WORDS[trend["measure"]]
    if not trend["clear"]:
        return f"{name} shows no clear trend (p = {trend['p']:.2f})"
    way = "falls" if trend["change"] < 0 else "rises"
    p = "p < 0.001" if trend["p"] < 0.001 else f"p = {trend['p']:.3f}"
    return f"{name} {way} by {abs(trend['change']):.0%} ({p})"


def reset_cells(reset: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table of resets, in words, as :data:`COLUMNS` names them."""
    back = reset["iterations_to_recover"]
    not_back = "—" if reset["peak"] is None else "not back"
    return (
        str(reset["reset"]),
        f"{reset['iteration']:,}",
        fmt.loss(reset["loss_before"]),
        fmt.loss(reset["peak"]),
        "—" if reset["half_life"] is None else f"{reset['half_life']:,.1f}",
        not_back if back is None else fmt.count(back, "iteration"),
    )


def _time_line(summary: Mapping[str, Any]) -> str:
    seconds = summary["seconds"]
    parts = [f"training {fmt.duration(seconds['training'])}", f"boundaries {fmt.duration(seconds['boundaries'])}"]
    if seconds["resets"]:
        parts[1] += f" (resets {fmt.duration(seconds['resets'])})"
    if summary["ms_per_iteration"] is not None:
        parts.append(f"{fmt.milliseconds(summary['ms_per_iteration'])} an iteration")
    return " · ".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
