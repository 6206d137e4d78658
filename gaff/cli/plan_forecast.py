# SPDX-License-Identifier: Apache-2.0
"""What a plan says beyond its config: epochs over the data that is here, time, GPU hours, and jobs on the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaff.cli.plan_layout import Row
from gaff.cli.plan_measured import timing
from gaff.data.training_tokens import TrainingData, training_data
from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.plan.cost import Cost, cost
from gaff.plan.estimates import gpu_count, own_saves
from gaff.plan.plan import Plan
from gaff.plan.typed import integer
from gaff.report.format import clock, count, duration

if TYPE_CHECKING:
    from gaff.cli.plan_jobs import Chain


@dataclass(frozen=True)
class Forecast:
    """Epochs, cost and jobs of one plan; where one is not known, why.

    Attributes:
        plan: it belongs to.
        data: what the run trains on.
        cost: of a run that nothing interrupts.
        chain: the jobs that it needs; None where no time limit was given.
        warnings: about what it was worked out from.
    """

    plan: Plan
    data: TrainingData | str
    cost: Cost | str
    chain: Chain | str | None
    warnings: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """New keys of ``gaff.plan/1``."""
        known = not isinstance(self.data, str)
        return {
            "data": self.data.to_json(self.plan.tokens) if isinstance(self.data, TrainingData) else None,
            "data_unknown": None if known else self.data,
            "cost": self.cost.to_json() if isinstance(self.cost, Cost) else None,
            "cost_unknown": self.cost if isinstance(self.cost, str) else None,
            "walltime": None if self.chain is None or isinstance(self.chain, str) else self.chain.to_json(),
            "walltime_unknown": self.chain if isinstance(self.chain, str) else None,
        }

    def data_rows(self) -> list[Row]:
        """Epochs over the data."""
        if isinstance(self.data, str):
            return [("epochs", f"not known: {self.data}")]
        held = f"{self.data.tokens:,} training tokens in {_named(self.data)}"
        if self.plan.tokens is None:
            return [("epochs", f"not known without the number of GPUs; {held}")]
        each = [self.data.epochs_of(item, self.plan.tokens) for item in self.data.sets]
        said = f"{_times(self.data.epochs(self.plan.tokens))} over {held}"
        if len(each) > 1:
            most = self.data.sets[each.index(max(each))].prefix
            said += f"; from {_times(min(each))} to {_times(max(each))}, the most over {most}"
        return [("epochs", said)]

    def cost_rows(self) -> list[Row]:
        """Time, GPU hours, boundaries and jobs."""
        if isinstance(self.cost, str):
            return [("GPU hours", f"not known: {self.cost}"), *self._chain_rows()]
        found, times = self.cost, self.cost.timing
        rows: list[Row] = [
            ("iteration", f"{_milliseconds(times.iteration_s or 0.0)} ({times.iteration_source})"),
            ("training", _spent(found.training_s, found.gpus)),
        ]
        if found.boundaries_s is None or found.boundary_share is None:
            unknown = f"{_launches(found.launches)}; what it takes to save, reset and start is not known"
            rows += [("boundaries", f"{unknown}: give --boundary-seconds N, or --measured RUN")]
        else:
            one = f"{_launches(found.launches)}, each {duration(times.boundary_s or 0.0)} to save, reset and start"
            spent = f"{_spent(found.boundaries_s, found.gpus)}, {_percent(found.boundary_share)} of the run"
            rows += [("boundaries", f"{one} ({times.boundary_source}): {spent}")]
            rows += [("in all", _spent(found.total_s, found.gpus))]
        if found.gpus is None:
            rows += [("GPU hours", "not known: set global_num_gpus or a hostfile")]
        return [*rows, *self._chain_rows()]

    def _chain_rows(self) -> list[Row]:
        if self.chain is None:
            return []
        if isinstance(self.chain, str):
            return [("jobs", f"not known: {self.chain}")]
        jobs, limit = self.chain.jobs, duration(self.chain.limit_s)
        if self.chain.stuck_at is not None:
            after = f"after iteration {self.chain.stuck_at:,}" if self.chain.stuck_at else "at all"
            return [("jobs", f"with {limit} each the run never ends: no job comes to a checkpoint {after}")]
        if len(jobs) == 1:
            return [("jobs", f"1 of {limit}, which takes {duration(jobs[0].seconds)}")]
        gpus = self.cost.gpus if isinstance(self.cost, Cost) else None
        fewest, most = (pick(job.stop - job.start for job in jobs[:-1]) for pick in (min, max))
        trained = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        said = (
            f"{len(jobs):,} in a chain, {limit} each: {trained} iterations in each but the last, which takes"
            f" {duration(jobs[-1].seconds)}; {_launches(self.chain.launches)},"
            f" {_spent(self.chain.seconds, gpus)} without waiting"
        )
        return [("jobs", said)]


def forecast(
    config: Config,
    plan: Plan,
    measured: Path | None = None,
    iteration_ms: float | None = None,
    boundary_seconds: float | None = None,
    time_limit: str | None = None,
) -> Forecast:
    """Look at the data, and work out cost and jobs from what is given or was measured.

    Raises:
        InputError: a time is none, or there is nothing measured in ``measured``.
    """
    limit_s = None if time_limit is None else _limit(time_limit)
    times = timing(config, measured, iteration_ms, boundary_seconds)
    found = cost(times, plan.train_iters, len(plan.segments), gpu_count(config))
    as_measured = measured if iteration_ms is None and boundary_seconds is None else None
    chain = None if limit_s is None else _chain(config, plan, found, limit_s, as_measured)
    return Forecast(plan, training_data(config), found, chain, tuple(_measured_elsewhere(config, found)))


def _limit(text: str) -> float:
    from gaff.cluster.times import parse_time

    try:
        return parse_time(text)
    except ValueError:
        remedy = "write 90s, 45m, 12h, or as for sbatch: 2-12:00:00 or minutes"
        raise InputError(Problem("time-limit", f"--time-limit {text!r} is no time", remedy)) from None


def _chain(config: Config, plan: Plan, found: Cost | str, limit_s: float, measured: Path | None) -> Chain | str:
    """``measured``: the run from whose journal the pace is taken; None for that of ``found``."""
    from gaff.cli.plan_jobs import chain, pace_of

    if isinstance(found, str):
        return "it hangs on the time of an iteration"
    times = found.timing
    if times.iteration_s is None or times.boundary_s is None:
        return "it hangs on the time of a start: give --boundary-seconds N, or --measured RUN"
    saves = sorted(own_saves(config, plan.train_iters))
    interval = integer(config, "log_interval") or 0
    pace = None if measured is None else pace_of(measured)
    return chain(plan.segments, saves, times.iteration_s, times.boundary_s, limit_s, max(1, interval), pace)


def _measured_elsewhere(config: Config, found: Cost | str) -> list[Problem]:
    if isinstance(found, str) or not found.timing.differs:
        return []
    keys = ", ".join(f"`{key}`" for key in found.timing.differs)
    what = f"the times were {found.timing.iteration_source}, a run that differs from this one in {keys}"
    return [Problem("measured-elsewhere", what, "take them for a hint, or measure a run of this config")]


def _named(data: TrainingData) -> str:
    return data.sets[0].prefix if len(data.sets) == 1 else f"{len(data.sets):,} data sets"


def _launches(number: int) -> str:
    return count(number, "launch", "launches") + " of the trainer"


def _times(epochs: float) -> str:
    return f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"


def _percent(share: float) -> str:
    return "under 0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.4g} ms" if seconds < 10 else f"{seconds:,.4g} s"


def _spent(seconds: float, gpus: int | None) -> str:
    """``13:30:20, 432 GPU hours``."""
    if gpus is None:
        return clock(seconds) if seconds >= 60 else duration(seconds)
    hours = gpus * seconds / 3600
    shown = f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
    return f"{duration(seconds)} on {count(gpus, 'GPU')}, {shown} GPU hours"
