# SPDX-License-Identifier: Apache-2.0
"""A run in numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from report_runs import RunWriter, finished_run

from gaff.report.summary import render_summary, summarize


def as_json(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(json.dumps(summarize(run_dir), allow_nan=False))
    return summary


def test_summary_of_a_finished_run(tmp_path: Path) -> None:
    summary = as_json(finished_run(tmp_path))
    assert summary["schema"] == "gaff.summary/1"
    assert summary["iterations"] == {"done": 400, "planned": 400}
    assert summary["loss"]["first"]["iteration"] == 10
    assert summary["loss"]["final"]["iteration"] == 400
    assert [r["iteration"] for r in summary["resets"]] == [100, 200, 300]
    assert summary["resets"][0]["iterations_to_recover"] == 50
    assert (summary["segments"], summary["attempts"], summary["repeated_segments"]) == (4, 4, {})


def test_time_is_split_into_training_and_boundaries(tmp_path: Path) -> None:
    seconds = summarize(finished_run(tmp_path))["seconds"]
    assert seconds["training"] == pytest.approx(40.0)
    assert seconds["boundaries"] == pytest.approx(4 * 5 + 3 * 0.5)
    assert seconds["resets"] == pytest.approx(1.5)
    assert seconds["active"] == pytest.approx(61.5)


def test_time_between_two_commands_does_not_count(tmp_path: Path) -> None:
    run = RunWriter(tmp_path, train_iters=200)
    run.started()
    run.launch(1, 0, 100, {50: 4.0, 100: 3.0})
    run.now_s += 15
    run.done(1, 100)
    run.now_s += 86_400
    run.started(resume_iteration=100)
    run.launch(2, 100, 200, {150: 2.9, 200: 2.8})
    run.now_s += 15
    run.done(2, 200)
    seconds = summarize(tmp_path)["seconds"]
    assert (seconds["active"], seconds["training"]) == (pytest.approx(30.0), pytest.approx(20.0))
    assert seconds["boundaries"] == pytest.approx(10.0)


def test_attempt_killed_with_its_supervisor_costs_no_boundary(tmp_path: Path) -> None:
    run = RunWriter(tmp_path, train_iters=100)
    run.started()
    run.launch(1, 0, 100, {10: 4.0, 20: 3.0})
    run.now_s += 1000
    run.started()
    run.launch(1, 0, 100, {10: 4.0, 100: 3.0}, attempt=2)
    run.now_s += 15
    run.done(1, 100)
    summary = summarize(tmp_path)
    assert summary["seconds"]["active"] == pytest.approx(15.0)
    assert summary["repeated_segments"] == {"1": 2}
    assert "segment 1: 2 attempts" in render_summary(summary)


def test_iterations_done_are_known_between_two_log_lines(tmp_path: Path) -> None:
    run = RunWriter(tmp_path, train_iters=25)
    run.started()
    run.launch(1, 0, 25, {10: 5.0, 20: 4.0})
    assert summarize(tmp_path)["iterations"]["done"] == 20
    run.done(1, 25)
    assert summarize(tmp_path)["iterations"]["done"] == 25


def test_summary_without_a_single_line_is_valid_json(tmp_path: Path) -> None:
    RunWriter(tmp_path).started()
    summary = as_json(tmp_path)
    assert summary["loss"] == {"first": None, "final": None, "lowest": None}
    assert render_summary(summary).startswith("0 of 400 iterations")


def test_losses_that_are_no_numbers_do_not_break_the_json(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.started()
    run.launch(1, 0, 400, {10: 5.0, 20: math.nan})
    assert as_json(tmp_path)["lines_without_finite_loss"] == 1


def test_rendered_table_says_where_the_loss_is_not_back(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.started()
    run.launch(1, 0, 100, {90: 2.0, 100: 2.0})
    run.reset(1, 100)
    run.launch(2, 100, 200, {110: 4.0, 200: 3.0})
    row = render_summary(summarize(tmp_path)).splitlines()[-3].split()
    assert row == ["1", "100", "2.000", "4.000", "90.0", "not", "back"]


def test_it_says_what_recovering_cost_and_whether_it_gets_faster(tmp_path: Path) -> None:
    run = RunWriter(tmp_path, train_iters=800)
    run.started()
    for segment in range(1, 9):
        start = (segment - 1) * 100
        losses = {start + i: 2.0 + 3.0 * 0.5 ** (i / (22 - 2 * segment)) for i in range(5, 101, 5)}
        run.launch(segment, start, start + 100, losses)
        run.done(segment, start + 100)
        if segment < 8:
            run.reset(segment, start + 100)
    summary = summarize(tmp_path)
    trend = next(trend for trend in summary["trends"] if trend["measure"] == "half_life")
    assert trend["clear"]
    assert trend["slope"] == pytest.approx(-2.0, abs=0.5)
    told = render_summary(summary).splitlines()[-2:]
    assert told[0].startswith("recovering: ")
    assert "the half-life falls by" in told[1]


def test_a_table_of_a_thousand_resets_is_cut_in_the_middle(tmp_path: Path) -> None:
    run = RunWriter(tmp_path, train_iters=1010)
    run.started()
    for segment in range(1, 102):
        run.launch(segment, segment * 10 - 10, segment * 10, {segment * 10: 2.0})
        run.done(segment, segment * 10)
        if segment < 101:
            run.reset(segment, segment * 10)
    told = render_summary(summarize(tmp_path))
    assert "… 76 more resets, all in summary.json …" in told
    assert len(told.splitlines()) < 40
