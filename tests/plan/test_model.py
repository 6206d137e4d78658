# SPDX-License-Identifier: Apache-2.0
"""Parameter counts, against checkpoints that GPT-NeoX wrote and against Pythia's published sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gaff.plan.config import Config, load_config
from gaff.plan.estimates import checkpoint_bytes
from gaff.plan.model import ModelSize, model_size, stored_parameters

Load = Callable[..., Config]
CONFIGS = Path(__file__).parents[2] / "neox_configs"
PIPELINE = [
    "zero0-fp32-dp2",
    "zero1-bf16-tp2-dp2",
    "zero1-fp16-tp2-dp2",
    "zero1-fp32-learnedpos-dp2",
    "zero1-fp32-pp1-tp1-dp1",
    "zero1-fp32-tied-tp2-pp2",
    "zero1-fp32-tp2-pp2-dp2",
]
SEQUENTIAL = ["zero2-fp32-nopipe-dp2", "zero3-fp32-nopipe-dp2"]


def config_of(folder: Path) -> Config:
    return load_config([folder / f"{folder.name}.yml"], ["gaff.reset_every=never"])


def counted(config: Config) -> ModelSize:
    size = model_size(config)
    assert isinstance(size, ModelSize), size
    return size


def tensors(value: Any) -> Iterator[Any]:
    """Every tensor inside a checkpoint's value."""
    if hasattr(value, "untyped_storage"):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from tensors(inner)


def tensor_bytes(path: Path) -> int:
    torch = pytest.importorskip("torch")
    pytest.importorskip("deepspeed")  # its classes stand in the pickles
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors(torch.load(path, weights_only=False))
    }
    return sum(storages.values())


@pytest.mark.parametrize("name", PIPELINE)
def test_stored_parameters_are_those_of_the_real_layer_files(unpacked_checkpoints: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    folder = unpacked_checkpoints / name
    in_files = sum(
        tensor.numel()
        for path in (folder / "global_step5").glob("layer_*.pt")
        for tensor in torch.load(path, weights_only=True).values()
    )
    config = config_of(folder)
    assert stored_parameters(config, counted(config)) == in_files


@pytest.mark.parametrize("name", PIPELINE + SEQUENTIAL)
def test_bytes_of_a_tag_are_those_of_its_tensors(unpacked_checkpoints: Path, name: str) -> None:
    folder = unpacked_checkpoints / name
    in_files = sum(tensor_bytes(path) for path in (folder / "global_step5").glob("*.pt"))
    config = config_of(folder)
    assert checkpoint_bytes(config, counted(config)) == pytest.approx(in_files, rel=0.05)


@pytest.mark.parametrize(
    ("name", "total", "embedding", "input_share", "both_share"),
    [
        ("14m", 14_067_712, 6_438_912, 45.8, 91.5),
        ("31m", 30_494_720, 12_877_824, 42.2, 84.5),
        ("70m", 70_426_624, 25_755_648, 36.6, 73.1),
        ("160m", 162_322_944, 38_633_472, 23.8, 47.6),
        ("410m", 405_334_016, 51_511_296, 12.7, 25.4),
        ("1b", 1_011_781_632, 103_022_592, 10.2, 20.4),
    ],
)
def test_pythia_has_its_published_size(
    name: str, total: int, embedding: int, input_share: float, both_share: float
) -> None:
    size = counted(load_config([CONFIGS / f"pythia-{name}.yml"]))
    assert (size.total, size.input_embedding, size.vocabulary.rows) == (total, embedding, 50_304)
    assert round(100 * size.share, 1) == input_share
    assert round(100 * (size.input_embedding + size.output_embedding) / size.total, 1) == both_share


def test_larger_pythias_too(load: Load) -> None:
    pythia = ["tokenizer_type=HFTokenizer", "vocab_file=20B_tokenizer.json"]
    for layers, hidden, heads, total in ((24, 2048, 16, 1_414_647_808), (32, 2560, 32, 2_775_208_960)):
        config = load(*pythia, f"num_layers={layers}", f"hidden_size={hidden}", f"num_attention_heads={heads}")
        assert counted(config).total == total


def test_a_llama_style_layer_is_counted_by_hand(load: Load) -> None:
    d, heads, kv_heads, width = 96, 6, 2, 384
    size = counted(
        load(
            *("hidden_size=96", "num_attention_heads=6", "num_kv_heads=2", "intermediate_size=384"),
            *("activation=swiglu", "norm=rmsnorm", "use_bias_in_attn_linear=false", "use_bias_in_mlp=false"),
        )
    )
    gated = width * 2 // 3  # first matrix: gate and value, half of it each
    attention = d * (d + 2 * kv_heads * d // heads) + d * d
    assert size.per_layer == 2 * d + attention + d * gated + gated // 2 * d
    assert size.final_norm == d


def test_tied_embeddings_and_learned_positions(load: Load) -> None:
    untied = counted(load())
    tied = counted(load("no_weight_tying=false", "pos_emb=learned"))
    assert tied.output_embedding == 0
    assert tied.position_embedding == 32 * 64
    assert tied.total == untied.total - untied.output_embedding + 32 * 64


def test_tensor_parallelism_pads_the_vocabulary_further(load: Load) -> None:
    rows = {
        tensor: counted(
            load("tokenizer_type=HFTokenizer", "vocab_file=20B_tokenizer.json", f"model_parallel_size={tensor}")
        ).vocabulary.rows
        for tensor in (1, 2, 4, 8)
    }
    assert rows == {1: 50_304, 2: 50_432, 4: 50_688, 8: 51_200}


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("attention_config=[[[mamba], 2]]", "mamba"),
        ("moe_num_experts=4", "mixtures of experts"),
        ("pos_emb=rpe", "rpe"),
        ("soft_prompt_tuning={enabled: true}", "soft prompts"),
        ("tokenizer_type=HFTokenizer", "tokenizer file"),
        ("num_layers=null", "num_layers"),
        ("norm=strange", "norm"),
    ],
)
def test_what_cannot_be_counted_says_why(load: Load, override: str, part: str) -> None:
    reason = model_size(load(override))
    assert isinstance(reason, str)
    assert part in reason


def test_every_tensor_rank_stores_norms_row_biases_and_positions(load: Load) -> None:
    config = load("model_parallel_size=2", "pos_emb=learned")
    size = counted(config)
    norms, row_biases, positions = 2 * 2 * 64, 2 * 64, 32 * 64
    again = size.layers * (norms + row_biases) + 2 * 64 + positions
    assert stored_parameters(config, size) == size.total + again
