# SPDX-License-Identifier: Apache-2.0
"""The series and the resets as CSV."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from naive import naive_curve, naive_recovery, naive_resets
from report_runs import RunWriter, finished_run

from gaff.report.analysis.analyse import analyse
from gaff.report.metrics.gather import load_metrics
from gaff.report.tables import loss_steps, metrics_csv, resets_csv


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_line_is_a_row_with_what_the_log_said(tmp_path: Path) -> None:
    rows = rows_of("".join(metrics_csv(load_metrics(finished_run(tmp_path)).series)))
    assert [(int(row["iteration"]), float(row["loss"])) for row in rows] == naive_curve(tmp_path)
    assert {row["segment"] for row in rows} == {"1", "2", "3", "4"}
    assert (rows[0]["learning_rate"], rows[0]["ms_per_iteration"], rows[0]["loss_scale"]) == ("0.0009875", "100", "")


def test_steps_of_the_loss_are_those_of_the_nanogpt_experiment(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.started()
    run.launch(1, 0, 400, {10: 4.0, 20: 3.0, 30: math.nan, 40: 2.0, 50: 1.5})
    difference, decrease = loss_steps(load_metrics(tmp_path).series)
    assert difference.tolist() == pytest.approx([math.nan, -1.0, math.nan, math.nan, -0.5], nan_ok=True)
    assert decrease.tolist() == pytest.approx([math.nan, 0.25, math.nan, math.nan, 0.25], nan_ok=True)
    empty = load_metrics(tmp_path / "nowhere").series
    assert [len(column) for column in loss_steps(empty)] == [0, 0]


def test_resets_agree_with_a_plain_computation_from_the_logs(tmp_path: Path) -> None:
    metrics = load_metrics(finished_run(tmp_path))
    rows = rows_of(resets_csv(analyse(metrics, ())))
    curve, resets = naive_curve(tmp_path), naive_resets(tmp_path)
    assert [int(row["iteration"]) for row in rows] == resets
    for place, row in enumerate(rows):
        for name, value in naive_recovery(curve, resets, place).items():
            assert (float(row[name]) if row[name] else None) == pytest.approx(value), name
    assert [row["within_10_percent"] for row in rows] == ["40", "40", "40"]


def test_a_run_without_resets_has_a_table_without_rows(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.started()
    run.launch(1, 0, 400, {10: 4.0})
    assert rows_of(resets_csv(analyse(load_metrics(tmp_path), ()))) == []
