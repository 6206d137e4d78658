# SPDX-License-Identifier: Apache-2.0
"""The numbers of one run that are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from gaff.plan.schedule import Reset
from gaff.report.analysis.measures import Recovery
from gaff.report.compare.axes import Align, positions
from gaff.report.compare.difference import mean_over, rising
from gaff.report.compare.runs import ComparedRun

_MOST_LAST = 100
_SHARE_LAST = 20  # the last twentieth of the shortest run


@dataclass(frozen=True)
class FinalLoss:
    """The mean of the last N logged losses.

    Attributes:
        mean: of the ``count`` losses.
        sd: their standard deviation (of a sample); None of a single one.
        first, last: iterations of the first and the last of them.
        reset: the last reset that lies among them, None where none does.
        recovering: the last reset before them, where the loss had not come back from it at ``first``.
    """

    mean: float
    sd: float | None
    count: int
    first: int
    last: int
    reset: Reset | None
    recovering: Reset | None


@dataclass(frozen=True)
class Difference:
    """Loss minus the baseline's over the same stretch.

    Attributes:
        value: of the means.
        until: iteration of the run at which the stretch ends.
        is_at_end: whether that is where the run's curve ends, too.
    """

    value: float
    until: int
    is_at_end: bool


@dataclass(frozen=True)
class MedianBack:
    """Iterations until the loss is back, the median over resets.

    A reset after which the loss did not come back counts as longer than any other: leaving it out would make the run
    that recovers worst look best.  One that the end of the run cut short is left out.

    Attributes:
        value: None where half of them or more did not come back.
        at_least: then, the median of the iterations spent recovering, below which it cannot be.
        recovered, of: resets after which the loss came back, of those counted.
    """

    value: float | None
    at_least: float | None
    recovered: int
    of: int


@dataclass(frozen=True)
class Figures:
    """What the table shows of a run; None for what is not known.  Losses are in nats, times in seconds."""

    reset_every: int | None
    resets: int
    iterations: int
    planned: int | None
    final: FinalLoss | None
    lowest: float | None
    lowest_iteration: int | None
    validation: float | None
    validation_iteration: int | None
    difference: Difference | None
    back: MedianBack
    half_life: float | None
    spike: float | None
    area: float | None
    share: float | None
    training_s: float
    outside_s: float | None
    launches: int
    restarts: int


def common_count(runs: Sequence[ComparedRun]) -> int:
    """How many losses the final ones are means of: a twentieth of the shortest curve's, at least 1, at most 100."""
    shortest = min((n for run in runs if (n := len(run.metrics.curve[0]))), default=1)
    return max(1, min(_MOST_LAST, shortest // _SHARE_LAST))


def figures(run: ComparedRun, count: int, baseline: Sequence[ComparedRun], align: Align) -> Figures:
    """The numbers of one run.

    Args:
        count: losses in the final mean.
        baseline: the runs of the baseline's setting; none without a baseline.
        align: where the loss is compared with the baseline's.
    """
    summary, recoveries = run.summary, run.analysis.recoveries
    validation, lowest = summary["validation"] or {}, summary["loss"]["lowest"] or {}
    return Figures(
        reset_every=run.reset_every,
        resets=len(recoveries),
        iterations=run.done,
        planned=summary["iterations"]["planned"],
        final=final_loss(run, count),
        lowest=lowest.get("loss"),
        lowest_iteration=lowest.get("iteration"),
        validation=validation.get("loss"),
        validation_iteration=validation.get("iteration"),
        difference=_difference(run, count, baseline, align),
        back=median_back(recoveries),
        half_life=_median([r.half_life for r in recoveries]),
        spike=_median([r.spike for r in recoveries]),
        area=_median([r.area for r in recoveries]),
        share=run.analysis.share if recoveries else None,
        training_s=summary["seconds"]["training"],
        outside_s=summary["seconds"]["boundaries"],
        launches=summary["attempts"],
        restarts=run.restarts,
    )


def final_loss(run: ComparedRun, count: int) -> FinalLoss | None:
    """The mean of the last ``count`` logged losses; None where fewer are logged."""
    iterations, losses = run.metrics.curve
    if len(losses) < count:
        return None
    first, last = int(iterations[-count]), int(iterations[-1])
    inside = [r.reset for r in run.analysis.recoveries if first <= r.reset.iteration < last]
    earlier = [r for r in run.analysis.recoveries if r.reset.iteration < first]
    waits = earlier[-1] if earlier else None
    is_back = waits is None or (waits.recovered_iteration is not None and waits.recovered_iteration <= first)
    return FinalLoss(
        mean=float(losses[-count:].mean()),
        sd=float(losses[-count:].std(ddof=1)) if count > 1 else None,
        count=count,
        first=first,
        last=last,
        reset=inside[-1] if inside else None,
        recovering=None if waits is None or is_back else waits.reset,
    )


def median_back(recoveries: Sequence[Recovery]) -> MedianBack:
    counted = [r for r in recoveries if r.peak is not None and r.before is not None and not _cut_short(r, recoveries)]
    back = [r.iterations for r in counted if r.iterations is not None]
    value = _median([math.inf if r.iterations is None else float(r.iterations) for r in counted])
    is_known = value is not None and math.isfinite(value)
    at_least = _median([float(r.spent) for r in counted])
    return MedianBack(value if is_known else None, None if is_known else at_least, len(back), len(counted))


def _cut_short(recovery: Recovery, recoveries: Sequence[Recovery]) -> bool:
    """Whether the run ended before this recovery had as long as the one before it."""
    if recovery.iterations is not None or recovery is not recoveries[-1]:
        return False
    earlier = recoveries[-2].reset.iteration if len(recoveries) > 1 else 0
    return recovery.spent < recovery.reset.iteration - earlier


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _difference(run: ComparedRun, count: int, baseline: Sequence[ComparedRun], align: Align) -> Difference | None:
    """Against the mean of the baseline's runs, over the run's last ``count`` lines that all of them reach."""
    if not baseline or any(run is one for one in baseline):
        return None
    x, losses = positions(run, align), run.metrics.curve[1]
    ends = [places[-1] for one in baseline if len(places := positions(one, align))]
    if len(ends) < len(baseline) or not len(x):
        return None
    last = int(np.searchsorted(x, min(ends) * (1 + 1e-12), side="right")) - 1
    if last + 1 < count:
        return None
    begin = float(x[last - count]) if last >= count else 0.0
    edges = np.array([begin, min(float(x[last]), min(ends))])
    if not edges[1] > edges[0]:
        return None
    own = _mean(x, losses, edges)
    base = sum(_mean(positions(one, align), one.metrics.curve[1], edges) for one in baseline) / len(baseline)
    return Difference(own - base, int(run.metrics.curve[0][last]), last == len(x) - 1)


def _mean(x: np.ndarray, losses: np.ndarray, edges: np.ndarray) -> float:
    kept = rising(x)
    return float(mean_over(x[kept], losses[kept], edges)[0])
