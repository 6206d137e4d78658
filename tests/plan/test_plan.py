# SPDX-License-Identifier: Apache-2.0
"""Tokens, tags, disk and the plan as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.errors import InputError, Location, Problem
from gaff.plan.config import Config
from gaff.plan.estimates import batch, moment_bytes, tags
from gaff.plan.plan import build_plan, problem_json

Load = Callable[..., Config]


def test_tokens_follow_from_micro_batch_accumulation_and_data_parallel_ranks(load: Load) -> None:
    plan = build_plan(load("global_num_gpus=16", "pipe_parallel_size=2", "model_parallel_size=2",
                           "gradient_accumulation_steps=3"))  # fmt: skip
    assert plan.batch is not None
    assert plan.batch.samples == 2 * 3 * (16 // 4)
    assert plan.batch.tokens == 24 * 32
    assert plan.tokens == 24 * 32 * 400


def test_a_given_train_batch_size_needs_no_number_of_gpus(load: Load) -> None:
    found = batch(load("global_num_gpus=", "train_batch_size=1024"))
    assert found is not None
    assert found.tokens == 1024 * 32


def test_without_a_number_of_gpus_tokens_are_known_per_rank_only(load: Load) -> None:
    plan = build_plan(load("global_num_gpus="))
    assert plan.batch is not None
    assert (plan.batch.tokens, plan.batch.tokens_per_gpu, plan.tokens) == (None, 64, None)


@pytest.mark.parametrize(
    ("overrides", "gpus"),
    [
        ([], 12),
        (["num_nodes=2"], 8),
        (["num_gpus=2"], 6),
        (["include=a:0"], None),
        (["global_num_gpus=4"], 4),
    ],
)
def test_gpus_are_counted_as_gpt_neox_does(load: Load, project: Path, overrides: list[str], gpus: int | None) -> None:
    (project / "hosts").write_text("# cluster\na slots=4\nb  slots=4\n\nc slots=4 # last\n")
    found = batch(load("global_num_gpus=", "hostfile=hosts", *overrides))
    assert found is not None
    assert found.gpus == gpus


def test_tags_are_the_union_of_what_config_and_segments_ask_for(load: Load) -> None:
    config = load("checkpoint_factor=150", "extra_save_iters=[0, 7, 9999]")
    assert tags(config, [100, 200, 300, 400], 400) == (0, 7, 100, 150, 200, 300, 400)


def test_tags_on_a_logarithmic_scale_are_powers(load: Load) -> None:
    assert tags(load("checkpoint_factor=3", "checkpoint_scale=log"), [400], 400) == (1, 3, 9, 27, 81, 243, 400)


def test_step0_needs_a_tag_at_0(load: Load) -> None:
    assert build_plan(load("gaff.init=step0")).tags[0] == 0
    assert build_plan(load()).tags == (100, 200, 300, 400)


@pytest.mark.parametrize(("optimizer", "size"), [("Adam", 8), ("Lion", 4), ("SGD", 0)])
def test_moments_depend_on_the_optimizer(load: Load, optimizer: str, size: int) -> None:
    assert moment_bytes(load(f"optimizer.type={optimizer}")) == size


def test_disk_is_tags_times_bytes_per_tag(load: Load) -> None:
    plan = build_plan(load())
    assert plan.model is not None
    assert plan.checkpoint_bytes == plan.model.total * 16 + 15168
    assert plan.disk_bytes == 4 * plan.checkpoint_bytes


def test_json_carries_schema_and_everything_the_table_shows(load: Load) -> None:
    whole = json.loads(json.dumps(build_plan(load("gradient_clipping=1.0")).to_json()))
    assert whole["schema"] == "gaff.plan/1"
    assert whole["resets"] == [{"number": n, "iteration": 100 * n} for n in (1, 2, 3)]
    assert whole["segments"][-1] == {"number": 4, "start": 300, "stop": 400, "reset": None}
    assert whole["model"]["total"] > whole["model"]["input_embedding"] == 512 * 64
    assert whole["batch"]["tokens"] == 128
    assert whole["tags"] == [100, 200, 300, 400]
    assert [warning["id"] for warning in whole["warnings"]] == ["clipping-not-applied"]
    assert whole["warnings"][0]["file"] == "-o gradient_clipping=1.0"


def test_what_is_forgotten_is_named_and_counted(load: Load) -> None:
    plan = build_plan(load("gaff.parameters=[output_embedding, '3.mlp.*']"))
    assert plan.model is not None
    layer = 4 * 64 * 64 + 4 * 64 + 4 * 64 * 64 + 64
    names = ["3.mlp.linear1.weight", "3.mlp.linear1.bias", "3.mlp.linear2.weight", "3.mlp.linear2.bias"]
    found = plan.to_json()["parameters"]
    assert found["chosen"] == ["output_embedding", "3.mlp.*"]
    assert found["names"] == [*names, "6.final_linear.weight"]
    assert found["count"] == 512 * 64 + layer
    assert found["share"] == found["count"] / plan.model.total
    said = f"output embedding, 3.mlp.* (5 tensors, {found['count']:,} parameters, {found['share']:.1%} of the model)"
    assert plan.forgets.startswith(f"{said}, new values as the config's init methods, moments zero")


def test_what_is_forgotten_without_saying_is_the_input_embedding(load: Load) -> None:
    plan = build_plan(load())
    assert plan.model is not None
    assert plan.forgets.startswith(f"input embedding (32,768 parameters, {plan.model.share:.1%} of the model), ")
    assert plan.to_json()["parameters"]["names"] == ["0.word_embeddings.weight"]
    assert build_plan(load("gaff.reset_every=never")).to_json()["parameters"] is None


def test_what_cannot_be_counted_is_named_as_far_as_it_is_known(load: Load) -> None:
    no_file = build_plan(load("tokenizer_type=HFTokenizer", "gaff.parameters='2.*.dense.*'"))
    names = ["2.attention.dense.weight", "2.attention.dense.bias"]
    assert no_file.to_json()["parameters"] == {"chosen": ["2.*.dense.*"], "names": names, "count": None, "share": None}
    assert no_file.forgets.startswith("2.*.dense.*, new values")
    mamba = build_plan(load("attention_config=[[[mamba], 2]]"))
    assert mamba.to_json()["parameters"]["names"] is None
    assert mamba.forgets.startswith("input embedding, new values")


def test_there_is_no_plan_without_train_iters(load: Load) -> None:
    with pytest.raises(InputError, match=r"^-o train_iters=: there is no plan without"):
        build_plan(load("train_iters="))


def test_gaps_of_the_config_leave_gaps_in_the_plan_and_no_crash(load: Load) -> None:
    broken = load("hidden_size=x", "seq_length=[]", "optimizer=5", "zero_optimization=[]", "extra_save_iters=[x]",
                  "attention_config=flash", "checkpoint_factor=-1", "betas=1")  # fmt: skip
    plan = build_plan(broken)
    assert (plan.model, plan.batch, plan.checkpoint_bytes, plan.disk_bytes) == (None, None, None, None)
    assert plan.model_unknown.startswith("hidden_size")


def test_the_loader_of_pythia_70m(load: Load) -> None:
    """0.5 MB per iteration and rank, some 143 million samples to step over near the end (contract section 3)."""
    pythia = ["train_iters=143000", "gaff.reset_every=1000", "seq_length=2048", "max_position_embeddings=2048",
              "train_micro_batch_size_per_gpu=32", "global_num_gpus=32"]  # fmt: skip
    cost = build_plan(load(*pythia)).to_json()["loader"]
    assert cost["kept_bytes"] == 1000 * 32 * 2049 * 8
    assert cost["skipped"] == 142_000 * 1024
    assert cost["skip_seconds"] == pytest.approx(36.4, abs=0.1)


def test_without_a_number_of_gpus_the_loaders_memory_is_known_and_its_skipping_not(load: Load) -> None:
    cost = build_plan(load("global_num_gpus=")).to_json()["loader"]
    assert cost == {"kept_bytes": 100 * 2 * 33 * 8, "skipped": None, "skip_seconds": None}
    assert build_plan(load("gaff.trainer=bundled")).loader is None


def test_a_problem_in_json_has_its_detail() -> None:
    problem = Problem("x", "it failed", "mend it", Location("run.log", 3), ("the last line",))
    assert problem_json(problem) == {
        "id": "x",
        "what": "it failed",
        "remedy": "mend it",
        "detail": ["the last line"],
        "file": "run.log",
        "line": 3,
    }
