# SPDX-License-Identifier: Apache-2.0
"""Rules: what the learning rate and the moments really do over the run.  Computed, not guessed; see the two modules."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gaff.errors import Problem
from gaff.plan.check_schedule import segments_of
from gaff.plan.config import Config
from gaff.plan.learning_rate import DECAYING, LearningRate, added_decay_iters, learning_rate
from gaff.plan.moments import Moments, moments

_OVERSHOOT = 2.0  # from which updates after a reset are told of


def check_learning_rate(config: Config) -> Iterator[Problem]:
    """Warnings: rates that rise again, that never come down, or that start too high; updates that overshoot."""
    segments = segments_of(config)
    if not segments:
        return  # told already
    rate = learning_rate(config, segments)
    if rate is not None:
        yield from _rises_again(config, rate)
        yield from _comes_not_down(config, rate)
        yield from _first_rate(config, rate)
    yield from _overshoot(config, moments(config, segments, rate), rate)


def _rises_again(config: Config, rate: LearningRate) -> Iterator[Problem]:
    s, longest = rate.schedule, rate.longest_cycle
    if s.decay_style != "cosine" or longest <= s.end_iter:
        return
    if rate.restarts:
        what = (
            f"with cosine decay the learning rate rises again {s.end_iter} iterations after a restart, and up to"
            f" {longest} iterations lie between two (it comes to {s.rate_after(longest):.3g})"
        )
        remedy = f"write lr_decay_iters: {longest}, or a linear decay, which stays at min_lr"
    else:
        what = (
            f"with cosine decay the learning rate rises again after iteration {s.end_iter}, train_iters is"
            f" {rate.train_iters}"
        )
        remedy = "let it decay over train_iters"
    yield config.problem("cosine-rises", _length_key(config), what, remedy)


def _comes_not_down(config: Config, rate: LearningRate) -> Iterator[Problem]:
    s, k = rate.schedule, config.gaff.reset_every
    if not rate.restarts or k is None or s.decay_style not in DECAYING or s.end_iter <= k:
        return
    far = f"only comes down to {s.rate_after(k):.3g}"
    if k <= s.warmup_iter:
        far = f"is still in its warm-up, at {s.rate_after(k):.3g}, when that is cut off"
    what = f"the schedule restarts every {k} iterations but decays over {s.end_iter}: the learning rate {far}"
    remedy = f"write lr_decay_iters: {k} for whole cycles"
    yield config.problem("lr-cycle-cut", _length_key(config), what, remedy)


def _length_key(config: Config) -> str:
    """The key that decided how long the decay lasts."""
    if added_decay_iters(config) is not None:
        return "gaff.lr_schedule"
    return "lr_decay_iters" if config.get("lr_decay_iters") is not None else "lr_decay_fraction"


def _first_rate(config: Config, rate: LearningRate) -> Iterator[Problem]:
    s = rate.schedule
    if not 0 < s.warmup_iter < 1:
        return
    which = "the first step of the run and after each reset" if rate.restarts else "the first step"
    what = (
        f"a warm-up of {s.warmup_iter:.3g} iterations ({s.warmup_iter / s.end_iter:.3g} of {s.end_iter}) makes {which}"
        f" use {s.rate_after(0):.3g}, {1 / s.warmup_iter:.3g} times the learning rate: GPT-NeoX divides by it"
    )
    remedy = "write warmup: 0"
    if s.end_iter > 1:
        remedy += f", or at least {_rounded_up(1 / s.end_iter):g}"
    yield config.problem("warmup-below-one", "warmup", what, remedy)


def _rounded_up(value: float) -> float:
    """To two digits, so that what is written still reaches ``value``."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def _overshoot(config: Config, found: Moments | None, rate: LearningRate | None) -> Iterator[Problem]:
    if found is None or found.peak is None:
        return
    too_short = rate is not None and 0 < rate.schedule.warmup_iter < 1  # tells of its own excess
    step, factor = found.peak if too_short else found.with_warmup or found.peak
    if factor <= _OVERSHOOT:
        return
    what = (
        f"with betas [{found.beta1:g}, {found.beta2:g}] zeroed moments make updates {factor:.1f} times too large"
        f" at step {step} after a reset (Adam's step count is shared, so nothing corrects their bias)"
    )
    remedy = "use betas: [0.9, 0.95] as Pythia does, `moments: keep`, or "
    remedy += "a longer `warmup`" if found.with_warmup else "`lr_schedule: restart` with a warm-up that covers it"
    yield config.problem("beta2-overshoot", "optimizer.params.betas", what, remedy)
