# SPDX-License-Identifier: Apache-2.0
"""The loss curve as a picture for a README or a paper: ``loss_curve.png`` and ``loss_curve.svg``, on white."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gaff.report import format as fmt
from gaff.report.analysis.measures import Recovery
from gaff.report.figure.points import (
    FEW_RESETS,
    MANY_RESETS,
    edges_of,
    extremes,
    labelled,
    loss_range,
    segment_means,
    smoothed,
)
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.metrics.series import Floats, Ints

PNG_NAME = "loss_curve.png"
SVG_NAME = "loss_curve.svg"

# Told apart also by those who do not see red or green (Okabe and Ito's palette).
_LOSS, _RESET, _BACK, _RATE, _INK, _QUIET = "#0072B2", "#D55E00", "#00795A", "#666666", "#222222", "#555555"
_MAX_RECOVERY_TEXTS = 8
_MAX_POINTS = 4000
_THIN_LINE = 1000  # with more points, the line is drawn thinner


def loss_curve(metrics: RunMetrics, recoveries: Sequence[Recovery], title: str) -> dict[str, bytes]:
    """The picture by file name, PNG (1650 × 870 pixels) and SVG; nothing where no loss is logged yet.

    Loss over iterations with the resets and recoveries, and the learning rate below.  The same numbers give the same
    bytes.  The ``$`` of a title is no mathematics.
    """
    if not len(metrics.curve[0]):
        return {}
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "gaff", "svg.fonttype": "path"}):
        figure = _figure(metrics, recoveries, title.replace("$", r"\$"))
        return {
            PNG_NAME: _saved(figure, "png", {"Software": None}),
            SVG_NAME: _saved(figure, "svg", {"Date": None, "Creator": None}),
        }


def _saved(figure: Any, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _figure(metrics: RunMetrics, recoveries: Sequence[Recovery], title: str) -> Any:
    from matplotlib.figure import Figure

    resets = [reset.iteration for reset in metrics.resets]
    end = metrics.train_iters or int(metrics.curve[0][-1])
    figure = Figure(figsize=(11, 5.8), dpi=150, facecolor="white", layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    for axes in (top, below):
        _style(axes)
        _draw_resets(axes, resets)
    _draw_loss(top, metrics.curve, resets, end)
    for recovery in recoveries if len(resets) <= FEW_RESETS else ():
        _draw_recovery(top, recovery, texts=len(resets) <= _MAX_RECOVERY_TEXTS)
    _draw_rate(below, metrics)
    below.set_xlim(0, end * 1.01)
    below.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    below.set_xlabel("iteration", fontsize=11, color=_INK)
    top.set_title(title, loc="left", fontsize=14, fontweight="bold", color=_INK, pad=46)
    top.annotate(_subtitle(metrics), (0, 1), (0, 27), "axes fraction", "offset points", fontsize=10.5, color=_QUIET)
    return figure


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_INK, labelsize=10)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_resets(axes: Any, resets: list[int]) -> None:
    """One artist for all of them: a thousand of their own take seconds.  Many are ticks at the top."""
    low = 0.98
    style: dict[str, Any] = {"linewidth": 0.4, "alpha": 0.6}
    if len(resets) <= MANY_RESETS:
        low, alpha = 0.0, 0.75 if len(resets) <= FEW_RESETS else 0.4
        style = {"linewidth": 1, "linestyle": (0, (3, 3)), "alpha": alpha}
    axes.vlines(resets, low, 1, colors=_RESET, transform=axes.get_xaxis_transform(), **style)


def _subtitle(metrics: RunMetrics) -> str:
    iterations, losses = metrics.curve
    resets = fmt.count(len(metrics.resets), "embedding reset")
    return f"{resets} · loss {fmt.loss(float(losses[-1]))} at iteration {int(iterations[-1]):,}"


def _draw_loss(axes: Any, curve: tuple[Ints, Floats], resets: list[int], end: int) -> None:
    iterations, losses = curve
    low, high = loss_range(iterations, losses, end)
    is_dense = len(resets) > MANY_RESETS
    kept, edges = extremes(losses, _MAX_POINTS), edges_of(iterations, resets)
    mean = smoothed(losses, edges)
    width = 1.7 if len(iterations) <= _THIN_LINE else 0.8
    raw, smooth = losses[kept], mean[kept]
    bare = np.isnan(smooth)
    cuts = np.searchsorted(kept, edges[1:-1])
    faint: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.35}
    strong: dict[str, Any] = {"linewidth": width, "alpha": 0.5 if is_dense else 1.0}
    for values, style in ((np.where(bare, np.nan, raw), faint), (np.where(bare, raw, smooth), strong)):
        x, y = np.insert(iterations[kept].astype(float), cuts, np.nan), np.insert(values, cuts, np.nan)
        axes.plot(x, y, color=_LOSS, solid_joinstyle="round", **style)
    if is_dense:
        axes.plot(*segment_means(iterations, losses, edges), color=_INK, linewidth=1.2, label="mean of each segment")
        axes.legend(frameon=False, fontsize=9.5, loc="upper right", borderaxespad=1.2)
    alone = [begin for begin, stop in pairwise(edges) if stop - begin == 1]
    axes.plot(iterations[alone], losses[alone], color=_LOSS, linestyle="none", marker="o", markersize=3)
    axes.set_ylim(low, high)
    axes.set_ylabel("training loss", fontsize=11, color=_INK)
    if losses[0] > high:
        _note(axes, f"begins at {fmt.loss(float(losses[0]))}", (int(iterations[np.argmax(losses <= high)]), high))
    for place in labelled(len(resets)):
        _name(axes, f"reset {place + 1}", resets[place])


def _note(axes: Any, text: str, place: tuple[float, float]) -> None:
    axes.annotate(text, place, (12, -13), textcoords="offset points", fontsize=9.5, color=_QUIET)


def _name(axes: Any, text: str, iteration: int) -> None:
    above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
    axes.annotate(text, (iteration, 1), (0, 3), fontsize=10, color=_RESET, **above)


def _draw_recovery(axes: Any, recovery: Recovery, texts: bool) -> None:
    """From the reset to where the loss is back, at the level to which it comes back."""
    if recovery.recovered_iteration is None or recovery.before is None:
        return
    span = (recovery.reset.iteration, recovery.recovered_iteration)
    axes.plot(span, (recovery.before, recovery.before), color=_BACK, linewidth=1.6, solid_capstyle="butt")
    axes.plot(span[1], recovery.before, color=_BACK, marker="|", markersize=8, markeredgewidth=1.6)
    if texts:
        axes.annotate(
            f"back after {recovery.iterations:,}",
            xy=(sum(span) / 2, recovery.before),
            xytext=(0, -5),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9.5,
            color=_BACK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )


def _draw_rate(axes: Any, metrics: RunMetrics) -> None:
    known = np.isfinite(metrics.series.learning_rate)
    rates, iterations = metrics.series.learning_rate[known], metrics.series.iteration[known]
    if len(rates):
        kept = extremes(rates, _MAX_POINTS)
        axes.plot(iterations[kept], rates[kept], color=_RATE, linewidth=1.4)
        axes.set_yticks([0, float(rates.max())])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning\nrate", fontsize=10, color=_INK)
    axes.yaxis.set_major_formatter(lambda value, _: fmt.rate(value))
