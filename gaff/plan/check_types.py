# SPDX-License-Identifier: Apache-2.0
"""Rules: every GPT-NeoX key has the type that GPT-NeoX wants, else its start ends in an unreadable AttributeError.

Contract section 1.3: ``exit_interval: 5.0`` or ``lr: 1e-3`` (text) fail so; numbers inside ``optimizer.params`` are not
looked at by GPT-NeoX and kill the ranks at their first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.gaff_values import describe
from gaff.plan.neox_keys import ANY_CASE, CHOICES, KINDS, MAPPING, NUMERIC_LISTS
from gaff.plan.settings import SCALES, usable_scale
from gaff.plan.typed import mapping, mistyped, number, text

_POSITIVE = (
    *("num_layers", "hidden_size", "num_attention_heads", "seq_length", "max_position_embeddings"),
    *("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps", "log_interval"),
    *("make_vocab_size_divisible_by", "num_kv_heads", "global_num_gpus", "lr_decay_iters", "eval_interval"),
    *("intermediate_size", "steps_per_print"),
)
#: key -> (what it may be, whether a value is that).
_RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    **{key: ("at least 1", lambda value: value >= 1) for key in _POSITIVE},
    **{key: ("at least 0", lambda value: value >= 0) for key in ("eval_iters", "weight_decay", "gradient_clipping")},
    **{key: ("above 0", lambda value: value > 0) for key in ("optimizer.params.eps", "layernorm_epsilon")},
    "master_port": ("from 1 to 65535", lambda value: 1 <= value <= 65535),
    "init_method_std": (SCALES, usable_scale),
}
_REQUIRED = (*("num_layers", "hidden_size", "num_attention_heads", "seq_length", "max_position_embeddings"),)


def check_types(config: Config) -> Iterator[Problem]:
    """Mistyped keys, words that are no choice, sizes below 1 and missing model keys."""
    for key, kind, value in mistyped(config.neox):
        yield _wrong_type(config, key, kind, value)
    for key, choices in CHOICES.items():
        given = text(config, key)
        if given is None or given in choices:
            continue
        meant = next((choice for choice in choices if choice.lower() == given.lower()), None)
        if meant is None:
            what = f"`{key}: {given}` is not a choice of GPT-NeoX"
            yield config.problem("not-a-choice", key, what, f"write one of {', '.join(choices)}")
        elif key not in ANY_CASE:
            what = f"`{key}: {given}` passes GPT-NeoX's check, and is then taken for no choice that it knows"
            yield config.problem("not-a-choice", key, what, f"write {meant}")
    for key, (allowed, is_good) in _RANGES.items():
        size = number(config, key)
        if size is not None and not is_good(size):
            what = f"`{key}` must be {allowed}, not {size}"
            id = "not-positive" if key in _POSITIVE else "out-of-range"
            yield config.problem(id, key, what, f"give a number {allowed}")
    for key in (key for key, kind in KINDS.items() if kind == MAPPING):
        if any(not isinstance(inner, str) for inner in mapping(config, key)):
            yield config.problem("mapping-key", key, f"the keys inside `{key}` must be words", "mend the block")
    for key in NUMERIC_LISTS:
        yield from _numeric_list(config, key)
    yield from _optimizer(config)
    yield from _missing(config)


def _wrong_type(config: Config, key: str, kind: str, value: object) -> Problem:
    whole = isinstance(value, float) and value.is_integer()
    remedy = f"write {key.rpartition('.')[2]}: {value:.0f}" if whole else f"write {kind}"
    return config.problem("wrong-type", key, f"`{key}` must be {kind}, not {describe(value)}", remedy)


def _numeric_list(config: Config, key: str) -> Iterator[Problem]:
    value = config.get(key)
    if not isinstance(value, list):
        return
    allowed = (int,) if key == "extra_save_iters" else (int, float)
    for index, item in enumerate(value):
        if isinstance(item, float) and not isfinite(item):
            continue  # told already
        if type(item) not in allowed or item < 0:
            kind = "integers" if key == "extra_save_iters" else "numbers"
            what = f"`{key}` must hold {kind} from 0 up, not {describe(item)}"
            yield config.problem("wrong-type", f"{key}.{index}", what, "mend the list")


def _optimizer(config: Config) -> Iterator[Problem]:
    for name, value in mapping(config, "optimizer.params").items():
        if value is None and name != "lr":  # of which it is said that it is missing
            what = f"`optimizer.params.{name}` is empty, and the optimizer takes no null"
            yield config.problem("empty-value", f"optimizer.params.{name}", what, "give a value, or remove the key")
    betas = config.get("optimizer.params.betas")
    if betas is None or (isinstance(betas, list) and any(isinstance(b, float) and not isfinite(b) for b in betas)):
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
    if not isinstance(optimizer, Mapping) or not isinstance(config.get("optimizer.params", {}), Mapping):
        return  # told already
    if config.get("optimizer.type") is None:
        what = "the `optimizer` block with its `type` is missing"
        yield config.problem("optimizer-missing", "optimizer", what, "add optimizer: {type: Adam, params: {lr: …}}")
    elif config.get("optimizer.params.lr") is None:
        what = "`optimizer.params.lr` is missing"
        yield config.problem("lr-missing", "optimizer", what, "add the learning rate there")
