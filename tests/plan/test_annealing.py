# SPDX-License-Identifier: Apache-2.0
"""The rate is GPT-NeoX's: against its formulas written down a second time, and against numbers from its logs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gaff.plan.annealing import Schedule

COSINE = Schedule(start_lr=1e-3, min_lr=1e-4, warmup_iter=2.0, end_iter=20, decay_style="cosine", num_iters=0)


def test_the_rates_that_gpt_neox_logged_in_its_first_five_iterations() -> None:
    assert [f"{COSINE.rate_after(n):.2e}" for n in range(1, 6)] == [
        *("5.00e-04", "1.00e-03", "9.93e-04", "9.73e-04", "9.40e-04")
    ]


def test_the_first_step_counts_as_one_in_the_warm_up() -> None:
    assert COSINE.rate_after(0) == COSINE.rate_after(1) == 5e-4


def test_no_warm_up_begins_at_the_full_rate() -> None:
    assert replace(COSINE, warmup_iter=0.0).rate() == 1e-3


@pytest.mark.parametrize(
    ("style", "middle", "end", "late"),
    [
        ("cosine", (1e-3 + 1e-4) / 2, 1e-4, 1e-3),  # one decay length past its end it is back
        ("linear", 5e-4, 1e-4, 1e-4),
        ("exponential", 1e-3 * math.exp(-0.693 / 2), 1e-3 * math.exp(-0.693), 1e-3 * math.exp(-0.693 * 2)),
        ("constant", 1e-3, 1e-3, 1e-3),
    ],
)
def test_styles_halfway_at_the_end_and_past_it(style: str, middle: float, end: float, late: float) -> None:
    schedule = replace(COSINE, decay_style=style)
    assert [schedule.rate_after(n) for n in (11, 20, 38)] == pytest.approx([middle, end, late], rel=1e-12)


def test_a_warm_up_below_one_iteration_lifts_the_first_rate() -> None:
    assert replace(COSINE, warmup_iter=0.2).rate() == pytest.approx(5e-3)


def test_a_warm_up_as_long_as_the_schedule_divides_by_zero_when_it_is_over() -> None:
    schedule = replace(COSINE, warmup_iter=20.0)
    assert schedule.rate_after(20) == 1e-3
    with pytest.raises(ZeroDivisionError):
        schedule.rate_after(21)


def test_a_state_that_is_not_gpt_neoxs_is_refused() -> None:
    with pytest.raises(KeyError):
        Schedule.of({"start_lr": 1.0})
    with pytest.raises(TypeError):
        Schedule.of({**vars(COSINE), "end_iter": "20"})
