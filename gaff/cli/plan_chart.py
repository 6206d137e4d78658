# SPDX-License-Identifier: Apache-2.0
"""The schedule of a run as a picture in text: learning rate, resets and segments over the iterations.  Pure.

What is too narrow for the whole run to show is drawn once more, enlarged.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gaff.plan.learning_rate import LearningRate

WIDTH, ROWS = 72, 8
GUTTER = 10
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LOOKED_AT = 64  # iterations of one column; restarts and ends of warm-ups come on top
_RESTARTS_LOOKED_AT = 8  # of one column, from each side
_NARROW = 3  # columns; a narrower segment is not told from its neighbours
_TOLD = 4  # the whole curve is drawn where at least a fourth of the run is in segments wide enough
_ENLARGED = 2  # segments, or cycles


@dataclass(frozen=True)
class View:
    """Iterations ``after`` (exclusive) to ``last`` (inclusive), in ``width`` columns."""

    after: int
    last: int
    width: int

    @property
    def iterations(self) -> int:
        return self.last - self.after

    def column(self, iteration: int) -> int:
        """The column of an iteration of the view."""
        return (iteration - self.after - 1) * self.width // self.iterations

    def span(self, column: int) -> tuple[int, int]:
        """First and last iteration of a column; a short view has the same one in several."""
        first = self.after + column * self.iterations // self.width + 1
        return first, max(first, self.after + (column + 1) * self.iterations // self.width)


def draw(
    rate: LearningRate | None, resets: Sequence[int], train_iters: int, *, unicode: bool, width: int = WIDTH
) -> list[str]:
    """The schedule as lines of at most ``width`` + 12 characters.

    The columns of the learning rate are filled up to the lowest rate that a step among their iterations uses, and
    shaded from there to the highest.

    Args:
        rate: of the run; None where it is not known.
        resets: iterations after which there is one, ascending.
        train_iters: length of the run.
        unicode: block characters; else ASCII alone.
        width: columns of the picture itself.
    """
    edges = [0, *resets, train_iters]
    lengths = [stop - start for start, stop in pairwise(edges)]
    wide = [length for length in lengths if length * width >= _NARROW * train_iters]
    dense = len(lengths) - len(wide) > 1
    whole = View(0, train_iters, width)
    restarts = bool(rate and rate.restarts)
    wave = _wave(rate, whole)
    lines = []
    if rate and not wave and (not restarts or not dense or sum(wide) * _TOLD >= train_iters):
        lines += _curve(rate, whole, unicode)
    if rate or resets:
        lines += [*_strip(edges, whole, unicode, segments=bool(resets) and not dense), *_crowded(edges, whole)]
    if dense:
        view, numbers = _enlarged(edges, width)
        shown = "learning rate and segments" if restarts else "segments"
        lines += ["", f"{shown} {numbers}, enlarged:"]
        lines += _curve(rate, view, unicode) if rate and restarts else []
        lines += _strip(edges, view, unicode, segments=True)
    if rate and wave:
        lines += ["", "learning rate, enlarged:", *_curve(rate, wave, unicode)]
        lines += _strip(edges, wave, unicode, segments=False)
    return lines


def _wave(rate: LearningRate | None, whole: View) -> View | None:
    """The first cycles of a cosine that rises again and again, where the whole run would show a grey block of them."""
    if rate is None or rate.restarts or rate.schedule.decay_style != "cosine":
        return None
    cycle = 2 * math.ceil(rate.schedule.end_iter - rate.schedule.warmup_iter)
    if cycle < 1 or cycle * whole.width >= _NARROW * whole.last:
        return None
    return View(0, min(_ENLARGED * cycle, whole.last), whole.width)


def _enlarged(edges: Sequence[int], width: int) -> tuple[View, str]:
    """Two segments that are like the most: the first two, or the next two where the first is of another length."""
    begin = 0 if edges[1] == edges[2] - edges[1] else 1
    end = min(begin + _ENLARGED, len(edges) - 1)
    return View(edges[begin], edges[end], width), f"{begin + 1:,} and {end:,}"


def _crowded(edges: Sequence[int], view: View) -> Iterator[str]:
    """How many resets one mark stands for, where that is more than one."""
    columns = [view.column(reset) for reset in edges[1:-1]]
    most = max((columns.count(column) for column in set(columns)), default=0)
    if most > 1:
        yield f"{'':>{GUTTER}}  each mark stands for up to {most:,} resets"


def _curve(rate: LearningRate, view: View, unicode: bool) -> list[str]:
    bands = [_band(rate, *view.span(column)) for column in range(view.width)]
    top = max(high for _, high in bands)
    levels = [(_level(low, top), _level(high, top)) for low, high in bands]
    labels = {ROWS - 1: f"{top:.2e}", ROWS // 2 - 1: f"{top / 2:.2e}"}
    bar, corner, line = "│└─" if unicode else "|+-"
    lines = []
    for row in reversed(range(ROWS)):
        cells = "".join(_cell(low - 8 * row, high - 8 * row, unicode) for low, high in levels)
        lines.append(f"{labels.get(row, ''):>{GUTTER}} {bar}{cells}".rstrip())
    return [*lines, f"{'0':>{GUTTER}} {corner}{line * view.width}"]


def _strip(edges: Sequence[int], view: View, unicode: bool, *, segments: bool) -> list[str]:
    """Resets, segments in turn dark and light, and the axis."""
    lines = []
    inside = [reset for reset in edges[1:-1] if view.after < reset <= view.last]
    if inside:
        marks = [" "] * view.width
        for reset in inside:
            marks[view.column(reset)] = "▲" if unicode else "^"
        lines.append(f"{'resets':>{GUTTER}}  {''.join(marks)}".rstrip())
    if segments:
        dark, light = "█▒" if unicode else "#-"
        firsts = (view.span(column)[0] for column in range(view.width))
        cells = (dark if bisect_left(edges, first) % 2 else light for first in firsts)
        lines.append(f"{'segments':>{GUTTER}}  {''.join(cells)}")
    return [*lines, _axis(view)]


def _axis(view: View) -> str:
    begin, end = f"{view.after + 1:,}", f"{view.last:,}"
    middle = f"{view.after + view.iterations // 2:,}" if view.iterations > 3 else ""
    axis = begin.ljust(view.width // 2 - len(middle) // 2) + middle
    return f"{'iteration':>{GUTTER}}  {axis}{end.rjust(view.width - len(axis))}"


def _band(rate: LearningRate, first: int, last: int) -> tuple[float, float]:
    """Lowest and highest rate among the iterations of a column."""
    step = max(1, (last - first) // _LOOKED_AT)
    shown = {*range(first, last + 1, step), last}
    inside = rate.restarts[bisect_left(rate.restarts, first - 1) : bisect_right(rate.restarts, last)]
    turns = {0, *inside[:_RESTARTS_LOOKED_AT], *inside[-_RESTARTS_LOOKED_AT:]}
    warm = math.floor(rate.schedule.warmup_iter)
    near = (turn + steps for turn in turns for steps in (0, 1, warm + 1, warm + 2))
    shown.update(iteration for iteration in near if first <= iteration <= last)
    rates = [rate.used(iteration) for iteration in shown]
    return min(rates), max(rates)


def _level(value: float, top: float) -> int:
    """In eighths of a row; a rate above 0 is never drawn as none."""
    return max(1 if value > 0 else 0, round(value / top * ROWS * 8)) if top > 0 else 0


def _cell(low: int, high: int, unicode: bool) -> str:
    """One character, its column filled to ``low`` and shaded to ``high``, in eighths above the lower edge."""
    full, shade = "█░" if unicode else "#:"
    if high <= 0:
        return " "
    if low >= 8:
        return full
    if high - low >= 8:
        return shade if high >= 4 else " "
    if unicode:
        return _EIGHTHS[min(high, 8)]
    return full if high >= 4 else "."
