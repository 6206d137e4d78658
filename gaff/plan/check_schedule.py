# SPDX-License-Identifier: Apache-2.0
"""Rules: when the resets fall, and the keys that count iterations."""

from __future__ import annotations

from collections.abc import Iterator

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.learning_rate import DECAYING, HIGHEST_LR, LEAST_WARMUP, decay_length
from gaff.plan.schedule import Segment, schedule
from gaff.plan.typed import integer, number, text, word

MOST = 1_000_000  # segments or tags of one run; more is a slip of the pen, and would not fit into memory


def check_schedule(config: Config) -> Iterator[Problem]:
    """``train_iters``, ``reset_every``, ``first_reset``, ``last_reset`` and the learning rate's own lengths."""
    yield from _train_iters(config)
    train_iters = integer(config, "train_iters")
    if train_iters is not None and train_iters >= 1:
        yield from _resets(config, train_iters)
    yield from _learning_rate(config)
    yield from _saves(config)
    yield from check_length(config)


def check_length(config: Config) -> Iterator[Problem]:
    """Whether the segments and tags can be listed at all."""
    train_iters, gaff = integer(config, "train_iters"), config.gaff
    if train_iters is None:
        return
    if gaff.reset_every is not None:
        last = train_iters - 1 if gaff.last_reset is None else min(gaff.last_reset, train_iters - 1)
        resets = (last - (gaff.first_reset or gaff.reset_every)) // gaff.reset_every + 1
        if resets > MOST:
            what = f"`gaff.reset_every: {gaff.reset_every}` makes {resets:,} resets in {train_iters:,} iterations"
            yield config.problem("too-many-resets", "gaff.reset_every", what, f"keep below {MOST:,}")
    factor = number(config, "checkpoint_factor")
    if factor is not None and factor >= 1 and word(config, "checkpoint_scale") != "log" and train_iters / factor > MOST:
        what = f"`checkpoint_factor: {factor}` makes {int(train_iters // factor):,} tags in {train_iters:,} iterations"
        yield config.problem("too-many-tags", "checkpoint_factor", what, f"keep below {MOST:,}")


def segments_of(config: Config) -> tuple[Segment, ...]:
    """The segments of the run, for rules that look at them; none where the config does not allow to list them."""
    train_iters, gaff = integer(config, "train_iters"), config.gaff
    if train_iters is None or train_iters < 1 or any(check_length(config)):
        return ()
    return schedule(train_iters, gaff.reset_every, gaff.first_reset, gaff.last_reset)


def _train_iters(config: Config) -> Iterator[Problem]:
    if config.get("train_epochs") is not None:
        what = "`train_epochs` leaves the number of iterations open, and resets need it beforehand"
        yield config.problem("train-epochs", "train_epochs", what, "give `train_iters` instead")
    elif config.get("train_iters") is None:
        yield config.problem("train-iters-missing", "train_iters", "`train_iters` is missing", "add it")
    elif (value := integer(config, "train_iters")) is not None and value < 1:
        what = f"`train_iters` must be at least 1, not {value}"
        yield config.problem("not-positive", "train_iters", what, "give the length of the run")


def _resets(config: Config, train_iters: int) -> Iterator[Problem]:
    gaff = config.gaff
    if gaff.reset_every is None:
        for key in ("first_reset", "last_reset"):
            if getattr(gaff, key) is not None:
                what = f"`gaff.{key}` is given but `reset_every: never` makes no resets"
                yield config.problem("reset-never", f"gaff.{key}", what, "remove one of the two")
        if gaff.lr_schedule == "restart":
            what = "`gaff.lr_schedule: restart` restarts after resets, but `reset_every: never` makes none"
            yield config.problem("reset-never", "gaff.lr_schedule", what, "remove one of the two")
        return
    first = gaff.first_reset or gaff.reset_every
    if first >= train_iters:
        key = "first_reset" if gaff.first_reset else "reset_every"
        what = f"`gaff.{key}: {first}` is not below train_iters ({train_iters}), so no reset would ever happen"
        yield config.problem("no-reset-fits", f"gaff.{key}", what, "lower it, or write `reset_every: never`")
    elif gaff.reset_every >= train_iters:
        what = f"`gaff.reset_every: {gaff.reset_every}` is not below train_iters ({train_iters})"
        yield config.problem("no-reset-fits", "gaff.reset_every", what, "lower it, or write `reset_every: never`")
    if gaff.last_reset is not None and gaff.last_reset < first:
        what = f"`gaff.last_reset: {gaff.last_reset}` comes before the first reset ({first})"
        yield config.problem("last-before-first", "gaff.last_reset", what, "raise it, or write `reset_every: never`")


def _learning_rate(config: Config) -> Iterator[Problem]:
    warmup = number(config, "warmup")
    if warmup is not None and not 0 <= warmup <= 1:
        what = f"`warmup: {warmup}` is no fraction: GPT-NeoX multiplies it with the decay length"
        yield config.problem("warmup-fraction", "warmup", what, "write for example 0.01 for one hundredth")
    elif warmup and warmup * (decay_length(config) or 1) < LEAST_WARMUP:
        what = f"`warmup: {warmup}` is next to nothing, and GPT-NeoX divides the first learning rate by it"
        yield config.problem("warmup-fraction", "warmup", what, "write 0 for none, or for example 0.01")
    yield from _no_decay(config)
    fraction = number(config, "lr_decay_fraction")
    if fraction is not None and not 0 < fraction <= 1:
        what = f"`lr_decay_fraction: {fraction}` is not between 0 and 1"
        yield config.problem("lr-decay-fraction", "lr_decay_fraction", what, "give the fraction of train_iters")
    lr, min_lr = number(config, "optimizer.params.lr"), number(config, "min_lr")
    if lr is not None and not 0 < lr <= HIGHEST_LR:
        what = f"`optimizer.params.lr: {lr}` is no usable learning rate"
        yield config.problem("lr-value", "optimizer.params.lr", what, "give one such as 1.0e-3")
    elif min_lr is not None and min_lr < 0:
        what = f"`min_lr: {min_lr}` is no usable learning rate"
        yield config.problem("lr-value", "min_lr", what, "write 0 or more")
    elif lr is not None and min_lr is not None and min_lr > lr:
        what = f"`min_lr: {min_lr}` is above the learning rate {lr}"
        yield config.problem("min-lr-above-lr", "min_lr", what, "lower min_lr")


def _no_decay(config: Config) -> Iterator[Problem]:
    length = decay_length(config)
    if number(config, "warmup") != 1 or text(config, "lr_decay_style") not in DECAYING or not length:
        return
    restart, segments = config.gaff.lr_schedule == "restart", segments_of(config)
    longest = max((segment.iterations for segment in segments), default=0)
    if length < (longest if restart else segments[-1].stop if segments else 0):
        after = "iterations of a cycle" if restart else "iterations"
        what = f"`warmup: 1` leaves nothing to decay in: GPT-NeoX divides by zero after {length} {after}"
        yield config.problem("warmup-fraction", "warmup", what, "write for example 0.01 for one hundredth")


def _saves(config: Config) -> Iterator[Problem]:
    factor = number(config, "checkpoint_factor")
    minimum = 2 if word(config, "checkpoint_scale") == "log" else 1
    if factor is not None and (factor < minimum or (minimum == 1 and factor != int(factor))):
        what = f"`checkpoint_factor: {factor}` must be a whole number of at least {minimum}"
        yield config.problem("checkpoint-factor", "checkpoint_factor", what, "give the iterations between two tags")
