# SPDX-License-Identifier: Apache-2.0
"""The page of a comparison in a real browser, headless, from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gaff.report.compare.comparison import compare
from gaff.report.compare.page import page
from gaff.report.compare.runs import read_runs
from tests.report.browser import (
    IS_HERE,
    WHY_NOT,
    Browser,
    click,
    colours,
    find,
    has_colour,
    pixels,
    scale,
    settle,
    show,
    width,
)
from tests.report.compare.compared_runs import TOKENS, write_run
from tests.report.naive import naive_curve
from tests.report.page.conftest import HOSTILE

pytestmark = pytest.mark.skipif(not IS_HERE, reason=WHY_NOT)

CHARTS = ["#loss-chart", "#difference-chart"]
NAMES = ("spike", "area", "iterations", "half_life")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    given: tuple[tuple[str, dict[str, Any]], ...] = (
        ("base", {"k": None}),
        ("k50", {"k": 50, "heals": False}),
        ("k100-s1", {"k": 100}),
        ("k100-s2", {"k": 100, "seed": 2, "iterations": 400}),
        ("short", {"k": 80, "iterations": 250, "planned": 400, "interval": 5, "ms": 300.0}),
    )
    return [write_run(root / name, **one) for name, one in given]


@pytest.fixture
def opened(browser: Browser, runs: list[Path], tmp_path: Path) -> Iterator[Browser]:
    """The page, in light colours; afterwards nothing may have gone wrong in it."""
    browser.get_log("browser")
    width(browser, 1280)
    colours(browser, "light")
    names = ["base", f"k50 {HOSTILE}", "k100-s1", "k100-s2", "short"]
    show(browser, page(compare(read_runs(runs, names)), HOSTILE), tmp_path)
    yield browser
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.broken") is None


def test_every_chart_is_drawn_in_light_and_dark(opened: Browser) -> None:
    for scheme in ("light", "dark"):
        colours(opened, scheme)
        for chart in (*CHARTS, *(f"#measure-{name}" for name in NAMES), *(f"#by-k-{name}" for name in NAMES)):
            assert pixels(opened, chart) > 500, chart
            assert len(find(opened, chart).get_attribute("aria-label")) > 30
        for run in ("--ink", "--run-1", "--run-2", "--run-3"):
            assert has_colour(opened, "#loss-chart", run), run
    for chart in ("#measure-area", "#by-k-area"):
        assert has_colour(opened, chart, "--run-2"), chart


def test_hovering_reads_out_every_run(opened: Browser, runs: list[Path]) -> None:
    click(opened, "#view button[value=loss]")
    find(opened, "#loss-chart").send_keys("\ue011" + "\ue014" * 42)  # Home, Right
    read = find(opened, "#loss-chart output").text.split("\n")
    at = int(read[0].removeprefix("iteration ").replace(",", ""))
    assert 40 <= at <= 43
    told = dict(line.rsplit("  ", 1) for line in read[1:])
    for path in runs[:1] + runs[2:4]:
        assert float(told[path.name]) == pytest.approx(dict(naive_curve(path))[at], rel=1e-3)
    find(opened, "#loss-chart").send_keys("\ue010")  # End: the short run is not there
    read = find(opened, "#loss-chart output").text.split("\n")
    assert read[0] == "iteration 400"
    assert not any(line.startswith("short") for line in read)


def test_runs_are_laid_along_tokens_and_time(opened: Browser) -> None:
    assert scale(opened, 0) == scale(opened, 1) == [1, 400]
    click(opened, "#align button[value=tokens]")
    settle(opened)
    assert scale(opened, 0) == pytest.approx([TOKENS / 1000, 400 * TOKENS / 1000])
    click(opened, "#align button[value=hours]")
    settle(opened)
    low, high = scale(opened, 0)
    assert (low, high) == pytest.approx((0.1 / 60, 75 / 60), rel=1e-3)  # 250 iterations of 0.3 s
    assert scale(opened, 1) == [low, high]
    for chart in CHARTS:
        assert pixels(opened, chart) > 800


def test_both_charts_zoom_together(opened: Browser) -> None:
    find(opened, "#difference-chart").send_keys("++")
    settle(opened)
    low, high = scale(opened, 1)
    assert high - low < 120
    assert scale(opened, 0) == [low, high]
    click(opened, "#zoom-out")
    settle(opened)
    assert scale(opened, 0) == scale(opened, 1) == [1, 400]


def test_a_run_is_lifted_out_of_the_others(opened: Browser) -> None:
    chips = opened.find_elements("css selector", "#loss-chart-keys button")
    assert len(chips) == 5
    opened.execute_script("arguments[0].focus()", chips[2])
    script = "return GaffCharts.charts[0].u.series.slice(1).map(s => s.alpha)"
    assert [alpha == 1 for alpha in opened.execute_script(script)] == [False, False, True, False, False]
    opened.execute_script("arguments[0].blur()", chips[2])


def test_the_loss_on_a_logarithmic_axis(opened: Browser) -> None:
    click(opened, "#loss-scale button[value=log]")
    assert opened.execute_script("return GaffCharts.charts[0].u.scales.y.distr") == 3
    assert pixels(opened, "#loss-chart") > 800


def test_the_table_is_sorted_by_its_headings(opened: Browser) -> None:
    cells = "#numbers .scroll tbody tr td:first-child"
    before = [cell.text for cell in opened.find_elements("css selector", cells)][:4]
    assert before[0] == "base"
    click(opened, "#numbers th:nth-child(6) button")
    after = [cell.text for cell in opened.find_elements("css selector", cells)][:4]
    assert sorted(after) == sorted(before)
    values = [
        float(cell.get_attribute("data-v"))
        for cell in opened.find_elements("css selector", "#numbers td:nth-child(6)")[:4]
    ]
    assert values == sorted(values)


def test_the_page_is_no_wider_than_the_window(opened: Browser) -> None:
    for pixels_wide in (390, 760):
        width(opened, pixels_wide)
        settle(opened)
        script = "const root = document.documentElement; return [innerWidth, root.scrollWidth - root.clientWidth]"
        assert opened.execute_script(script) == [pixels_wide, 0]
        assert opened.execute_script("return GaffCharts.charts.every(c => c.u.width === c.element.clientWidth)")
    assert has_colour(opened, "#loss-chart", "--run-1")  # built anew, with its resets


def test_many_runs_and_one_that_logged_a_single_line(opened: Browser, tmp_path: Path) -> None:
    many = [write_run(tmp_path / f"r{n}", k=10 * (n + 2), iterations=120) for n in range(20)]
    many.append(write_run(tmp_path / "one", k=None, iterations=1, planned=400))
    show(opened, page(compare(read_runs(many)), "21 runs"), tmp_path)
    assert pixels(opened, "#loss-chart") > 800
    assert len(opened.find_elements("css selector", "#loss-chart-keys button")) == 21


def test_with_very_many_resets_means_are_shown_first(opened: Browser, tmp_path: Path) -> None:
    given = (("base", None, 300), ("k5", 5, 500))
    runs = [write_run(tmp_path / name, k=k, iterations=iterations) for name, k, iterations in given]
    show(opened, page(compare(read_runs(runs)), "many resets"), tmp_path)
    script = "return [0, 1].map(i => GaffCharts.charts[i].u.data[0].length)"
    assert opened.execute_script(script) == [100, 61]  # the difference reaches as far as the baseline …
    assert scale(opened, 0) == scale(opened, 1) == [5, 500]  # … on an axis that is as long as the other
    for view in ("loss", "means"):
        click(opened, f"#view button[value={view}]")
        assert pixels(opened, "#loss-chart") > 800
        assert pixels(opened, "#difference-chart") > 500
