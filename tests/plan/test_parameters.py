# SPDX-License-Identifier: Apache-2.0
"""Names and sizes of parameters, against checkpoints that GPT-NeoX wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint.layout.read import read_layout
from gaff.errors import InputError
from gaff.plan.config import Config, load_config
from gaff.plan.model import ModelSize, model_size
from gaff.plan.parameters import parameter_sizes, select, unusual_keys
from tests.conftest import ALL_NAMES

Load = Callable[..., Config]
CHOSEN = (
    "input_embedding",
    "output_embedding",
    "position_embedding",
    "*.attention.dense.weight",
    "3.*",
    "*norm.bias",
    "5.norm.weight",
    "[!0]*.weight",
)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_names_and_sizes_are_those_of_real_checkpoints(unpacked_checkpoints: Path, name: str) -> None:
    folder = unpacked_checkpoints / name
    config = load_config([folder / f"{name}.yml"], ["gaff.reset_every=never"])
    size = model_size(config)
    assert isinstance(size, ModelSize), size
    sizes = parameter_sizes(config, size.vocabulary.rows)
    assert sizes is not None
    layout = read_layout(folder / "global_step5")
    assert sizes == {parameter.name: parameter.numel for parameter in layout.parameters.values()}
    assert sum(sizes.values()) == size.total
    for chosen in CHOSEN:
        try:
            expected = set(layout.named(chosen))
        except InputError:
            expected = set()
        assert set(select((chosen,), sizes)) == expected


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "activation=swiglu",
            "norm=rmsnorm",
            "num_kv_heads=2",
            "use_bias_in_mlp=false",
            "use_bias_in_attn_linear=false",
        ],
        ["norm=scalenorm", "use_qk_layernorm=true", "intermediate_size=100"],
        ["norm=non_parametric_layernorm", "no_weight_tying=false", "pos_emb=learned"],
        ["norm=rmsnorm", "rmsnorm_fusion=true", "mlp_multiple_of=8", "expansion_factor=3"],
    ],
)
def test_sizes_of_other_models_come_to_the_counted_total(load: Load, overrides: list[str]) -> None:
    config = load(*overrides)
    size = model_size(config)
    assert isinstance(size, ModelSize), size
    sizes = parameter_sizes(config, size.vocabulary.rows)
    assert sizes is not None
    assert sum(sizes.values()) == size.total


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("attention_config=[[[rwkv], 2]]", "attention_config"),
        ("moe_num_experts=4", "moe_num_experts"),
        ("pos_emb=rpe", "pos_emb"),
        ("soft_prompt_tuning={enabled: true}", "soft_prompt_tuning"),
        ("te_layernorm_mlp=true", "te_layernorm_mlp"),
    ],
)
def test_parts_with_names_of_their_own_are_not_guessed(load: Load, override: str, key: str) -> None:
    config = load(override)
    assert unusual_keys(config) == [key]
    assert parameter_sizes(config, 512) is None
