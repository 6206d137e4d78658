# SPDX-License-Identifier: Apache-2.0
"""The learning rate of a whole run, as GPT-NeoX will log it, with the restarts that follow resets.  Pure.

GPT-NeoX derives the schedule from its config (``megatron/training.py``, ``get_learning_rate_scheduler``); with
``lr_schedule: restart`` GAFF sets the schedule's count of steps to 0 in the checkpoint, after each reset.  Rates hold
as long as no step is skipped: fp16 overflows do not count as steps of the schedule, so it lags behind by them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gaff.plan.annealing import Schedule, end_of_decay
from gaff.plan.config import Config
from gaff.plan.schedule import Segment
from gaff.plan.typed import integer, number, text, word

_DEFAULT_LR = 0.001  # GPT-NeoX's, where optimizer.params has no lr (megatron/neox_arguments/arguments.py)
#: Styles whose rate falls; any other stays at ``start_lr``.
DECAYING = ("linear", "cosine", "exponential")
HIGHEST_LR = 3.4e38  # what float32 holds, about
LEAST_WARMUP = 1e-30  # iterations; the first rate is divided by them
_POINTS = 400  # in JSON, about


@dataclass(frozen=True)
class LearningRate:
    """The schedule of a run.

    Attributes:
        schedule: as GPT-NeoX begins it, with no step done.
        restarts: iterations after which it begins anew, ascending; empty with ``lr_schedule: continue``.
        train_iters: length of the run.
    """

    schedule: Schedule
    restarts: tuple[int, ...]
    train_iters: int

    def logged(self, iteration: int) -> float:
        """The rate in GPT-NeoX's log line of ``iteration`` (from 1 up): the one that the next step would use.

        The line of the very iteration after which the schedule is restarted comes before the restart, so it still
        shows the old cycle's rate.
        """
        return self.schedule.rate_after(iteration - self._restart_before(iteration))

    def used(self, iteration: int) -> float:
        """The rate that the step of ``iteration`` (from 1 up) uses."""
        return self.schedule.rate_after(iteration - 1 - self._restart_before(iteration))

    def _restart_before(self, iteration: int) -> int:
        """The newest restart before ``iteration`` begins, 0 when there is none."""
        place = bisect_left(self.restarts, iteration)
        return self.restarts[place - 1] if place else 0

    def cycles(self) -> Iterator[tuple[int, int]]:
        """(first iteration - 1, last iteration) of each stretch without a restart."""
        return pairwise((0, *self.restarts, self.train_iters))

    @property
    def longest_cycle(self) -> int:
        """Iterations of the longest stretch without a restart."""
        return max(stop - start for start, stop in self.cycles())

    @property
    def divides_by_zero(self) -> bool:
        """Whether GPT-NeoX comes to a decay of no length, which ends it with a ZeroDivisionError."""
        s = self.schedule
        return s.decay_style in DECAYING and s.warmup_iter >= s.end_iter < self.longest_cycle

    def to_json(self) -> dict[str, Any]:
        """Settings, restarts and logged rates: of every iteration in a short run, else of about 400 of them."""
        s = self.schedule
        return {
            "start_lr": s.start_lr,
            "min_lr": s.min_lr,
            "warmup_iter": s.warmup_iter,
            "end_iter": s.end_iter,
            "decay_style": s.decay_style,
            "restarts": list(self.restarts),
            "points": [{"iteration": i, "logged": self.logged(i)} for i in self._sampled()],
        }

    def _sampled(self) -> list[int]:
        step = max(1, -(-self.train_iters // _POINTS))
        return sorted({1, *range(step, self.train_iters + 1, step), self.train_iters})


def learning_rate(config: Config, segments: Iterable[Segment]) -> LearningRate | None:
    """The learning rate of a run in these segments, None where its keys make no schedule that could be computed."""
    schedule, train_iters = _schedule(config), integer(config, "train_iters")
    if schedule is None or train_iters is None or train_iters < 1:
        return None
    restart = config.gaff.lr_schedule == "restart"
    restarts = tuple(s.reset.iteration for s in segments if s.reset) if restart else ()
    rate = LearningRate(schedule, restarts, train_iters)
    return None if rate.divides_by_zero else rate


def _schedule(config: Config) -> Schedule | None:
    """The schedule with no step done, as GPT-NeoX derives it from the config that GAFF hands to it.

    ``warmup_iter`` is ``warmup * end_iter``.  None when a number is unusable, and for OneBitAdam, whose schedule is
    DeepSpeed's own.
    """
    end = decay_length(config)
    lr = _DEFAULT_LR if config.get("optimizer.params.lr") is None else number(config, "optimizer.params.lr")
    low, warmup = number(config, "min_lr"), number(config, "warmup")
    if end is None or lr is None or low is None or warmup is None or not 0 <= warmup <= 1:
        return None
    if lr <= 0 or low < 0 or word(config, "optimizer.type") == "onebitadam":
        return None
    if lr > HIGHEST_LR or 0 < warmup * end < LEAST_WARMUP:
        return None
    # the style as it is spelt: GPT-NeoX takes `Cosine` for none that it knows, and so for constant
    return Schedule(lr, low, warmup * end, end, text(config, "lr_decay_style") or "", num_iters=0)


def decay_length(config: Config) -> int | None:
    """``end_iter``: iterations after which the decay is complete; None when its keys are missing or unusable."""
    if config.get("lr_decay_iters") is not None:
        length = integer(config, "lr_decay_iters")
        return None if length is None else end_of_decay(0, length, None)
    train_iters, fraction = integer(config, "train_iters"), number(config, "lr_decay_fraction")
    if config.get("lr_decay_fraction") is not None and not (fraction and 0 < fraction <= 1):
        return None
    return None if train_iters is None else end_of_decay(train_iters, added_decay_iters(config), fraction)


def added_decay_iters(config: Config) -> int | None:
    """``lr_decay_iters`` as GAFF adds it where the schedule restarts and the config does not say how long one lasts."""
    gaff = config.gaff
    if gaff.lr_schedule != "restart" or gaff.reset_every is None:
        return None
    given = any(config.get(key) is not None for key in ("lr_decay_iters", "lr_decay_fraction"))
    return None if given else gaff.reset_every
