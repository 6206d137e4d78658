# SPDX-License-Identifier: Apache-2.0
"""The learning rate of a run: how GPT-NeoX derives it, what it logs, and what restarts make of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from gaff.plan.config import Config
from gaff.plan.learning_rate import LearningRate
from gaff.plan.plan import build_plan

Load = Callable[..., Config]
# the run whose log after a restart at 10 is in the contract, section 4
RESTARTED = ("train_iters=20", "gaff.reset_every=10", "gaff.lr_schedule=restart", "lr_decay_iters=20", "warmup=0.1")


def rate_of(config: Config) -> LearningRate:
    found = build_plan(config).learning_rate
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("overrides", "end", "warmup"),
    [
        ([], 400, 4.0),
        (["lr_decay_iters="], 400, 4.0),
        (["lr_decay_iters=", "lr_decay_fraction=0.333"], 133, 1.33),
        (["lr_decay_iters=50", "lr_decay_fraction=0.5"], 50, 0.5),
        (["lr_decay_iters=", "lr_decay_fraction=0.001"], 1, 0.01),
        (["warmup=0"], 400, 0.0),
        (["warmup=0.3"], 400, 120.0),
    ],
)
def test_lengths_are_derived_as_gpt_neox_does(load: Load, overrides: list[str], end: int, warmup: float) -> None:
    s = rate_of(load(*overrides)).schedule
    assert (s.end_iter, s.warmup_iter) == (end, pytest.approx(warmup))
    assert (s.start_lr, s.min_lr, s.decay_style, s.num_iters) == (1e-3, 1e-4, "cosine", 0)


def test_defaults_are_gpt_neoxs(load: Load) -> None:
    s = rate_of(load("optimizer.params.lr=", "min_lr=", "lr_decay_style=", "lr_decay_iters=")).schedule
    assert (s.start_lr, s.min_lr, s.warmup_iter, s.decay_style) == (1e-3, 0.0, 4.0, "linear")


def test_a_restart_logs_what_gpt_neox_logged(load: Load) -> None:
    rate = rate_of(load(*RESTARTED))
    logged = [f"{rate.logged(i):.2e}" for i in (11, 12, 13, 14, 15)]
    assert logged == ["5.00e-04", "1.00e-03", "9.93e-04", "9.73e-04", "9.40e-04"]
    assert [rate.logged(i) for i in range(11, 21)] == [rate.logged(i) for i in range(1, 11)]


def test_the_line_of_a_reset_still_shows_the_old_cycle(load: Load) -> None:
    rate = rate_of(load(*RESTARTED))
    assert rate.logged(10) == rate.schedule.rate_after(10) < 1e-3
    assert rate.used(11) == rate.schedule.rate_after(0) == 5e-4


def test_each_step_uses_what_the_line_before_it_shows_but_after_a_restart(load: Load) -> None:
    rate = rate_of(load("gaff.lr_schedule=restart"))
    assert rate.restarts == (100, 200, 300)
    for i in range(1, 400):
        expected = rate.schedule.rate_after(0) if i in rate.restarts else rate.logged(i)
        assert rate.used(i + 1) == expected


def test_without_restarts_resets_change_nothing(load: Load) -> None:
    with_resets, baseline = rate_of(load()), rate_of(load("gaff.reset_every=never"))
    assert with_resets.restarts == baseline.restarts == ()
    assert with_resets == baseline
    assert with_resets.logged(250) == with_resets.schedule.rate_after(250)


def test_restarts_decay_over_one_cycle_unless_the_config_says_otherwise(load: Load) -> None:
    assert rate_of(load("gaff.lr_schedule=restart", "lr_decay_iters=")).schedule.end_iter == 100
    assert rate_of(load("gaff.lr_schedule=restart", "lr_decay_iters=200")).schedule.end_iter == 200
    fraction = ["gaff.lr_schedule=restart", "lr_decay_iters=", "lr_decay_fraction=0.5"]
    assert rate_of(load(*fraction)).schedule.end_iter == 200
    rate = rate_of(load("gaff.lr_schedule=restart", "lr_decay_iters="))
    assert [rate.logged(i) for i in (100, 200, 300, 400)] == pytest.approx([1e-4] * 4)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.params.lr=fast"],
        ["optimizer.params.lr=0"],
        ["warmup=2"],
        ["lr_decay_iters=x"],
        ["lr_decay_iters=", "lr_decay_fraction=7"],
        ["optimizer.type=OneBitAdam", "gaff.reset_every=never"],
        ["warmup=1", "lr_decay_iters=399"],
    ],
)
def test_what_makes_no_schedule_leaves_a_gap_in_the_plan(load: Load, overrides: list[str]) -> None:
    plan = build_plan(load(*overrides))
    assert plan.learning_rate is None
    assert plan.to_json()["learning_rate"] is None


def test_warm_up_over_the_whole_run_is_a_schedule(load: Load) -> None:
    rate = rate_of(load("warmup=1"))
    assert [rate.logged(i) for i in (1, 200, 400)] == pytest.approx([1e-3 / 400, 5e-4, 1e-3])


def test_json_holds_settings_restarts_and_the_logged_rate_of_every_iteration_of_a_short_run(load: Load) -> None:
    found = json.loads(json.dumps(build_plan(load(*RESTARTED)).to_json()))["learning_rate"]
    points = {point["iteration"]: point["logged"] for point in found.pop("points")}
    assert found == {
        "start_lr": 0.001,
        "min_lr": 0.0001,
        "warmup_iter": 2.0,
        "end_iter": 20,
        "decay_style": "cosine",
        "restarts": [10],
    }
    assert sorted(points) == list(range(1, 21))
    assert points[15] == pytest.approx(9.397e-4, rel=1e-4)


def test_json_of_a_long_run_stays_small(load: Load) -> None:
    found = build_plan(load("train_iters=143000", "gaff.reset_every=1000")).to_json()["learning_rate"]
    iterations = [point["iteration"] for point in found["points"]]
    assert (iterations[0], iterations[-1]) == (1, 143000)
    assert 300 < len(iterations) < 500
