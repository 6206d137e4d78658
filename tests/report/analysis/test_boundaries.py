# SPDX-License-Identifier: Apache-2.0
"""Where the time between two segments went."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from report_runs import BEGIN, RunWriter

from gaff.report.analysis.boundaries import boundaries
from gaff.report.analysis.measures import Boundary
from gaff.report.metrics.gather import metrics_of
from gaff.supervisor.journal import read_entries

LOSSES = {10: 4.0, 20: 3.5, 30: 3.2, 40: 3.1, 50: 3.0}


def found(run: RunWriter) -> tuple[Boundary, ...]:
    entries = read_entries(run.directory)
    return boundaries(metrics_of(run.directory, entries), entries)


def train(run: RunWriter, segment: int, attempt: int = 1, done: bool = True, **exited: Any) -> None:
    """A launch of 50 iterations at 0.1 s: 7 s until its first line, 12 s in all."""
    start = (segment - 1) * 50
    run.launch(segment, start, start + 50, {start + i: loss for i, loss in LOSSES.items()}, attempt)
    run.now_s += 12
    told = {"first_line_s": 7.0, "last_line_s": 1.0, **exited}
    run.entry("segment_exited", segment=segment, returncode=0, **told)
    if done:
        run.now_s += 0.25
        run.entry("segment_done", segment=segment, iteration=start + 50)


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    writer = RunWriter(tmp_path, train_iters=150)
    writer.started()
    return writer


def test_each_part_of_a_boundary_is_told(run: RunWriter) -> None:
    train(run, 1)
    run.reset(1, 50, seconds=0.5)
    run.now_s += 0.25
    train(run, 2)
    (boundary,) = found(run)
    assert boundary == Boundary(
        iteration=50,
        reset=1,
        begun=BEGIN + timedelta(seconds=11),
        stop_s=1.0,
        check_s=pytest.approx(0.5),
        surgery_s=0.5,
        start_s=pytest.approx(6.0),
        first_s=pytest.approx(0.0),
    )
    assert boundary.total_s == pytest.approx(8.0)


def test_a_slow_first_interval_is_told_apart_from_the_start(run: RunWriter) -> None:
    train(run, 1)
    run.launch(2, 50, 100, {60: 3.0}, ms=300.0)
    run.now_s += 12
    run.entry("segment_exited", segment=2, first_line_s=7.0, last_line_s=1.0)
    (boundary,) = found(run)
    assert (boundary.start_s, boundary.first_s) == (pytest.approx(4.0), pytest.approx(2.0))
    assert (boundary.reset, boundary.surgery_s) == (None, None)


def test_what_lies_between_two_commands_is_no_boundary(run: RunWriter) -> None:
    train(run, 1)
    run.now_s += 86_400
    run.started(resume_iteration=50)
    train(run, 2)
    assert found(run) == ()


def test_what_lies_behind_a_failed_launch_is_no_boundary(run: RunWriter) -> None:
    train(run, 1)
    train(run, 2, done=False)
    run.entry("trainer_failed", iteration=100, safe=50)
    train(run, 2, attempt=2)
    train(run, 3)
    assert [boundary.iteration for boundary in found(run)] == [50, 100]


def test_a_boundary_that_is_under_way_is_told_as_far_as_it_goes(run: RunWriter) -> None:
    train(run, 1)
    run.launch(2, 50, 100, {})
    (boundary,) = found(run)
    assert (boundary.stop_s, boundary.start_s, boundary.first_s) == (1.0, None, None)


def test_a_journal_of_an_earlier_gaff_has_what_it_has(run: RunWriter) -> None:
    train(run, 1, first_line_s=None, last_line_s=None)
    run.reset(1, 50, seconds=0.5)
    train(run, 2, first_line_s=None, last_line_s=None)
    (boundary,) = found(run)
    assert (boundary.stop_s, boundary.surgery_s, boundary.start_s) == (None, 0.5, None)
