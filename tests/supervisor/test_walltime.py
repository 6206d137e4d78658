# SPDX-License-Identifier: Apache-2.0
"""Where a launch stops so that its checkpoint is written before the end of the walltime."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gaff.errors import InputError
from gaff.plan.schedule import Reset, Segment
from gaff.supervisor.journal import Entry
from gaff.supervisor.pace import Pace
from gaff.supervisor.walltime import Deadline, Piece, choose_piece, find_deadline
from gaff.trainers.contract import IterationLogged

SEGMENT = Segment(2, 1000, 2000, Reset(2, 2000))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def line(iteration: int, ms: float | None) -> IterationLogged:
    return IterationLogged(iteration, 10_000, 3.0, 1e-3, ms, None, 0, 0)


def measured(start_s: float = 20.0, ms: float = 500.0, end_s: float = 10.0) -> Pace:
    pace = Pace()
    pace.seed([Entry("segment_exited", None, {"ms_per_iteration": ms, "start_s": start_s, "end_s": end_s})])
    return pace


def one_save(stop: int) -> int:
    return 1


def chosen(seconds: float | None, pace: Pace, start: int = 1000, log_interval: int = 10) -> Piece | None:
    clock = Clock()
    deadline = None if seconds is None else Deadline(seconds, clock)
    return choose_piece(SEGMENT, start, pace, deadline, one_save, log_interval)


def test_without_a_limit_a_launch_goes_to_the_segments_end() -> None:
    assert chosen(None, Pace()) == Piece(2000, "reset")


def test_enough_time_is_as_no_limit() -> None:
    assert chosen(10_000, measured()) == Piece(2000, "reset")


def test_a_launch_stops_where_its_checkpoint_is_written_in_time() -> None:
    piece = chosen(200, measured())
    assert piece is not None
    assert piece.goal == "walltime"
    took = 20 + (piece.stop - 1000) * 0.5 + 10
    assert 100 < took < 195, "it fits, and most of the time is used"
    assert piece.stop % 10 == 0, "where the trainer logs a line"


def test_a_stop_between_two_lines_is_taken_where_much_would_be_given_up() -> None:
    piece = chosen(200, measured(), log_interval=100)
    assert piece is not None
    assert piece.stop % 100 != 0


def test_each_checkpoint_on_the_way_takes_its_time() -> None:
    clock = Clock()

    def stop(saves: int) -> int:
        piece = choose_piece(SEGMENT, 1000, measured(), Deadline(400, clock), lambda stop: saves, 1)
        assert piece is not None
        return piece.stop

    assert stop(1) - stop(5) >= 4 * 10 / 0.5 - 1, "four more of 10 s each, of iterations of half a second"


def test_too_little_time_is_told() -> None:
    assert chosen(40, measured()) is None
    assert chosen(4, Pace()) is None, "nor is there time to measure"


def test_an_unknown_speed_is_measured_first() -> None:
    assert chosen(10_000, Pace(), start=0) == Piece(20, "measure")
    assert chosen(10_000, Pace(), start=1003) == Piece(1020, "measure")
    assert chosen(10_000, Pace(), start=1985) == Piece(2000, "reset")
    assert chosen(10_000, Pace(), start=1000, log_interval=1) == Piece(1005, "measure")


def test_pace_tells_start_iterations_and_end_apart() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.launched(100, 120)
    clock.now = 33.0  # 30 s of start-up, ten iterations of 0.3 s
    pace.see(line(110, 300.0))
    clock.now = 36.0
    pace.see(line(120, 300.0))
    assert pace.start_s == pytest.approx(30.0)
    assert pace.iteration_s == pytest.approx(0.3)
    assert pace.seconds_to(130) == pytest.approx(3.0)
    clock.now = 41.0
    pace.ended()
    assert pace.end_s == pytest.approx(5.0)
    assert pace.seconds_to(130) == pytest.approx(5.0), "ten iterations would be over; a save is still to come"


def test_a_long_launch_takes_the_mean_not_the_median() -> None:
    """Two of ten lines come late, as on a file system that hangs now and then."""
    clock = Clock()
    pace = Pace(clock)
    pace.launched(0, 110)
    for number in range(11):
        clock.now += 60.0 if number in (4, 8) else 10.0
        pace.see(line(10 * (number + 1), 1000.0))
    pace.ended()
    assert (pace.iteration_s, pace.mean_s) == (1.0, 2.0)
    assert pace.iterations_within(221.0) == 100
    later = Pace()
    later.seed([Entry("segment_exited", None, {"ms_per_iteration": 1000.0, "mean_ms": 2000.0})])
    assert later.iterations_within(221.0) == 100


def test_a_launch_without_a_line_counts_wholly_as_iterations() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.launched(0, 50)
    clock.now = 50.0
    pace.ended()
    assert (pace.start_s, pace.iteration_s) == (0.0, 1.0)
    assert pace.iterations_within(30) == 27


def test_a_launches_first_line_counts_only_where_no_other_is_known() -> None:
    """It includes the warm-up."""
    pace = Pace()
    speeds = []
    for start in (0, 20):
        pace.launched(start, start + 20)
        for iteration, ms in ((start + 10, 9000.0), (start + 20, 300.0)):
            pace.see(line(iteration, ms))
            speeds.append(pace.iteration_s)
    assert speeds == pytest.approx([9.0, 4.65, 4.65, 0.3])


def test_a_line_of_an_iteration_that_was_logged_before_tells_nothing() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.launched(0, 40)
    pace.see(line(20, 300.0))
    clock.now += 2.0
    pace.see(line(10, 300.0))
    assert pace.seconds_to(40) == pytest.approx(20 * 0.3 - 2.0)


def test_the_start_is_measured_also_where_the_first_line_tells_no_speed() -> None:
    """As after a resume between two lines; taken for nothing, it would cost all that is trained before the end."""
    clock = Clock()
    pace = Pace(clock)
    pace.launched(1003, 1020)
    clock.now = 60.0 + 7 * 0.3
    pace.see(line(1010, None))
    assert pace.start_s is None
    clock.now += 3.0
    pace.see(line(1020, 300.0))
    assert pace.start_s == pytest.approx(60.0)
    clock.now += 3.0
    pace.see(line(1030, 300.0))
    assert pace.start_s == pytest.approx(60.0), "once a launch"


def test_the_end_is_measured_also_where_the_stop_lies_between_two_lines() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.launched(0, 25)
    for iteration in (10, 20):
        clock.now += 5.0
        pace.see(line(iteration, 500.0))
    clock.now += 2.5 + 8.0
    pace.ended()
    assert pace.end_s == pytest.approx(8.0)


def test_launches_without_lines_come_nearer_to_the_speed() -> None:
    clock = Clock()
    pace = Pace(clock)
    for stop, took in ((5, 50.0), (105, 100.0), (110, 50.0)):
        pace.launched(stop - (100 if stop == 105 else 5), stop)
        clock.now += took
        pace.ended()
    assert pace.iteration_s == pytest.approx(1.0)


def test_a_segment_without_a_line_in_it_is_measured_all_the_same() -> None:
    """Else a run whose segments are longer than its walltime would begin the same one in each job, for ever."""
    assert chosen(10_000, Pace(), start=1200, log_interval=600) == Piece(1800, "measure"), "one line is in it"
    assert chosen(10_000, Pace(), start=1000, log_interval=1000) == Piece(1005, "measure")
    assert chosen(10_000, Pace(), start=1850, log_interval=100) == Piece(1855, "measure")


def test_figures_that_are_none_are_left_out() -> None:
    pace = Pace()
    for value in (None, "fast", float("nan"), -1.0):
        pace.seed([Entry("segment_exited", None, {"ms_per_iteration": value, "start_s": value, "end_s": value})])
    assert (pace.iteration_s, pace.start_s, pace.end_s) == (None, None, None)


def job(seconds: float | None) -> Any:
    """A job of Slurm that has so much time left."""
    return SimpleNamespace(scheduler="Slurm", seconds_left=lambda patience_s=0.0: seconds)


def test_of_the_jobs_end_and_the_limit_the_earlier_counts() -> None:
    both = find_deadline("30m", job(7200.0))
    assert both is not None
    assert 1790 < both.left_s <= 1800
    only = find_deadline(None, job(7200.0))
    assert only is not None
    assert 7190 < only.left_s <= 7200
    assert find_deadline(None, job(None)) is None
    assert find_deadline(None) is None


def test_an_end_that_was_moved_is_seen_when_it_is_looked_up_again() -> None:
    left, now = [5000.0], 100.0
    deadline = Deadline(5000, lambda: now, limit=6000, source=lambda: left[0])
    left[0] = 9000.0
    deadline.look_again()
    assert deadline.left_s == 6000, "a limit of one's own is not put off"
    assert not deadline.cut_short
    left[0] = 10.0
    deadline.look_again()
    assert (deadline.left_s, deadline.cut_short) == (10.0, True)


def test_a_scheduler_that_does_not_answer_moves_nothing() -> None:
    deadline = Deadline(5000, lambda: 0.0, source=lambda: None)
    deadline.look_again()
    assert (deadline.left_s, deadline.cut_short) == (5000.0, False)


def test_a_limit_that_is_no_time_is_refused() -> None:
    with pytest.raises(InputError, match="--time-limit 'soon' is no time"):
        find_deadline("soon")
