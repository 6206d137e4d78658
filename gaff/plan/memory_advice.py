# SPDX-License-Identifier: Apache-2.0
"""How to make a config fit a smaller GPU: the mildest change of keys that the estimate says is enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from gaff.plan.config import Config
from gaff.plan.gpu_memory import GpuMemory, gpu_memory
from gaff.plan.model import ModelSize, model_size
from gaff.plan.typed import at_least, flag, integer, tensor_parallel, zero_stage

_ROOM = 0.9  # of the GPU's memory that the estimate may fill
_TENSOR_SIZES = (2, 4, 8)  # within one node


def memory_advice(config: Config, replicas: int, capacity: int) -> tuple[str, ...] | None:
    """Overrides (``key=value``, for ``-o``) with which the config takes at most nine tenths of ``capacity`` bytes.

    Tried in this order: a smaller micro-batch with as much more accumulation, activation checkpointing, ZeRO 1, tensor
    parallelism; each with the smaller micro-batches.  The samples of one iteration stay the same.

    Args:
        config: the run's, whose model can be counted.
        replicas: data-parallel ranks it has now.
        capacity: bytes of the smallest GPU.

    Returns:
        None when none of these is enough.
    """
    for changes in _candidates(config, replicas):
        changed = _with(config, changes)
        size = model_size(changed)
        factor = changes.get("model_parallel_size", tensor_parallel(config)) // tensor_parallel(config)
        if isinstance(size, ModelSize) and _fits(gpu_memory(changed, size, replicas // factor), capacity):
            return tuple(f"{key}={_word(value)}" for key, value in changes.items())
    return None


def _fits(memory: GpuMemory | None, capacity: int) -> bool:
    return memory is not None and memory.total <= _ROOM * capacity


def _candidates(config: Config, replicas: int) -> Iterator[dict[str, Any]]:
    checkpointing = {} if flag(config, "checkpoint_activations") else {"checkpoint_activations": True}
    zero = {"zero_optimization.stage": 1} if zero_stage(config) == 0 and replicas > 1 else {}
    yield from _with_micro_batches(config, {})
    if checkpointing:
        yield from _with_micro_batches(config, checkpointing)
    if zero:
        yield from _with_micro_batches(config, zero)
        yield from _with_micro_batches(config, {**checkpointing, **zero})
    if zero_stage(config) <= 1:  # GPT-NeoX trains nothing with ZeRO 2 or 3 and tensor parallelism
        for tensor in _TENSOR_SIZES:
            if _divides(config, tensor, replicas):
                more = {**checkpointing, **zero, "model_parallel_size": tensor}
                yield from _with_micro_batches(config, more, tensor // tensor_parallel(config))


def _divides(config: Config, tensor: int, replicas: int) -> bool:
    now, heads = tensor_parallel(config), at_least(config, "num_attention_heads", 1)
    return tensor > now and tensor % now == 0 and replicas % (tensor // now) == 0 and heads % tensor == 0


def _with_micro_batches(config: Config, others: Mapping[str, Any], accumulate: int = 1) -> Iterator[dict[str, Any]]:
    """``others`` with the micro-batch as it is, halved, quartered …; ``accumulate`` times as many of them as now."""
    micro = integer(config, "train_micro_batch_size_per_gpu") or 1
    steps = at_least(config, "gradient_accumulation_steps", 1) * accumulate
    if others:
        yield {**({"gradient_accumulation_steps": steps} if accumulate > 1 else {}), **others}
    while micro % 2 == 0:
        micro, steps = micro // 2, steps * 2
        yield {"train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": steps, **others}


def _with(config: Config, changes: Mapping[str, Any]) -> Config:
    neox = dict(config.neox)
    for key, value in changes.items():
        outer, _, inner = key.partition(".")
        neox[outer] = {**(config.get(outer) or {}), inner: value} if inner else value
    return replace(config, neox=neox)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
