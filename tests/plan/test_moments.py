# SPDX-License-Identifier: Apache-2.0
"""The factor of updates after moments are zeroed, against an Adam that is stepped by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gaff.plan.config import Config
from gaff.plan.moments import Moments, factor
from gaff.plan.plan import build_plan

Load = Callable[..., Config]


def adams_update(steps: int, beta1: float, beta2: float) -> float:
    """Adam's update over the learning rate for gradients of 1, ``steps`` after moments were zeroed late in a run."""
    first = second = 0.0
    for _ in range(steps):
        first = beta1 * first + (1 - beta1)
        second = beta2 * second + (1 - beta2)
    late = 10**6  # the shared step count, by which both are corrected
    return first / (1 - beta1**late) / math.sqrt(second / (1 - beta2**late))


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.95), (0.9, 0.999), (0.0, 0.99), (0.95, 0.9), (0.5, 0.5)])
def test_the_factor_is_what_adam_does(beta1: float, beta2: float) -> None:
    for steps in (1, 2, 5, 10, 100, 1000):
        assert factor(steps, beta1, beta2) == pytest.approx(adams_update(steps, beta1, beta2), rel=1e-9)


LONG = ("train_iters=200000", "gaff.reset_every=50000", "checkpoint_factor=50000")


def found(load: Load, *overrides: str) -> Moments:
    result = build_plan(load(*overrides)).moments
    assert result is not None
    return result


def test_pythias_betas_stay_near_1(load: Load) -> None:
    result = found(load)
    assert [f"{value:.2f}" for _, value in result.values[:4]] == ["0.45", "0.61", "0.86", "1.03"]
    assert result.peak is not None
    assert (result.peak[0], f"{result.peak[1]:.3f}") == (20, "1.097")
    assert (result.settled, result.with_warmup) == (6, None)  # 0.861 at 5, 0.910 at 6


def test_torchs_betas_overshoot_more_than_sixfold(load: Load) -> None:
    result = found(load, *LONG, "optimizer.params.betas=[0.9,0.999]")
    assert dict(result.values)[10] == pytest.approx(6.53, abs=0.005)
    assert dict(result.values)[100] == pytest.approx(3.24, abs=0.005)
    assert result.peak == (12, pytest.approx(6.57, abs=0.005))
    assert result.settled == 1751
    assert factor(1750, 0.9, 0.999) > 1.1 >= factor(1751, 0.9, 0.999)


def brute(beta1: float, beta2: float, most: int) -> tuple[int, int]:
    """(step of the peak, first step from which on all are within a tenth of 1), by looking at every step."""
    all_values = [factor(t, beta1, beta2) for t in range(1, most + 1)]
    outside = [t for t, value in enumerate(all_values, start=1) if abs(value - 1) > 0.1]
    return all_values.index(max(all_values)) + 1, max(outside, default=0) + 1


@pytest.mark.parametrize(
    ("beta1", "beta2"), [(0.9, 0.95), (0.9, 0.99), (0.8, 0.9), (0.0, 0.9), (0.9, 0.92), (0.5, 0.9999)]
)
def test_peak_and_end_are_those_that_a_look_at_every_step_finds(load: Load, beta1: float, beta2: float) -> None:
    result = found(load, *LONG, f"optimizer.params.betas=[{beta1},{beta2}]")
    assert result.peak is not None
    assert (result.peak[0], result.settled) == brute(beta1, beta2, 40_000)


@pytest.mark.parametrize("betas", ["[0.95,0.9]", "[0.9,0.9]", "[0.9,0]", "[0,0]"])
def test_a_second_moment_that_forgets_as_fast_never_overshoots(load: Load, betas: str) -> None:
    result = found(load, f"optimizer.params.betas={betas}")
    assert result.peak is None
    assert all(value <= 1 for _, value in result.values)


def test_betas_are_torchs_where_none_are_given(load: Load) -> None:
    result = found(load, "optimizer={type: Adam, params: {lr: 0.001}}")
    assert (result.beta1, result.beta2) == (0.9, 0.999)


