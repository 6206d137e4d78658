# SPDX-License-Identifier: Apache-2.0
"""Pipeline ZeRO-1 tags of any size, made with torch in the format of the real ones under ``fixtures``.

The fixtures are small; here the embedding may be larger than whatever is read or written at a time.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ITERATION = 5
EMBEDDING = "0.word_embeddings.weight"
NEIGHBOUR = "2.attention.dense.weight"  # stands behind the embedding in the flat group
NO_DECAY = "4.norm.weight"  # the second group


def write_tag(save: Path, rows: int, width: int, neighbour: int, data_ranks: int, precision: str = "fp32") -> Path:
    """One layer, TP 1, PP 1, ``rows`` x ``width`` embedding, ``neighbour`` further weights behind it.

    ``precision`` is ``fp32`` or ``bf16``; as with DeepSpeed, bf16 brings other file names and no ``zero_stage``.
    """
    import torch

    assert (rows * width + neighbour) % data_ranks == 0, "no padding here"
    generator = torch.Generator().manual_seed(7)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tag = save / f"global_step{ITERATION}"
    tag.mkdir(parents=True)
    flat = torch.randn(rows * width + neighbour, generator=generator) * 0.3
    norm = torch.ones(width * data_ranks)
    embedding = flat[: rows * width].view(rows, width).to(dtype, copy=True)
    layers = {
        0: {"word_embeddings.weight": embedding},
        2: {"attention.dense.weight": flat[rows * width :].to(dtype, copy=True)},
        4: {"norm.weight": norm.to(dtype, copy=True)},
        5: {"final_linear.weight": torch.randn(8, width, generator=generator).to(dtype)},
    }
    for number, weights in layers.items():
        torch.save(OrderedDict(weights), tag / f"layer_{number:02d}-model_00-model_states.pt")
    shapes = {EMBEDDING: (rows, width), NEIGHBOUR: (neighbour,)}
    torch.save(_header(rows, width, data_ranks, [shapes, {NO_DECAY: (width * data_ranks,)}]), tag / MODEL_FILE)
    for rank in range(data_ranks):
        groups = [(flat, list(shapes)), (norm, [NO_DECAY])]
        shard = _shard(groups, rows * width, rank, data_ranks, generator, is_bf16=precision == "bf16")
        torch.save(shard, tag / shard_name(rank, precision))
    (tag / "configs").mkdir()
    (tag / "configs" / "synthetic.yml").write_text("init_method: small_init\n")
    (save / "latest").write_text(tag.name)
    later = time.time() + 1
    os.utime(tag / "configs" / "synthetic.yml", (later, later))
    return tag


MODEL_FILE = "mp_rank_00_model_states.pt"
EMBEDDING_FILE = "layer_00-model_00-model_states.pt"


def shard_name(rank: int, precision: str = "fp32") -> str:
    prefix = "bf16_" if precision == "bf16" else ""
    return f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def _header(rows: int, width: int, data_ranks: int, groups: list[dict[str, tuple[int, ...]]]) -> dict[str, Any]:
    import torch

    return {
        "module": None,
        "optimizer": None,
        "param_shapes": [OrderedDict((n, torch.Size(s)) for n, s in group.items()) for group in groups],
        "dp_world_size": data_ranks,
        "mp_world_size": 1,
        "ds_config": {"zero_optimization": {"stage": 1}},
        "ds_version": "0.16.5",
        "iteration": ITERATION,
        "args": {"num_layers": 1, "hidden_size": width, "padded_vocab_size": rows, "model_parallel_size": 1},
        "torch_rng_state": torch.arange(5056).to(torch.uint8),
    }


def _shard(
    groups: list[tuple[Any, list[str]]], numel: int, rank: int, data_ranks: int, generator: Any, *, is_bf16: bool
) -> dict[str, Any]:
    """One data rank's part of every flat group, with Adam's moments, none of which is zero."""
    import torch
    from deepspeed.utils.tensor_fragment import fragment_address

    partitions, state, mappings = [], {}, []
    for number, (flat, names) in enumerate(groups):
        size = flat.numel() // data_ranks
        first = rank * size
        partitions.append(flat[first : first + size].clone())
        moments = {name: torch.rand(size, generator=generator) + 0.01 for name in ("exp_avg", "exp_avg_sq")}
        state[number] = {"step": ITERATION, **moments}
        edges = [0, numel, flat.numel()] if len(names) == 2 else [0, flat.numel()]
        mapping = OrderedDict()
        for name, start, stop in zip(names, edges, edges[1:], strict=False):
            low, high = max(start, first), min(stop, first + size)
            if low < high:
                mapping[name] = fragment_address(numel=high - low, start=low - first)
        mappings.append(mapping)
    return {
        "optimizer_state_dict": {
            "base_optimizer_state": {"state": state, "param_groups": [{"lr": 0.001, "params": [0]}]},
            "single_partition_of_fp32_groups": partitions,
            **({} if is_bf16 else {"zero_stage": 1}),
            "group_paddings": [0] * len(groups),
            "partition_count": [data_ranks] * len(groups),
            "ds_version": "0.16.5",
            "param_slice_mappings": mappings,
        },
        "ds_config": {"zero_optimization": {"stage": 1}},
        "ds_version": "0.16.5",
    }


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Load a .pt file with torch, let ``change`` alter what is in it, and save it again."""
    import torch

    root = torch.load(path, weights_only=False)
    change(root)
    torch.save(root, path)
