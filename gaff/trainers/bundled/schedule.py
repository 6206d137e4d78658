# SPDX-License-Identifier: Apache-2.0
"""The learning rate scheduler that DeepSpeed steps, with GPT-NeoX's rates and GPT-NeoX's state in the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from gaff.plan.annealing import Schedule
from gaff.trainers.bundled.settings import ScheduleSettings


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
        self._schedule = Schedule(**{key: getattr(settings, key) for key, _ in self._NAMES}, num_iters=0)
        self.step(0)
        say(f"> learning rate decay style: {settings.decay_style}")

    def step(self, steps: int | None = None) -> None:
        """Count one completed step (or set the count) and set the rate of every group."""
        done = self._schedule.num_iters + 1 if steps is None else steps
        self._schedule = replace(self._schedule, num_iters=done)
        rate = self._schedule.rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """The settings and the count, as GPT-NeoX stores them."""
        return asdict(self._schedule)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the count from a checkpoint, and the settings as the two flags of the config say.

        Raises:
            ValueError: a setting differs from the checkpoint's and neither flag is set.
        """
        for key, name in self._NAMES:
            ours, theirs = getattr(self._schedule, key), state[key]
            if self._settings.override:
                self._say(f" > overriding {name} value to {ours}")
                continue
            if not self._settings.use_checkpoint and ours != theirs:
                raise ValueError(f"{name} is {ours} in the config but {theirs} in the checkpoint")
            self._say(f" > using checkpoint value {theirs} for {name}")
        if self._settings.use_checkpoint:
            self._schedule = replace(self._schedule, **{key: state[key] for key, _ in self._NAMES})
        self.step(state["num_iters"])
