# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl``: what a run appends as it goes, and what is read back."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from report_runs import RunWriter, finished_run, iteration_line

from gaff.plan.schedule import Segment
from gaff.report.metrics.gather import load_metrics
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.metrics.series import Series
from gaff.report.metrics.store import NAME, read_store
from gaff.report.metrics.writer import MetricsWriter, catch_up
from gaff.trainers.contract import IterationLogged, ValidationLogged
from gaff.trainers.loglines import read_log

LOGS = Path(__file__).parents[2] / "trainers" / "logs"


def assert_same(one: RunMetrics, other: RunMetrics) -> None:
    for item in fields(Series):
        np.testing.assert_array_equal(getattr(one.series, item.name), getattr(other.series, item.name), item.name)
    assert one.validations == other.validations
    assert one.losses == other.losses
    assert (one.resets, one.train_iters, one.log_interval) == (other.resets, other.train_iters, other.log_interval)
    assert [(a.segment, a.attempt, a.start, a.errors, a.total) for a in one.attempts] == [
        (a.segment, a.attempt, a.start, a.errors, a.total) for a in other.attempts
    ]


def observe(run: RunWriter, segment: int, attempt: int = 1, *, finished: bool = True) -> MetricsWriter:
    """What the supervisor tells while the launch that ``run`` has written goes on."""
    entry = json.loads((run.directory / "journal.jsonl").read_text().splitlines()[-1])
    writer = MetricsWriter(run.directory)
    planned = Segment(segment, entry["start"], entry["stop"], None)
    writer.segment_started(planned, attempt, entry["start"])
    for event in read_log(run.directory / entry["log"]):
        writer.event(event)
    if finished:
        writer.segment_finished(planned)
    return writer


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    writer = RunWriter(tmp_path)
    writer.started()
    return writer


def forget_logs(run_dir: Path) -> None:
    for log in run_dir.glob("segments/*/*.log"):
        log.unlink()


def test_the_store_alone_gives_what_the_logs_gave(tmp_path: Path) -> None:
    before = load_metrics(finished_run(tmp_path))
    catch_up(tmp_path)
    forget_logs(tmp_path)
    assert_same(load_metrics(tmp_path), before)


@pytest.mark.parametrize("real", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_real_logs_come_back_from_the_store_as_they_were(real: Path, run: RunWriter) -> None:
    run.launch(1, 300 if real.stem == "resumed" else 0, 400, {})
    (run.directory / "segments/0001/attempt-1.log").write_bytes(real.read_bytes())
    before = load_metrics(run.directory)
    observe(run, 1)
    forget_logs(run.directory)
    assert_same(load_metrics(run.directory), before)
    assert bool(len(before.series)) == (
        real.stem in ("eight-ranks", "fault-latest-missing", "fp16", "resumed", "validation")
    )


def test_what_one_line_in_many_has_is_kept_too(run: RunWriter) -> None:
    run.launch(1, 0, 400, {})
    writer = MetricsWriter(run.directory)
    writer.segment_started(Segment(1, 0, 400, None), 1, 0)
    figures = (1e-4, 100.5, 8.25)
    writer.event(IterationLogged(10, 400, 5.5, *figures, 0, 0, {}, 65536.0))
    writer.event(IterationLogged(20, 400, None, *figures, 10, 0, {}, 32768.0))
    writer.event(IterationLogged(30, 400, math.inf, *figures, 0, 3, {"z_loss": 0.25, "aux": math.nan}, 32768.0))
    writer.event(ValidationLogged(30, math.nan, "validation"))
    writer.event(IterationLogged(40, 400, 5.25, None, None, None, 0, 0, {"z_loss": 0.5}, 32768.0))
    writer.segment_finished(Segment(1, 0, 400, None))
    forget_logs(run.directory)
    metrics = load_metrics(run.directory)
    lines = metrics.series
    np.testing.assert_array_equal(lines.loss, [5.5, math.nan, math.nan, 5.25])
    assert lines.not_finite.tolist() == [False, False, True, False]
    assert lines.skipped.tolist() == [0, 10, 0, 0]
    assert lines.nan.tolist() == [0, 0, 3, 0]
    assert lines.loss_scale.tolist() == [65536.0, 32768.0, 32768.0, 32768.0]
    np.testing.assert_array_equal(lines.learning_rate, [1e-4, 1e-4, 1e-4, math.nan])
    assert metrics.losses["z_loss"] == {30: 0.25, 40: 0.5}
    assert math.isnan(metrics.losses["aux"][30])
    assert math.isnan(metrics.validations[0].loss)


def test_every_line_of_the_store_is_json(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: math.nan})
    observe(run, 1)
    lines = [json.loads(line) for line in (run.directory / NAME).read_text().splitlines()]
    assert lines[0] == {
        "schema": "gaff.metrics/1",
        "columns": ["iteration", "loss", "learning_rate", "ms_per_iteration", "samples_per_s"],
    }
    assert [line[:2] for line in lines if isinstance(line, list)] == [[10, 5.0], [20, None]]


