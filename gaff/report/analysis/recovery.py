# SPDX-License-Identifier: Apache-2.0
"""How the loss came back after each reset.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gaff.plan.schedule import Reset
from gaff.report.analysis.measures import Recovery
from gaff.report.analysis.plateaus import find_plateau
from gaff.report.metrics.series import Floats, Ints

_LEVEL_LINES = 3  # one line alone is a noisy level to come back to
PERCENTAGES = (10.0, 5.0, 2.0, 1.0)  # x of "within x% of the level before"


def recoveries(
    iterations: Ints, losses: Floats, resets: Sequence[Reset], percentages: Sequence[float] = PERCENTAGES
) -> tuple[Recovery, ...]:
    """One for each reset.

    Args:
        iterations, losses: the logged losses that are finite and right, in the order of iterations, shape ``(n,)``.
        resets: in the order of iterations.
        percentages: see :attr:`Recovery.within`.
    """
    marks = [0, *(reset.iteration for reset in resets)]
    edges = np.searchsorted(iterations, np.array(marks), side="right").tolist()
    edges.append(len(iterations))
    return tuple(
        _recovery(
            reset,
            losses[edges[place] : edges[place + 1]],
            iterations[edges[place + 1] : edges[place + 2]],
            losses[edges[place + 1] : edges[place + 2]],
            percentages,
        )
        for place, reset in enumerate(resets)
    )


def _recovery(reset: Reset, earlier: Floats, at: Ints, later: Floats, percentages: Sequence[float]) -> Recovery:
    """``earlier``: of the segment before; ``at`` and ``later``: iterations and losses up to the next reset."""
    before = _level(earlier)
    until = int(at[-1]) if len(at) else reset.iteration
    if before is None or not len(later):
        top_loss, top_iteration = _peak(at, later) if len(later) else (None, None)
        return Recovery(
            reset=reset,
            until=until,
            before=before,
            peak=top_loss,
            peak_iteration=top_iteration,
            area=None,
            recovered_iteration=None,
            within=dict.fromkeys(percentages),
            half_life=None,
            plateau=None,
            loss_after=_level(later),
        )
    back = _first_below(later, before)
    end = len(later) if back is None else back + 1  # what belongs to the spike
    peak, peak_iteration = _peak(at[:end], later[:end])
    top = int(np.argmax(later[:end]))
    return Recovery(
        reset=reset,
        until=until,
        before=before,
        peak=peak,
        peak_iteration=peak_iteration,
        area=_area(reset.iteration, at[:end], later[:end], before),
        recovered_iteration=None if back is None else int(at[back]),
        within={x: _since(reset, at, _first_below(later, _near(before, x))) for x in percentages},
        half_life=_half_life(at[top:end], later[top:end], before),
        plateau=find_plateau(at[top:end], later[top:end], before, peak),
        loss_after=_level(later),
    )


def _level(losses: Floats) -> float | None:
    return float(losses[-_LEVEL_LINES:].mean()) if len(losses) else None


def _near(before: float, percentage: float) -> float:
    return before + abs(before) * percentage / 100


def _peak(at: Ints, losses: Floats) -> tuple[float, int]:
    top = int(np.argmax(losses))
    return float(losses[top]), int(at[top])


def _first_below(losses: Floats, level: float) -> int | None:
    below = losses <= level
    return int(np.argmax(below)) if below.any() else None


def _since(reset: Reset, at: Ints, place: int | None) -> int | None:
    return None if place is None else int(at[place]) - reset.iteration


def _area(begin: int, at: Ints, losses: Floats, before: float) -> float:
    """Each line's loss is the mean over the iterations since the line before, so the sum is exact."""
    spans = np.diff(at, prepend=begin)
    return float((np.maximum(losses - before, 0.0) * spans).sum())


def _half_life(at: Ints, losses: Floats, before: float) -> float | None:
    """From the peak, which comes first, to half of its height, on the straight line between two logged points."""
    half = before + (losses[0] - before) / 2
    if losses[0] <= before:
        return None
    place = _first_below(losses, float(half))
    if place is None or place == 0:
        return None
    above, below = float(losses[place - 1]), float(losses[place])
    part = (above - float(half)) / (above - below)
    return float(at[place - 1] - at[0]) + part * float(at[place] - at[place - 1])
