# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX's weight initialisers by name.

With d = hidden size, L = layers, s = ``init_method_std``: ``normal`` N(0, s), ``scaled_normal`` N(0, s/√(2L)),
``single_residual_scaled_normal`` N(0, s/√L), ``small_init`` N(0, √(2/(5d))), ``wang_init`` N(0, 2/(L√d)).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from gaff.trainers.bundled.settings import ModelSettings

Initialiser = Callable[[torch.Tensor, torch.Generator], object]


def initialiser(name: str, model: ModelSettings) -> Initialiser:
    """The function that fills a weight in place from a generator."""
    if name == "xavier_uniform":
        return lambda tensor, generator: torch.nn.init.xavier_uniform_(tensor, generator=generator)
    if name == "xavier_normal":
        return lambda tensor, generator: torch.nn.init.xavier_normal_(tensor, generator=generator)
    std = {
        "normal": model.init_method_std,
        "scaled_normal": model.init_method_std / math.sqrt(2 * model.num_layers),
        "single_residual_scaled_normal": model.init_method_std / math.sqrt(model.num_layers),
        "small_init": math.sqrt(2 / (5 * model.hidden_size)),
        "wang_init": 2 / model.num_layers / math.sqrt(model.hidden_size),
    }[name]
    return lambda tensor, generator: torch.nn.init.normal_(tensor, std=std, generator=generator)


def generator_for(model: ModelSettings, layer: int) -> torch.Generator:
    """The random numbers of one layer: the same model, however its layers are spread over pipeline stages."""
    return torch.Generator().manual_seed((model.seed * 1_000_003 + layer) & 0x7FFF_FFFF)