def test_lines_are_there_while_the_trainer_is_at_work(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: 4.0})
    now = 0.0
    writer = MetricsWriter(run.directory, clock=lambda: now)
    writer.segment_started(Segment(1, 0, 100, None), 1, 0)
    for event in read_log(run.directory / "segments/0001/attempt-1.log"):
        now += 1.0
        writer.event(event)
    assert read_store(run.directory)[1, 1].lines.values.tolist()[::5] == [10, 20]


def test_a_launch_that_was_killed_is_read_from_its_log_again(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: 4.0})
    observe(run, 1, finished=False).close("failed")
    with open(run.directory / "segments/0001/attempt-1.log", "a") as log:
        log.write(iteration_line(30, 3.5))  # after the supervisor was gone
    assert load_metrics(run.directory).series.iteration.tolist() == [10, 20, 30]
    run.launch(1, 20, 100, {30: 3.6}, attempt=2)
    observe(run, 1, 2)
    forget_logs(run.directory)
    metrics = load_metrics(run.directory)
    assert metrics.attempts[0].series.iteration.tolist() == [10, 20, 30]
    assert metrics.series.loss.tolist() == [5.0, 4.0, 3.6]


def test_a_torn_line_costs_itself_alone(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: 4.0})
    observe(run, 1)
    with open(run.directory / NAME, "a") as store:
        store.write('{"launch":{"segment":1,"attempt":2,"start":20}}\n[30,3.5,0.0')
    run.launch(1, 20, 100, {30: 3.6}, attempt=2)
    run.launch(1, 30, 100, {40: 3.5}, attempt=3)
    observe(run, 1, 3)
    forget_logs(run.directory)
    assert load_metrics(run.directory).series.loss.tolist() == [5.0, 4.0, 3.6, 3.5]


def test_a_row_torn_in_the_middle_of_a_block_is_passed_over(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0, 20: 4.0, 30: 3.5})
    observe(run, 1)
    store = run.directory / NAME
    store.write_text(store.read_text().replace("[20,4.0,", "[20,4."))
    assert load_metrics(run.directory).series.iteration.tolist() == [10, 30]


def test_without_a_store_an_older_run_is_taken_up(run: RunWriter) -> None:
    """As one that an earlier GAFF began."""
    run.launch(1, 0, 100, {50: 5.0, 100: 4.0})
    run.done(1, 100)
    run.launch(2, 100, 200, {150: 3.0})
    observe(run, 2)
    forget_logs(run.directory)
    assert load_metrics(run.directory).series.iteration.tolist() == [50, 100, 150]


def test_a_lost_journal_does_not_hide_the_series(tmp_path: Path) -> None:
    before = load_metrics(finished_run(tmp_path))
    catch_up(tmp_path)
    (tmp_path / "journal.jsonl").unlink()
    after = load_metrics(tmp_path)
    np.testing.assert_array_equal(after.series.loss, before.series.loss)
    assert after.train_iters == 400


def test_a_store_that_cannot_be_written_is_no_reason_to_stop(run: RunWriter) -> None:
    run.launch(1, 0, 100, {10: 5.0})
    (run.directory / NAME).mkdir()
    observe(run, 1).close("finished")
    assert load_metrics(run.directory).series.iteration.tolist() == [10]
