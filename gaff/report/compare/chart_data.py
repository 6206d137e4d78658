# SPDX-License-Identifier: Apache-2.0
"""The numbers of the comparison's charts, thinned so that the page stays small however long and many the runs are.

Plain JSON; runs are told by their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gaff.report.analysis.measures import Recovery
from gaff.report.compare.axes import ALIGNS, Align, lacking, positions, time_unit, token_unit
from gaff.report.compare.comparison import Comparison
from gaff.report.compare.difference import loss_difference
from gaff.report.compare.figures import Figures
from gaff.report.compare.runs import ComparedRun
from gaff.report.compare.series import common_reach, common_stretch, smoothed, stretch_means, with_gaps
from gaff.report.figure.points import edges_of, evenly, extremes, loss_range
from gaff.report.metrics.series import Floats, Ints
from gaff.report.page.chart_data import MEASURES, number, numbers

MAX_POINTS = 24_000  # of all curves together
MAX_RESETS = 2000  # of one run, as marks
MAX_MEASURED = 500  # resets of one run in the charts of measures
COLOURS = 8  # names --run-1 …; then again, dashed


def chart_data(comparison: Comparison) -> dict[str, Any]:
    """All of it."""
    runs = comparison.runs
    aligns = [align for align in ALIGNS if not lacking(runs, align)]
    reach, limit = common_reach(runs), max(300, MAX_POINTS // len(runs))
    has_hours, width = "hours" in aligns, common_stretch(runs)
    drawn = [place for place, run in enumerate(runs) if len(run.metrics.curve[0])]
    return {
        "align": comparison.align,
        "axes": [_axis(runs, align) for align in aligns],
        "runs": [
            {
                **_style(comparison, p),
                **_curve(runs[p], reach, limit, has_hours),
                "means": _means(runs[p], width, has_hours),
            }
            for p in drawn
        ],
        "range": _range([runs[place].metrics.curve for place in drawn]),
        "stretch": width,
        "difference": _differences(comparison, aligns, _Drawn(reach, limit, width)),
        "measures": [_measure(name, comparison) for name in MEASURES],
    }


def style_of(comparison: Comparison, setting: int) -> tuple[str, bool]:
    """(name of a colour, whether dashed): the baseline in the colour of text, each other setting in one of its own."""
    if comparison.settings[setting] is comparison.baseline:
        return "--ink", False
    others = [s for s in comparison.settings if s is not comparison.baseline]
    place = others.index(comparison.settings[setting])
    return f"--run-{place % COLOURS + 1}", place >= COLOURS


def _style(comparison: Comparison, place: int) -> dict[str, Any]:
    setting = next(n for n, one in enumerate(comparison.settings) if place in one.runs)
    colour, is_dashed = style_of(comparison, setting)
    run, repeats = comparison.runs[place], len(comparison.settings[setting].runs) > 1
    return {
        "place": place,
        "name": run.name,
        "colour": colour,
        "dashed": is_dashed,
        "thin": repeats,
        "k": run.reset_every,
        "tokens": run.tokens_per_iteration,
    }


def _axis(runs: Sequence[ComparedRun], align: Align) -> dict[str, Any]:
    """``factor``: what one unit of the axis is in iterations, tokens or seconds."""
    most = max((float(x[-1]) for run in runs if len(x := positions(run, align))), default=0.0)
    if align == "tokens":
        unit = token_unit(most)
        return {"name": align, "label": f"tokens ({unit.name})" if unit.name else "tokens", "factor": unit.size}
    if align == "hours":
        unit = time_unit(most * 3600)
        return {"name": align, "label": f"time in iterations ({unit.name})", "factor": unit.size}
    return {"name": align, "label": "iteration", "factor": 1}


# --- curves ---


def _curve(run: ComparedRun, reach: float, limit: int, has_hours: bool) -> dict[str, Any]:
    iterations, losses = run.metrics.curve
    resets = np.array([reset.iteration for reset in run.metrics.resets], dtype=np.int64)
    means = smoothed(losses, edges_of(iterations, resets.tolist()), int(reach / _step(run)))
    kept = extremes(losses, limit)
    cuts = np.unique(np.searchsorted(iterations[kept], resets, side="right")).tolist()
    seconds = positions(run, "hours") * 3600 if has_hours else np.zeros(len(losses))
    columns = [iterations[kept].astype(np.float64), seconds[kept], losses[kept], means[kept]]
    x, at_s, loss, smooth = with_gaps(columns, cuts, [False, False, True, True])
    shown = resets[evenly(len(resets), MAX_RESETS)]
    return {
        "iteration": numbers(x, 9),
        "seconds": numbers(at_s, 7) if has_hours else None,
        "loss": numbers(loss),
        "smooth": numbers(smooth),
        "resets": shown.tolist(),
        "shown": len(kept),
        "of": len(losses),
    }


def _means(run: ComparedRun, width: int | None, has_hours: bool) -> dict[str, Any] | None:
    """The means of stretches, at their ends."""
    if width is None:
        return None
    iterations, losses = run.metrics.curve
    ends, means = stretch_means(iterations.astype(np.float64), losses, width)
    seconds = np.interp(ends, iterations, positions(run, "hours") * 3600) if has_hours else None
    return {
        "iteration": numbers(ends, 9),
        "seconds": None if seconds is None else numbers(seconds, 7),
        "loss": numbers(means),
    }


def _step(run: ComparedRun) -> float:
    iterations = run.metrics.curve[0]
    return float(np.median(np.diff(iterations))) if len(iterations) > 1 else 1.0


def _range(curves: Sequence[tuple[Ints, Floats]]) -> list[float] | None:
    """The axis of losses: what each curve by itself would have, taken together."""
    found = [loss_range(iterations, losses, int(iterations[-1])) for iterations, losses in curves]
    return [min(low for low, _ in found), max(high for _, high in found)] if found else None


# --- difference ---


@dataclass(frozen=True)
class _Drawn:
    """How curves are drawn: half the smoothing window and the width of a stretch in iterations, and most points."""

    reach: float
    limit: int
    width: int | None


def _differences(comparison: Comparison, aligns: Sequence[Align], how: _Drawn) -> dict[str, list[dict[str, Any]]]:
    """By axis, one line for each run that is not the baseline's."""
    if comparison.baseline is None:
        return {}
    base = [comparison.runs[place] for place in comparison.baseline.runs]
    others = [p for p in range(len(comparison.runs)) if p not in comparison.baseline.runs]
    return {align: [_difference(comparison.runs[p], base, align, how, p) for p in others] for align in aligns}


