# SPDX-License-Identifier: Apache-2.0
"""The loss curve of a run on disk: ``loss_curve.png`` for a README, and the page ``report.html``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from gaff.files import write_durably
from gaff.report import format as fmt
from gaff.report.chart import FEW_RESETS, Curve, labelled, loss_range, runs, smoothed
from gaff.report.metrics import RunMetrics
from gaff.report.page import page
from gaff.report.recovery import Recovery, recoveries
from gaff.report.summary import summary_of
from gaff.supervisor.journal import read_entries

PNG_NAME = "loss_curve.png"
PAGE_NAME = "report.html"

# Told apart also by those who do not see red or green (Okabe and Ito's palette).
_LOSS, _RESET, _BACK, _RATE, _INK = "#0072B2", "#D55E00", "#00795A", "#666666", "#222222"
_MAX_RECOVERY_TEXTS = 8


def write_curve(metrics: RunMetrics, run_dir: Path, title: str) -> list[Path]:
    """Draw the run into ``run_dir``; the files that were written, none when no loss is logged yet."""
    if not metrics.curve:
        return []
    png, html = run_dir / PNG_NAME, run_dir / PAGE_NAME
    write_durably(png, loss_curve_png(metrics, title))
    summary = summary_of(metrics, read_entries(run_dir))
    write_durably(html, page(metrics, summary, title).encode())
    return [png, html]


def loss_curve_png(metrics: RunMetrics, title: str) -> bytes:
    """1650 × 870 pixels on white: loss over iterations with the resets, and the learning rate below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve, resets = metrics.curve, [reset.iteration for reset in metrics.resets]
    end, few = metrics.train_iters or curve[-1][0], len(metrics.resets) <= FEW_RESETS
    figure = Figure(figsize=(11, 5.8), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    for axes in (top, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#999999")
        axes.tick_params(colors=_INK, labelsize=10)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        for reset in resets:
            axes.axvline(reset, color=_RESET, linewidth=1, linestyle=(0, (3, 3)), alpha=0.75 if few else 0.25)
    _draw_loss(top, curve, resets, end)
    for recovery in recoveries(curve, metrics.resets) if few else ():
        _draw_recovery(top, recovery, texts=len(resets) <= _MAX_RECOVERY_TEXTS)
    _draw_rate(below, metrics)
    below.set_xlim(0, end * 1.01)
    below.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    below.set_xlabel("iteration", fontsize=11, color=_INK)
    top.set_title(title, loc="left", fontsize=14, fontweight="bold", color=_INK, pad=46)
    top.annotate(_subtitle(metrics), (0, 1), (0, 27), "axes fraction", "offset points", fontsize=10.5, color="#555555")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _subtitle(metrics: RunMetrics) -> str:
    iteration, loss = metrics.curve[-1]
    resets = fmt.count(len(metrics.resets), "embedding reset")
    return f"{resets} · loss {fmt.loss(loss)} at iteration {iteration:,}"


def _draw_loss(axes: Any, curve: Curve, resets: list[int], end: int) -> None:
    low, high = loss_range(curve, end)
    width = 1.7 if len(curve) <= 1000 else 0.8
    for piece in runs(curve, resets):
        mean = smoothed(piece)
        fine = {"linewidth": 0.8, "alpha": 0.35} if mean else {"linewidth": width}
        axes.plot(*zip(*piece, strict=True), color=_LOSS, solid_joinstyle="round", **fine)
        if mean:
            axes.plot(*zip(*mean, strict=True), color=_LOSS, linewidth=width, solid_joinstyle="round")
        if len(piece) == 1:
            axes.plot(*piece[0], color=_LOSS, marker="o", markersize=3)
    axes.set_ylim(low, high)
    axes.set_ylabel("training loss", fontsize=11, color=_INK)
    if curve[0][1] > high:
        axes.annotate(
            f"begins at {fmt.loss(curve[0][1])}",
            xy=(next(i for i, loss in curve if loss <= high), high),
            xytext=(12, -13),
            textcoords="offset points",
            fontsize=9.5,
            color="#555555",
        )
    texts = labelled(resets)
    for place, reset in enumerate(resets):
        if place in texts:
            axes.annotate(
                f"reset {place + 1}",
                xy=(reset, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=10,
                color=_RESET,
            )


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
    rates = [(p.iteration, p.learning_rate) for p in metrics.points if p.learning_rate is not None]
    if rates:
        axes.plot(*zip(*rates, strict=True), color=_RATE, linewidth=1.4)
        axes.set_yticks([0, max(rate for _, rate in rates)])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning\nrate", fontsize=10, color=_INK)
    axes.yaxis.set_major_formatter(lambda value, _: fmt.rate(value))