@pytest.mark.parametrize(
    "overrides",
    [
        ["gaff.moments=keep"],
        ["gaff.reset_every=never"],
        ["optimizer.type=Lion"],
        ["optimizer.type=SGD"],
        ["optimizer.params.betas=[1]"],
        ["optimizer.params.betas=[0.9,1.5]"],
    ],
)
def test_nothing_is_scaled_where_no_moments_are_zeroed_or_none_are_corrected(load: Load, overrides: list[str]) -> None:
    assert build_plan(load(*overrides)).moments is None


def test_a_restarted_warm_up_takes_the_overshoot_off(load: Load) -> None:
    """Step t uses max(1, t - 1)/w of the full rate, for a warm-up of w = 500 of 5000 iterations."""
    result = found(load, "optimizer.params.betas=[0.9,0.999]", "gaff.lr_schedule=restart", "gaff.reset_every=5000",
                   "train_iters=20000", "lr_decay_iters=", "warmup=0.1")  # fmt: skip
    by_hand = {t: factor(t, 0.9, 0.999) * max(1, t - 1) / 500 for t in range(1, 501)}
    assert result.with_warmup is not None
    step, strongest = result.with_warmup
    assert strongest == pytest.approx(max(by_hand.values()), rel=0.01)
    assert 495 <= step <= 502
    assert result.peak is not None
    assert strongest < 2 < result.peak[1]


def test_restarts_without_a_warm_up_take_nothing_off(load: Load) -> None:
    result = found(load, "optimizer.params.betas=[0.9,0.999]", "gaff.lr_schedule=restart", "lr_decay_style=constant",
                   "warmup=0")  # fmt: skip
    assert result.with_warmup == result.peak


def test_numbers_next_to_1_cost_no_time(load: Load) -> None:
    run = (f"train_iters={10**13}", f"gaff.reset_every={10**12}", f"checkpoint_factor={10**12}")
    result = found(load, *run, "optimizer.params.betas=[0.9,0.9999999999]")
    assert result.peak is not None
    assert result.settled is not None
    assert result.settled > 10**9
    assert factor(result.settled - 1, 0.9, 0.9999999999) > 1.1 >= factor(result.settled, 0.9, 0.9999999999)


def test_json(load: Load) -> None:
    whole = build_plan(load("gaff.lr_schedule=restart")).to_json()["moments"]
    assert whole["values"][0] == {"step": 1, "factor": pytest.approx(0.1 / math.sqrt(0.05))}
    assert whole["peak"]["step"] == 20
    assert whole["with_warmup"]["factor"] <= 1.1
    assert build_plan(load("gaff.moments=keep")).to_json()["moments"] is None


def test_a_very_long_warm_up_comes_to_the_full_rate_at_its_end(load: Load) -> None:
    long = ["train_iters=2000000", "gaff.reset_every=500000", "gaff.lr_schedule=restart", "lr_decay_iters="]
    result = found(load, *long, "warmup=0.5", "checkpoint_factor=500000")
    assert result.with_warmup is not None
    step, strongest = result.with_warmup
    assert step == pytest.approx(250_000, abs=2)
    assert strongest == pytest.approx(1.0, rel=1e-4)


def test_steps_that_the_next_reset_forestalls_are_not_told(load: Load) -> None:
    short = found(load, "gaff.reset_every=5", "optimizer.params.betas=[0.9,0.999]")
    assert [step for step, _ in short.values] == [1, 2, 5]
    assert short.peak == (5, pytest.approx(adams_update(5, 0.9, 0.999), rel=1e-9))
    assert short.settled is None
    every = found(load, "gaff.reset_every=1")
    assert (every.peak, every.settled) == (None, None)
    last = found(load, "gaff.reset_every=300", "optimizer.params.betas=[0.9,0.999]")  # 100 iterations are left after it
    assert last.values[-1][0] == 100
