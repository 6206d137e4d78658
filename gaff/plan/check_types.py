# SPDX-License-Identifier: Apache-2.0
"""Rules: every GPT-NeoX key has the type that GPT-NeoX wants, else its start ends in an unreadable AttributeError.

Contract section 1.3: ``exit_interval: 5.0`` or ``lr: 1e-3`` (text) fail so; numbers inside ``optimizer.params`` are not
looked at by GPT-NeoX and kill the ranks at their first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.gaff_block import describe
from gaff.plan.neox_keys import CHOICES, KINDS, MAPPING, NUMERIC_LISTS
from gaff.plan.typed import fits

_MAPPINGS_WITH_NUMBERS = ("optimizer.params.lr", "optimizer.params.eps", "optimizer.params.weight_decay")
_POSITIVE = (
    *("num_layers", "hidden_size", "num_attention_heads", "seq_length", "max_position_embeddings"),
    *("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps", "log_interval"),
    *("make_vocab_size_divisible_by", "num_kv_heads", "global_num_gpus", "lr_decay_iters"),
)
_REQUIRED = (*("num_layers", "hidden_size", "num_attention_heads", "seq_length", "max_position_embeddings"),)


def check_types(config: Config) -> Iterator[Problem]:
    """Mistyped keys, words that are no choice, sizes below 1 and missing model keys."""
    for key, value in config.neox.items():
        if value is not None:
            yield from _key(config, key, value)
    for key in NUMERIC_LISTS:
        yield from _numeric_list(config, key)
    for key in _MAPPINGS_WITH_NUMBERS:
        yield from _number(config, key)
    yield from _betas(config)
    yield from _missing(config)


def _key(config: Config, key: str, value: Any) -> Iterator[Problem]:
    kind = KINDS.get(key)
    if kind is None:
        return
    if not fits(value, kind):
        yield _wrong_type(config, key, kind, value)
    elif key in CHOICES and value.lower() not in (choice.lower() for choice in CHOICES[key]):
        what = f"`{key}: {value}` is not a choice of GPT-NeoX"
        yield config.problem("not-a-choice", key, what, f"write one of {', '.join(CHOICES[key])}")
    elif key in _POSITIVE and value < 1:
        yield config.problem("not-positive", key, f"`{key}` must be at least 1, not {value}", "give a positive integer")
    elif kind == MAPPING and any(not isinstance(inner, str) for inner in value):
        yield config.problem("mapping-key", key, f"the keys inside `{key}` must be words", "mend the block")


def _wrong_type(config: Config, key: str, kind: str, value: object) -> Problem:
    remedy = f"write {key}: {int(value)}" if isinstance(value, float) and value.is_integer() else f"write {kind}"
    return config.problem("wrong-type", key, f"`{key}` must be {kind}, not {describe(value)}", remedy)


def _number(config: Config, key: str) -> Iterator[Problem]:
    value = config.get(key)
    if value is not None and type(value) not in (int, float):
        yield _wrong_type(config, key, "a number", value)


def _numeric_list(config: Config, key: str) -> Iterator[Problem]:
    value = config.get(key)
    if not isinstance(value, list):
        return
    allowed = (int,) if key == "extra_save_iters" else (int, float)
    for index, item in enumerate(value):
        if type(item) not in allowed or item < 0:
            kind = "integers" if key == "extra_save_iters" else "numbers"
            what = f"`{key}` must hold {kind} from 0 up, not {describe(item)}"
            yield config.problem("wrong-type", f"{key}.{index}", what, "mend the list")


def _betas(config: Config) -> Iterator[Problem]:
    betas = config.get("optimizer.params.betas")
    if betas is None:
        return
    good = isinstance(betas, list) and len(betas) == 2 and all(type(b) in (int, float) and 0 <= b < 1 for b in betas)
    if not good:
        what = "`optimizer.params.betas` must be two numbers from 0 to below 1"
        yield config.problem("wrong-type", "optimizer.params.betas", what, "write [0.9, 0.95], for example")


def _missing(config: Config) -> Iterator[Problem]:
    for key in _REQUIRED:
        if config.get(key) is None:
            yield config.problem("key-missing", key, f"`{key}` is missing", "add it: GPT-NeoX has no default for it")
    batch = ("train_batch_size", "train_micro_batch_size_per_gpu")
    if all(config.get(key) is None for key in batch):
        what = "neither `train_micro_batch_size_per_gpu` nor `train_batch_size` is given"
        yield config.problem("key-missing", batch[1], what, "add one of them")
    optimizer = config.get("optimizer", {})
    if not isinstance(optimizer, Mapping):
        return
    if config.get("optimizer.type") is None:
        what = "the `optimizer` block with its `type` is missing"
        yield config.problem("optimizer-missing", "optimizer", what, "add optimizer: {type: Adam, params: {lr: …}}")
    elif config.get("optimizer.params.lr") is None:
        what = "`optimizer.params.lr` is missing"
        yield config.problem("lr-missing", "optimizer", what, "add the learning rate there")
