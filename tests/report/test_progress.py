# SPDX-License-Identifier: Apache-2.0
"""Where a run stands and how long it will take."""

from __future__ import annotations

import math

import pytest

from gaff.plan.schedule import Segment, schedule
from gaff.report.progress import Progress
from gaff.report.sparkline import column, sparkline
from gaff.trainers.contract import IterationLogged, ResumedAt

SEGMENTS = schedule(400, 100)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def line(iteration: int, loss: float | None = 3.0, ms: float = 100.0) -> IterationLogged:
    return IterationLogged(iteration, 400, loss, 1e-3, ms, 40.0, 0, 0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    made = Progress(clock)
    made.run_started(SEGMENTS, 400, 0)
    return made


def train(progress: Progress, clock: Clock, segment: Segment, start_s: float = 6.0, until: int | None = None) -> None:
    """One segment: so long for the start, then 0.1 s an iteration with a line every tenth."""
    progress.segment_started(segment, 1)
    progress.event(ResumedAt(segment.start))
    clock.now_s += start_s
    for iteration in range(segment.start + 10, (until or segment.stop) + 1, 10):
        clock.now_s += 1.0
        progress.event(line(iteration))
    if until is None:
        progress.segment_finished(segment)
        progress.phase = "preparing"


def test_time_left_is_unknown_before_the_first_line(progress: Progress, clock: Clock) -> None:
    progress.segment_started(SEGMENTS[0], 1)
    clock.now_s += 60
    assert progress.seconds_left() is None


def test_time_left_counts_the_boundaries_as_measured(progress: Progress, clock: Clock) -> None:
    train(progress, clock, SEGMENTS[0])
    clock.now_s += 2.0  # the reset
    train(progress, clock, SEGMENTS[1], until=150)
    assert progress.boundary_s == pytest.approx(8.0)
    assert progress.seconds_left() == pytest.approx(250 * 0.1 + 2 * 8.0)


def test_first_start_stands_for_the_boundary_until_there_was_one(progress: Progress, clock: Clock) -> None:
    train(progress, clock, SEGMENTS[0], until=50)
    assert progress.seconds_left() == pytest.approx(350 * 0.1 + 3 * 6.0)


def test_time_left_goes_on_through_a_boundary(progress: Progress, clock: Clock) -> None:
    train(progress, clock, SEGMENTS[0])
    assert progress.seconds_left() == pytest.approx(30.0 + 3 * 6.0)
    clock.now_s += 4.0
    progress.segment_started(SEGMENTS[1], 1)
    assert progress.seconds_left() == pytest.approx(30.0 + 3 * 6.0 - 4.0)
    clock.now_s += 100.0
    assert progress.seconds_left() == pytest.approx(30.0 + 2 * 6.0)


def test_time_left_stands_still_while_a_trainer_hangs(progress: Progress, clock: Clock) -> None:
    train(progress, clock, SEGMENTS[3], until=350)
    clock.now_s += 0.5
    assert progress.seconds_left() == pytest.approx(4.5)
    clock.now_s += 3600
    assert progress.seconds_left() == pytest.approx(4.0)


def test_time_left_is_zero_at_the_end(progress: Progress, clock: Clock) -> None:
    for segment in SEGMENTS:
        train(progress, clock, segment)
    assert progress.seconds_left() == 0.0


def test_next_reset_moves_on_when_its_iterations_are_trained(progress: Progress, clock: Clock) -> None:
    train(progress, clock, SEGMENTS[0], until=90)
    assert progress.next_reset == SEGMENTS[0].reset
    assert progress.seconds_to_reset() == pytest.approx(1.0)
    progress.event(line(100))
    assert progress.next_reset == SEGMENTS[1].reset
    for segment in SEGMENTS[1:]:
        train(progress, clock, segment)
    assert progress.next_reset is None


def test_run_that_carries_on_stands_where_its_checkpoints_stand(clock: Clock) -> None:
    progress = Progress(clock)
    progress.run_started(SEGMENTS, 400, 250)
    progress.segment_started(SEGMENTS[2], 2)
    assert progress.iteration == 250


def test_retry_is_no_boundary(progress: Progress, clock: Clock) -> None:
    train(progress, clock, SEGMENTS[0], until=50)
    clock.now_s += 500
    progress.segment_started(SEGMENTS[0], 2)
    assert progress.iteration == 0
    clock.now_s += 6.0 + 1.0
    progress.event(line(10))
    assert progress.boundary_s == pytest.approx(6.0)
    assert progress.curve == [(10, 3.0)]


def test_loss_that_is_no_number_is_noticed_once(progress: Progress) -> None:
    progress.segment_started(SEGMENTS[0], 1)
    noticed = []
    for iteration, loss in ((10, 3.0), (20, math.nan), (30, math.nan), (40, 2.0), (50, math.inf)):
        progress.event(line(iteration, loss))
        noticed.append(progress.diverged_now)
    assert noticed == [False, True, False, False, True]
    assert progress.curve == [(10, 3.0), (40, 2.0)]


def test_curve_of_a_long_run_stays_small(progress: Progress) -> None:
    for iteration in range(1, 20_001):
        progress.event(line(iteration))
    assert len(progress.curve) <= 4096
    assert progress.curve[-1][0] >= 19_990


# --- the curve in one row ---


def test_sparkline_shows_the_rise_after_a_reset() -> None:
    curve = [(i, 2.0 if i != 60 else 6.0) for i in range(10, 101, 10)]
    assert sparkline(curve, 100, 10) == "▁▁▁▁▁█▁▁▁▁"


def test_sparkline_leaves_what_is_to_come_blank() -> None:
    assert sparkline([(10, 3.0), (50, 1.0)], 100, 10) == "████▁     "


def test_sparkline_is_not_flattened_by_the_first_fall() -> None:
    curve = [(1, 11.0), *((i, 2.0) for i in range(10, 100, 10)), (100, 3.0)]
    assert sparkline(curve, 100, 10) == "█▁▁▁▁▁▁▁▁█"


def test_sparkline_without_a_line_is_blank() -> None:
    assert sparkline([], 100, 10) == " " * 10


def test_columns_cover_the_run() -> None:
    assert [column(i, 400, 4) for i in (1, 100, 101, 400, 500)] == [0, 0, 1, 3, 3]
