# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from gaff.supervisor.watch import Watch
from gaff.trainers.contract import CheckpointSaved, IterationLogged
from tests.supervisor.fake_trainer import ITERATION_LINE, PEER_LOST, REAL_CAUSE


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def line(iteration: int) -> str:
    return ITERATION_LINE.format(iteration=iteration, total=40, loss=2.5, ms=20.0)


def test_silence_is_counted_from_the_last_line_whatever_it_says() -> None:
    clock = Clock()
    watch = Watch(0, silence_minutes=2, clock=clock)
    clock.seconds += 119
    watch.read("building GPT2 model ...")
    clock.seconds += 119
    assert not watch.is_silent()
    clock.seconds += 2
    assert watch.is_silent()


def test_half_a_line_is_a_sign_of_life() -> None:
    clock = Clock()
    watch = Watch(0, silence_minutes=2, clock=clock)
    clock.seconds += 119
    watch.hear()
    clock.seconds += 119
    assert not watch.is_silent()


def test_a_run_whose_log_is_slow_is_not_taken_for_a_hang() -> None:
    clock = Clock()
    watch = Watch(0, silence_minutes=2, log_interval=10_000, clock=clock)
    watch.read(line(10_000))  # 20 ms an iteration: a line every 200 s
    clock.seconds += 3 * 200
    assert not watch.is_silent()
    clock.seconds += 1
    assert watch.is_silent()


def test_a_trainer_that_never_says_anything_is_silent_too() -> None:
    clock = Clock()
    watch = Watch(0, silence_minutes=0.5, clock=clock)
    clock.seconds += 31
    assert watch.is_silent()


def test_no_silence_is_too_long_where_none_was_set() -> None:
    clock = Clock()
    watch = Watch(0, silence_minutes=None, clock=clock)
    clock.seconds += 1e9
    assert not watch.is_silent()


def test_a_hang_is_told_once_and_what_the_dying_ranks_say_is_no_error() -> None:
    clock = Clock()
    watch = Watch(0, silence_minutes=1, clock=clock)
    clock.seconds += 61
    watch.hang(2, ())
    assert not watch.is_silent()
    assert watch.read("Fatal Python error: Aborted") == []
    assert watch.error is None


@pytest.mark.parametrize(
    ("start", "interval", "partial"),
    [(13, 5, True), (10, 5, False), (0, 5, False), (13, None, False), (13, 1, False)],
)
def test_first_figures_after_a_resume_inside_an_interval_are_dropped(
    start: int, interval: int | None, partial: bool
) -> None:
    watch = Watch(start, log_interval=interval)
    [first] = watch.read(line(15))
    assert isinstance(first, IterationLogged)
    assert first.learning_rate == 2.318e-4
    assert (first.loss, first.ms_per_iteration) == ((None, None) if partial else (2.5, 20.0))
    [second] = watch.read(line(20))
    assert isinstance(second, IterationLogged)
    assert second.loss == 2.5
    assert watch.iteration == 20


def test_the_trainer_must_start_where_it_was_told() -> None:
    watch = Watch(20)
    watch.read("Loading checkpoint and starting from iteration 0")
    assert watch.fatal == "the trainer starts from iteration 0 where 20 was asked, and was stopped"


def test_a_failed_load_is_an_error_only_where_something_was_to_be_loaded() -> None:
    fresh, resumed = Watch(0), Watch(20)
    for watch in (fresh, resumed):
        watch.read("Unable to load checkpoint.")
    assert fresh.error is None
    assert resumed.error is not None


def test_decisive_error_comes_first_in_the_detail_and_has_its_line_number() -> None:
    watch = Watch(0)
    for text in (PEER_LOST + "filling\n" + REAL_CAUSE).splitlines():
        watch.read(text)
    assert watch.error is not None
    assert watch.error.message == "IndexError: index out of range in self"
    assert watch.error_line == len(PEER_LOST.splitlines()) + 1 + len(REAL_CAUSE.splitlines())
    assert watch.detail()[2] == "[rank0]: IndexError: index out of range in self"
    assert watch.detail()[3].startswith("[rank1]: RuntimeError: ")
    assert max(map(len, watch.detail())) <= 200


def test_a_line_that_is_the_whole_error_is_not_shown_twice() -> None:
    watch = Watch(0)
    watch.read("ERROR: Optimizer is None. Either set the optimizer dict")
    assert watch.error is not None
    assert watch.detail() == ()


def test_other_events_pass_through() -> None:
    assert Watch(0).read("[Torch] Checkpoint global_step10 is ready now!") == [CheckpointSaved("global_step10")]
