# SPDX-License-Identifier: Apache-2.0
"""What GPT-NeoX's own keys are: name, type, default.  A table, so that no other module guesses.

Taken from the fields of GPT-NeoX's argument classes at commit ea7aefd8 (names, annotations, defaults).  GPT-NeoX
compares types exactly: an int is taken where a float is wanted, nothing else, and a bool is no
int.  Names that are not in the table belong to another version of GPT-NeoX and pass through untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

Kind = Literal["an integer", "a number", "true or false", "text", "a list", "a mapping", "anything"]

INTEGER: Final = "an integer"
NUMBER: Final = "a number"
BOOLEAN: Final = "true or false"
TEXT: Final = "text"
LIST: Final = "a list"
MAPPING: Final = "a mapping"

_NAMES: Mapping[Kind, str] = {
    "an integer": """
        adlr_autoresume_interval batch_size checkpoint_num_layers curriculum_seqlen dim_att eval_interval eval_iters
        exit_interval ffn_dim global_num_gpus gmlp_attn_dim gradient_accumulation_steps gradient_noise_scale_n_batches
        head_size hidden_size hysteresis intermediate_size iteration keep_last_n_checkpoints local_rank log_interval
        lr_decay_iters make_vocab_size_divisible_by master_port max_position_embeddings maximum_tokens
        mlp_multiple_of model_parallel_size moe_expert_interval moe_num_experts moe_top_k mup_width_scale
        num_attention_heads num_gpus num_kv_heads num_layers num_nodes num_samples num_unique_layers num_workers
        opt_pos_emb_offset padded_vocab_size pipe_parallel_size profile_step_start profile_step_stop rank
        rotary_emb_base rpe_max_distance rpe_num_buckets s3_chunk_size seed seq_length sliding_window_width
        steps_per_print te_fp8_amax_history_len te_fp8_margin top_k train_batch_size train_epochs train_iters
        train_micro_batch_size_per_gpu world_size zero_allgather_bucket_size zero_reduce_bucket_size""",
    "a number": """
        attention_dropout checkpoint_factor clip_grad dpo_beta expansion_factor gradient_clipping
        gradient_predivide_factor hidden_dropout init_method_std kl_div_beta kto_beta kto_desirable_weight
        kto_undesirable_weight layernorm_epsilon loss_scale loss_scale_window lr lr_decay_fraction min_lr min_scale
        moe_jitter_eps mup_attn_temp mup_embedding_mult mup_init_scale mup_output_temp mup_rp_embedding_mult
        peak_theoretical_tflops rms_norm_epsilon rotary_pct scalenorm_epsilon short_seq_prob temperature top_p warmup
        weight_decay weighted_sampler_alpha z_loss""",
    "true or false": """
        adlr_autoresume allow_chopped apply_query_key_layer_scaling attention_softmax_in_fp32 bias_dropout_fusion
        bias_gelu_fusion char_level_ppl checkpoint_activations checkpoint_in_cpu
        checkpoint_validation_with_forward_pass communication_data_type contiguous_checkpointing coord_check
        deepscale deepspeed deepspeed_activation_checkpointing deepspeed_mpi deepspeed_slurm do_test do_train do_valid
        dpo_fp32 dpo_reference_free dump_state dynamic_loss_scale eod_mask_loss finetune force_multi
        fp16_lm_cross_entropy
        fp32_allreduce fp32_reinforce gpt_j_residual gpt_j_tied gradient_noise_scale_cpu_offload is_pipe_parallel
        kto_fp32 layernorm_fusion lazy_mpu_init log_grad_norm log_grad_pct_zeros log_gradient_noise_scale
        log_optimizer_states log_param_norm mamba_causal_conv_fusion mamba_inner_func_fusion
        mamba_selective_fp32_params mamba_selective_scan_fusion mamba_use_bias_in_conv mamba_use_bias_in_linears
        memory_profiling mmap_warmup moe_lbl_in_fp32 no_load_optim no_load_rng no_save_optim no_save_rng no_ssh_check
        no_weight_tying onnx_safe override_lr_scheduler partition_activations prescale_gradients profile
        profile_backward recompute reinforce_leave_one_out return_logits rmsnorm_fusion rope_fusion
        rotary_save_freqs_buffer save_base_shapes scaled_masked_softmax_fusion
        scaled_upper_triang_masked_softmax_fusion sequence_parallel serve_model_weights sparse_gradients
        synchronize_each_layer te_columnparallel te_fp8_mha te_fp8_wgrad te_layernorm_mlp te_mha te_rowparallel
        use_bias_in_attn_linear use_bias_in_mlp use_bias_in_norms use_bnb_optimizer use_checkpoint_lr_scheduler
        use_comet use_cpu_initialization use_flashattn_swiglu use_mup use_qk_layernorm use_shared_fs use_wandb
        wall_clock_breakdown wandb_init_all_ranks weight_by_num_documents zero_contiguous_gradients
        zero_reduce_scatter""",
    "text": """
        account activation autotuning_run base_shapes_file checkpoint_scale comet_experiment_name comet_project
        comet_workspace comment data_impl data_path dataset_impl deepscale_config distributed_backend
        eval_results_prefix exclude fused_kernels_build_path git_hash hostfile include init_method kl_impl launcher
        load log_dir lr_decay_style master_addr memory_profiling_path merge_file moe_router_type norm optimizer_type
        output_layer_init_method output_layer_parallelism pack_impl param_sharing_style pipe_partition_method pos_emb
        precision precompute_model_name prompt_end s3_path sample_input_file sample_output_file save split
        te_fp8_amax_compute_algo te_fp8_format tensorboard_dir text_gen_type tokenizer_type train_impl user_script
        vocab_file wandb_group wandb_host wandb_project wandb_run_name wandb_team""",
    "a list": """
        attention_config comet_tags eval_tasks extra_save_iters neg_test_data_paths neg_test_label_data_paths
        neg_train_data_paths neg_train_label_data_paths neg_valid_data_paths neg_valid_label_data_paths
        pos_test_data_paths pos_test_label_data_paths pos_train_data_paths pos_train_label_data_paths
        pos_valid_data_paths pos_valid_label_data_paths test_data_paths test_data_weights test_label_data_paths
        test_reward_data_paths train_data_paths train_data_weights train_label_data_paths train_reward_data_paths
        valid_data_paths valid_data_weights valid_label_data_paths valid_reward_data_paths""",
    "a mapping": """
        activation_checkpointing amp autotuning bf16 checkpoint comet_others comms_logger compression_training
        config_files csv_monitor curriculum_learning data_efficiency data_types deepspeed_extra_args elasticity
        flops_profiler fp16 optimizer scheduler soft_prompt_tuning sparse_attention sparsity_config tensorboard wandb
        zero_optimization""",
    "anything": """
        comet_experiment online_dataserver_ips online_dataserver_ports weight_server_port zero_stage""",
}

KINDS: Mapping[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}

#: Keys inside mappings that GAFF's rules and the bundled trainer read: what each must be.
INSIDE: Mapping[str, Kind] = {
    "optimizer.type": TEXT,
    "optimizer.params": MAPPING,
    **{f"optimizer.params.{name}": NUMBER for name in ("lr", "eps", "weight_decay", "momentum")},
    "zero_optimization.stage": INTEGER,
    "fp16.enabled": BOOLEAN,
    "bf16.enabled": BOOLEAN,
}

#: Keys with a fixed set of words.  GPT-NeoX checks them without regard to case, and then mostly compares them exactly:
#: `pos_emb: Rotary` trains without positions, `lr_decay_style: Cosine` at a constant rate.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "precision": ("fp16", "fp32", "bfloat16"),
    "norm": (
        "layernorm",
        "rmsnorm",
        "non_parametric_layernorm",
        "scalenorm",
        "te_rmsnorm",
        "te_layernorm",
    ),
    "pos_emb": ("learned", "rotary", "sinusoidal", "rpe", "alibi", "none"),
    "activation": (
        *("gelu", "relu", "softsign", "swish", "mish", "silu"),
        *("geglu", "reglu", "swiglu", "bilinear", "glu"),
    ),
    "lr_decay_style": ("constant", "linear", "cosine", "exponential"),
    "tokenizer_type": (
        *("GPT2BPETokenizer", "HFTokenizer", "HFGPT2Tokenizer"),
        *("SPMTokenizer", "CharLevelTokenizer", "TiktokenTokenizer"),
    ),
    "checkpoint_scale": ("linear", "log"),
    "launcher": ("pdsh", "openmpi", "mvapich", "slurm"),
    "data_impl": ("infer", "mmap", "cached"),
    "output_layer_parallelism": ("column",),
}

#: Those of them that it takes in capitals, too.
ANY_CASE = ("tokenizer_type", "launcher")

#: Defaults that GAFF's checks and estimates depend on.
DEFAULTS: Mapping[str, Any] = {
    "activation": "gelu",
    "checkpoint_scale": "linear",
    "eval_interval": 1000,
    "eval_iters": 100,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 1.0,
    "init_method": "normal",
    "init_method_std": 0.02,
    "log_interval": 100,
    "lr_decay_style": "linear",
    "make_vocab_size_divisible_by": 128,
    "min_lr": 0.0,
    "mlp_multiple_of": 1,
    "model_parallel_size": 1,
    "moe_num_experts": 1,
    "norm": "layernorm",
    "pipe_parallel_size": 0,
    "pos_emb": "learned",
    "seed": 1234,
    "split": "969, 30, 1",
    "tokenizer_type": "GPT2BPETokenizer",
    "train_impl": "normal",
    "use_bias_in_attn_linear": True,
    "use_bias_in_mlp": True,
    "warmup": 0.01,
}

#: Keys whose value is one path.  ``vocab_file`` only for tokenizers that read one (:func:`gaff.plan.paths.absolute`).
PATHS = (
    *("data_path", "vocab_file", "merge_file", "save", "load", "hostfile", "tensorboard_dir", "log_dir"),
    *("base_shapes_file", "fused_kernels_build_path", "memory_profiling_path"),
)
#: Keys whose value is a list of paths.
PATH_LISTS = tuple(sorted(name for name in KINDS if name.endswith("_data_paths")))

#: Numbers inside mappings (``optimizer.params``, ``fp16``, ``zero_optimization`` …), by their last name.
_NUMERIC_INSIDE = """
    allgather_bucket_size alpha betas eps freeze_step hysteresis initial_scale_power loss_scale loss_scale_window lr
    max_grad_norm min_loss_scale momentum reduce_bucket_size stage stage3_max_live_parameters stage3_max_reuse_distance
    stage3_param_persistence_threshold stage3_prefetch_bucket_size sub_group_size weight_decay"""
NUMERIC_INSIDE = frozenset(_NUMERIC_INSIDE.split())
NUMERIC_LISTS = frozenset({"extra_save_iters", "train_data_weights", "valid_data_weights", "test_data_weights"})


def is_numeric(dotted: str) -> bool:
    """Whether GAFF knows the key to hold a number or a list of numbers."""
    top, _, inside = dotted.partition(".")
    if not inside:
        return KINDS.get(top) in (INTEGER, NUMBER) or top in NUMERIC_LISTS
    return inside.rsplit(".", 1)[-1] in NUMERIC_INSIDE


def is_text(dotted: str) -> bool:
    """Whether the key is known to hold words, in which something like 1e5 may stand on its own."""
    return KINDS.get(dotted.partition(".")[0]) == TEXT


#: Boolean keys whose code needs a GPU: GPT-NeoX compiles CUDA kernels for them, or needs Apex or Transformer Engine.
GPU_FLAGS = (
    *("scaled_upper_triang_masked_softmax_fusion", "scaled_masked_softmax_fusion", "rope_fusion"),
    *("layernorm_fusion", "rmsnorm_fusion", "use_flashattn_swiglu", "use_bnb_optimizer"),
    *("te_columnparallel", "te_rowparallel", "te_layernorm_mlp", "te_mha", "te_fp8_mha"),
    *("mamba_selective_scan_fusion", "mamba_causal_conv_fusion", "mamba_inner_func_fusion"),
)
#: Kinds of attention that run without a GPU.
CPU_ATTENTION = ("global", "gmlp", "amlp")


def attention_kinds(value: Any) -> Iterator[str]:
    """All names in an ``attention_config`` such as ``[[["global", "flash"], 6]]``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from attention_kinds(item)
