# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX's weight initialisers as distributions, from the config that stands inside a tag.

Formulas as measured on ``megatron/model/init_functions.py`` at commit ea7aefd8; d is the hidden size, L the number of
layers.  Initialisers whose rows depend on each other (orthogonal ones) are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from gaff.errors import InputError, Location, Problem
from gaff.plan.settings import SCALES, usable_scale


@dataclass(frozen=True)
class Distribution:
    """What new values are drawn from.  ``scale`` is the standard deviation of a normal, the bound of a uniform one."""

    kind: Literal["normal", "uniform"]
    scale: float
    mean: float = 0.0

    def __str__(self) -> str:
        if self.kind == "uniform":
            return f"uniform in ±{self.scale:.4g}"
        return f"normal, mean {self.mean:.4g}, std {self.scale:.4g}"


@dataclass(frozen=True)
class ModelSizes:
    """What the formulas depend on.  ``rows`` is the whole padded vocabulary, so that the result is the same for any TP.

    (On a GPU, GPT-NeoX's Xavier initialisers see one tensor rank's rows only; GAFF takes the whole matrix.)
    """

    hidden: int
    layers: int
    rows: int
    init_method_std: float = 0.02


Formula = Callable[[ModelSizes], Distribution]

INIT_METHODS: Mapping[str, Formula] = {
    "normal": lambda m: Distribution("normal", m.init_method_std),
    "scaled_normal": lambda m: Distribution("normal", m.init_method_std / sqrt(2.0 * m.layers)),
    "single_residual_scaled_normal": lambda m: Distribution("normal", m.init_method_std / sqrt(m.layers)),
    "small_init": lambda m: Distribution("normal", sqrt(2.0 / (5.0 * m.hidden))),
    "wang_init": lambda m: Distribution("normal", 2.0 / m.layers / sqrt(m.hidden)),
    "xavier_normal": lambda m: Distribution("normal", sqrt(2.0 / (m.rows + m.hidden))),
    "xavier_uniform": lambda m: Distribution("uniform", sqrt(6.0 / (m.rows + m.hidden))),
}


def init_method_of(neox: Mapping[str, Any], sizes: ModelSizes, where: Location | None = None) -> Distribution:
    """The distribution that ``init_method`` of a GPT-NeoX config gives the input embedding.

    Args:
        neox: GPT-NeoX keys with underscores.
        sizes: the model's; ``init_method_std`` is taken from ``neox``.
        where: the config file, for the message.

    Raises:
        InputError: an initialiser that is not in the table, or muP, or an ``init_method_std`` that is no size.
    """
    name = str(neox.get("init_method") or "normal")
    if neox.get("use_mup"):
        name = "use_mup"
    if name not in INIT_METHODS:
        raise InputError(
            Problem(
                "unsupported-init-method",
                f"`init: config` cannot make new rows by {name}, which is not a formula for one row at a time",
                "say `init: normal:STD` (or --init normal:STD) instead",
                where,
            )
        )
    std = neox.get("init_method_std")
    if std is None:
        std = sizes.init_method_std
    if type(std) not in (int, float) or not usable_scale(std):
        what = f"`init_method_std` must be a number {SCALES}, not {std}"
        remedy = "say `init: normal:STD` (or --init normal:STD) instead"
        raise InputError(Problem("init-method-std", what, remedy, where))
    return INIT_METHODS[name](ModelSizes(sizes.hidden, sizes.layers, sizes.rows, float(std)))
