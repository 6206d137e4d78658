# SPDX-License-Identifier: Apache-2.0
"""What the bundled trainer does not do, refused by name before anything starts.  Pure; no torch.

Every GPT-NeoX key is in one of three places: used, ignored because it changes speed, memory or logging but no result,
or allowed only with the values that :data:`_ONLY` lists.  Any other key is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gaff.errors import Location, Problem
from gaff.plan.gaff_values import describe
from gaff.plan.neox_keys import attention_kinds
from gaff.plan.typed import mistyped
from gaff.trainers.bundled import settings

Where = Callable[[str], Location | None]

INIT_METHODS = (
    "normal",
    "scaled_normal",
    "single_residual_scaled_normal",
    "small_init",
    "wang_init",
    "xavier_uniform",
    "xavier_normal",
)
DECAY_STYLES = ("constant", "linear", "cosine", "exponential")
_NEOX = "or train with GPT-NeoX (gaff: trainer: neox)"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_REQUIRED = (
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "seq_length",
    "max_position_embeddings",
    "train_iters",
    "optimizer",
)
_USED = _words(
    """
    pipe_parallel_size global_num_gpus num_layers hidden_size num_attention_heads num_kv_heads intermediate_size
    seq_length max_position_embeddings rotary_pct rotary_emb_base no_weight_tying gpt_j_residual bias_gelu_fusion
    layernorm_epsilon init_method output_layer_init_method init_method_std seed attention_config
    make_vocab_size_divisible_by optimizer weight_decay gradient_clipping zero_optimization fp16 bf16 precision
    data_types deepspeed_extra_args lr_decay_style lr_decay_iters lr_decay_fraction min_lr warmup
    override_lr_scheduler use_checkpoint_lr_scheduler train_iters train_batch_size
    train_micro_batch_size_per_gpu gradient_accumulation_steps data_path train_data_paths valid_data_paths
    test_data_paths train_data_weights valid_data_weights test_data_weights split tokenizer_type vocab_file save
    load iteration exit_interval checkpoint_factor checkpoint_scale extra_save_iters log_interval eval_interval
    eval_iters steps_per_print wall_clock_breakdown master_port pipe_partition_method
    """
)
# Speed, memory, logging, and how the ranks are launched: no effect on what is trained
_IGNORED = _words(
    """
    scaled_upper_triang_masked_softmax_fusion scaled_masked_softmax_fusion bias_dropout_fusion rope_fusion
    layernorm_fusion rmsnorm_fusion fused_kernels_build_path attention_softmax_in_fp32 output_layer_parallelism
    checkpoint_activations checkpoint_num_layers partition_activations synchronize_each_layer
    contiguous_checkpointing checkpoint_in_cpu profile_backward deepspeed_activation_checkpointing
    activation_checkpointing num_workers mmap_warmup use_shared_fs distributed_backend launcher hostfile include
    exclude num_nodes num_gpus master_addr no_ssh_check force_multi comment account deepspeed_mpi
    deepspeed_slurm deepspeed lazy_mpu_init user_script use_wandb wandb_group wandb_run_name wandb_team
    wandb_project wandb_host wandb_init_all_ranks wandb use_comet comet_workspace comet_project
    comet_experiment_name comet_tags comet_others tensorboard_dir tensorboard csv_monitor log_dir
    keep_last_n_checkpoints peak_theoretical_tflops log_grad_pct_zeros log_param_norm log_grad_norm
    log_optimizer_states log_gradient_noise_scale gradient_noise_scale_n_batches
    gradient_noise_scale_cpu_offload memory_profiling memory_profiling_path profile profile_step_start
    profile_step_stop flops_profiler comms_logger dump_state use_cpu_initialization no_save_optim
    adlr_autoresume adlr_autoresume_interval short_seq_prob loss_scale loss_scale_window hysteresis min_scale
    dynamic_loss_scale text_gen_type temperature top_p top_k return_logits maximum_tokens prompt_end
    sample_input_file sample_output_file num_samples recompute eval_results_prefix eval_tasks autotuning
    git_hash merge_file allow_chopped onnx_safe
    """
)
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "model_parallel_size": (1,),
    "sequence_parallel": (False,),
    "pos_emb": ("rotary", "learned", "none"),
    "norm": ("layernorm",),
    "activation": ("gelu",),
    "hidden_dropout": (0,),
    "attention_dropout": (0,),
    "sliding_window_width": (),
    "use_qk_layernorm": (False,),
    "gpt_j_tied": (False,),
    "use_mup": (False,),
    "soft_prompt_tuning": ({},),
    "moe_num_experts": (0, 1),
    "num_unique_layers": (),
    "mlp_multiple_of": (1,),
    "opt_pos_emb_offset": (0,),
    "apply_query_key_layer_scaling": (False,),
    "rotary_save_freqs_buffer": (False,),
    "use_bias_in_norms": (True,),
    "use_bias_in_attn_linear": (True,),
    "use_bias_in_mlp": (True,),
    "sparsity_config": ({},),
    "sparse_attention": ({},),
    "data_impl": ("mmap", "infer"),
    "pack_impl": ("packed",),
    "dataset_impl": ("gpt2",),
    "train_impl": ("normal",),
    "weight_by_num_documents": (False,),
    "train_epochs": (),
    "finetune": (False,),
    "no_load_optim": (False,),
    "no_load_rng": (False,),
    "no_save_rng": (False,),
    "eod_mask_loss": (False,),
    "z_loss": (0,),
    "char_level_ppl": (False,),
    "use_bnb_optimizer": (False,),
    "fp16_lm_cross_entropy": (False,),
    "fp32_allreduce": (False,),
    "communication_data_type": (),
    "prescale_gradients": (False,),
    "gradient_predivide_factor": (1,),
    "sparse_gradients": (False,),
    "scheduler": ({},),
    "amp": ({},),
    "curriculum_learning": ({},),
    "data_efficiency": ({},),
    "compression_training": ({},),
    "elasticity": ({},),
    "checkpoint": ({},),
    "checkpoint_validation_with_forward_pass": (False,),
    "s3_path": (),
    "te_columnparallel": (False,),
    "te_rowparallel": (False,),
    "te_layernorm_mlp": (False,),
    "te_mha": (False,),
    "te_fp8_mha": (False,),
    "lr_decay_style": DECAY_STYLES,
    "precision": ("fp32", "bfloat16", "fp16"),  # fp16 is refused below, with its own reason
    "checkpoint_scale": ("linear", "log"),
    "init_method": INIT_METHODS,
    "output_layer_init_method": INIT_METHODS,
    "tokenizer_type": ("HFTokenizer", "CharLevelTokenizer"),
    "pipe_partition_method": ("type:transformer|mlp", "uniform", "parameters"),
}


def unsupported(neox: Mapping[str, Any], where: Where = lambda key: None) -> list[Problem]:
    """Everything in a GPT-NeoX config that the bundled trainer refuses, one problem each, with the key's name.

    Args:
        neox: GPT-NeoX keys, with underscores.
        where: where a key stands in the user's files.
    """
    found = list(_types(neox))
    if not found:  # the others take the types for granted
        found = [finding for check in (_keys, _combinations, _numbers) for finding in check(neox)]
    return [Problem("bundled-unsupported", what, remedy, where(key)) for key, what, remedy in found]


_Finding = tuple[str, str, str]


def _types(neox: Mapping[str, Any]) -> Iterator[_Finding]:
    for key, kind, value in mistyped(neox):
        yield key, f"{key} must be {kind}, not {describe(value)}", f"write {kind}"


def _keys(neox: Mapping[str, Any]) -> Iterator[_Finding]:
    for key in _REQUIRED:
        if neox.get(key) is None:
            yield key, f"{key} is not given", f"add {key}"
    if neox.get("tokenizer_type") is None:
        yield "tokenizer_type", "tokenizer_type is not given", "set it to HFTokenizer or CharLevelTokenizer"
    for key, value in neox.items():
        if value is None:
            continue
        if key in _ONLY and value not in _ONLY[key]:
            allowed = " or ".join(map(str, _ONLY[key]))
            what = f"the bundled trainer does not do {key}: {value}"
            yield key, what, f"set it to {allowed}, {_NEOX}" if allowed else f"remove it, {_NEOX}"
        elif key not in _ONLY and key not in _USED and key not in _IGNORED and value not in (False, 0, "", [], {}):
            yield key, f"the bundled trainer does not know {key}", f"remove it, {_NEOX}"


def _combinations(neox: Mapping[str, Any]) -> Iterator[_Finding]:
    if settings.precision(neox) == "fp16":
        what = "DeepSpeed has no fp16 on the CPU, so the bundled trainer has none either"
        yield ("precision" if neox.get("precision") else "fp16"), what, f"use precision: bfloat16 or fp32, {_NEOX}"
    stage, pipe = settings.zero_stage(neox), settings.given(neox, "pipe_parallel_size", 0)
    if stage > 2:
        yield "zero_optimization", f"the bundled trainer does not do ZeRO {stage}", f"use stage 0, 1 or 2, {_NEOX}"
    elif stage == 2 and pipe:
        what = "ZeRO 2 does not go with a pipeline (GPT-NeoX leaves with exit code 0 and trains nothing)"
        yield "zero_optimization", what, "use stage 1 or pipe_parallel_size: 0"
    zero = settings.given(neox, "zero_optimization", {})
    for key in ("cpu_offload", "offload_optimizer", "offload_param"):
        if zero.get(key):
            yield "zero_optimization", f"the bundled trainer does not do {key}", f"remove it, {_NEOX}"
    kind = settings.given(neox, "optimizer", {}).get("type", "Adam")
    if str(kind).lower() not in ("adam", "adamw"):
        yield "optimizer", f"the bundled trainer does not do the optimizer {kind}", f"use Adam, {_NEOX}"
    params = settings.given(neox, "optimizer", {}).get("params") or {}
    for name in sorted(set(params) - {"lr", "betas", "eps"}):
        yield "optimizer", f"the bundled trainer does not do the optimizer parameter {name}", f"remove it, {_NEOX}"
    kv_heads = neox.get("num_kv_heads")
    if kv_heads is not None and kv_heads != neox.get("num_attention_heads"):
        yield "num_kv_heads", "the bundled trainer does not do grouped-query attention", f"remove it, {_NEOX}"
    for name in sorted(set(attention_kinds(settings.given(neox, "attention_config", []))) - {"global", "flash", "all"}):
        yield "attention_config", f"the bundled trainer does not do {name} attention", f"use global, {_NEOX}"
    if neox.get("data_path") is None and not neox.get("train_data_paths"):
        yield "data_path", "neither data_path nor train_data_paths is given", "add one of them"


def _numbers(neox: Mapping[str, Any]) -> Iterator[_Finding]:
    pipe = settings.given(neox, "pipe_parallel_size", 0)
    if pipe < 0:
        yield "pipe_parallel_size", f"pipe_parallel_size {pipe} is below 0", "set it to 1"
        return
    try:
        layout = settings.layout(neox)
    except ValueError as error:
        yield "global_num_gpus", str(error), "set global_num_gpus to a multiple of pipe_parallel_size"
        return
    try:
        settings.batch_sizes(neox, layout.data)
    except ValueError as error:
        yield "train_micro_batch_size_per_gpu", str(error), "give train_micro_batch_size_per_gpu alone"
    hidden, heads = neox.get("hidden_size") or 0, neox.get("num_attention_heads") or 1
    if hidden % heads:
        what = f"hidden_size {hidden} is no multiple of num_attention_heads {heads}"
        yield "num_attention_heads", what, "change one of them"
    if (neox.get("seq_length") or 0) > (neox.get("max_position_embeddings") or 0):
        yield "seq_length", "seq_length is larger than max_position_embeddings", "change one of them"
