# SPDX-License-Identifier: Apache-2.0
"""A config made small enough for a laptop CPU, with the shape of its schedule kept.  Pure.

Kept: the pattern of resets and what they forget, warm-up and decay as fractions of the run, learning rates, optimizer,
ZeRO stage (2 for 3 on the bundled trainer), tied or untied embeddings, positions, residual style, initialisers, no
pipeline where there is none, and pipeline and (with GPT-NeoX) tensor parallelism as far as the ranks allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gaff.plan.config import Config
from gaff.plan.neox_keys import CPU_ATTENTION, GPU_FLAGS, PATH_LISTS
from gaff.plan.settings import Device, GaffSettings, TrainerName
from gaff.plan.shrink_care import shrink_care
from gaff.plan.shrink_resets import shrink_init, shrink_parameters
from gaff.plan.shrink_schedule import ShrunkSchedule, shrink_schedule
from gaff.plan.shrink_sentences import sentences
from gaff.plan.typed import (
    at_least,
    flag,
    integer,
    items,
    mapping,
    number,
    pipeline,
    tensor_parallel,
    word,
    zero_stage,
)
from gaff.plan.typed import precision as precision_of

MAX_LAYERS, MAX_HIDDEN, MAX_HEADS, MAX_SEQUENCE = 4, 128, 4, 128
MAX_MICRO_BATCH, MAX_ACCUMULATION = 8, 4
MAX_ZERO_STAGE: Mapping[TrainerName, int] = {"bundled": 2, "neox": 3}  # what each trainer does on a CPU
_BUCKET = 5_000_000  # elements; DeepSpeed allocates its communication buckets in full, 2 GB at the usual 5e8
_GATED_UNIT, _PLAIN_UNIT = 48, 16  # multiples of which an MLP width keeps whole after the 2/3 of gated activations

#: Keys about machines, dashboards and other data, which mean nothing in a rehearsal.
_DROPPED = (
    *(
        "hostfile",
        "include",
        "exclude",
        "num_nodes",
        "num_gpus",
        "launcher",
        "master_addr",
        "force_multi",
        "no_ssh_check",
    ),
    *("deepspeed_slurm", "deepspeed_mpi", "account", "comment", "log_dir", "tensorboard_dir", "tensorboard", "load"),
    *("wandb", "wandb_group", "wandb_run_name", "wandb_team", "wandb_project", "wandb_host", "wandb_init_all_ranks"),
    *("use_comet", "comet_workspace", "comet_project", "comet_experiment_name", "comet_tags", "comet_others"),
    *("exit_interval", "iteration", "train_batch_size", "merge_file", "fp32_allreduce", "keep_last_n_checkpoints"),
    *("train_data_weights", "valid_data_weights", "test_data_weights", "weight_by_num_documents"),
    *PATH_LISTS,
)


@dataclass(frozen=True)
class _Target:
    """What the rehearsal gives."""

    schedule: ShrunkSchedule
    ranks: int
    data_path: Path
    vocab_file: Path | None
    vocab_size: int
    save: Path
    precision: str
    trainer: TrainerName
    device: Device


def shrink(
    config: Config,
    *,
    iterations: int,
    resets: int,
    ranks: int,
    data_path: Path,
    vocab_file: Path | None,
    vocab_size: int,
    save: Path,
    precision: str | None = None,
    trainer: TrainerName = "bundled",
    device: Device = "cpu",
) -> tuple[Config, tuple[str, ...]]:
    """The rehearsal of a run.

    Args:
        config: the user's, without schedule or model errors (:func:`gaff.plan.checks.check` with ``files=False``).
        iterations: length of the rehearsal, more than ``resets``.
        resets: how many resets happen; none where the config says ``reset_every: never``.
        ranks: processes; pipeline times data parallelism equals it.
        data_path: prefix of the .bin/.idx pair to train on.
        vocab_file: its tokenizer.json, or None for GPT-NeoX's CharLevelTokenizer.
        vocab_size: tokens of that tokenizer, for the sentence about it.
        save: where checkpoints go.
        precision: fp32 or bfloat16 instead of the config's.
        trainer: ``bundled`` or ``neox``, which trains on ``device``, a CPU.

    Returns:
        The small config, with that trainer; and a sentence for each thing that was shrunk or left out.
    """
    target = _Target(
        schedule=shrink_schedule(config, iterations, resets),
        ranks=ranks,
        data_path=data_path,
        vocab_file=vocab_file,
        vocab_size=vocab_size,
        save=save,
        precision=precision or precision_of(config),
        trainer=trainer,
        device=device,
    )
    neox = {key: value for key, value in config.neox.items() if key not in _DROPPED}
    for part in (_schedule, _model, _layout, _precision, _data):
        neox.update(part(config, target))
    neox = {key: value for key, value in neox.items() if value is not None}
    small = replace(config, neox=neox, gaff=_settings(config.gaff, target))
    parameters, init = shrink_parameters(config, small), shrink_init(config.gaff.init)
    small = replace(small, gaff=replace(small.gaff, parameters=parameters, init=init))
    return small, sentences(config, small, target.vocab_size)


def _settings(gaff: GaffSettings, target: _Target) -> GaffSettings:
    """The user's block with the small schedule; the machines it names are not this one."""
    small = shrink_care(target.schedule.settings(gaff), target.schedule)
    device = target.device if target.trainer == "neox" else small.device
    return replace(small, trainer=target.trainer, device=device, container=None, environment=())


