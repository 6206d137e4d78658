# SPDX-License-Identifier: Apache-2.0
"""Rules: model, parallel layout, ZeRO, precision and optimizer go together, and a reset can be made in the result.

What GPT-NeoX refuses with exit code 0 (contract 2.2) or with a traceback is said here beforehand; so is what the
surgery of this version cannot edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.typed import flag, integer, mapping, pipeline, precision, tensor_parallel, text, word, zero_stage

#: Values of ``init_method`` whose distribution GAFF knows (contract 5.2).
KNOWN_INIT_METHODS = (
    *("normal", "scaled_normal", "single_residual_scaled_normal", "small_init", "wang_init"),
    *("xavier_uniform", "xavier_normal"),
)
_ADAM = ("adam", "cpu_adam", "cpu_torch_adam")


def check_model(config: Config) -> Iterator[Problem]:
    """Shapes, layout, precision, optimizer, and where the values of a reset come from."""
    yield from _shapes(config)
    yield from _zero(config)
    yield from _precision(config)
    yield from _ranks(config)
    if config.gaff.reset_every is not None:
        yield from _resettable(config)
        yield from _init(config)


def _shapes(config: Config) -> Iterator[Problem]:
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    tensor = tensor_parallel(config)
    if hidden and heads and heads > 0 and hidden % heads:
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


def _resettable(config: Config) -> Iterator[Problem]:
    instead = "or write `reset_every: never`"
    if pipeline(config) < 1:
        what = "resets need `pipe_parallel_size` of at least 1 in this version (1 trains the same model)"
        yield config.problem("layout-not-in-this-version", "pipe_parallel_size", what, f"write 1, {instead}")
    if zero_stage(config) != 1 and not _zero_unusable(config):
        what = f"resets need ZeRO stage 1 in this version, this is stage {zero_stage(config)}"
        key = "zero_optimization.stage"
        yield config.problem(
            "layout-not-in-this-version", key, what, f"write zero_optimization: {{stage: 1}}, {instead}"
        )
    optimizer = config.get("optimizer.type")
    if isinstance(optimizer, str) and optimizer.lower() not in _ADAM:
        what = f"resets need an Adam optimizer in this version, this is {optimizer}"
        yield config.problem("optimizer-not-in-this-version", "optimizer.type", what, f"write type: Adam, {instead}")
    if (integer(config, "moe_num_experts") or 1) > 1:
        what = "resets in a mixture of experts are not in this version"
        yield config.problem("layout-not-in-this-version", "moe_num_experts", what, f"remove the key, {instead}")
    if config.get("soft_prompt_tuning") is not None:
        what = "resets with `soft_prompt_tuning` are not in this version"
        yield config.problem("layout-not-in-this-version", "soft_prompt_tuning", what, f"remove the key, {instead}")


def _zero_unusable(config: Config) -> bool:
    """Whether the stage is not known because of a mistake that is told elsewhere."""
    if config.get("zero_optimization") is None:
        return False
    return integer(config, "zero_optimization.stage") not in (0, 1, 2, 3)


def _init(config: Config) -> Iterator[Problem]:
    if config.gaff.init.kind != "config":
        return
    method = text(config, "init_method")
    remedy = "write for example `init: normal:0.02` in the gaff block"
    if flag(config, "use_mup"):
        what = "`init: config` does not know the initialisers of `use_mup`"
        yield config.problem("init-method", "use_mup", what, remedy)
    elif method is not None and method not in KNOWN_INIT_METHODS:
        what = f"`init: config` does not know init_method {method}"
        yield config.problem("init-method", "init_method", what, remedy)
