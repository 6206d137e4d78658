# SPDX-License-Identifier: Apache-2.0
"""The loss curve as inline SVG, coloured by the page's style sheet: resets marked, the learning rate below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from gaff.report import format as fmt
from gaff.report.chart import FEW_RESETS, Curve, labelled, loss_range, runs, thinned, ticks
from gaff.report.metrics import RunMetrics
from gaff.report.recovery import recoveries

WIDTH, HEIGHT = 960, 460
LEFT, RIGHT, TOP = 56, 14, 28
LOSS_BOTTOM, RATE_TOP, RATE_BOTTOM = 340, 366, 416
MAX_POINTS = 1500


@dataclass(frozen=True)
class Scale:
    """From numbers to the picture's own units.  The page's script is given the same numbers."""

    end: int
    low: float
    high: float
    top_rate: float

    def x(self, iteration: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * iteration / self.end

    def y(self, loss: float) -> float:
        """Losses above the axis lie above ``TOP``; the picture clips them there."""
        return LOSS_BOTTOM - (LOSS_BOTTOM - TOP) * (loss - self.low) / (self.high - self.low)

    def rate_y(self, rate: float) -> float:
        return RATE_BOTTOM - (RATE_BOTTOM - RATE_TOP) * rate / self.top_rate


def scale_of(metrics: RunMetrics) -> Scale:
    """The scale for a run with at least one logged loss."""
    curve = metrics.curve
    end = metrics.train_iters or curve[-1][0]
    rates = [p.learning_rate for p in metrics.points if p.learning_rate]
    return Scale(end, *loss_range(curve, end), top_rate=max(rates, default=1.0))


def loss_curve_svg(metrics: RunMetrics, scale: Scale) -> str:
    """The whole ``<svg>`` element."""
    resets = [reset.iteration for reset in metrics.resets]
    parts = [
        f'<svg id="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_description(metrics))}">',
        f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{LOSS_BOTTOM - TOP}"/></clipPath>',
        *_axes(scale),
        *_resets(scale, resets),
        *_beginning(scale, metrics.curve),
        *_lines("loss", [[(scale.x(i), scale.y(v)) for i, v in piece] for piece in _pieces(metrics.curve, resets)]),
        *_recoveries(scale, metrics),
        *_lines("rate", [_rates(metrics, scale)]),
        '<g id="cursor" visibility="hidden">',
        f'<line class="cursor" y1="{TOP}" y2="{RATE_BOTTOM}"/><circle class="dot" r="4"/></g>',
        f'<rect id="surface" x="{LEFT}" y="0" width="{WIDTH - LEFT - RIGHT}" height="{RATE_BOTTOM}"/>',
        "</svg>",
    ]
    return "\n".join(parts)


def _description(metrics: RunMetrics) -> str:
    last = metrics.curve[-1]
    resets = ", ".join(str(reset.iteration) for reset in metrics.resets) or "none"
    return f"Training loss over {last[0]} iterations, {fmt.loss(last[1])} at the end; resets after: {resets}"


def _pieces(curve: Curve, resets: Sequence[int]) -> list[list[tuple[int, float]]]:
    return runs(thinned(curve, MAX_POINTS), resets)


def _rates(metrics: RunMetrics, scale: Scale) -> list[tuple[float, float]]:
    rates = [(p.iteration, p.learning_rate) for p in metrics.points if p.learning_rate is not None]
    return [(scale.x(i), scale.rate_y(rate)) for i, rate in thinned(rates, MAX_POINTS)]


def _lines(name: str, pieces: Sequence[Sequence[tuple[float, float]]]) -> list[str]:
    shown = [piece for piece in pieces if piece]
    # A piece of one point is drawn as a dot: a line of no length with round ends.
    points = (
        " ".join(f"{x:.1f},{y:.1f}" for x, y in (piece if len(piece) > 1 else [*piece, *piece])) for piece in shown
    )
    return [f'<polyline class="{name}" points="{text}"/>' for text in points]


def _beginning(scale: Scale, curve: Curve) -> list[str]:
    """Where the first fall is cut off: from where."""
    if curve[0][1] <= scale.high:
        return []
    shown = next(i for i, loss in curve if loss <= scale.high)
    return [_text(scale.x(shown) + 10, TOP + 14, "name", f"begins at {fmt.loss(curve[0][1])}")]


def _text(x: float, y: float, name: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{name}">{escape(text)}</text>'


def _axes(scale: Scale) -> list[str]:
    right = WIDTH - RIGHT
    parts: list[str] = []
    for loss in ticks(scale.low, scale.high, 8):
        y = scale.y(loss)
        parts += [f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>']
        parts += [_text(LEFT - 8, y + 4, "tick end", f"{loss:g}")]
    for iteration in ticks(0, scale.end, 8):
        parts += [_text(scale.x(iteration), RATE_BOTTOM + 18, "tick middle", f"{iteration:,.0f}")]
    for y in (LOSS_BOTTOM, RATE_BOTTOM):
        parts += [f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>']
    return [
        *parts,
        _text(LEFT - 8, RATE_TOP + 4, "tick end", fmt.rate(scale.top_rate)),
        _text(LEFT, RATE_TOP - 8, "name", "learning rate"),
        _text(4, 14, "name", "training loss"),
        _text((LEFT + right) / 2, HEIGHT - 8, "name middle", "iteration"),
    ]


def _resets(scale: Scale, resets: Sequence[int]) -> list[str]:
    texts = labelled(resets)
    parts: list[str] = []
    name = "reset" if len(resets) <= FEW_RESETS else "reset many"
    for place, reset in enumerate(resets):
        x = scale.x(reset)
        parts.append(f'<line class="{name}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{RATE_BOTTOM}"/>')
        if place in texts:
            parts.append(_text(x, TOP - 10, "reset-name middle", f"reset {place + 1}"))
    return parts


def _recoveries(scale: Scale, metrics: RunMetrics) -> list[str]:
    parts: list[str] = []
    few = len(metrics.resets) <= FEW_RESETS
    for recovery in recoveries(metrics.curve, metrics.resets) if few else ():
        if recovery.before is not None and recovery.recovered_iteration is not None:
            y, begin, end = (
                scale.y(recovery.before),
                scale.x(recovery.reset.iteration),
                scale.x(recovery.recovered_iteration),
            )
            parts.append(f'<path class="back" d="M{begin:.1f},{y:.1f}H{end:.1f}m0,-4v8"/>')
    return parts