def _schedule(config: Config, target: _Target) -> dict[str, Any]:
    plan = target.schedule
    decay = integer(config, "lr_decay_iters")
    decay_scale = plan.unit_scale if config.gaff.lr_schedule == "restart" else plan.scale  # begins anew with each reset
    factor = number(config, "checkpoint_factor")
    linear = word(config, "checkpoint_scale") == "linear"
    least = max(1, plan.unit // 4)  # a tiny model spends longer saving than training
    scaled = {round(i * plan.unit_scale) for i in items(config, "extra_save_iters") if isinstance(i, int)}
    return {
        "train_iters": plan.train_iters,
        "lr_decay_iters": max(1, round(decay * decay_scale)) if decay else None,
        "checkpoint_factor": max(least, round(factor * plan.unit_scale)) if factor and linear else factor,
        "extra_save_iters": sorted(i for i in scaled if i == 0 or least <= i <= plan.train_iters) or None,
        "log_interval": plan.log_interval,
        "steps_per_print": plan.train_iters,
        "eval_iters": 0,
        "eval_interval": plan.train_iters,
    }


def _model(config: Config, target: _Target) -> dict[str, Any]:
    hidden, heads = at_least(config, "hidden_size", 1), at_least(config, "num_attention_heads", 1)
    small_heads = min(heads, MAX_HEADS)
    small_hidden = min(hidden, MAX_HIDDEN) // small_heads * small_heads
    layers = min(at_least(config, "num_layers", 1), MAX_LAYERS)
    sequence = min(at_least(config, "seq_length", 1), MAX_SEQUENCE)
    kv_heads = integer(config, "num_kv_heads")
    return {
        "num_layers": layers,
        "hidden_size": small_hidden,
        "num_attention_heads": small_heads,
        "num_kv_heads": max(1, small_heads * kv_heads // heads) if kv_heads else None,
        "intermediate_size": _mlp_width(config, small_hidden / hidden),
        "attention_config": _attention(config, layers, target.trainer),
        **_without_gpu(config, target.trainer),
        "seq_length": sequence,
        "max_position_embeddings": sequence,
        "train_micro_batch_size_per_gpu": min(integer(config, "train_micro_batch_size_per_gpu") or 4, MAX_MICRO_BATCH),
        "gradient_accumulation_steps": min(at_least(config, "gradient_accumulation_steps", 1), MAX_ACCUMULATION),
    }


def _mlp_width(config: Config, ratio: float) -> int | None:
    width = integer(config, "intermediate_size")
    if width is None or ratio == 1:
        return width
    gated = word(config, "activation") in ("geglu", "reglu", "swiglu", "bilinear", "glu")
    unit = _GATED_UNIT if gated else _PLAIN_UNIT
    return max(1, round(width * ratio / unit)) * unit


def _without_gpu(config: Config, trainer: TrainerName) -> dict[str, Any]:
    """What GPT-NeoX must do without on a CPU; the bundled trainer takes these keys and has no kernels for them."""
    if trainer != "neox":
        return {}
    norms = {"te_layernorm": "layernorm", "te_rmsnorm": "rmsnorm"}
    plain = {key: False for key in GPU_FLAGS if flag(config, key)}
    norm = norms.get(word(config, "norm"))
    return {**plain, "norm": norm} if norm else plain


def _attention(config: Config, layers: int, trainer: TrainerName) -> list[Any] | None:
    """The attention types of the first ``layers`` layers, in GPT-NeoX's notation."""
    types: list[Any] = []
    for item in items(config, "attention_config"):
        if isinstance(item, list) and len(item) == 2 and isinstance(item[0], list):
            types += item[0] * (item[1] if isinstance(item[1], int) else layers)
        else:
            types.append(item)
    if not types:
        return None
    types = (types * layers)[:layers]
    if trainer == "neox":
        types = [kind if kind in CPU_ATTENTION else "global" for kind in types]
    return [[types[:1], layers]] if len(set(types)) == 1 else [[types, 1]]


def _layout(config: Config, target: _Target) -> dict[str, Any]:
    tensor, stages = _parallelism(config, target)
    zero = dict(mapping(config, "zero_optimization")) or None
    if zero:
        zero["stage"] = min(zero_stage(config), MAX_ZERO_STAGE[target.trainer])
        for key in ("reduce_bucket_size", "allgather_bucket_size"):
            if isinstance(zero.get(key), (int, float)):
                zero[key] = min(zero[key], _BUCKET)
        for key in ("cpu_offload", "offload_optimizer", "offload_param", "overlap_comm"):
            if zero.get(key):
                del zero[key]
    return {
        "pipe_parallel_size": stages,
        "model_parallel_size": tensor,
        "sequence_parallel": config.get("sequence_parallel") if tensor > 1 else None,
        "global_num_gpus": target.ranks,
        "zero_optimization": zero,
        "distributed_backend": "gloo",
        "use_wandb": False,
    }


def _parallelism(config: Config, target: _Target) -> tuple[int, int]:
    """Tensor and pipeline ranks: the most that ``ranks`` hold, of both kinds if possible."""
    most_tensor = min(tensor_parallel(config), MAX_HEADS) if target.trainer == "neox" else 1
    stages = pipeline(config)
    if stages <= 1 and most_tensor == 1:
        return 1, stages
    heads = min(at_least(config, "num_attention_heads", 1), MAX_HEADS)
    fitting = [
        (tensor, stage)
        for tensor in range(1, most_tensor + 1)
        for stage in range(min(stages, 1), min(stages, MAX_LAYERS) + 1)
        if target.ranks % (tensor * max(1, stage)) == 0 and heads % tensor == 0
    ]
    return max(fitting, key=lambda pair: (pair[0] * max(1, pair[1]), min(pair), pair[0]))


def _precision(config: Config, target: _Target) -> dict[str, Any]:
    if target.precision == precision_of(config):
        return {}
    keys: dict[str, Any] = {"precision": target.precision, "fp16": None, "bf16": None, "fp16_lm_cross_entropy": None}
    if target.precision == "bfloat16":
        keys["data_types"] = {"grad_accum_dtype": "fp32"}  # without it bf16 breaks in a pipeline
    return keys


def _data(config: Config, target: _Target) -> dict[str, Any]:
    return {
        "data_path": str(target.data_path),
        "data_impl": "mmap",
        "num_workers": 0,
        "tokenizer_type": "HFTokenizer" if target.vocab_file else "CharLevelTokenizer",
        "vocab_file": str(target.vocab_file) if target.vocab_file else None,
        "save": str(target.save),
    }
