# SPDX-License-Identifier: Apache-2.0
"""The numbers of the page's charts, thinned so that the page stays small whatever the run's length.

Everything is plain JSON: lists of numbers, None where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from gaff.plan.schedule import Reset
from gaff.report.analysis.measures import Analysis, Boundary, Recovery, Trend
from gaff.report.figure.points import (
    MANY_RESETS,
    WARM_UP,
    edges_of,
    evenly,
    extremes,
    loss_range,
    segment_means,
    smoothed,
)
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.metrics.series import Floats, Ints, Series

MAX_POINTS = 16_000  # of the loss curve
MAX_RATE_POINTS = 1000
MAX_CHANGES = 6000
MAX_MARKS = 2000  # validations, lines without a finite loss, resets in the charts of measures
MAX_OVERLAID = 60  # recoveries
MAX_OVERLAID_POINTS = 240  # of each of them
MAX_BARS = 120

_NO_LINE: dict[str, Any] = {"iteration": [], "mean": []}

#: Names of :class:`Trend`'s measures: title, unit.
MEASURES = {
    "iterations": ("Iterations until the loss is back", "iterations"),
    "spike": ("Spike: how far the loss rises", "nats"),
    "half_life": ("Half-life of the spike", "iterations"),
    "area": ("Area under the spike", "nats × iterations"),
}

#: Parts of a boundary: field of :class:`Boundary`, name.
PARTS = (
    ("stop_s", "stop"),
    ("check_s", "check"),
    ("surgery_s", "surgery"),
    ("start_s", "start"),
    ("first_s", "first iteration"),
)


def chart_data(metrics: RunMetrics, analysis: Analysis) -> dict[str, Any]:
    """All of it, of a run with at least one logged loss."""
    series = metrics.series
    return {
        "curve": curve_data(metrics),
        "change": change_data(series),
        "resets": spans(metrics.resets),
        "recoveries": overlaid(series, analysis.recoveries),
        "measures": [_measure(trend, analysis.recoveries) for trend in analysis.trends if trend.measure in MEASURES],
        "boundaries": boundary_data(analysis.boundaries),
    }


def spans(resets: Sequence[Reset]) -> list[list[int]]:
    """Resets as ``[number, iteration, count, step]``: so many, numbered on, each so many iterations after the last.

    A plan's resets are equally far apart, so a hundred thousand take no more room than two.
    """
    found: list[list[int]] = []
    for reset in resets:
        if found:
            number, iteration, count, step = found[-1]
            step = reset.iteration - iteration if count == 1 else step
            if (reset.number, reset.iteration) == (number + count, iteration + count * step):
                found[-1] = [number, iteration, count + 1, step]
                continue
        found.append([reset.number, reset.iteration, 1, 0])
    return found


def curve_data(metrics: RunMetrics) -> dict[str, Any]:
    """The loss curve: logged and smoothed losses, learning rate, speed; ``shown`` points ``of`` all logged ones.

    ``segments`` are means of the segments where these are many, ``range`` is the loss axis at full width.
    """
    series, (iterations, losses) = metrics.series, metrics.curve
    resets = [reset.iteration for reset in metrics.resets]
    mean = smoothed(losses, edges_of(iterations, resets))
    rows = np.flatnonzero(series.is_right)
    kept = extremes(losses, MAX_POINTS)
    rate = series.learning_rate[rows]
    known = np.flatnonzero(np.isfinite(rate))
    kept = np.union1d(kept, known[extremes(rate[known], MAX_RATE_POINTS)] if len(known) else known)
    end = metrics.train_iters or int(iterations[-1])
    validations = _validations(metrics)
    lost = series.iteration[series.not_finite]
    return {
        "iteration": iterations[kept].tolist(),
        "loss": numbers(losses[kept]),
        "smooth": numbers(mean[kept]),
        "rate": numbers(rate[kept], 4),
        "ms": numbers(series.ms_per_iteration[rows][kept], 5),
        "segments": _segment_means(iterations, losses, resets) if len(resets) > MANY_RESETS else _NO_LINE,
        "range": _range(loss_range(iterations, losses, end), validations, end),
        "shown": len(kept),
        "of": len(losses),
        "lost": lost[evenly(len(lost), MAX_MARKS)].tolist(),
        "validations": validations,
    }


def _range(losses: tuple[float, float], validations: Sequence[dict[str, Any]], end: int) -> list[float]:
    """The loss axis with room for validations; those of the first fall may be cut off with it."""
    settled = [v["loss"] for v in validations if v["iteration"] > WARM_UP * end]
    margin = 0.06 * (max(losses[1], *settled) - min(losses[0], *settled)) if settled else 0.0
    low, high = min(settled, default=losses[0]) - margin, max(settled, default=losses[1]) + margin
    return [max(0.0, min(losses[0], low)), max(losses[1], high)]


def _segment_means(iterations: Ints, losses: Floats, resets: Sequence[int]) -> dict[str, Any]:
    middles, means = segment_means(iterations, losses, edges_of(iterations, resets))
    kept = extremes(means, MAX_MARKS)
    return {"iteration": numbers(middles[kept]), "mean": numbers(means[kept])}


def change_data(series: Series) -> dict[str, Any]:
    """The measure of the nanoGPT experiment on active forgetting: what changes from one logged loss to the next.

    ``difference`` is the new loss minus the old one, ``decrease`` the old minus the new as a fraction of the old.
    """
    iterations, losses = series.curve
    difference = np.diff(losses)
    decrease = np.divide(-difference, losses[:-1], out=np.zeros_like(difference), where=losses[:-1] != 0)
    kept = extremes(difference, MAX_CHANGES) if len(difference) else np.zeros(0, dtype=np.int64)
    return {
        "iteration": iterations[1:][kept].tolist(),
        "difference": numbers(difference[kept], 5),
        "decrease": numbers(decrease[kept], 5),
        "shown": len(kept),
        "of": len(difference),
    }


def overlaid(series: Series, recoveries: Sequence[Recovery]) -> dict[str, Any]:
    """Recoveries for one chart: losses by iterations after the reset, of at most ``MAX_OVERLAID``, evenly chosen."""
    iterations, losses = series.curve
    chosen = [recoveries[place] for place in evenly(len(recoveries), MAX_OVERLAID)]
    mean = smoothed(losses, edges_of(iterations, [recovery.reset.iteration for recovery in recoveries]))
    lines = (_recovery_line(iterations, losses, mean, recovery) for recovery in chosen)
    return {"lines": [line for line in lines if line["x"]], "of": len(recoveries)}


def _recovery_line(iterations: Ints, losses: Floats, mean: Floats, recovery: Recovery) -> dict[str, Any]:
    begin = int(np.searchsorted(iterations, recovery.reset.iteration, side="right"))
    end = int(np.searchsorted(iterations, recovery.until, side="right"))
    after, piece = iterations[begin:end] - recovery.reset.iteration, losses[begin:end]
    kept = np.union1d(extremes(piece, MAX_OVERLAID_POINTS), np.arange(min(30, len(piece)))) if len(piece) else after
    return {
        "number": recovery.reset.number,
        "iteration": recovery.reset.iteration,
        "before": number(recovery.before),
        "back": recovery.iterations,
        "x": after[kept].tolist(),
        "y": numbers(piece[kept]),
        "smooth": None if np.isnan(mean[begin:end]).any() else numbers(mean[begin:end][kept]),
    }


def _measure(trend: Trend, recoveries: Sequence[Recovery]) -> dict[str, Any]:
    """One measure by reset; ``open`` are resets after which the loss had not come back, with how long that was."""
    values = [(r.reset.number, getattr(r, trend.measure)) for r in recoveries]
    known = [(place, float(value)) for place, value in values if value is not None]
    kept = extremes(np.array([value for _, value in known]), MAX_MARKS) if known else ()
    pending = [r for r in recoveries if trend.measure == "iterations" and r.iterations is None and r.peak is not None]
    pending = [pending[place] for place in evenly(len(pending), MAX_MARKS)]
    title, unit = MEASURES[trend.measure]
    return {
        "name": trend.measure,
        "title": title,
        "unit": unit,
        "reset": [known[place][0] for place in kept],
        "value": [number(known[place][1]) for place in kept],
        "open": {"reset": [r.reset.number for r in pending], "value": [r.spent for r in pending]},
        "middle": median(place for place, _ in known) if known else None,
        "median": number(trend.median),
        "slope": number(trend.slope),
        "tested": trend.p is not None,
        "clear": trend.is_clear,
    }


def boundary_data(boundaries: Sequence[Boundary]) -> dict[str, Any]:
    """Stacked bars: seconds by part; with many boundaries, means over as many neighbours as it takes.

    ``iteration`` and ``last`` are the first and the last boundary of each bar, ``each`` how many boundaries a bar has.
    """
    each = max(1, math.ceil(len(boundaries) / MAX_BARS))
    groups = [boundaries[place : place + each] for place in range(0, len(boundaries), each)]
    return {
        "parts": [name for _, name in PARTS],
        "iteration": [group[0].iteration for group in groups],
        "last": [group[-1].iteration for group in groups],
        "seconds": [[_mean(getattr(b, part) for b in group) for group in groups] for part, _ in PARTS],
        "each": each,
        "of": len(boundaries),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return number(sum(known) / len(known), 4) if known else None


def _validations(metrics: RunMetrics) -> list[dict[str, Any]]:
    end = int(metrics.series.iteration[-1])
    right = [v for v in metrics.validations if math.isfinite(v.loss)]
    chosen = [right[place] for place in extremes(np.array([v.loss for v in right]), MAX_MARKS)] if right else []
    return [
        {"iteration": end if v.iteration is None else v.iteration, "loss": number(v.loss), "split": v.split}
        for v in chosen
    ]


def numbers(values: Floats, digits: int = 6) -> list[float | None]:
    """Numbers for JSON: so many significant digits, None for NaN and the infinite."""
    return [number(value, digits) for value in values.tolist()]


def number(value: float | None, digits: int = 6) -> float | None:
    """One such number; whole ones are written without a point."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short == int(short) else short
