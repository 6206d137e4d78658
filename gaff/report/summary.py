# SPDX-License-Identifier: Apache-2.0
"""A run in numbers: ``summary.json`` (schema ``gaff.summary/1``) and the same for the terminal."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gaff.files import write_durably
from gaff.report import format as fmt
from gaff.report.metrics import RunMetrics, metrics_of
from gaff.report.recovery import Recovery, recoveries
from gaff.report.timing import times
from gaff.supervisor.journal import Entry, read_entries

SCHEMA = "gaff.summary/1"
SUMMARY_NAME = "summary.json"


def write_summary(run_dir: Path, metrics: RunMetrics, entries: Sequence[Entry]) -> dict[str, Any]:
    """Work out the summary of the run in ``run_dir`` and leave it there as ``summary.json``.

    ``metrics`` and ``entries`` are the run's, read already: the logs of a long run take a while.
    """
    summary = summary_of(metrics, entries)
    write_durably(run_dir / SUMMARY_NAME, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    return summary


def summarize(run_dir: Path) -> dict[str, Any]:
    """The summary of the run in ``run_dir``, finished or not.  Writes nothing."""
    entries = read_entries(run_dir)
    return summary_of(metrics_of(run_dir, entries), entries)


def summary_of(metrics: RunMetrics, entries: Sequence[Entry]) -> dict[str, Any]:
    """The summary as plain JSON values: losses in nats, times in seconds, None for what no line or entry tells."""
    spent = times(entries, metrics.attempts, sum(p.elapsed_s for p in metrics.points))
    speeds = [p.ms_per_iteration for p in metrics.points if p.ms_per_iteration is not None and not p.partial]
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
        "resets": [_reset(recovery) for recovery in recoveries(metrics.curve, metrics.resets)],
        "ms_per_iteration": median(speeds) if speeds else None,
        "seconds": {
            "active": spent.active_s,
            "training": spent.training_s,
            "boundaries": spent.boundary_s,
            "resets": spent.resets_s,
        },
        "skipped_iterations": sum(p.skipped for p in metrics.points),
        "lines_without_finite_loss": sum(1 for p in metrics.points if p.loss is not None and not math.isfinite(p.loss)),
        "segments": len(launches),
        "attempts": sum(launches.values()),
        "repeated_segments": {str(segment): n for segment, n in again.items() if n > 1},
        "errors": list(dict.fromkeys(error for attempt in metrics.attempts for error in attempt.errors)),
    }


def _done(metrics: RunMetrics, entries: Sequence[Entry]) -> int:
    """The last iteration trained.  The journal knows it where the last one is no multiple of the log interval."""
    fields = {"run_started": "resume_iteration", "segment_launched": "start", "segment_done": "iteration"}
    told = [n for e in entries if e.event in fields and (n := e.number(fields[e.event])) is not None]
    return max(told[-1] if told else 0, metrics.points[-1].iteration if metrics.points else 0)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _losses(metrics: RunMetrics) -> dict[str, dict[str, float] | None]:
    curve = metrics.curve
    chosen = {
        "first": curve[0] if curve else None,
        "final": curve[-1] if curve else None,
        "lowest": min(curve, key=lambda point: point[1], default=None),
    }
    return {name: {"iteration": p[0], "loss": p[1]} if p else None for name, p in chosen.items()}


def _reset(recovery: Recovery) -> dict[str, float | None]:
    return {
        "reset": recovery.reset.number,
        "iteration": recovery.reset.iteration,
        "loss_before": recovery.before,
        "peak": recovery.peak,
        "peak_iteration": recovery.peak_iteration,
        "recovered_iteration": recovery.recovered_iteration,
        "iterations_to_recover": recovery.iterations,
    }


# --- for the terminal ---

COLUMNS = ("reset", "after iteration", "loss before", "highest after", "back after")


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
        lines += ["", *_table([COLUMNS, *(reset_cells(reset) for reset in summary["resets"])])]
    return "\n".join(lines)


def reset_cells(reset: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table of resets, in words: number, iteration, loss before, highest after, back after."""
    back = reset["iterations_to_recover"]
    not_back = "—" if reset["peak"] is None else "not back"
    return (
        str(reset["reset"]),
        f"{reset['iteration']:,}",
        fmt.loss(reset["loss_before"]),
        fmt.loss(reset["peak"]),
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
