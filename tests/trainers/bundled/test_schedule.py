# SPDX-License-Identifier: Apache-2.0
"""Settings, the learning rate and the log lines are GPT-NeoX's own."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gaff.trainers.bundled import log, settings
from gaff.trainers.bundled.schedule import Scheduler

LOGS = Path(__file__).parents[1] / "logs"
# tests/trainers/logs/resumed.log: 400 iterations, warm-up 5 %, cosine from 1e-3 to 1e-4
NEOX: dict[str, Any] = {
    "train_iters": 400,
    "optimizer": {"params": {"lr": 0.001}},
    "min_lr": 0.0001,
    "warmup": 0.05,
    "lr_decay_style": "cosine",
    "lr_decay_iters": 400,
}


def logged_rates(path: Path) -> list[tuple[int, str]]:
    pattern = re.compile(r"\| iteration\s+(\d+)/.*\| learning rate: (\S+) \|")
    return [(int(m[1]), m[2]) for m in map(pattern.search, path.read_text().splitlines()) if m]


def scheduler(**changes: Any) -> tuple[Scheduler, list[str]]:
    lines: list[str] = []
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}, {"lr": 0.0}])
    return Scheduler(optimizer, settings.schedule_settings({**NEOX, **changes}), lines.append), lines


def rate_after(steps: int, **changes: Any) -> float:
    """The rate after so many steps, from the object that DeepSpeed steps."""
    ours, _ = scheduler(**changes)
    ours.step(steps)
    rate: float = ours.optimizer.param_groups[0]["lr"]
    return rate


def test_rates_are_those_that_gpt_neox_logged() -> None:
    rates = logged_rates(LOGS / "resumed.log")
    assert len(rates) >= 10
    assert [(n, f"{rate_after(n):.3E}") for n, _ in rates] == rates


@pytest.mark.parametrize(
    ("style", "steps", "expected"),
    [
        ("cosine", 0, 5e-5),  # max(1, n) / warmup: the first step is not wasted
        ("cosine", 20, 1e-3),
        ("cosine", 400, 1e-4),
        ("linear", 210, 5e-4),
        ("linear", 400, 1e-4),  # aims at 0, clipped at min_lr
        ("linear", 4000, 1e-4),
        ("constant", 400, 1e-3),
        ("exponential", 400, 5.0007e-4),
    ],
)
def test_styles(style: str, steps: int, expected: float) -> None:
    assert rate_after(steps, lr_decay_style=style) == pytest.approx(expected, rel=1e-4)


def test_cosine_rises_again_after_its_end_as_gpt_neox_does() -> None:
    assert rate_after(420) > rate_after(400)


def test_every_group_gets_the_rate_and_each_step_counts() -> None:
    ours, _ = scheduler()
    for step in range(1, 31):
        ours.step()
        assert ours.state_dict()["num_iters"] == step
        assert [group["lr"] for group in ours.optimizer.param_groups] == [rate_after(step)] * 2


def test_a_count_set_to_0_in_the_checkpoint_begins_the_schedule_anew() -> None:
    """The rates of GPT-NeoX's own log after that edit (contract section 4), iterations 11 to 15."""
    short = {"train_iters": 20, "lr_decay_iters": 20, "warmup": 0.1}
    first, _ = scheduler(**short)
    for _ in range(10):
        first.step()
    second, _ = scheduler(**short)
    second.load_state_dict({**first.state_dict(), "num_iters": 0})
    logged = []
    for _ in range(5):
        second.step()
        logged.append(f"{second.optimizer.param_groups[0]['lr']:.2e}")
    assert logged == ["5.00e-04", "1.00e-03", "9.93e-04", "9.73e-04", "9.40e-04"]


def test_scheduler_carries_on_from_a_checkpoint() -> None:
    first, _ = scheduler()
    for _ in range(30):
        first.step()
    second, _ = scheduler()
    second.load_state_dict(first.state_dict())
    assert second.optimizer.param_groups == first.optimizer.param_groups
    assert second.state_dict() == first.state_dict()
    assert set(first.state_dict()) == {"start_lr", "warmup_iter", "num_iters", "decay_style", "end_iter", "min_lr"}


