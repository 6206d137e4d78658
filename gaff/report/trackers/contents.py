# SPDX-License-Identifier: Apache-2.0
"""What is tracked, under which names: the same for every tracker, live or afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gaff.plan.config import Config
from gaff.plan.gaff_block import dump_block
from gaff.plan.schedule import Reset
from gaff.trainers.contract import IterationLogged, ValidationLogged

LOSS = "train/loss"
LEARNING_RATE = "train/learning_rate"
LOSS_SCALE = "train/loss_scale"
MS_PER_ITERATION = "speed/ms_per_iteration"
SAMPLES_PER_S = "speed/samples_per_s"
RESET = "reset/number"

_PRIVATE = ("environment", "notify")  # keys of the gaff block whose values may hold passwords


def further_loss(name: str) -> str:
    """The name of a loss beside the main one."""
    return f"losses/{name}"


def line_values(event: IterationLogged) -> dict[str, float]:
    """Name -> value of what one iteration line says; a loss that is no finite number is NaN."""
    named = {
        LOSS: event.loss,
        LEARNING_RATE: event.learning_rate,
        LOSS_SCALE: event.loss_scale,
        MS_PER_ITERATION: event.ms_per_iteration,
        SAMPLES_PER_S: event.samples_per_s,
        **{further_loss(name): value for name, value in event.losses.items()},
    }
    return {tag: value if math.isfinite(value) else math.nan for tag, value in named.items() if value is not None}


def validation_values(event: ValidationLogged) -> dict[str, float]:
    """``validation/loss`` or ``test/loss``."""
    return {f"{event.split}/loss": event.loss if math.isfinite(event.loss) else math.nan}


def reset_text(reset: Reset) -> str:
    """The marker of a reset, in words."""
    return f"reset {reset.number} after iteration {reset.iteration}"


def parameters(config: Config) -> dict[str, Any]:
    """The config as one flat mapping, ``gaff.`` before the names of the gaff block; without what may be secret."""
    block = {name: value for name, value in dump_block(config.gaff).items() if name not in _PRIVATE}
    return _flat({**config.neox, "gaff": block})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
