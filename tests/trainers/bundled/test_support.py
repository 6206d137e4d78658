# SPDX-License-Identifier: Apache-2.0
"""What the bundled trainer refuses, by name and with the place, and what it takes as it is."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from gaff.errors import Location
from gaff.trainers.bundled.support import unsupported

GOOD: dict[str, Any] = {
    "pipe_parallel_size": 1,
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "seq_length": 32,
    "max_position_embeddings": 32,
    "train_iters": 12,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8}},
    "zero_optimization": {"stage": 1, "overlap_comm": True, "cpu_offload": False},
    "train_micro_batch_size_per_gpu": 2,
    "tokenizer_type": "CharLevelTokenizer",
    "data_path": "/data/set",
}

# pythia/70M.yml's own keys apart from those above, in the precision that a CPU has
PYTHIA: dict[str, Any] = {
    "model_parallel_size": 1,
    "pos_emb": "rotary",
    "rotary_pct": 0.25,
    "no_weight_tying": True,
    "gpt_j_residual": True,
    "output_layer_parallelism": "column",
    "attention_config": [[["flash"], 2]],
    "scaled_upper_triang_masked_softmax_fusion": True,
    "bias_gelu_fusion": True,
    "init_method": "small_init",
    "output_layer_init_method": "wang_init",
    "min_lr": 1e-4,
    "data_impl": "mmap",
    "num_workers": 1,
    "checkpoint_activations": True,
    "checkpoint_num_layers": 1,
    "partition_activations": True,
    "synchronize_each_layer": True,
    "gradient_clipping": 1.0,
    "weight_decay": 0.1,
    "hidden_dropout": 0,
    "attention_dropout": 0,
    "precision": "bfloat16",
    "fp16": None,
    "lr_decay_iters": 12,
    "distributed_backend": "nccl",
    "lr_decay_style": "cosine",
    "warmup": 0.01,
    "checkpoint_factor": 1000,
    "extra_save_iters": [0, 1, 2],
    "eval_interval": 100,
    "eval_iters": 10,
    "log_interval": 10,
    "steps_per_print": 10,
    "wall_clock_breakdown": True,
}


def test_a_pythia_config_is_taken() -> None:
    assert unsupported({**PYTHIA, **GOOD}) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_parallel_size", 2),
        ("zero_optimization", {"stage": 3}),
        ("zero_optimization", {"stage": 2}),  # with a pipeline
        ("zero_optimization", {"stage": 1, "cpu_offload": True}),
        ("hidden_dropout", 0.1),
        ("attention_dropout", 0.1),
        ("precision", "fp16"),
        ("fp16", {"enabled": True}),
        ("optimizer", {"type": "Lion", "params": {}}),
        ("optimizer", {"type": "Adam", "params": {"lr": 1e-3, "amsgrad": True}}),
        ("pos_emb", "alibi"),
        ("activation", "swiglu"),
        ("norm", "rmsnorm"),
        ("attention_config", [[["global", "mamba"], 1]]),
        ("moe_num_experts", 4),
        ("soft_prompt_tuning", {"enabled": True}),
        ("num_kv_heads", 2),
        ("train_impl", "dpo"),
        ("train_epochs", 1),
        ("finetune", True),
        ("lora_rank", 8),
        ("global_num_gpus", 0),
        ("train_batch_size", 3),
        ("num_attention_heads", 5),
        ("seq_length", 64),
        ("tokenizer_type", "TiktokenTokenizer"),
        ("pipe_parallel_size", -1),
        # values that nothing can be done with
        *((key, 5) for key in ("optimizer", "zero_optimization")),
        *((key, []) for key in ("optimizer", "zero_optimization")),
        ("optimizer", {"type": "Adam", "params": 5}),
        ("zero_optimization", {"stage": "x"}),
        *((key, "abc") for key in ("hidden_size", "num_attention_heads", "seq_length", "max_position_embeddings")),
        *((key, "abc") for key in ("train_batch_size", "train_micro_batch_size_per_gpu")),
        ("gradient_accumulation_steps", "abc"),
        ("train_iters", float("inf")),
        ("hidden_size", None),
        ("data_path", None),
    ],
)
def test_what_it_does_not_do_is_refused_by_name_and_place(key: str, value: Any) -> None:
    problems = unsupported({**GOOD, key: value}, lambda name: Location(f"{name}.yml", 7))
    assert len(problems) == 1, problems
    place = str(problems[0].where)
    assert key in str(problems[0])
    assert place.endswith(".yml:7")
    assert "\n" not in str(problems[0])
    assert problems[0].remedy


def test_all_problems_are_reported_at_once() -> None:
    assert len(unsupported({**GOOD, "hidden_dropout": 0.1, "model_parallel_size": 2, "pos_emb": "rpe"})) == 3


def test_adapter_and_support_import_neither_torch_nor_deepspeed() -> None:
    code = "import sys, gaff.trainers.bundled.adapter; print([m for m in ('torch', 'deepspeed') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_saving_needs_no_factor_because_every_segment_ends_in_a_save() -> None:
    assert unsupported({**GOOD, "save": "/runs/x"}) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"train_batch_size": 3}, "train_batch_size 3 is no multiple of train_micro_batch_size_per_gpu 2 × 1 data"),
        ({"train_batch_size": 6, "gradient_accumulation_steps": 4}, "6 is not train_micro_batch_size_per_gpu 2 × grad"),
    ],
)
def test_batch_sizes_that_do_not_fit_are_told_with_what_was_given(sizes: dict[str, int], expected: str) -> None:
    [problem] = unsupported({**GOOD, **sizes})
    assert expected in problem.what
