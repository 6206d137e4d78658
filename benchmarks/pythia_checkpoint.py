# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Pythia's shapes in GPT-NeoX's file layout, for benchmarks: pipeline engine, ZeRO-1, fp16.

Every file that a real run writes is there, with its real names, records and sizes, written by ``torch.save``; weights
are drawn once and repeated, since only sizes matter here.  Shapes: section 12 of GPT-NeoX's Pythia configs
(Biderman et al., arXiv 2304.01373).
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ITERATION = 1000
VOCABULARY = 50304


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int


SHAPES = {
    "tiny": Shape(2, 16),  # no Pythia; for what does not depend on size
    "70m": Shape(6, 512),
    "160m": Shape(12, 768),
    "410m": Shape(24, 1024),
    "1b": Shape(16, 2048),
    "1.4b": Shape(24, 2048),
}


def parameters(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter, in the model's order."""
    d = shape.hidden
    yield "0.word_embeddings.weight", (VOCABULARY, d)
    for layer in range(2, shape.layers + 2):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}.{norm}.weight", (d,)
            yield f"{layer}.{norm}.bias", (d,)
        for name, (rows, columns) in {
            "attention.query_key_value": (3 * d, d),
            "attention.dense": (d, d),
            "mlp.linear1": (4 * d, d),
            "mlp.linear2": (d, 4 * d),
        }.items():
            yield f"{layer}.{name}.weight", (rows, columns)
            yield f"{layer}.{name}.bias", (rows,)
    yield f"{shape.layers + 3}.norm.weight", (d,)
    yield f"{shape.layers + 3}.norm.bias", (d,)
    yield f"{shape.layers + 4}.final_linear.weight", (VOCABULARY, d)


def write_checkpoint(save: Path, name: str, data_ranks: int) -> Path:
    """Write one tag; returns its directory.  Needs torch and deepspeed, and about 16 bytes of disk a parameter."""
    import torch

    shape = SHAPES[name]
    tag = save / f"global_step{ITERATION}"
    tag.mkdir(parents=True)
    everything = OrderedDict(parameters(shape))
    groups = [
        OrderedDict((n, s) for n, s in everything.items() if len(s) == 2),
        OrderedDict((n, s) for n, s in everything.items() if len(s) == 1),
    ]
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(1)) * 0.02
    _write_layers(tag, everything, groups, noise)
    header = {
        "module": None,
        "optimizer": None,
        "param_shapes": [OrderedDict((n, torch.Size(s)) for n, s in group.items()) for group in groups],
        "frozen_param_shapes": None,
        "lr_scheduler": {
            "start_lr": 0.001, "min_lr": 0.0001, "warmup_iter": 1430.0, "num_iters": ITERATION, "end_iter": 143000,
            "decay_style": "cosine",
        },
        "global_steps": ITERATION,
        "dp_world_size": data_ranks,
        "mp_world_size": 1,
        "ds_config": {"zero_optimization": {"stage": 1}, "fp16": {"enabled": True}},
        "ds_version": "0.16.5",
        "iteration": ITERATION,
        "args": {
            "num_layers": shape.layers, "hidden_size": shape.hidden, "num_attention_heads": 8,
            "max_position_embeddings": 2048, "make_vocab_size_divisible_by": 128, "padded_vocab_size": VOCABULARY,
            "tokenizer_type": "HFTokenizer", "model_parallel_size": 1,
        },
        "torch_rng_state": torch.zeros(5056, dtype=torch.uint8),
    }  # fmt: skip
    torch.save(header, tag / "mp_rank_00_model_states.pt")
    for rank in range(data_ranks):
        file = tag / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save(_shard(groups, noise, rank, data_ranks), file)
    (tag / "configs").mkdir()
    config = tag / "configs" / "pythia.yml"
    config.write_text("init_method: small_init\n", encoding="utf-8")
    later = time.time() + 1
    os.utime(config, (later, later))
    (save / "latest").write_text(tag.name, encoding="utf-8")
    return tag


def _flat(noise: Any, start: int, stop: int) -> Any:
    """Elements ``start`` to ``stop`` of an endless repetition of the noise."""
    import torch

    parts = []
    while start < stop:
        first = start % len(noise)
        length = min(stop - start, len(noise) - first)
        parts.append(noise[first : first + length])
        start += length
    return torch.cat(parts)


def _offsets(group: OrderedDict[str, tuple[int, ...]]) -> Iterator[tuple[str, int, int]]:
    """Name, first and past the last element of each parameter in its flat group."""
    from math import prod

    position = 0
    for name, shape in group.items():
        yield name, position, position + prod(shape)
        position += prod(shape)


def _write_layers(tag: Path, everything: Any, groups: Any, noise: Any) -> None:
    import torch

    places = {name: (start, stop) for group in groups for name, start, stop in _offsets(group)}
    layers: dict[int, OrderedDict[str, Any]] = {}
    for name, shape in everything.items():
        layer, _, key = name.partition(".")
        values = _flat(noise, *places[name]).view(shape).half()
        layers.setdefault(int(layer), OrderedDict())[key] = values
    for layer, weights in layers.items():
        torch.save(weights, tag / f"layer_{layer:02d}-model_00-model_states.pt")


def _shard(groups: Any, noise: Any, rank: int, data_ranks: int) -> dict[str, Any]:
    """One data rank's part of every flat group: master and Adam's two moments."""
    from deepspeed.utils.tensor_fragment import fragment_address

    masters, state, mappings, paddings = [], {}, [], []
    for number, group in enumerate(groups):
        places = list(_offsets(group))
        total = places[-1][2]
        size = -(-total // (2 * data_ranks)) * 2
        low, high = rank * size, min((rank + 1) * size, total)
        masters.append(_flat(noise, low, high))
        moments = {name: _flat(noise, low, low + size).abs() for name in ("exp_avg", "exp_avg_sq")}
        state[number] = {"step": ITERATION, **moments}
        pieces = [(name, max(start, low), min(stop, high)) for name, start, stop in places]
        mappings.append(OrderedDict((n, fragment_address(b - a, a - low)) for n, a, b in pieces if a < b))
        paddings.append(size - (high - low))
    return {
        "optimizer_state_dict": {
            "loss_scaler": None,
            "base_optimizer_state": {"state": state, "param_groups": [{"lr": 0.001, "params": [0]}] * len(groups)},
            "single_partition_of_fp32_groups": masters,
            "zero_stage": 1,
            "group_paddings": paddings,
            "partition_count": [data_ranks] * len(groups),
            "ds_version": "0.16.5",
            "param_slice_mappings": mappings,
        },
        "ds_config": {"zero_optimization": {"stage": 1}},
        "ds_version": "0.16.5",
    }