def test_scheduler_refuses_other_settings_unless_told() -> None:
    state = scheduler()[0].state_dict()
    with pytest.raises(ValueError, match=r"minimum learning rate is 0\.0 in the config but 0\.0001"):
        scheduler(min_lr=0.0)[0].load_state_dict(state)
    kept, lines = scheduler(min_lr=0.0, use_checkpoint_lr_scheduler=True)
    kept.load_state_dict(state)
    assert kept.state_dict()["min_lr"] == 0.0001
    assert " > using checkpoint value 0.0001 for minimum learning rate" in lines
    ours, _ = scheduler(min_lr=0.0, override_lr_scheduler=True)
    ours.load_state_dict(state)
    assert ours.state_dict()["min_lr"] == 0.0


def test_iteration_line_is_gpt_neoxs_to_the_letter() -> None:
    """The first line of resumed.log, from the numbers in it."""
    original = next(line for line in (LOGS / "resumed.log").read_text().splitlines() if "| iteration" in line)
    line = log.iteration_line(
        iteration=305,
        train_iters=400,
        batch=4,
        seconds=4 / 25.495,
        learning_rate=2.318e-4,
        flops=18.9e9,
        losses={"lm_loss": 2.168231},
    )
    assert line == original


def test_flops_are_those_that_gpt_neox_logged() -> None:
    shape = SimpleNamespace(num_layers=4, hidden_size=128, seq_length=128)
    flops = log.flops_per_iteration(shape, batch=4, vocab_size=512) / (4 / 25.495)  # type: ignore[arg-type]
    assert log.human_flops(flops) == "18.9GFLOPS"


def test_validation_lines_are_gpt_neoxs_to_the_letter() -> None:
    lines = (LOGS / "validation.log").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "validation results at iteration 5 " in line)
    assert log.results_lines("validation", "iteration 5", 5.448185)[0] == lines[at - 1]
    assert log.results_lines("validation", "iteration 5", 5.448185)[1][:60] == lines[at][:60]


def test_save_iterations() -> None:
    linear = settings.loop_settings({"train_iters": 20, "checkpoint_factor": 5, "extra_save_iters": [0, 7]})
    assert [i for i in range(21) if linear.is_save_iteration(i)] == [0, 5, 7, 10, 15, 20]
    powers = settings.loop_settings({"train_iters": 20, "checkpoint_factor": 2, "checkpoint_scale": "log"})
    assert [i for i in range(1, 21) if powers.is_save_iteration(i)] == [1, 2, 4, 8, 16]
    assert not settings.loop_settings({"train_iters": 20}).is_save_iteration(20)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train_micro_batch_size_per_gpu": 4}, (8, 4, 1)),
        ({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 4}, (16, 4, 2)),
        ({"train_batch_size": 16, "gradient_accumulation_steps": 4}, (16, 2, 4)),
        ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3}, (24, 4, 3)),
    ],
)
def test_batch_sizes_follow_from_each_other(given: dict[str, int], expected: tuple[int, int, int]) -> None:
    assert settings.batch_sizes(given, 2) == expected


def test_ranks_are_arranged() -> None:
    assert settings.layout({"pipe_parallel_size": 2, "global_num_gpus": 4}) == settings.Layout(world=4, pipe=2, data=2)
    assert settings.layout({}) == settings.Layout(world=1, pipe=0, data=1)
    with pytest.raises(ValueError, match="3 ranks cannot be divided among 2"):
        settings.layout({"pipe_parallel_size": 2, "global_num_gpus": 3})


def test_vocabulary_is_padded() -> None:
    assert settings.padded_vocab_size({}, 50277) == 50304
    assert settings.padded_vocab_size({}, 512) == 512


def test_a_decay_lasts_at_least_one_iteration() -> None:
    """As in GPT-NeoX: a fraction that comes to none would divide by zero."""
    assert settings.schedule_settings({**NEOX, "lr_decay_iters": None, "lr_decay_fraction": 0.001}).end_iter == 1
