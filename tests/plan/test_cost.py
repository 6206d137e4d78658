# SPDX-License-Identifier: Apache-2.0
"""What a run costs: time, GPU hours, boundaries."""

from __future__ import annotations

import pytest

from gaff.plan.cost import Cost, Timing, cost


def of(*, iteration_s: float = 0.5, boundary_s: float | None = 60.0, gpus: int | None = 8) -> Cost:
    found = cost(Timing(iteration_s, "given", boundary_s, "given"), 7200, 10, gpus)
    assert isinstance(found, Cost)
    return found


def test_training_and_one_boundary_for_each_launch() -> None:
    found = of()
    assert (found.training_s, found.boundaries_s, found.total_s) == (3600.0, 600.0, 4200.0)
    assert found.boundary_share == pytest.approx(1 / 7)
    assert found.gpu_hours == pytest.approx(8 * 4200 / 3600)


def test_what_nobody_says_is_not_known() -> None:
    assert of(gpus=None).gpu_hours is None
    alone = of(boundary_s=None)
    assert (alone.boundaries_s, alone.boundary_share, alone.total_s) == (None, None, 3600.0)
    told = cost(Timing(), 7200, 10, 8)
    assert isinstance(told, str)
    assert "--iteration-ms" in told
    assert "--measured" in told


def test_a_boundary_may_take_no_time() -> None:
    assert of(boundary_s=0.0).boundary_share == 0.0
