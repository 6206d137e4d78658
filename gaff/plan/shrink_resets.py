# SPDX-License-Identifier: Apache-2.0
"""What is forgotten, and how, carried over to a model with fewer layers and other shapes.  Pure."""

from __future__ import annotations

from collections.abc import Collection

from gaff.plan.config import Config
from gaff.plan.parameters import FIRST_LAYER, parameter_sizes, select
from gaff.plan.settings import InitSpec
from gaff.plan.typed import at_least


def shrink_parameters(config: Config, small: Config) -> tuple[str, ...]:
    """``gaff: parameters`` of the small model: the same kinds of parameters, in layers at the same relative depth.

    What means the same in both stays as it is written; a layer's number seldom does, and becomes that of the layer
    that stands for it.
    """
    before, after = parameter_sizes(config, rows=0), parameter_sizes(small, rows=0)
    if before is None or after is None:
        return config.gaff.parameters
    layers, small_layers = at_least(config, "num_layers", 1), at_least(small, "num_layers", 1)
    chosen: list[str] = []
    for item in config.gaff.parameters:
        wanted = {_moved(name, layers, small_layers) for name in select((item,), before)}
        chosen += [item] if wanted == set(select((item,), after)) else _ordered(wanted, after)
    return tuple(dict.fromkeys(chosen))


def _moved(name: str, layers: int, small_layers: int) -> str:
    """The parameter of the small model that stands for this one."""
    number, _, rest = name.partition(".")
    place = int(number) - FIRST_LAYER
    if place < 0:
        return name
    place = place * small_layers // layers if place < layers else place - layers + small_layers
    return f"{place + FIRST_LAYER}.{rest}"


def _ordered(names: Collection[str], all_names: Collection[str]) -> list[str]:
    return [name for name in all_names if name in names]


def shrink_init(init: InitSpec) -> InitSpec:
    """Values from a file have the shape of the big model; ``matched`` stands for them."""
    return InitSpec("matched") if init.kind == "file" else init
