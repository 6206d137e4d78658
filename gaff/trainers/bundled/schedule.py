# SPDX-License-Identifier: Apache-2.0
"""The learning rate schedule, as GPT-NeoX's: a pure function of completed steps, and the object DeepSpeed steps.

With n completed steps, warm-up w and end e: up to n = w the rate is ``lr·max(1, n)/w``; after it, with
t = (n − w)/(e − w), linear ``lr·(1 − t)``, cosine ``min + (lr − min)/2·(1 + cos πt)``, exponential ``lr·e^(−0.693 t)``,
constant ``lr``; never below ``min_lr``.  Cosine is not clamped at the end, so after e the rate rises again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gaff.trainers.bundled.settings import ScheduleSettings


def learning_rate(settings: ScheduleSettings, steps: int) -> float:
    """The rate that the next step uses, after so many completed steps."""
    lr, low, warmup = settings.start_lr, settings.min_lr, settings.warmup_iter
    if warmup > 0 and steps <= warmup:
        return lr * max(1, steps) / warmup
    length = settings.end_iter - warmup
    t = (steps - warmup) / length if length else 1.0
    if settings.decay_style == "linear":
        rate = lr * (1.0 - t)
    elif settings.decay_style == "cosine":
        rate = low + (lr - low) / 2.0 * (math.cos(math.pi * t) + 1.0)
    elif settings.decay_style == "exponential":
        rate = lr * math.exp(-0.693 * t)
    else:
        rate = lr
    return max(rate, low)


class Scheduler:
    """What DeepSpeed steps after each applied optimizer step, and keeps in ``mp_rank_*`` under ``lr_scheduler``."""

    # name in the checkpoint, in the order in which GPT-NeoX reports them
    _NAMES = (
        ("start_lr", "learning rate"),
        ("min_lr", "minimum learning rate"),
        ("warmup_iter", "warmup iterations"),
        ("end_iter", "total number of iterations"),
        ("decay_style", "decay style"),
    )

    def __init__(self, optimizer: Any, settings: ScheduleSettings, say: Callable[[str], None]) -> None:
        self.optimizer = optimizer
        self._settings, self._say = settings, say
        self.num_iters = 0
        self.step(0)
        say(f"> learning rate decay style: {settings.decay_style}")

    def step(self, steps: int | None = None) -> None:
        """Count one completed step (or set the count) and set the rate of every group."""
        self.num_iters = self.num_iters + 1 if steps is None else steps
        rate = learning_rate(self._settings, self.num_iters)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """The settings and the count, as GPT-NeoX stores them."""
        s = self._settings
        return {
            "start_lr": s.start_lr,
            "warmup_iter": s.warmup_iter,
            "num_iters": self.num_iters,
            "decay_style": s.decay_style,
            "end_iter": s.end_iter,
            "min_lr": s.min_lr,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the count from a checkpoint, and the settings as the two flags of the config say.

        Raises:
            ValueError: a setting differs from the checkpoint's and neither flag is set.
        """
        s = self._settings
        for key, name in self._NAMES:
            ours, theirs = getattr(s, key), state[key]
            if s.override:
                self._say(f" > overriding {name} value to {ours}")
                continue
            if not s.use_checkpoint and ours != theirs:
                raise ValueError(f"{name} is {ours} in the config but {theirs} in the checkpoint")
            self._say(f" > using checkpoint value {theirs} for {name}")
        if s.use_checkpoint:
            values = {key: state[key] for key, _ in self._NAMES}
            self._settings = ScheduleSettings(**values, use_checkpoint=True, override=False)
        self.step(state["num_iters"])
