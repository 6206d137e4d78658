# SPDX-License-Identifier: Apache-2.0
"""The series of a run directory, whatever happened to the run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from report_runs import RunWriter, finished_run, iteration_line

from gaff.plan.schedule import Reset
from gaff.report.metrics.gather import load_metrics
from gaff.report.metrics.run_metrics import RunMetrics


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    writer = RunWriter(tmp_path)
    writer.started()
    return writer


def losses_of(metrics: RunMetrics) -> dict[int, float]:
    return dict(zip(metrics.series.iteration.tolist(), metrics.series.loss.tolist(), strict=True))


def test_finished_run_has_every_line_and_every_reset(tmp_path: Path) -> None:
    metrics = load_metrics(finished_run(tmp_path))
    assert metrics.series.iteration.tolist() == list(range(10, 401, 10))
    assert metrics.resets == (Reset(1, 100), Reset(2, 200), Reset(3, 300))
    assert (metrics.train_iters, metrics.log_interval) == (400, 10)
    assert set(metrics.series.segment.tolist()) == {1, 2, 3, 4}
    assert metrics.series.elapsed_s[0] == pytest.approx(1.0)


def test_empty_directory_has_no_series(tmp_path: Path) -> None:
    metrics = load_metrics(tmp_path)
    assert (len(metrics.series), metrics.resets, metrics.train_iters) == (0, (), None)


def test_torn_last_line_of_the_journal_is_passed_over(tmp_path: Path) -> None:
    finished_run(tmp_path)
    with open(tmp_path / "journal.jsonl", "ab") as journal:
        journal.write(b'{"event": "reset_done", "reset": 4, "itera')
    assert len(load_metrics(tmp_path).resets) == 3


def test_later_attempt_replaces_what_it_trains_again(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: 4.0, 30: 3.5, 40: 3.0})
    run.launch(1, 20, 100, {30: 3.4, 40: 2.9}, attempt=2)
    assert losses_of(load_metrics(run.directory)) == {10: 5.0, 20: 4.0, 30: 3.4, 40: 2.9}


def test_lines_beyond_the_later_attempts_start_are_dropped_though_it_got_less_far(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: 4.0, 30: 3.5, 40: 3.0})
    run.launch(1, 0, 100, {10: 5.1, 20: 4.1}, attempt=2)
    assert losses_of(load_metrics(run.directory)) == {10: 5.1, 20: 4.1}


def test_attempt_that_logged_nothing_takes_nothing_away(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: 4.0})
    run.launch(1, 0, 100, {}, attempt=2, says="OSError: no GPU")
    assert losses_of(load_metrics(run.directory)) == {10: 5.0, 20: 4.0}


def test_attempt_that_began_elsewhere_than_asked_does_not_count(run: RunWriter) -> None:
    run.launch(1, 0, 100, {50: 4.0, 100: 3.0})
    run.launch(2, 100, 200, {110: 9.0, 120: 8.0}, says="Loading checkpoint and starting from iteration 0")
    assert losses_of(load_metrics(run.directory)) == {50: 4.0, 100: 3.0}


def test_first_line_after_an_off_interval_resume_is_partial_and_not_drawn(run: RunWriter) -> None:
    run.launch(1, 0, 25, {10: 5.0, 20: 4.0})
    run.launch(2, 25, 50, {30: 2.0, 40: 3.8, 50: 3.7})
    metrics = load_metrics(run.directory)
    assert metrics.series.iteration[metrics.series.partial].tolist() == [30]
    assert metrics.curve[0].tolist() == [10, 20, 40, 50]
    assert metrics.series.elapsed_s.tolist() == pytest.approx([1.0, 1.0, 0.5, 1.0, 1.0])


def test_first_line_after_a_resume_on_the_interval_is_right(run: RunWriter) -> None:
    run.launch(1, 0, 20, {10: 5.0, 20: 4.0})
    run.launch(2, 20, 40, {30: 3.9, 40: 3.8})
    assert not load_metrics(run.directory).series.partial.any()


def test_losses_that_are_no_numbers_stay_in_the_series_but_not_in_the_curve(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: math.nan, 30: math.inf})
    metrics = load_metrics(run.directory)
    assert metrics.series.not_finite.tolist() == [False, True, True]
    assert [column.tolist() for column in metrics.curve] == [[10], [5.0]]


def test_missing_log_leaves_a_gap_only(run: RunWriter) -> None:
    run.launch(1, 0, 100, {50: 4.0, 100: 3.0})
    run.launch(2, 100, 200, {150: 2.9, 200: 2.8})
    (run.directory / "segments/0001/attempt-1.log").unlink()
    assert losses_of(load_metrics(run.directory)) == {150: 2.9, 200: 2.8}


def test_log_that_is_being_written_is_read_as_far_as_it_goes(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0})
    with open(run.directory / "segments/0001/attempt-1.log", "a") as log:
        log.write(iteration_line(20, 4.0)[:40])
    assert losses_of(load_metrics(run.directory)) == {10: 5.0}


def test_reset_whose_end_was_not_recorded_counts_once_training_went_on(run: RunWriter) -> None:
    run.launch(1, 0, 100, {100: 3.0})
    run.entry("reset_begun", reset=1, iteration=100)
    assert load_metrics(run.directory).resets == ()
    run.started(resume_iteration=100)
    run.launch(2, 100, 200, {200: 2.8})
    assert load_metrics(run.directory).resets == (Reset(1, 100),)


def test_reset_is_undone_when_training_goes_back_before_it(run: RunWriter) -> None:
    run.launch(1, 0, 100, {100: 3.0})
    run.reset(1, 100)
    run.entry("tag_set_aside", iteration=100, why="is not whole")
    run.launch(1, 0, 100, {100: 3.0}, attempt=2)
    assert load_metrics(run.directory).resets == ()


def test_validations_follow_the_same_history(run: RunWriter) -> None:
    says = " validation results at iteration {} | lm_loss value: {}E+00 | lm_loss_ppl value: 2.3E+02 | "
    run.launch(1, 0, 100, {50: 4.0}, says=says.format(50, "4.100000"))
    run.launch(1, 0, 100, {50: 4.0}, attempt=2, says=says.format(50, "4.200000"))
    assert [(v.iteration, v.loss) for v in load_metrics(run.directory).validations] == [(50, 4.2)]
