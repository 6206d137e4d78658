# SPDX-License-Identifier: Apache-2.0
"""Watchdogs that judge the figures of iteration lines: NaN, skipped iterations, fp16's loss scale, a high loss.

How GPT-NeoX counts (``megatron/logging.py``): the loss is the mean over the interval's iterations that were not
skipped, and is missing where all were; an overflow in fp16 skips, so a loss that is no number is one of fp32 or bf16.
"""

from __future__ import annotations

import math

from gaff.plan.config import Config
from gaff.plan.settings import Policy
from gaff.plan.typed import number, precision
from gaff.supervisor.watchdogs.alarm import Alarm, Line
from gaff.supervisor.watchdogs.history import History

_LOWEST_SCALE = 1.0  # DeepSpeed's default of fp16.min_loss_scale (runtime/constants.py)
_RECOVERED = 4  # times the lowest scale: two growths of the scale without an overflow


class NotANumber:
    """``nan``: so many lines in a row whose loss is NaN or infinite.  A line without a loss says nothing."""

    id = "nan"

    def __init__(self, lines: int, policy: Policy, history: History) -> None:
        self._lines, self._policy, self._history = lines, policy, history

    def see(self, line: Line) -> Alarm | None:
        logged = line.logged
        losses = [*([] if logged.loss is None else [logged.loss]), *logged.losses.values()]
        if not losses:
            return None
        bad = not all(map(math.isfinite, losses))
        row = self._history.in_a_row.get(self.id, 0) + 1 if bad else 0
        self._history.in_a_row[self.id] = row
        if not bad:
            self._history.finite_until = logged.iteration
        if not self._history.begins(self.id, row >= self._lines):
            return None
        lines = "" if row == 1 else f"{row} lines in a row, up to "
        what = f"the loss was NaN or infinite in {lines}iteration {logged.iteration}"
        return Alarm(
            self.id, what, self._policy, logged.iteration, {"lines": row, "finite_until": self._history.finite_until}
        )


class Skipped:
    """``skipped``: so many iterations in a row that were skipped for their gradients.

    A line tells how many it had, not which.  Lines that were skipped whole add up; a line that was skipped in part
    counts for as many as must have been in a row in it.  So what is said is certain, and late by one line at most.
    """

    def __init__(self, iterations: int, policy: Policy, history: History) -> None:
        self._iterations, self._policy, self._history = iterations, policy, history

    def see(self, line: Line) -> Alarm | None:
        logged, row = line.logged, self._history.in_a_row.get("skipped", 0)
        if logged.skipped >= line.covers:
            row = certain = row + line.covers
        else:
            made = line.covers - logged.skipped  # which part the others into one stretch more
            row, certain = 0, math.ceil(logged.skipped / (made + 1))
        self._history.in_a_row["skipped"] = row
        if not self._history.begins("skipped", certain >= self._iterations):
            return None
        what = f"{certain} iterations in a row were skipped for their gradients, up to iteration {logged.iteration}"
        facts = {"skipped": certain, "loss_scale": logged.loss_scale}
        return Alarm("skipped", what, self._policy, logged.iteration, facts)


class LossScale:
    """``loss-scale``: the dynamic loss scale of fp16 has fallen to its minimum.  Told again after a recovery only."""

    def __init__(self, config: Config, history: History) -> None:
        lowest = number(config, "fp16.min_loss_scale")
        self._lowest = float(f"{_LOWEST_SCALE if lowest is None else lowest:.1f}")  # as the log prints the scale
        self._is_dynamic = precision(config) == "fp16" and not number(config, "fp16.loss_scale")
        self._policy: Policy = config.gaff.watch.on_loss_scale
        self._history = history

    def see(self, line: Line) -> Alarm | None:
        logged, scale = line.logged, line.logged.loss_scale
        if not self._is_dynamic or scale is None or self._lowest < scale < self._lowest * _RECOVERED:
            return None
        if not self._history.begins("loss-scale", scale <= self._lowest):
            return None
        what = f"fp16's loss scale has fallen to {scale:g}, its minimum, at iteration {logged.iteration}"
        facts = {"loss_scale": scale, "minimum": self._lowest, "skipped": logged.skipped}
        return Alarm("loss-scale", what, self._policy, logged.iteration, facts)


class HighLoss:
    """``loss-high``: a loss far above the highest after the last reset; before one is over, above the run's first."""

    def __init__(self, factor: float, policy: Policy, history: History) -> None:
        self._factor, self._policy, self._history = factor, policy, history

    def see(self, line: Line) -> Alarm | None:
        logged, loss, history = line.logged, line.logged.loss, self._history
        usual = history.first_loss if history.reset_peak is None else history.reset_peak
        limit = usual * self._factor if usual and usual > 0 else None
        history.add_loss(loss, limit)
        if loss is None or usual is None or limit is None or not math.isfinite(loss):
            return None
        if not history.begins("loss-high", loss > limit):
            return None
        of = "its first loss" if history.reset_peak is None else "the peak after the last reset"
        what = f"the loss is {loss:.4g} at iteration {logged.iteration}, {loss / usual:.3g} times {of} ({usual:.4g})"
        return Alarm("loss-high", what, self._policy, logged.iteration, {"loss": loss, "usual": usual, "limit": limit})
