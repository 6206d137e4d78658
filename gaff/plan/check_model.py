# SPDX-License-Identifier: Apache-2.0
"""Rules: model, parallel layout, ZeRO, precision and optimizer go together, and a reset can be made in the result.

What GPT-NeoX refuses with exit code 0 (contract 2.2) or with a traceback is said here beforehand; so is what surgery
cannot edit.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.neox_keys import CHOICES, attention_kinds
from gaff.plan.parameters import FIRST_LAYER, parameter_sizes, select, selection, unusual_keys
from gaff.plan.settings import NICKNAMES
from gaff.plan.typed import at_least, flag, integer, mapping, pipeline, precision, tensor_parallel, text, word

#: Values of ``init_method`` whose distribution GAFF knows (contract 5.2).
KNOWN_INIT_METHODS = (
    *("normal", "scaled_normal", "single_residual_scaled_normal", "small_init", "wang_init"),
    *("xavier_uniform", "xavier_normal", "scaled_orthogonal"),
)
#: Values of ``optimizer.type`` that GPT-NeoX knows (``megatron/training.py``, ``get_optimizer``).
_OPTIMIZERS = ("adam", "cpu_adam", "cpu_torch_adam", "lion", "sgd", "onebitadam", "sm3", "madgrad_wd")
#: Those whose state GAFF knows by name: full tensors that a reset can zero.
_RESETTABLE_OPTIMIZERS = ("adam", "cpu_adam", "cpu_torch_adam", "lion", "sgd")
#: What ``output_layer_init_method`` initialises (contract 5.2).
_OUTPUT_LAYERS = ("attention.dense.weight", "mlp.linear2.weight")


def check_model(config: Config) -> Iterator[Problem]:
    """Shapes, layout, precision, optimizer, and where the values of a reset come from."""
    yield from _shapes(config)
    yield from _zero(config)
    yield from _precision(config)
    yield from _ranks(config)
    yield from _optimizer(config)
    if config.gaff.reset_every is not None:
        yield from _resettable(config)
        yield from _parameters(config)
        yield from _init(config)


def _shapes(config: Config) -> Iterator[Problem]:
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    tensor = tensor_parallel(config)
    mamba = "mamba" in attention_kinds(config.get("attention_config"))  # has no heads, and GPT-NeoX asks for none
    if hidden and heads and heads > 0 and hidden % heads and not mamba:
        what = f"`hidden_size: {hidden}` is not a multiple of num_attention_heads ({heads})"
        yield config.problem("hidden-heads", "hidden_size", what, "change one of them")
    if heads and heads > 0 and heads % tensor:
        what = f"`num_attention_heads: {heads}` is not a multiple of model_parallel_size ({tensor})"
        yield config.problem("heads-tensor-parallel", "num_attention_heads", what, "change one of them")
    kv_heads = integer(config, "num_kv_heads")
    if heads and kv_heads and kv_heads > 0 and heads % kv_heads:
        what = f"`num_kv_heads: {kv_heads}` does not divide num_attention_heads ({heads})"
        yield config.problem("kv-heads", "num_kv_heads", what, "change one of them")
    sequence, positions = integer(config, "seq_length"), integer(config, "max_position_embeddings")
    if sequence and positions and sequence > positions:
        what = f"`seq_length: {sequence}` is above max_position_embeddings ({positions})"
        yield config.problem("sequence-length", "seq_length", what, "raise max_position_embeddings")
    if config.get("intermediate_size") is not None and config.get("expansion_factor") is not None:
        what = "`intermediate_size` and `expansion_factor` are both given"
        yield config.problem("mlp-size", "intermediate_size", what, "remove one of them")


def _zero(config: Config) -> Iterator[Problem]:
    given = config.get("zero_optimization")
    if given is None:
        if precision(config) == "bfloat16":
            what = "bfloat16 without a `zero_optimization` block ends in a TypeError of GPT-NeoX"
            yield config.problem("bf16-without-zero", "precision", what, "add zero_optimization: {stage: 1}")
        return
    stage = integer(config, "zero_optimization.stage")
    if stage is None and config.get("zero_optimization.stage") is None and isinstance(given, Mapping):
        what = "`zero_optimization` has no key `stage`"
        yield config.problem("zero-stage", "zero_optimization", what, "write stage: 1")
    elif stage is not None and stage not in (0, 1, 2, 3):
        what = f"`zero_optimization.stage` must be 0, 1, 2 or 3, not {stage}"
        yield config.problem("zero-stage", "zero_optimization.stage", what, "write stage: 1")
    if stage not in (0, 1, 2, 3):  # of another kind: told already
        return
    if stage >= 2 and (tensor_parallel(config) > 1 or pipeline(config) >= 1):
        what = (
            f"with ZeRO stage {stage} and model_parallel_size above 1 or pipe_parallel_size from 1 up GPT-NeoX leaves"
            " with exit code 0 and trains nothing"
        )
        yield config.problem("zero-with-model-parallel", "zero_optimization.stage", what, "write stage: 1")


def _precision(config: Config) -> Iterator[Problem]:
    given = word(config, "precision")
    for block, name in (("fp16", "fp16"), ("bf16", "bfloat16")):
        enabled = mapping(config, block).get("enabled")
        if config.get(block) is not None and enabled is None and block == "fp16":
            what = "the `fp16` block has no key `enabled`"
            yield config.problem("fp16-enabled", "fp16", what, "add enabled: true")
        if enabled is True and given and given != name:
            what = f"`precision: {given}` contradicts the enabled `{block}` block"
            yield config.problem("precision-conflict", "precision", what, "remove one of them")


def _ranks(config: Config) -> Iterator[Problem]:
    gpus, group = integer(config, "global_num_gpus"), tensor_parallel(config) * max(1, pipeline(config))
    if gpus and gpus % group:
        what = f"`global_num_gpus: {gpus}` is not a multiple of tensor times pipeline parallelism ({group})"
        yield config.problem("gpus-layout", "global_num_gpus", what, "change one of them")
        return
    batch, micro = integer(config, "train_batch_size"), integer(config, "train_micro_batch_size_per_gpu")
    if gpus and batch and micro:
        accumulation = integer(config, "gradient_accumulation_steps") or 1
        expected = micro * accumulation * (gpus // group)
        if expected != batch:
            what = (
                f"`train_batch_size: {batch}` is not micro-batch {micro} x accumulation {accumulation} x"
                f" {gpus // group} data-parallel ranks ({expected})"
            )
            yield config.problem("batch-size", "train_batch_size", what, "remove it, or mend the others")


def _optimizer(config: Config) -> Iterator[Problem]:
    kind = text(config, "optimizer.type")
    if kind is not None and kind.lower() not in _OPTIMIZERS and config.gaff.trainer != "bundled":
        what = f"GPT-NeoX has no optimizer type {kind}"
        remedy = f"write one of {', '.join(_OPTIMIZERS)}"
        if kind.lower() == "adamw":
            remedy = "write type: Adam, whose weight decay is AdamW's in GPT-NeoX"
        yield config.problem("not-a-choice", "optimizer.type", what, remedy)


def _resettable(config: Config) -> Iterator[Problem]:
    instead = "or write `reset_every: never`"
    kind = text(config, "optimizer.type")
    if kind is not None and kind.lower() in _OPTIMIZERS and kind.lower() not in _RESETTABLE_OPTIMIZERS:
        what = f"resets do not know the state that the optimizer {kind} keeps"
        remedy = f"use one of {', '.join(_RESETTABLE_OPTIMIZERS)}, {instead}"
        yield config.problem("optimizer-not-handled", "optimizer.type", what, remedy)
    if flag(config, "use_bnb_optimizer"):
        what = "resets do not know the 8-bit state of `use_bnb_optimizer`"
        yield config.problem("optimizer-not-handled", "use_bnb_optimizer", what, f"remove the key, {instead}")
    keys = unusual_keys(config)
    for key in ("moe_num_experts", "soft_prompt_tuning"):
        if key in keys:
            what = f"resets in models with `{key}` are not handled"
            yield config.problem("layout-not-handled", key, what, f"remove the key, {instead}")
            return
    if keys and tensor_parallel(config) > 1:
        what = f"resets do not know how tensor-parallel ranks share what `{keys[0]}` asks for"
        yield config.problem("layout-not-handled", keys[0], what, f"write model_parallel_size: 1, {instead}")


def _parameters(config: Config) -> Iterator[Problem]:
    """``gaff: parameters`` that this model certainly does not have."""
    names = parameter_sizes(config, rows=0)
    for index, chosen in enumerate(config.gaff.parameters):
        key = f"gaff.parameters.{index}"
        positions = word(config, "pos_emb")
        if chosen == "output_embedding" and config.get("no_weight_tying") in (None, False):
            what = "`output_embedding` is the input embedding here: embeddings are tied"
            yield config.problem("parameters-tied", key, what, "write input_embedding, or no_weight_tying: true")
        elif chosen == "position_embedding" and positions in CHOICES["pos_emb"] and positions != "learned":
            what = f"there is no `position_embedding`: with pos_emb {positions} positions are not learned"
            yield config.problem("parameters-no-positions", key, what, "remove it, or write pos_emb: learned")
        elif chosen not in NICKNAMES and names is not None and not select((chosen,), names):
            what = f"the model has no parameter `{chosen}`"
            yield config.problem("parameters-no-match", key, what, _nearest_name(config, chosen, names))


def _nearest_name(config: Config, pattern: str, names: Iterable[str]) -> str:
    last = at_least(config, "num_layers", 1) + FIRST_LAYER - 1
    known = f"transformer layers are {FIRST_LAYER} to {last}, with names such as {FIRST_LAYER}.mlp.linear1.weight"
    near = difflib.get_close_matches(pattern, list(names), n=1)
    return f"did you mean `{near[0]}`? {known}" if near else known


def _init(config: Config) -> Iterator[Problem]:
    if config.gaff.init.kind != "config":
        return
    remedy = "write for example `init: normal:0.02` in the gaff block"
    if flag(config, "use_mup"):
        what = "`init: config` does not know the initialisers of `use_mup`"
        yield config.problem("init-method", "use_mup", what, remedy)
        return
    for key in sorted(_initialisers(config)):
        method = text(config, key)
        if method is not None and method not in KNOWN_INIT_METHODS:
            what = f"`init: config` does not know {key} {method}"
            yield config.problem("init-method", key, what, remedy)


def _initialisers(config: Config) -> set[str]:
    """The keys whose initialisers make new values: of a parameter that is a norm's or a bias, none does."""
    names = selection(config, None).names
    if names is None:
        only_embeddings = all(chosen in NICKNAMES for chosen in config.gaff.parameters)
        return {"init_method"} if only_embeddings else {"init_method", "output_layer_init_method"}
    drawn = [name for name in names if name.endswith(".weight") and "norm." not in name]
    return {"output_layer_init_method" if name.endswith(_OUTPUT_LAYERS) else "init_method" for name in drawn}
