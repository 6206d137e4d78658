# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX's learning rate schedule, to the last bit (``megatron/learning_rates.py``, ``AnnealingLR``).  Pure.

The plan, the bundled trainer and the surgery that restarts a schedule all take the rate from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_HALVING = -0.693  # as GPT-NeoX writes -ln 2


@dataclass(frozen=True)
class Schedule:
    """What stands under ``lr_scheduler`` in a checkpoint.

    Attributes:
        start_lr: the rate at the end of the warm-up.
        min_lr: the rate never falls below it, except in the warm-up.
        warmup_iter: iterations of warm-up, perhaps not whole.
        end_iter: iterations after which the decay is complete.
        decay_style: ``linear``, ``cosine`` or ``exponential``; anything else stays at ``start_lr``.
        num_iters: optimizer steps done.
    """

    start_lr: float
    min_lr: float
    warmup_iter: float
    end_iter: int
    decay_style: str
    num_iters: int

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Schedule:
        """The schedule of a state dict.

        Raises:
            KeyError, TypeError: it is not one of ``AnnealingLR``.
        """
        found = cls(**{name: state[name] for name in cls.__dataclass_fields__})
        numbers = (found.start_lr, found.min_lr, found.warmup_iter, found.end_iter, found.num_iters)
        if not all(type(number) in (int, float) for number in numbers):
            raise TypeError("a setting of lr_scheduler is no number")
        return found

    def rate(self) -> float:
        """The rate that the next step uses.

        Up to n = ``warmup_iter`` w of n steps done it is ``start_lr * max(1, n) / w``; after it, with m = n - w of
        d = ``end_iter`` - w steps: linear ``start_lr * (d - m) / d``, cosine ``min_lr + (start_lr - min_lr) / 2 *
        (cos(pi * m / d) + 1)``, exponential ``start_lr * exp(-0.693 * m / d)``; never below ``min_lr``.  The cosine
        rises again after ``end_iter``; a warm-up of less than one iteration lifts the first rate above ``start_lr``.

        Raises:
            ZeroDivisionError: a warm-up as long as the whole schedule is over, and the style decays.
        """
        if 0 < self.warmup_iter >= self.num_iters:
            return float(self.start_lr) * max(1, self.num_iters) / self.warmup_iter
        done, length = self.num_iters - self.warmup_iter, self.end_iter - self.warmup_iter
        if self.decay_style == "linear":
            rate = self.start_lr * (length - done) / length
        elif self.decay_style == "cosine":
            rate = self.min_lr + (self.start_lr - self.min_lr) / 2.0 * (math.cos(math.pi * done / length) + 1)
        elif self.decay_style == "exponential":
            rate = self.start_lr * math.exp(_HALVING * done / length)
        else:
            rate = self.start_lr
        return float(max(rate, self.min_lr))

    def rate_after(self, steps: int) -> float:
        """:meth:`rate` with ``steps`` optimizer steps done."""
        return replace(self, num_iters=steps).rate()


def end_of_decay(train_iters: int, decay_iters: int | None, decay_fraction: float | None) -> int:
    """``end_iter`` as GPT-NeoX derives it from its keys (``megatron/training.py``, ``get_learning_rate_scheduler``).

    ``lr_decay_iters``, else the whole part of ``train_iters * lr_decay_fraction``, else ``train_iters``; at least 1.
    """
    if decay_iters is None:
        decay_iters = train_iters if decay_fraction is None else int(train_iters * decay_fraction)
    return max(1, decay_iters)
