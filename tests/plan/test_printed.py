# SPDX-License-Identifier: Apache-2.0
"""The parameters that a plan counts are those that GPT-NeoX printed, written down here as facts.

Source: unmodified GPT-NeoX at commit ea7aefd8, its line ``> total params:`` (``megatron/training.py``), as it built the
models on a CPU.  ``test_counts_live.py`` asks it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.cli.main import main
from gaff.plan.config import Config, load_config
from gaff.plan.model import ModelSize, model_size, printed_parameters

Load = Callable[..., Config]
CONFIGS = Path(__file__).parents[2] / "neox_configs"

#: Of the shapes in ``neox_configs/``; it also printed ``padded vocab (size: 50277) with 27 dummy tokens (new size:
#: 50304)`` and the same number as ``number of parameters on model parallel rank 0``.
PRINTED = {
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1-4b": 1_414_647_808,
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_plan_gives_the_parameters_that_gpt_neox_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--config", str(CONFIGS / f"{name}.yml"), "--json"])
    model = json.loads(capsys.readouterr().out)["model"]
    assert (model["total"], model["printed_by_neox"]) == (PRINTED[name], PRINTED[name])
    main(["plan", "--config", str(CONFIGS / f"{name}.yml")])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("parameters ")]
    assert line.split()[1] == f"{PRINTED[name]:,},"
    assert "GPT-NeoX prints" not in line


@pytest.mark.parametrize(
    ("overrides", "printed"),
    [
        (["pipe_parallel_size=0"], 165_632),  # logs of the contract: z2np.log
        (["model_parallel_size=2"], 166_528),  # fp16z1.log
        (["model_parallel_size=2", "pipe_parallel_size=2"], 166_528),  # tp2pp2dp2.log
        (["model_parallel_size=2", "pipe_parallel_size=2", "no_weight_tying=false"], 166_528),  # tied.log
    ],
    ids=["one rank", "TP 2", "TP 2 x PP 2", "tied, TP 2 x PP 2"],
)
def test_what_several_ranks_hold_is_printed_more_than_once(load: Load, overrides: list[str], printed: int) -> None:
    config = load(*overrides)
    size = model_size(config)
    assert isinstance(size, ModelSize)
    assert printed_parameters(config, size) == printed


def test_the_last_stages_copy_of_a_tied_embedding_brings_its_positions_along() -> None:
    """Printed for this shape with two stages, by ``test_counts_live.py``."""
    keys = ("no_weight_tying=false", "pos_emb=learned", "max_position_embeddings=32", "seq_length=32")
    config = load_config([CONFIGS / "pythia-14m.yml"], [*keys, "pipe_parallel_size=2", "model_parallel_size=1"])
    size = model_size(config)
    assert isinstance(size, ModelSize)
    assert (size.total, printed_parameters(config, size)) == (7_632_896, 14_075_904)


def test_where_the_printed_number_is_another_the_plan_says_both(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load()
    main(["plan", "--config", "run.yml", "-o", "model_parallel_size=2", "-o", "no_weight_tying=false"])
    out = capsys.readouterr().out
    assert "parameters      132,864, of them 100,096 without embeddings; GPT-NeoX prints 133,760" in out


def test_with_zero_3_gpt_neox_prints_no_number_of_use(load: Load) -> None:
    config = load("zero_optimization.stage=3", "pipe_parallel_size=0")
    size = model_size(config)
    assert isinstance(size, ModelSize)
    assert printed_parameters(config, size) is None


def test_larger_and_smaller_shapes_share_one_formula() -> None:
    for path in CONFIGS.glob("*.yml"):
        size = model_size(load_config([path]))
        assert isinstance(size, ModelSize)
        body = size.layers * (12 * size.hidden**2 + 13 * size.hidden) + 2 * size.hidden
        assert size.total == 2 * 50_304 * size.hidden + body
