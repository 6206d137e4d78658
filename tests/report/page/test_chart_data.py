# SPDX-License-Identifier: Apache-2.0
"""The numbers of the charts, thinned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gaff.plan.schedule import Reset
from gaff.report.analysis.measures import Boundary
from gaff.report.metrics.series import series
from gaff.report.page.chart_data import (
    MAX_BARS,
    MAX_OVERLAID,
    MAX_POINTS,
    boundary_data,
    change_data,
    chart_data,
    curve_data,
    number,
    overlaid,
    spans,
)
from gaff.trainers.contract import ValidationLogged
from tests.report.page.conftest import MakeRun


def test_short_curve_is_drawn_whole(make_run: MakeRun) -> None:
    run = make_run()
    curve = curve_data(run.metrics)
    assert curve["shown"] == curve["of"] == 600
    assert curve["iteration"] == list(range(1, 601))
    assert curve["loss"] == pytest.approx(run.metrics.series.loss.tolist(), rel=1e-5)
    assert curve["rate"] == pytest.approx(run.metrics.series.learning_rate.tolist(), rel=1e-3)
    assert curve["ms"] == [120] * 600
    assert [v["iteration"] for v in curve["validations"]] == [100, 600]


def test_validations_are_on_the_axis(make_run: MakeRun) -> None:
    run = make_run()
    low, high = curve_data(run.metrics)["range"]
    far = (ValidationLogged(300, 1.0, "validation"), ValidationLogged(None, 9.0, "test"))
    wide = curve_data(replace(run.metrics, validations=far))["range"]
    assert 1.0 < low < high < 9.0
    assert 0.0 <= wide[0] < 1.0
    assert wide[1] > 9.0


def test_long_curve_keeps_its_spikes_and_says_how_many_points_it_has(make_run: MakeRun) -> None:
    losses = np.full(100_000, 3.0)
    losses[[0, 77_777, 33_333]] = 9.0, 8.0, 1.0
    curve = curve_data(make_run(100_000, 10_000, losses).metrics)
    shown = dict(zip(curve["iteration"], curve["loss"], strict=True))
    assert (shown[1], shown[77_778], shown[33_334]) == (9.0, 8.0, 1.0)
    assert curve["of"] == 100_000
    assert MAX_POINTS / 2 < curve["shown"] == len(shown) < MAX_POINTS * 1.2


def test_a_learning_rate_that_jumps_is_seen(make_run: MakeRun) -> None:
    run = make_run(100_000, 10_000)
    rate = np.full(100_000, 1e-3)
    jumps = {9_999 * place: place / 100 for place in range(1, 9)}
    rate[list(jumps)] = list(jumps.values())
    curve = curve_data(replace(run.metrics, series=run.metrics.series.with_columns(learning_rate=rate)))
    assert set(jumps.values()) <= set(curve["rate"])


def test_means_of_segments_come_with_many_resets(make_run: MakeRun) -> None:
    assert curve_data(make_run(1000, 100).metrics)["segments"]["iteration"] == []
    losses = np.repeat([4.0, 2.0], 100).repeat(5)
    many = curve_data(make_run(1000, 5, losses).metrics)["segments"]
    assert len(many["iteration"]) == 200
    assert (many["iteration"][0], many["mean"][0], many["mean"][-1]) == (3, 4, 2)


def test_changes_from_line_to_line() -> None:
    change = change_data(series(iteration=[10, 20, 30, 40], loss=[4.0, 3.0, np.nan, 4.5]))
    assert change["iteration"] == [20, 40]
    assert change["difference"] == [-1.0, 1.5]
    assert change["decrease"] == [0.25, -0.5]
    assert (change["shown"], change["of"]) == (2, 2)


def test_recoveries_are_laid_over_each_other(make_run: MakeRun) -> None:
    run = make_run()
    found = overlaid(run.metrics.series, run.analysis.recoveries)
    assert [line["number"] for line in found["lines"]] == [1, 2, 3, 4, 5]
    second = found["lines"][1]
    assert second["x"] == list(range(1, 101))
    assert second["y"] == pytest.approx(run.metrics.series.loss[200:300].tolist(), rel=1e-5)
    assert second["before"] == pytest.approx(run.analysis.recoveries[1].before, rel=1e-5)
    assert second["back"] == run.analysis.recoveries[1].iterations
    assert max(second["smooth"][50:]) < max(second["y"][50:])


def test_of_many_recoveries_some_are_chosen_evenly_and_keep_their_peaks(make_run: MakeRun) -> None:
    run = make_run(200_000, 1000)
    found = overlaid(run.metrics.series, run.analysis.recoveries)
    assert (len(found["lines"]), found["of"]) == (MAX_OVERLAID, 199)
    assert (found["lines"][0]["number"], found["lines"][-1]["number"]) == (1, 199)
    for line in found["lines"]:
        begin = line["iteration"]
        piece = run.metrics.series.loss[begin : begin + 1000]
        assert max(line["y"]) == pytest.approx(piece.max(), rel=1e-5)
        assert len(line["x"]) < 300


def test_measures_come_with_their_trend(make_run: MakeRun) -> None:
    run = make_run(1000)
    measures = {m["name"]: m for m in chart_data(run.metrics, run.analysis)["measures"]}
    assert set(measures) == {"spike", "area", "iterations", "half_life"}
    area = measures["area"]
    trend = next(trend for trend in run.analysis.trends if trend.measure == "area")
    assert area["reset"] == list(range(1, 10))
    assert area["value"] == pytest.approx([r.area for r in run.analysis.recoveries], rel=1e-5)
    assert (area["slope"], area["median"]) == pytest.approx((trend.slope, trend.median), rel=1e-5)
    assert area["clear"]
    assert area["slope"] < 0


def test_resets_that_never_healed_are_open(make_run: MakeRun) -> None:
    losses = np.concatenate([np.full(100, 2.0), np.full(100, 4.0), np.full(100, 1.0)])
    run = make_run(300, 100, losses)
    waited = next(m for m in chart_data(run.metrics, run.analysis)["measures"] if m["name"] == "iterations")
    assert waited["open"] == {"reset": [1], "value": [100]}
    assert waited["reset"] == [2]


def test_each_boundary_has_its_bar() -> None:
    bars = boundary_data([Boundary(100, 1, None, 1.0, 2.0, None, 4.0, 5.0), Boundary(200, 2, None, 3.0, *[None] * 4)])
    assert bars["iteration"] == bars["last"] == [100, 200]
    assert bars["seconds"] == [[1, 3], [2, None], [None, None], [4, None], [5, None]]


def test_many_boundaries_are_means_of_neighbours() -> None:
    many = [Boundary(n, n, None, float(n), None, 0.5, 1.0, None) for n in range(1, 1000)]
    bars = boundary_data(many)
    assert bars["each"] == 9
    assert len(bars["iteration"]) == 111 <= MAX_BARS
    assert (bars["iteration"][1], bars["last"][1], bars["seconds"][0][1]) == (10, 18, 14)


def test_resets_of_a_plan_take_no_room() -> None:
    assert spans([]) == []
    assert spans([Reset(n, 10 * n) for n in range(1, 100_001)]) == [[1, 10, 100_000, 10]]
    odd = [Reset(1, 50), Reset(2, 150), Reset(3, 250), Reset(5, 350), Reset(6, 400), Reset(7, 440)]
    assert spans(odd) == [[1, 50, 3, 100], [5, 350, 2, 50], [7, 440, 1, 0]]


def test_numbers_are_short_and_never_nan() -> None:
    assert [number(v) for v in (2.0, 2.1234567, 1e-7, None, float("nan"), float("inf"))] == [2, 2.12346, 1e-7] + [
        None
    ] * 3
