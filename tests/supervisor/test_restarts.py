# SPDX-License-Identifier: Apache-2.0
"""Which failures are tried again, how often, and after how long."""

from __future__ import annotations

import errno

import pytest

from gaff.errors import GaffError, Interrupted, Problem, TrainerError
from gaff.plan.settings import WatchSettings
from gaff.supervisor.failures import Failure
from gaff.supervisor.restarts import Restart, Restarts
from gaff.trainers.fault import Course


def failed(iteration: int = 15, what: str = "the trainer exited with 1", **more: object) -> Failure:
    fields = {"problem": Problem("x", what, "read the log"), "iteration": iteration, "trained": True, **more}
    return Failure(**fields)  # type: ignore[arg-type]


def delays(restarts: Restarts, count: int, safe: int = 10) -> list[float]:
    found = []
    for number in range(count):
        follows = restarts.after(failed(iteration=15 + number), safe)
        assert isinstance(follows, Restart)
        found.append(follows.delay_s)
    return found


def test_each_restart_in_a_row_waits_twice_as_long_up_to_ten_minutes() -> None:
    assert delays(Restarts(WatchSettings()), 9) == [10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_the_budget_is_used_up_unless_a_new_checkpoint_fills_it() -> None:
    restarts = Restarts(WatchSettings(restarts=2))
    assert delays(restarts, 2) == [10, 20]
    assert delays(restarts, 2, safe=20) == [10, 20]
    ended = restarts.after(failed(iteration=40), 20)
    assert isinstance(ended, TrainerError)
    assert ended.problems[0].what == "after 2 restarts without a new checkpoint: the trainer exited with 1"


def test_the_same_fault_after_the_same_iteration_ends_the_run() -> None:
    restarts = Restarts(WatchSettings(same_iteration=3))
    for _ in range(2):
        assert isinstance(restarts.after(failed(what="rank 3 of pid 4711 died"), 10), Restart)
    ended = restarts.after(failed(what="rank 3 of pid 4712 died"), 10)
    assert isinstance(ended, TrainerError)
    assert "for the 3rd time in a row after iteration 15" in str(ended)


def test_another_iteration_or_fault_in_between_is_no_row() -> None:
    restarts = Restarts(WatchSettings(same_iteration=2))
    for failure in (failed(15), failed(16), failed(15), failed(15, what="another")):
        assert isinstance(restarts.after(failure, 10), Restart)


@pytest.mark.parametrize("course", [Course.PASSING])
def test_what_passes_by_itself_may_come_back_at_the_same_place(course: Course) -> None:
    restarts = Restarts(WatchSettings(same_iteration=2))
    for _ in range(5):
        assert isinstance(restarts.after(failed(course=course), 10), Restart)


def test_what_would_fail_the_same_way_is_not_tried_again() -> None:
    assert isinstance(Restarts(WatchSettings()).after(failed(course=Course.LASTING), 10), TrainerError)
    assert isinstance(Restarts(WatchSettings()).after(failed(final=True), 10), TrainerError)


def test_a_config_that_nobody_has_seen_run_is_not_tried_again() -> None:
    assert isinstance(Restarts(WatchSettings()).after(failed(0, trained=False), 0), TrainerError)
    assert isinstance(Restarts(WatchSettings()).after(failed(0, trained=False, killed=True), 0), Restart)
    assert isinstance(Restarts(WatchSettings()).after(failed(0, trained=False, course=Course.PASSING), 0), Restart)
    assert isinstance(Restarts(WatchSettings()).after(failed(10, trained=False), 10), Restart)


@pytest.mark.parametrize(("killed", "kind"), [(True, Interrupted), (False, TrainerError)])
def test_without_a_budget_restarts_are_left_to_the_user(killed: bool, kind: type[GaffError]) -> None:
    assert isinstance(Restarts(WatchSettings(restarts=0)).after(failed(killed=killed), 10), kind)


def test_trouble_of_the_machine_is_waited_out_within_the_same_budget() -> None:
    restarts = Restarts(WatchSettings(restarts=2))
    stale = OSError(errno.ESTALE, "Stale file handle")
    assert [r and r.delay_s for r in (restarts.after_trouble(stale) for _ in range(3))] == [10, 20, None]
    assert Restarts(WatchSettings()).after_trouble(OSError(errno.ENOSPC, "No space left on device")) is None


def test_trouble_now_and_then_over_a_week_does_not_add_up() -> None:
    restarts = Restarts(WatchSettings(restarts=1))
    stale = OSError(errno.ESTALE, "Stale file handle")
    for safe in range(10, 100, 10):
        restarts.reached(safe)
        assert restarts.after_trouble(stale) == Restart(1, 1, 10)
    assert restarts.after_trouble(stale) is None, "nothing was reached since"


def test_a_run_that_was_seen_training_is_tried_again_though_it_has_no_checkpoint_yet() -> None:
    restarts = Restarts(WatchSettings())
    assert isinstance(restarts.after(failed(500, trained=True), 0), Restart)
    assert isinstance(restarts.after(failed(0, trained=False, what="CUDA error"), 0), Restart)


def test_a_lasting_fault_is_not_left_to_a_queue_though_its_ranks_were_killed() -> None:
    """As srun does: one rank raises, the others are killed, and 143 is the exit code of it all."""
    ended = Restarts(WatchSettings()).after(failed(killed=True, course=Course.LASTING), 10)
    assert isinstance(ended, TrainerError)


def test_who_is_killed_at_work_is_counted_and_who_is_killed_before_it_is_not() -> None:
    """A rank without memory dies at the same iteration each time; a node that is taken away says nothing about it."""
    restarts = Restarts(WatchSettings(same_iteration=3))
    followed = [restarts.after(failed(killed=True), 10) for _ in range(3)]
    assert [type(one) for one in followed] == [Restart, Restart, TrainerError]
    restarts = Restarts(WatchSettings(same_iteration=2))
    for _ in range(5):
        assert isinstance(restarts.after(failed(10, trained=False, killed=True), 10), Restart)
