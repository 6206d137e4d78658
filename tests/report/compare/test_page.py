# SPDX-License-Identifier: Apache-2.0
"""The page of a comparison and the numbers of its charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaff.report.compare.chart_data import chart_data
from gaff.report.compare.comparison import Comparison, compare
from gaff.report.compare.page import page
from gaff.report.compare.runs import read_runs
from gaff.report.compare.series import smoothed
from tests.report.compare.compared_runs import TOKENS, write_run
from tests.report.naive import naive_curve
from tests.report.page.conftest import HOSTILE
from tests.report.page.markup import Markup, data_of


def compared(*paths: Path, **options: Any) -> Comparison:
    return compare(read_runs(paths, options.pop("names", ())), **options)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A baseline, k = 50, and two seeds of k = 100."""
    given = (("base", None, 1), ("k50", 50, 1), ("k100-s1", 100, 1), ("k100-s2", 100, 2))
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / name, k=k, seed=seed) for name, k, seed in given]


def test_curves_have_every_logged_loss_and_a_gap_at_each_reset(four: list[Path]) -> None:
    data = chart_data(compared(*four))
    for path, run in zip(four, data["runs"], strict=True):
        logged = naive_curve(path)
        drawn = [(x, y) for x, y in zip(run["iteration"], run["loss"], strict=True) if y is not None]
        assert drawn == [(i, pytest.approx(loss, rel=1e-5)) for i, loss in logged]
        gaps = [x for x, y in zip(run["iteration"], run["loss"], strict=True) if y is None]
        assert gaps == [reset + 0.5 for reset in run["resets"]]
        assert run["seconds"][-1] == pytest.approx(40)
        assert run["tokens"] == TOKENS
    assert [len(run["resets"]) for run in data["runs"]] == [0, 7, 3, 3]
    assert [axis["name"] for axis in data["axes"]] == ["iteration", "tokens", "hours"]


def test_settings_have_colours_of_their_own_and_seeds_share_one(four: list[Path]) -> None:
    runs = chart_data(compared(*four))["runs"]
    assert [run["colour"] for run in runs] == ["--ink", "--run-1", "--run-2", "--run-2"]
    assert [run["thin"] for run in runs] == [False, False, True, True]


def test_differences_are_those_of_the_logs(four: list[Path]) -> None:
    lines = chart_data(compared(*four))["difference"]["iteration"]
    base = dict(naive_curve(four[0]))
    assert [line["place"] for line in lines] == [1, 2, 3]
    for line in lines:
        expected = [loss - base[i] for i, loss in naive_curve(four[line["place"]])]
        assert line["x"] == list(range(1, 401))
        assert line["value"] == pytest.approx(expected, abs=1e-4)


def test_measures_by_reset_and_by_k(four: list[Path]) -> None:
    found = compared(*four)
    data = {measure["name"]: measure for measure in chart_data(found)["measures"]}
    spike = data["spike"]
    assert [line["place"] for line in spike["lines"]] == [1, 2, 3]
    assert spike["lines"][0]["reset"] == [1, 2, 3, 4, 5, 6, 7]
    assert [point["k"] for point in spike["by_k"]] == [50, 100, 100]
    for point in spike["by_k"]:
        assert point["value"] == pytest.approx(found.figures[point["place"]].spike, rel=1e-5)


def test_long_runs_are_thinned_and_keep_their_spikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaff.report.compare.chart_data.MAX_POINTS", 800)
    paths = [write_run(tmp_path / f"r{n}", k=200, iterations=1500, seed=n) for n in range(2)]
    data = chart_data(compared(*paths))
    for path, run in zip(paths, data["runs"], strict=True):
        assert run["of"] == 1500
        assert run["shown"] <= 800 // 2 + 2
        losses = [loss for _, loss in naive_curve(path)]
        assert max(y for y in run["loss"] if y is not None) == pytest.approx(max(losses), rel=1e-5)
        assert min(y for y in run["loss"] if y is not None) == pytest.approx(min(losses), rel=1e-5)


