# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX keys turned into typed values, with GPT-NeoX's defaults.  Pure; no torch.

Keys are taken as already checked by :mod:`.support`; a key that is null counts as not given, as in GPT-NeoX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gaff.plan.annealing import end_of_decay

Precision = Literal["fp32", "bfloat16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the ranks are arranged.  ``pipe`` is the ``pipe_parallel_size`` key: 0 means no pipeline engine."""

    world: int
    pipe: int
    data: int

    @property
    def stages(self) -> int:
        return max(1, self.pipe)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The shape of the model and how its weights begin."""

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    seq_length: int
    max_position_embeddings: int
    pos_emb: str
    rotary_pct: float
    rotary_emb_base: float
    no_weight_tying: bool
    gpt_j_residual: bool
    gelu_tanh: bool
    layernorm_epsilon: float
    init_method: str
    output_layer_init_method: str
    init_method_std: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate schedule.  ``warmup_iter`` is a float, as GPT-NeoX stores it in the checkpoint."""

    start_lr: float
    min_lr: float
    warmup_iter: float
    end_iter: int
    decay_style: str
    use_checkpoint: bool
    override: bool


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """When to stop, save, log and validate, in iterations."""

    train_iters: int
    exit_interval: int | None
    checkpoint_factor: float | None
    checkpoint_scale: str
    extra_save_iters: tuple[int, ...]
    log_interval: int
    eval_interval: int
    eval_iters: int
    save: str | None
    load: str | None
    iteration: int | None

    def is_save_iteration(self, iteration: int) -> bool:
        """Whether a checkpoint is due after this iteration: listed, a multiple of the factor, or a power of it."""
        if iteration in self.extra_save_iters:
            return True
        factor = self.checkpoint_factor
        if not factor or iteration == 0:
            return False
        if self.checkpoint_scale == "linear":
            return iteration % factor == 0
        power = 1.0
        while round(power) < iteration:
            power *= factor
        return round(power) == iteration


def given(neox: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value of a key, or the default when it is absent or null."""
    value = neox.get(key)
    return default if value is None else value


def layout(neox: Mapping[str, Any]) -> Layout:
    """The arrangement of ranks.  ``global_num_gpus`` is the number of ranks; by default one data-parallel replica.

    Raises:
        ValueError: the ranks cannot be divided among the pipeline stages.
    """
    pipe = int(given(neox, "pipe_parallel_size", 0))
    world = int(given(neox, "global_num_gpus", max(1, pipe)))
    if world < 1 or world % max(1, pipe):
        raise ValueError(f"{world} ranks cannot be divided among {max(1, pipe)} pipeline stages")
    return Layout(world=world, pipe=pipe, data=world // max(1, pipe))


def batch_sizes(neox: Mapping[str, Any], data_parallel: int) -> tuple[int, int, int]:
    """(global batch, micro batch per rank, gradient accumulation steps): what is not given follows from the rest.

    Raises:
        ValueError: neither size is given, or they do not fit together.
    """
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    total, micro, steps = (given(neox, name) for name in names)
    for name, size in zip(names, (total, micro, steps), strict=True):
        if size is not None and size < 1:
            raise ValueError(f"{name} {size} is below 1")
    if total is None and micro is None:
        raise ValueError("neither train_micro_batch_size_per_gpu nor train_batch_size is given")
    unit = (micro or 1) * (steps or 1) * data_parallel
    if total is None:
        return unit, micro, steps or 1
    factors = [f"{name} {size}" for name, size in zip(names[1:], (micro, steps), strict=True) if size is not None]
    if total % unit or (micro and steps and total != unit):
        relation = "is not" if micro and steps else "is no multiple of"
        product = " × ".join([*factors, f"{data_parallel} data-parallel ranks"])
        raise ValueError(f"train_batch_size {total} {relation} {product}")
    if micro is None:
        return total, total // unit, steps or 1
    return total, micro, steps or total // unit


def precision(neox: Mapping[str, Any]) -> Precision:
    """The training precision: the ``precision`` key, else an enabled ``fp16`` or ``bf16`` block, else fp32."""
    if neox.get("precision"):
        return neox["precision"]  # type: ignore[no-any-return]  # one of the three: checked in support
    if given(neox, "fp16", {}).get("enabled"):
        return "fp16"
    return "bfloat16" if given(neox, "bf16", {}).get("enabled") else "fp32"


def zero_stage(neox: Mapping[str, Any]) -> int:
    """The ZeRO stage, 0 when there is no ``zero_optimization`` block."""
    return int(given(neox, "zero_optimization", {}).get("stage") or 0)


def model_settings(neox: Mapping[str, Any]) -> ModelSettings:
    """The model's shape."""
    hidden = int(neox["hidden_size"])
    return ModelSettings(
        num_layers=int(neox["num_layers"]),
        hidden_size=hidden,
        num_attention_heads=int(neox["num_attention_heads"]),
        intermediate_size=int(given(neox, "intermediate_size", 4 * hidden)),
        seq_length=int(neox["seq_length"]),
        max_position_embeddings=int(neox["max_position_embeddings"]),
        pos_emb=given(neox, "pos_emb", "learned"),
        rotary_pct=float(given(neox, "rotary_pct", 1.0)),
        rotary_emb_base=float(given(neox, "rotary_emb_base", 10000)),
        no_weight_tying=bool(given(neox, "no_weight_tying", False)),
        gpt_j_residual=bool(given(neox, "gpt_j_residual", False)),
        # GPT-NeoX's fused kernel uses the tanh approximation, its unfused path the exact function.
        gelu_tanh=bool(given(neox, "bias_gelu_fusion", False)),
        layernorm_epsilon=float(given(neox, "layernorm_epsilon", 1e-5)),
        init_method=given(neox, "init_method", "normal"),
        output_layer_init_method=given(neox, "output_layer_init_method", "scaled_normal"),
        init_method_std=float(given(neox, "init_method_std", 0.02)),
        seed=int(given(neox, "seed", 1234)),
    )


def schedule_settings(neox: Mapping[str, Any]) -> ScheduleSettings:
    """The learning rate schedule; ``warmup`` is a fraction of the decay length."""
    end_iter = end_of_decay(neox["train_iters"], given(neox, "lr_decay_iters"), given(neox, "lr_decay_fraction"))
    return ScheduleSettings(
        start_lr=float(given(neox, "optimizer", {}).get("params", {}).get("lr", 1e-3)),
        min_lr=float(given(neox, "min_lr", 0.0)),
        warmup_iter=given(neox, "warmup", 0.01) * end_iter,
        end_iter=end_iter,
        decay_style=given(neox, "lr_decay_style", "linear"),
        use_checkpoint=bool(given(neox, "use_checkpoint_lr_scheduler", False)),
        override=bool(given(neox, "override_lr_scheduler", False)),
    )


def loop_settings(neox: Mapping[str, Any]) -> LoopSettings:
    """When to stop, save, log and validate."""
    return LoopSettings(
        train_iters=int(neox["train_iters"]),
        exit_interval=given(neox, "exit_interval"),
        checkpoint_factor=given(neox, "checkpoint_factor"),
        checkpoint_scale=given(neox, "checkpoint_scale", "linear"),
        extra_save_iters=tuple(given(neox, "extra_save_iters", ())),
        log_interval=int(given(neox, "log_interval", 100)),
        eval_interval=int(given(neox, "eval_interval", 1000)),
        eval_iters=int(given(neox, "eval_iters", 100)),
        save=given(neox, "save"),
        load=given(neox, "load"),
        iteration=given(neox, "iteration"),
    )


def padded_vocab_size(neox: Mapping[str, Any], vocab_size: int) -> int:
    """The vocabulary rounded up to a multiple of ``make_vocab_size_divisible_by``, as GPT-NeoX does."""
    multiple = int(given(neox, "make_vocab_size_divisible_by", 128))
    return -(-vocab_size // multiple) * multiple