def _difference(run: ComparedRun, base: Sequence[ComparedRun], align: Align, how: _Drawn, place: int) -> dict[str, Any]:
    """Against the mean of the baseline's runs, at the lines of the one that logged most seldom."""
    own = positions(run, align), run.metrics.curve[1]
    found = [loss_difference(*own, positions(one, align), one.metrics.curve[1]) for one in base]
    grid = min((x for x, _ in found), key=len)
    if not len(grid):
        return {"place": place, "x": [], "value": [], "smooth": [], "means": None}
    values: Floats = np.mean([np.interp(grid, x, difference) for x, difference in found], axis=0)
    marks = np.sort(np.concatenate([_reset_places(one, align) for one in (run, *base)]))
    edges = sorted({0, *np.searchsorted(grid, marks, side="right").tolist(), len(grid)})
    means = smoothed(values, edges, int(how.reach / max(_step(one) for one in (run, *base))))
    kept = extremes(values, how.limit)
    factor = 3600.0 if align == "hours" else 1.0
    return {
        "place": place,
        "x": numbers(grid[kept] * factor, 9),
        "value": numbers(values[kept], 5),
        "smooth": numbers(means[kept], 5),
        "means": None if how.width is None else _difference_means(run, align, grid, values, how.width, factor),
    }


def _difference_means(
    run: ComparedRun, align: Align, grid: Floats, values: Floats, width: int, factor: float
) -> dict[str, Any]:
    """The means of stretches that are on average as long as ``width`` iterations."""
    each = float(positions(run, align)[-1]) / int(run.metrics.curve[0][-1])
    ends, means = stretch_means(grid, values, width * each)
    return {"x": numbers(ends * factor, 9), "value": numbers(means, 5)}


def _reset_places(run: ComparedRun, align: Align) -> Floats:
    iterations = run.metrics.curve[0]
    marks = np.array([reset.iteration for reset in run.metrics.resets], dtype=np.float64)
    return np.interp(marks, iterations, positions(run, align)) if len(iterations) else np.zeros(0)


# --- measures ---


def _measure(name: str, comparison: Comparison) -> dict[str, Any]:
    """One measure: by reset of each run, and its median by k."""
    title, unit = MEASURES[name]
    of_run = list(enumerate(zip(comparison.runs, comparison.figures, strict=True)))
    return {
        "name": name,
        "title": title,
        "unit": unit,
        "lines": [_line(name, place, run.analysis.recoveries) for place, (run, _) in of_run if run.analysis.recoveries],
        "by_k": list(_medians(name, of_run)),
    }


def _line(name: str, place: int, recoveries: Sequence[Recovery]) -> dict[str, Any]:
    """``open`` are resets after which the loss had not come back, with how long that was."""
    chosen = [recoveries[n] for n in evenly(len(recoveries), MAX_MEASURED)]
    pending = [r for r in chosen if name == "iterations" and r.iterations is None and r.peak is not None]
    return {
        "place": place,
        "reset": [r.reset.number for r in chosen],
        "value": [number(getattr(r, name)) for r in chosen],
        "open": {"reset": [r.reset.number for r in pending], "value": [r.spent for r in pending]},
    }


def _medians(name: str, of_run: Iterable[tuple[int, tuple[ComparedRun, Figures]]]) -> Iterable[dict[str, Any]]:
    for place, (run, numbers_) in of_run:
        is_bound = name == "iterations" and numbers_.back.value is None
        value = _median_of(name, numbers_)
        if run.reset_every and value is not None:
            yield {"place": place, "k": run.reset_every, "value": number(value), "at_least": is_bound}


def _median_of(name: str, numbers_: Figures) -> float | None:
    if name == "iterations":
        return numbers_.back.at_least if numbers_.back.value is None else numbers_.back.value
    value: float | None = getattr(numbers_, name)
    return value
