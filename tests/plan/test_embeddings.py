# SPDX-License-Identifier: Apache-2.0
"""The embeddings' share: as the seed papers count it, and the warning that goes with a high one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.errors import Problem
from gaff.plan.checks import warnings
from gaff.plan.config import Config, load_config
from gaff.plan.embeddings import COMPARED
from gaff.plan.model import ModelSize, model_size

Load = Callable[..., Config]
CONFIGS = Path(__file__).parents[2] / "neox_configs"
PYTHIA = ("tokenizer_type=HFTokenizer", "vocab_file=20B_tokenizer.json")


def told(config: Config) -> list[Problem]:
    return [warning for warning in warnings(config) if warning.id == "embedding-share"]


def test_models_of_the_literature_have_the_shares_that_the_seed_papers_give() -> None:
    assert {name: round(100 * share) for name, share in COMPARED.items()} == {
        "Pythia-70M": 73,
        "RoBERTa-base": 31,
        "GPT-3": 0,
    }
    size = model_size(load_config([CONFIGS / "pythia-70m.yml"]))
    assert isinstance(size, ModelSize)
    assert size.embedding_share == COMPARED["Pythia-70M"]
    assert (size.non_embedding, size.total) == (18_915_328, 18_915_328 + 2 * 25_755_648)


@pytest.mark.parametrize(
    ("name", "share"),
    [("14m", "91.5%"), ("31m", "84.5%"), ("70m", "73.1%"), ("160m", None), ("410m", None), ("1-4b", None)],
)
def test_from_half_of_the_parameters_on_the_plan_warns(name: str, share: str | None) -> None:
    found = told(load_config([CONFIGS / f"pythia-{name}.yml"]))
    assert len(found) == (share is not None)
    if share:
        [warning] = found
        assert warning.what.startswith(f"{share} of this model is embeddings (input and output together)")
        assert "Pythia-160M's shape (12 layers of 768) has 47.6%" in warning.remedy
        assert warning.where is not None
        assert warning.where.line


def test_no_warning_without_resets_nor_for_a_toy(load: Load) -> None:
    assert told(load_config([CONFIGS / "pythia-70m.yml"], ["gaff.reset_every=never"])) == []
    toy = load("make_vocab_size_divisible_by=4096")
    size = model_size(toy)
    assert isinstance(size, ModelSize)
    assert size.embedding_share > 0.8
    assert told(toy) == []


def test_with_tied_embeddings_both_are_one(load: Load) -> None:
    shape = ("hidden_size=512", "num_layers=6", "num_attention_heads=8", "no_weight_tying=false")
    [warning] = told(load(*PYTHIA, *shape))
    assert "57.7% of this model is embeddings (input and output are one)" in warning.what
    assert "forgets 57.7% of the model" in warning.what
    assert "Pythia-160M's shape (12 layers of 768) has 31.2%" in warning.remedy


def test_a_vocabulary_too_large_for_any_known_shape_gets_other_advice(load: Load) -> None:
    config = load("hidden_size=512", "num_layers=6", "num_attention_heads=8", "make_vocab_size_divisible_by=3000000")
    [warning] = told(config)
    assert warning.remedy == "take a smaller vocabulary, or a larger model"
