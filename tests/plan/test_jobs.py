# SPDX-License-Identifier: Apache-2.0
"""The chain of jobs under a time limit is the one that the supervisor makes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gaff.cli.plan_jobs import Chain, chain
from gaff.plan.schedule import schedule


def jobs(
    train_iters: int,
    reset_every: int | None,
    *,
    iteration_s: float,
    boundary_s: float,
    limit_s: float,
    saves: tuple[int, ...] = (),
    log_interval: int = 10,
) -> Chain:
    return chain(schedule(train_iters, reset_every), saves, iteration_s, boundary_s, limit_s, log_interval)


def test_a_chain_worked_out_by_hand() -> None:
    """One segment, 1 s an iteration, 60 s a start, an hour a job.

    Job 1 trains 20 iterations to know its speed (80 s). Of the 3520 s left 2 % are kept back; 1.1 · 60 s for the start
    leaves 3383.6 s, in which 3076 iterations of 1.1 s fit: to 3096, and down to the log line at 3090. Jobs 2 and 3 have
    3600 - 72 - 66 = 3462 s, 3147 iterations: to 6237 and 9377, so 6230 and 9370. Job 4 trains the rest.
    """
    found = jobs(10_000, None, iteration_s=1.0, boundary_s=60.0, limit_s=3600.0)
    assert [(job.start, job.stop, job.launches) for job in found.jobs] == [
        (0, 3090, 2),
        (3090, 6230, 1),
        (6230, 9370, 1),
        (9370, 10_000, 1),
    ]
    assert [job.seconds for job in found.jobs] == [2 * 60 + 3090, 60 + 3140, 60 + 3140, 60 + 630]
    assert (found.launches, found.stuck_at) == (5, None)
    assert found.seconds == 10_000 + 5 * 60


@pytest.mark.parametrize("reset_every", [None, 7, 100, 1000])
@pytest.mark.parametrize("limit_s", [900.0, 3600.0, 86_400.0])
def test_jobs_join_on_end_in_time_and_come_to_the_end(reset_every: int | None, limit_s: float) -> None:
    found = jobs(5000, reset_every, iteration_s=0.7, boundary_s=45.0, limit_s=limit_s)
    assert found.stuck_at is None
    assert [found.jobs[0].start, found.jobs[-1].stop] == [0, 5000]
    assert all(before.stop == after.start for before, after in pairwise(found.jobs))
    assert all(job.seconds <= limit_s for job in found.jobs)
    assert found.seconds == pytest.approx(5000 * 0.7 + found.launches * 45)
    assert found.launches >= len(schedule(5000, reset_every))


def test_a_limit_beyond_the_run_costs_no_more_than_the_launch_that_measures_the_speed() -> None:
    found = jobs(1000, 100, iteration_s=1.0, boundary_s=10.0, limit_s=1e6)
    assert [(job.start, job.stop, job.launches) for job in found.jobs] == [(0, 1000, 11)]


@pytest.mark.parametrize(
    ("iteration_s", "boundary_s"), [(1.0, 61.0), (50.0, 20.0), (61.0, 0.0)], ids=["start", "both", "iteration"]
)
def test_a_limit_too_short_for_a_start_and_an_iteration_never_ends(iteration_s: float, boundary_s: float) -> None:
    found = jobs(1000, 100, iteration_s=iteration_s, boundary_s=boundary_s, limit_s=60.0)
    assert (found.stuck_at, len(found.jobs), found.jobs[-1].stop) == (0, 2, 0)


def test_a_short_first_segment_of_unknown_speed_is_lost_once_and_then_cut() -> None:
    """20 iterations are launched whole while no speed is known. 100 s hold 10 of them, and a log line, which tells it:
    of the next job's 100 s, 5 are kept back and 11 for the start, which leaves 9 iterations of 8.8 s."""
    found = jobs(40, 20, iteration_s=8.0, boundary_s=10.0, limit_s=100.0)
    first, second = found.jobs[:2]
    assert (first.start, first.stop, first.seconds) == (0, 0, 100.0)
    assert (second.start, second.stop) == (0, 9)
    assert found.stuck_at is None


def test_a_launch_that_is_lost_leaves_the_checkpoints_that_the_config_asked_for() -> None:
    found = jobs(40, 20, iteration_s=8.0, boundary_s=10.0, limit_s=100.0, saves=(4, 8, 12))
    assert (found.jobs[0].stop, found.jobs[1].start) == (8, 8)
    silent = jobs(40, 20, iteration_s=8.0, boundary_s=20.0, limit_s=100.0, saves=(4, 8, 12))
    assert [job.stop for job in silent.jobs[:2]] == [8, 12], (
        "no line came before iteration 10: the second job knows no speed"
    )


def test_a_thousand_segments_and_jobs_are_no_trouble() -> None:
    found = jobs(1_000_000, 100, iteration_s=0.3, boundary_s=20.0, limit_s=600.0)
    assert found.stuck_at is None
    assert len(found.jobs) > 500
    assert found.launches > 10_000
    assert len(found.to_json()["each"]) == found.to_json()["jobs"] == len(found.jobs)
