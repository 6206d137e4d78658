# SPDX-License-Identifier: Apache-2.0
"""The estimate against the papers' own formulas and numbers, worked out here independently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.plan.config import Config, load_config
from gaff.plan.gpu_memory import CONTEXT, GpuMemory, gpu_memory, layer_activations
from gaff.plan.model import ModelSize, model_size

Load = Callable[..., Config]
S, B, H, A, L = 128, 4, 64, 4, 2  # of the config below
SBH = S * B * H
BASE = (f"seq_length={S}", f"max_position_embeddings={S}", f"train_micro_batch_size_per_gpu={B}")
#: The model of the paper: with dropout and learned positions.
PAPER = ("precision=fp16", "pipe_parallel_size=0", "hidden_dropout=0.1", "attention_dropout=0.1", "pos_emb=learned")
FP16 = (*BASE, "precision=fp16", "pipe_parallel_size=0")


def size_of(config: Config) -> ModelSize:
    size = model_size(config)
    assert isinstance(size, ModelSize)
    return size


def estimate(config: Config, replicas: int = 1) -> GpuMemory:
    memory = gpu_memory(config, size_of(config), replicas)
    assert memory is not None
    return memory


def layer(config: Config) -> float:
    return layer_activations(config, size_of(config)) / SBH


def test_activations_of_a_layer_are_those_of_korthikanti_equation_1(load: Load) -> None:
    assert layer(load(*BASE, *PAPER)) == 34 + 5 * A * S / H


@pytest.mark.parametrize("t", [2, 4])
def test_tensor_parallelism_is_equation_2_and_with_sequence_parallelism_4(load: Load, t: int) -> None:
    tensor = (*BASE, *PAPER, f"model_parallel_size={t}")
    assert layer(load(*tensor)) == 10 + 24 / t + 5 * A * S / (H * t)
    assert layer(load(*tensor, "sequence_parallel=true")) == (34 + 5 * A * S / H) / t


def test_flash_attention_keeps_no_scores(load: Load) -> None:
    paper = (*BASE, *PAPER)
    assert layer(load(*paper, 'attention_config=[[["flash"], 2]]')) == 34
    assert layer(load(*paper, 'attention_config=[[["flash", "global"], "all"]]')) == 34 + 5 * A * S / H / 2
    assert layer(load(*paper, "te_mha=true")) == 34


def test_fp32_doubles_all_but_the_masks(load: Load) -> None:
    fp32 = load(*BASE, *PAPER, "precision=fp32")
    assert layer(fp32) == 2 * 32 + 2 + (2 * 4 + 1) * A * S / H


def test_other_mlp_widths_and_fewer_key_value_heads(load: Load) -> None:
    flash = (*BASE, *PAPER, 'attention_config=[[["flash"], 2]]')
    assert layer(load(*flash, f"intermediate_size={2 * H}")) == 34 - 2 * 2 * 2  # two tensors, 2h for 4h, 2 bytes each
    assert layer(load(*flash, "num_kv_heads=1")) == 34 - 2 * 2 * 3 / 4  # keys and values of one head of four


@pytest.mark.parametrize(
    ("changed", "measured"),
    # Bytes / sbh saved by a layer of GPT-NeoX ea7aefd8 on the CPU at s = 256, b = 4, h = 256, a = 8 (TP 1); its masks,
    # which have the dtype of the data there, counted with one byte as on a GPU.
    [
        ((), 76.31),
        (("gpt_j_residual=false",), 78.31),
        (("pos_emb=learned",), 72.28),
        (("hidden_dropout=0", "attention_dropout=0"), 50.31),
        (("precision=fp32",), 143.38),
    ],
)
def test_what_a_layer_of_gpt_neox_was_seen_to_save(load: Load, changed: tuple[str, ...], measured: float) -> None:
    shape = ("hidden_size=256", "num_attention_heads=8", "seq_length=256", "max_position_embeddings=256")
    dropout = ("hidden_dropout=0.1", "attention_dropout=0.1", "gpt_j_residual=true", "precision=bfloat16")
    config = load(*shape, *dropout, "train_micro_batch_size_per_gpu=4", *changed)
    assert layer_activations(config, size_of(config)) / (256 * 4 * 256) == pytest.approx(measured, rel=0.01)


def test_checkpointing_keeps_the_input_of_each_block(load: Load) -> None:
    config = load(*FP16, "checkpoint_activations=true", "checkpoint_num_layers=1", "tokenizer_type=CharLevelTokenizer")
    assert estimate(config).activations == 2 * SBH * L
    assert estimate(replace(config, neox={**config.neox, "checkpoint_num_layers": 2})).activations == 2 * SBH
    assert estimate(replace(config, neox={**config.neox, "checkpoint_in_cpu": True})).activations == 0


def test_partitioned_checkpoints_are_divided_among_tensor_ranks(load: Load) -> None:
    config = load(*FP16, "checkpoint_activations=true", "model_parallel_size=2", "partition_activations=true")
    assert estimate(config).activations == 2 * SBH * L // 2


def test_logits_and_loss(load: Load) -> None:
    """fp16 logits, their fp32 copy that becomes softmax and gradient, the fp16 gradient; 512 characters."""
    inputs = 2 * H * 2
    assert estimate(load(*FP16)).working == S * B * (512 * (2 + 4 + 2) + inputs)
    assert estimate(load(*FP16, "fp16_lm_cross_entropy=true")).working == S * B * (512 * 2 + inputs)
    assert estimate(load(*BASE, "precision=fp32")).working == S * B * (512 * 4 + 2 * H * 4)


def states(memory: GpuMemory) -> tuple[int, int, int]:
    return memory.weights, memory.gradients, memory.optimizer


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(0, (2, 2, 12)), (1, (2, 2, 12 / 4)), (2, (2, 2 / 4, 12 / 4)), (3, (2 + 2 / 4, 2 / 4, 12 / 4))],
)
def test_states_in_fp16_are_those_of_the_zero_paper(load: Load, stage: int, expected: tuple[float, ...]) -> None:
    config = load(*FP16, f"zero_optimization={{stage: {stage}}}")
    total = size_of(config).total
    for found, wanted in zip(states(estimate(config, replicas=4)), expected, strict=True):
        assert found == pytest.approx(total * wanted, rel=1e-4)


def test_the_zero_papers_own_example(load: Load) -> None:
    """7.5B parameters on 64 GPUs: 120 GB, 31.4 with ZeRO 1, 16.6 with 2 (Rajbhandari et al., figure 1)."""
    shape = ("hidden_size=4096", "num_layers=37", "num_attention_heads=32", *FP16)
    for stage, gigabytes in ((0, 120), (1, 31.4), (2, 16.6)):
        config = load(*shape, f"zero_optimization={{stage: {stage}}}")
        size = size_of(config)
        per_parameter = sum(states(estimate(config, replicas=64))) / size.total
        assert per_parameter * 7.5 == pytest.approx(gigabytes, abs=0.1)


def test_fp32_has_no_second_copy_without_zero(load: Load) -> None:
    config = load(*BASE, "precision=fp32", "zero_optimization={stage: 0}")
    total = size_of(config).total
    assert states(estimate(config, 4)) == (4 * total, 4 * total, 8 * total)
    assert states(estimate(load(*BASE, "precision=fp32"), 4)) == (4 * total, 4 * total, total // 4 * 12)


def test_bf16_optimizer_adds_gradients_up_in_fp32(load: Load) -> None:
    bf16 = (*BASE, "precision=bfloat16")
    config = load(*bf16, "data_types={grad_accum_dtype: fp32}")
    total = size_of(config).total
    assert states(estimate(config, 4)) == (2 * total, 6 * total, total // 4 * 12)
    assert states(estimate(load(*bf16), 4))[1] == 2 * total
    assert states(estimate(load(*bf16, "zero_optimization={stage: 0}"), 4)) == (2 * total, 6 * total, total // 4 * 12)


def test_an_optimizer_on_the_cpu_takes_nothing_of_the_gpu(load: Load) -> None:
    block = "zero_optimization={stage: 2, offload_optimizer: {device: cpu}}"
    assert estimate(load(*FP16, block), 2).optimizer == 0


def test_buckets_of_zero(load: Load) -> None:
    block = "zero_optimization={stage: 1, reduce_bucket_size: 1000000, overlap_comm: true}"
    outside = estimate(load(*FP16, block), 2)
    assert (outside.buckets, outside.buckets_apart) == (2 * 2 * 1_000_000, False)  # two of them, fp16
    inside = estimate(load(*BASE, "precision=fp16", block), 2)  # the pipeline engine
    assert (inside.buckets, inside.buckets_apart) == (2 * 1_000_000, True)
    assert estimate(load(*FP16, "zero_optimization={stage: 0}"), 2).buckets == 0
    assert estimate(load(*FP16), 2).buckets == 2 * 500_000_000  # DeepSpeed's default


def test_what_counts_at_the_worst_moment(load: Load) -> None:
    memory = estimate(load(*FP16), 2)
    parts = sum(states(memory)) + memory.activations + memory.working + CONTEXT
    assert memory.total == parts + memory.buckets
    apart = replace(memory, buckets_apart=True)
    assert apart.total == sum(states(memory)) + max(memory.activations + memory.working, memory.buckets) + CONTEXT


def test_the_first_stage_of_a_pipeline_keeps_several_passes(load: Load) -> None:
    """Four layers in two stages, four micro-batches: two passes of two layers are under way in the first stage."""
    long = load(*BASE, "precision=fp16", "num_layers=4", "pipe_parallel_size=2", "gradient_accumulation_steps=4")
    config = replace(long, neox={**long.neox, "hidden_size": 256, "zero_optimization": {"stage": 0}})
    memory, size = estimate(config), size_of(config)
    assert memory.activations == 2 * 2 * layer_activations(config, size)
    assert memory.weights == 2 * (2 * size.per_layer + size.input_embedding)


def test_the_last_stage_of_a_pipeline_has_the_loss(load: Load) -> None:
    block = "zero_optimization={stage: 1, reduce_bucket_size: 1000}"
    config = load(*BASE, "precision=fp16", "pipe_parallel_size=2", block, 'attention_config=[[["flash"], 2]]')
    config = replace(config, neox={**config.neox, "make_vocab_size_divisible_by": 51_200})  # a head of many rows
    memory, size = estimate(config), size_of(config)
    assert memory.working == S * B * (51_200 * 8 + 2 * H * 2)
    assert memory.weights == 2 * (size.per_layer + size.output_embedding + size.final_norm)


def test_tensor_ranks_share_all_but_what_is_replicated(load: Load) -> None:
    config = load(*FP16, "model_parallel_size=2")
    size = size_of(config)
    assert estimate(config).weights == 2 * ((size.total - size.replicated) // 2 + size.replicated)


@pytest.mark.parametrize("missing", ["seq_length", "train_micro_batch_size_per_gpu"])
def test_without_a_batch_there_is_no_estimate(load: Load, missing: str) -> None:
    config = load(*FP16)
    config = replace(config, neox={**config.neox, missing: None})
    assert gpu_memory(config, size_of(config), 1) is None


@pytest.mark.parametrize(
    ("name", "gpus", "gigabytes"),
    # As reported: GPT-NeoX trained them on so many A100s of 40 GB (Biderman et al. 2023, arXiv 2304.01373)
    [("pythia-70m", 32, 40), ("pythia-160m", 32, 40), ("pythia-410m", 32, 40), ("pythia-1b", 64, 40)],
)
def test_pythia_fits_the_gpus_that_it_was_trained_on(name: str, gpus: int, gigabytes: int, project: Any) -> None:
    config = load_config([Path(__file__).parents[2] / "neox_configs" / f"{name}.yml"])
    assert estimate(config, gpus).total < gigabytes * 2**30
