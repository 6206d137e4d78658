# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal shrank or left out, in sentences.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gaff.plan.config import Config
from gaff.plan.neox_keys import DEFAULTS, GPU_FLAGS, attention_kinds
from gaff.plan.shrink_care import care_sentences
from gaff.plan.typed import flag, items, mapping, pipeline, precision, tensor_parallel, zero_stage

#: What is compared before and after: (key, word for it).
_COMPARED: Mapping[str, Callable[[Config], Any]] = {
    **{
        key: lambda config, key=key: config.get(key, DEFAULTS.get(key))  # type: ignore[misc]
        for key in (
            *("train_iters", "lr_decay_iters", "checkpoint_factor", "extra_save_iters", "log_interval"),
            *("num_layers", "hidden_size", "num_attention_heads", "num_kv_heads", "intermediate_size"),
            *("seq_length", "max_position_embeddings"),
            *("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        )
    },
    "reset_every": lambda config: config.gaff.reset_every,
    "first_reset": lambda config: config.gaff.first_reset,
    "last_reset": lambda config: config.gaff.last_reset,
    "parameters": lambda config: ", ".join(config.gaff.parameters),
    "init": lambda config: config.gaff.init,
    "attention": lambda config: (
        ", ".join(dict.fromkeys(attention_kinds(items(config, "attention_config")))) or "global"
    ),
    "model_parallel_size": tensor_parallel,
    "pipe_parallel_size": pipeline,
    "ZeRO stage": zero_stage,
    "precision": precision,
}


def sentences(config: Config, small: Config, vocab_size: int) -> tuple[str, ...]:
    """A sentence for each thing in which ``small`` is less than ``config``, or other than it."""
    said = []
    for name, value in _COMPARED.items():
        before, after = value(config), value(small)
        if before != after:
            said.append(f"{name} {_short(before)} -> {_short(after)}")
    said.append(f"data and tokenizer replaced, vocabulary of {vocab_size:,} tokens")
    if config.get("eval_iters", DEFAULTS["eval_iters"]):
        said.append("no validation")
    zero = mapping(config, "zero_optimization")
    if any(mapping(small, "zero_optimization").get(key) != zero[key] for key in zero if key != "stage"):
        said.append("zero_optimization: smaller communication buckets, no overlap or offload")
    off = [key for key in GPU_FLAGS if flag(config, key) and not flag(small, key)]
    if off:
        said.append(f"without a GPU: {', '.join(off)}")
    if config.get("fp32_allreduce"):
        said.append("fp32_allreduce left out")
    return (*said, *care_sentences(config.gaff, small.gaff))


def _short(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:36]} …{']' if isinstance(value, list) else ''}"
