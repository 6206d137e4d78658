# SPDX-License-Identifier: Apache-2.0
"""Warnings: what a run does otherwise than its config reads, and what a person should know beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.errors import Location, Problem
from gaff.plan.checks import check, warnings
from gaff.plan.config import Config, load_config

Problems = Callable[..., list[Problem]]
Load = Callable[..., Config]

#: (what the good config says, what it says instead, id, line)
REMARKABLE = [
    ("gradient_clipping: 0.5", "gradient_clipping: 1.0", "clipping-not-applied", 30),
    ("gradient_clipping: 0.5\n", "", "clipping-not-applied", 0),
    ("betas: [0.9, 0.95]", "betas: [0.9, 0.999]", "beta2-overshoot", 25),
    ("betas: [0.9, 0.95]\n", "x: 1\n", "beta2-overshoot", 23),
    (
        "type: Adam\n  params:\n    lr: 0.001\n    betas: [0.9, 0.95]",
        "type: CPU_Adam\n  params: {lr: 0.001}\nx:\n    y: 1",
        "beta2-overshoot",
        23,
    ),
    ("log_interval: 10", "log_interval: 30", "log-interval", 2),
    ("seed: 7", "first_reset: 105", "log-interval", 3),
    ("eval_iters: 0", "eval_iters: 10", "validation-off", 31),
    ("eval_iters: 0\n", "", "validation-off", 0),
    ("lr_decay_iters: 400", "lr_decay_iters: 300", "cosine-rises", 29),
    ("lr_decay_iters: 400", "lr_decay_fraction: 0.5", "cosine-rises", 29),
    ("eval_iters: 0", "eval_iters: 0\nexit_interval: 5", "exit-interval-dropped", 32),
    ("eval_iters: 0", "eval_iters: 0\nlog_dir: logs", "log-dir-dropped", 32),
    ("eval_iters: 0", "eval_iters: 0\niteration: 5", "iteration-dropped", 32),
    ("eval_iters: 0", "eval_iters: 0\nno_load_rng: true", "no-load-rng", 32),
    ("seed: 7", "last_reset: 400", "last-reset-late", 3),
    ("lr_decay_style: cosine\nlr_decay_iters: 400", "lr_decay_iters: 40", "warmup-below-one", 0),
    ("eval_iters: 0", "eval_iters: 0\nwarmup: 0.001", "warmup-below-one", 32),
    ("seed: 7", "lr_schedule: restart", "lr-cycle-cut", 29),
    ("betas: [0.9, 0.95]", "betas: [0.9, 0.99]", "beta2-overshoot", 25),
    ("eval_iters: 0", "eval_iters: 0\nwandb_project: x", "wandb-off", 32),
    ("global_num_gpus: 2", "num_gpus: 2\ntrain_batch_size: 4", "num-gpus-half-ignored", 16),
    ("micro_batch_size_per_gpu: 2", "micro_batch_size_per_gpu: 2000000", "loader-memory", 2),
]


@pytest.mark.parametrize(("old", "new", "id", "line"), REMARKABLE, ids=[f"{w[2]}-{w[1]}" for w in REMARKABLE])
def test_what_runs_otherwise_than_it_reads_gets_a_warning(
    warned: Problems, problems: Problems, old: str, new: str, id: str, line: int
) -> None:
    [warning] = warned(old, new)
    assert (warning.id, warning.where) == (id, Location("run.yml", line))
    assert problems(old, new) == []


def test_mamba_needs_no_heads_that_divide_its_width(load: Load) -> None:
    odd = ["num_attention_heads=3", "gaff.reset_every=never"]
    assert "hidden-heads" in {problem.id for problem in check(load(*odd))}
    assert "hidden-heads" not in {problem.id for problem in check(load(*odd, 'attention_config=[[["mamba"], 2]]'))}


def test_a_warm_up_below_one_iteration_is_not_laid_to_the_moments(load: Load) -> None:
    short = ["gaff.reset_every=10", "gaff.lr_schedule=restart", "lr_decay_iters=", "warmup=0.01"]
    assert [warning.id for warning in warnings(load(*short))] == ["warmup-below-one"]
    found = {w.id: w for w in warnings(load(*short, "optimizer.params.betas=[0.9,0.999]"))}
    assert "make updates 6.5 times too large at step 10 after" in found["beta2-overshoot"].what


@pytest.mark.parametrize("length", [2, 3, 7, 143, 399])
def test_the_warm_up_that_is_advised_is_long_enough(load: Load, length: int) -> None:
    [warning] = warnings(load(f"lr_decay_iters={length}", "warmup=0.0001", "lr_decay_style=linear"))
    advised = float(warning.remedy.rpartition(" ")[2])
    assert 1 <= advised * length < 1.2
    assert warnings(load(f"lr_decay_iters={length}", f"warmup={advised:f}", "lr_decay_style=linear")) == []


def test_clipping_given_to_deepspeed_itself_needs_no_warning(warned: Problems) -> None:
    new = "gradient_clipping: 1.0\ndeepspeed_extra_args: {gradient_clipping: 1.0}"
    assert warned("gradient_clipping: 0.5", new) == []


@pytest.mark.parametrize("optimizer", ["Lion", "SGD"])
def test_only_adam_overshoots_after_its_moments_are_zeroed(warned: Problems, optimizer: str) -> None:
    assert warned("type: Adam\n  params:\n    lr: 0.001\n    betas: [0.9, 0.95]",
                  f"type: {optimizer}\n  params: {{lr: 0.001}}\nx:\n    y: 1") == []  # fmt: skip


def test_the_bundled_trainer_validates_pipelines_and_has_a_loader_of_its_own(load: Load) -> None:
    assert warnings(load("gaff.trainer=bundled", "eval_iters=10", "train_micro_batch_size_per_gpu=2000000")) == []


def test_the_cosine_of_a_cycle_may_rise_only_where_a_cycle_is_longer(load: Load) -> None:
    restart = ["gaff.lr_schedule=restart", "lr_decay_iters="]
    assert warnings(load(*restart)) == []
    assert warnings(load(*restart, "gaff.first_reset=50")) == []
    [warning] = warnings(load(*restart, "gaff.last_reset=200"))
    assert "rises again 100 iterations after a restart, and up to 200 iterations" in warning.what
    assert "write lr_decay_iters: 200, or a linear decay" in warning.remedy
    assert warnings(load(*restart, "gaff.last_reset=200", "lr_decay_style=linear")) == []


def test_the_length_of_a_cycle_is_blamed_on_the_key_that_decided_it(load: Load) -> None:
    for others, place in (
        (["lr_decay_iters=", "gaff.first_reset=200"], "-o gaff.lr_schedule=restart"),
        (["lr_decay_iters=50"], "-o lr_decay_iters=50"),
        (["lr_decay_iters=", "lr_decay_fraction=0.125"], "-o lr_decay_fraction=0.125"),
    ):
        [warning] = (w for w in warnings(load("gaff.lr_schedule=restart", *others)) if w.id == "cosine-rises")
        assert str(warning.where) == place


def test_a_warm_up_over_a_whole_cycle_divides_by_zero_where_a_cycle_is_longer(load: Load) -> None:
    restart = ["gaff.lr_schedule=restart", "warmup=1", "lr_decay_iters="]
    assert check(load(*restart)) == []
    [problem] = check(load(*restart, "gaff.last_reset=200"))
    assert problem.what.endswith("divides by zero after 100 iterations of a cycle")
    assert check(load(*restart, "gaff.last_reset=200", "lr_decay_style=constant")) == []


def test_a_cycle_that_is_cut_short_is_told_with_the_rate_it_comes_down_to(load: Load) -> None:
    [warning] = warnings(load("gaff.lr_schedule=restart", "lr_decay_style=linear", "lr_decay_iters=200"))
    assert warning.what.endswith("decays over 200: the learning rate only comes down to 0.000505")  # 1e-3 * 100 / 198
    assert warning.remedy == "write lr_decay_iters: 100 for whole cycles"


def test_a_cycle_that_ends_in_its_warm_up_is_told_so(load: Load) -> None:
    [warning] = warnings(load("gaff.lr_schedule=restart", "warmup=0.5"))
    assert warning.what.endswith("the learning rate is still in its warm-up, at 0.0005, when that is cut off")


def test_a_warm_up_below_one_iteration_is_told_with_the_rate_it_makes(load: Load) -> None:
    [warning] = warnings(load("warmup=0.001"))
    assert "a warm-up of 0.4 iterations (0.001 of 400) makes the first step use 0.0025, 2.5 times" in warning.what
    assert warning.remedy == "write warmup: 0, or at least 0.0025"
    assert warnings(load("warmup=0.0025")) == []
    assert warnings(load("warmup=0")) == []


def test_a_restarted_warm_up_that_covers_the_overshoot_needs_no_warning(load: Load) -> None:
    long = ["train_iters=40000", "gaff.reset_every=10000", "lr_decay_iters=", "optimizer.params.betas=[0.9,0.999]"]
    assert "beta2-overshoot" in {w.id for w in warnings(load(*long))}
    [warning] = warnings(load(*long, "gaff.lr_schedule=restart", "warmup=0.01"))
    assert (warning.id, warning.remedy.endswith("or a longer `warmup`")) == ("beta2-overshoot", True)
    assert warnings(load(*long, "gaff.lr_schedule=restart", "warmup=0.05")) == []
    assert warnings(load(*long, "gaff.moments=keep", "lr_decay_iters=40000")) == []


def test_a_port_in_the_environment_has_no_effect(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "12345")
    [warning] = warnings(load())
    assert (warning.id, "(12345)" in warning.what) == ("master-port-variable", True)
    assert warnings(load("launcher=slurm")) == []
    monkeypatch.delenv("MASTER_PORT")
    assert [w.id for w in warnings(load("gaff.environment={MASTER_PORT: '7'}"))] == ["master-port-variable"]


def test_num_gpus_counts_where_a_hostfile_says_the_rest(load: Load, project: Path) -> None:
    (project / "hosts").write_text("a slots=4\n")
    given = ["global_num_gpus=", "num_gpus=2"]
    assert [w.id for w in warnings(load(*given))] == ["num-gpus-half-ignored"]
    assert warnings(load(*given, "hostfile=hosts")) == []
    assert warnings(load("num_gpus=2")) == []


def test_memory_of_the_loader_grows_with_the_segment(load: Load) -> None:
    """8 bytes x 33 tokens x 400 samples x accumulation 2 x iterations of the longest segment."""
    batch = ["train_micro_batch_size_per_gpu=400", "gradient_accumulation_steps=2", "train_iters=100000"]
    batch += ["lr_decay_iters=100000", "checkpoint_factor=10000"]
    assert warnings(load(*batch, "gaff.reset_every=30000")) == []
    [warning] = warnings(load(*batch, "gaff.reset_every=40000"))
    assert "8.4 GB of host memory" in warning.what  # 8 * 33 * 400 * 2 * 40,000 = 8.448e9
    [warning] = warnings(load(*batch, "gaff.reset_every=10000", "gaff.last_reset=30000"))
    assert warning.remedy.endswith("or make the first and the last segment shorter")


def test_linear_decay_may_end_early(warned: Problems) -> None:
    assert warned("lr_decay_style: cosine\nlr_decay_iters: 400", "lr_decay_style: linear\nlr_decay_iters: 100") == []


def test_checking_writes_nothing(write: Callable[..., Path], project: Path) -> None:
    config = load_config([write()], ["save=out", "data_path=absent"])
    before = sorted(project.rglob("*"))
    check(config)
    assert sorted(project.rglob("*")) == before
