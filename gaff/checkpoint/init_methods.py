# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX's weight initialisers, from the config that stands inside a tag.

Formulas as measured on ``megatron/model/init_functions.py`` at commit ea7aefd8; d is the hidden size, L the number of
layers.  Which parameter gets which follows ``megatron/model/transformer.py``: output projections of attention and MLP
take ``output_layer_init_method``, all other weights ``init_method``, norms begin at one and biases at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from gaff.errors import InputError, Location, Problem
from gaff.plan.settings import SCALES, usable_scale

_OUTPUT_LAYERS = ("attention.dense.weight", "mlp.linear2.weight", "mlp.dense_4h_to_h.weight")
_WHY_NOT = {
    "use_mup": "which depends on the base shapes that the run was scaled from",
    "orthogonal": "with which GPT-NeoX itself fails (it divides by zero)",
}
_REMEDY = "say `init: normal:STD` (or --init normal:STD) instead"


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
class Constant:
    """One value for all elements."""

    value: float


@dataclass(frozen=True)
class Orthogonal:
    """A random matrix with orthonormal rows or columns (Saxe et al. 2013), times ``gain``."""

    gain: float


Initialiser = Distribution | Constant | Orthogonal


@dataclass(frozen=True)
class ModelSizes:
    """What the formulas depend on.

    ``rows`` and ``columns`` are those of the whole weight, so that the result is the same for any TP.  (On a GPU,
    GPT-NeoX's Xavier and orthogonal initialisers see one tensor rank's part only; GAFF takes the whole weight.)
    ``columns`` is the hidden size where it is None.
    """

    hidden: int
    layers: int
    rows: int
    init_method_std: float = 0.02
    columns: int | None = None

    @property
    def fans(self) -> int:
        """Fan-in and fan-out together."""
        return self.rows + (self.hidden if self.columns is None else self.columns)


INIT_METHODS: Mapping[str, Callable[[ModelSizes], Initialiser]] = {
    "normal": lambda m: Distribution("normal", m.init_method_std),
    "scaled_normal": lambda m: Distribution("normal", m.init_method_std / sqrt(2.0 * m.layers)),
    "single_residual_scaled_normal": lambda m: Distribution("normal", m.init_method_std / sqrt(m.layers)),
    "small_init": lambda m: Distribution("normal", sqrt(2.0 / (5.0 * m.hidden))),
    "wang_init": lambda m: Distribution("normal", 2.0 / m.layers / sqrt(m.hidden)),
    "xavier_normal": lambda m: Distribution("normal", sqrt(2.0 / m.fans)),
    "xavier_uniform": lambda m: Distribution("uniform", sqrt(6.0 / m.fans)),
    "scaled_orthogonal": lambda m: Orthogonal(sqrt(2.0 / m.layers)),
}


def init_method_of(
    neox: Mapping[str, Any],
    sizes: ModelSizes,
    where: Location | None = None,
    *,
    parameter: str = "0.word_embeddings.weight",
) -> Initialiser:
    """How a GPT-NeoX config initialises a parameter.

    Args:
        neox: GPT-NeoX keys with underscores.
        sizes: the model's and the weight's; ``init_method_std`` is taken from ``neox``.
        where: the config file, for the message.
        parameter: its canonical name.

    Raises:
        InputError: an initialiser that is not in the table, or muP, or an ``init_method_std`` that is no size.
    """
    *_, module, last = f".{parameter}".split(".")
    if last in ("bias", "offset"):
        return Constant(0.0)
    if module.endswith("norm"):
        return Constant(1.0)
    key, default = ("init_method", "normal")
    if parameter.endswith(_OUTPUT_LAYERS):
        key, default = ("output_layer_init_method", "scaled_normal")
    name = str(neox.get(key) or default)
    if neox.get("use_mup"):
        name = "use_mup"
    if name not in INIT_METHODS:
        what = f"`init: config` cannot make new rows by {name}, {_WHY_NOT.get(name, 'which is unknown')}"
        raise InputError(Problem("unsupported-init-method", what, _REMEDY, where))
    std = neox.get("init_method_std")
    if std is None:
        std = sizes.init_method_std
    if type(std) not in (int, float) or not usable_scale(std):
        what = f"`init_method_std` must be a number {SCALES}, not {std}"
        raise InputError(Problem("init-method-std", what, _REMEDY, where))
    return INIT_METHODS[name](ModelSizes(sizes.hidden, sizes.layers, sizes.rows, float(std), sizes.columns))