def test_with_very_many_resets_there_are_means_of_stretches(tmp_path: Path, four: list[Path]) -> None:
    assert chart_data(compared(*four))["stretch"] is None
    given = (("base", None, 1), ("k4", 4, 1), ("k6", 6, 5))
    paths = [write_run(tmp_path / name, k=k, iterations=600, interval=n) for name, k, n in given]
    data = chart_data(compared(*paths, align="tokens"))
    assert data["stretch"] == 12  # of 600 iterations not too long, and a multiple of both k
    for path, run in zip(paths[:2], data["runs"], strict=False):
        losses = [loss for _, loss in naive_curve(path)]
        assert run["means"]["iteration"] == list(range(12, 601, 12))
        expected = [sum(losses[end - 12 : end]) / 12 for end in range(12, 601, 12)]
        assert run["means"]["loss"] == pytest.approx(expected, rel=1e-5)
        assert run["means"]["seconds"] == pytest.approx([1.2 * n for n in range(1, 51)])
    one, two = (run["means"]["loss"] for run in data["runs"][:2])
    line = data["difference"]["tokens"][0]["means"]
    assert line["x"] == [TOKENS * end for end in range(12, 601, 12)]
    assert line["value"] == pytest.approx([b - a for a, b in zip(one, two, strict=True)], abs=1e-4)
    assert "means of 12 iterations" in page(compared(*paths), "many resets")


def test_smoothing_does_not_reach_over_a_reset() -> None:
    losses = np.array([1.0, 2, 3, 4, 10, 20, 30])
    assert smoothed(losses, [0, 4, 7], 1).tolist() == [1, 2, 3, 4, 10, 20, 30]
    assert smoothed(np.array([0.0, 3, 0, 9, 0]), [0, 5], 1).tolist() == [0, 1, 4, 3, 0]
    assert smoothed(losses, [0, 4, 7], 0).tolist() == losses.tolist()


def test_the_page_nests_and_has_everything(four: list[Path]) -> None:
    html = page(compared(*four), "a title")
    markup = Markup(html)
    assert {"config", "numbers", "loss", "recoveries", "by-k", "paper", "sources"} <= markup.ids()
    assert {"loss-chart", "difference-chart", "measure-spike", "by-k-iterations", "align"} <= markup.ids()
    rows = [[text for text, _ in row] for row in markup.rows]
    assert ["gaff.reset_every", "never", "50", "100"] in rows
    assert ["seed", "1", "1", "1, 2"] in rows
    assert any(row[:2] == ["k100", "2"] for row in rows)  # a row of the setting …
    assert any(row[0] == "k100-s2" for row in rows)  # … and one of the run
    assert len(data_of(html)["runs"]) == 4
    assert "http://" not in html.replace("http://www.w3.org/", "")


def test_what_there_is_not_is_left_out(tmp_path: Path) -> None:
    pair = [write_run(tmp_path / f"k50-s{seed}", k=50, seed=seed) for seed in (1, 2)]
    ids = Markup(page(compared(*pair), "seeds")).ids()
    assert not {"difference-chart", "by-k"} & ids
    bare = [
        write_run(tmp_path / name, k=None, config={"seq_length": None, "warmup": w})
        for name, w in (("a", 0.1), ("b", 0.2))
    ]
    html = page(compared(*bare), "baselines")
    assert "recoveries" not in Markup(html).ids()
    assert [axis["name"] for axis in data_of(html)["axes"]] == ["iteration", "hours"]


def test_names_and_titles_cannot_break_the_page(four: list[Path]) -> None:
    names = tuple(f"{HOSTILE} {n}" for n in range(4))
    html = page(compared(*four, names=names), HOSTILE)
    plain = page(compared(*four), "a title")
    assert sorted(Markup(html).names()) == sorted(Markup(plain).names())
    assert [run["name"] for run in data_of(html)["runs"]] == list(names)


def test_a_run_without_losses_is_in_the_table_alone(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", k=50), write_run(tmp_path / "none", k=100, iterations=0, planned=400)]
    html = page(compared(*paths), "one of them")
    assert [run["name"] for run in data_of(html)["runs"]] == ["a"]
    assert any(row[0][0] == "none" for row in Markup(html).rows)
