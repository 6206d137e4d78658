# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, headless, from a file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaff.report.page.build import page
from gaff.report.page.reported import ReportedRun
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
from tests.report.page.conftest import MakeRun

pytestmark = pytest.mark.skipif(not IS_HERE, reason=WHY_NOT)


@pytest.fixture
def opened(browser: Browser, full_run: ReportedRun, tmp_path: Path) -> Iterator[Browser]:
    """The page of a run that has everything, in light colours; afterwards nothing may have gone wrong in it."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    width(browser, 1280)
    colours(browser, "light")
    show(browser, page(full_run), tmp_path)
    yield browser
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.broken") is None


CHARTS = ["#loss-chart", "#rate-chart", "#overlay-chart", "#boundary-chart"]
MEASURES = [f"#measure-{name}" for name in ("spike", "area", "iterations", "half_life")]


def test_every_chart_is_drawn_and_has_words_for_it(opened: Browser) -> None:
    for chart in CHARTS + MEASURES:
        assert pixels(opened, chart) > 800, chart
        assert len(find(opened, chart).get_attribute("aria-label")) > 30
    for chart, variable in [
        *(("#loss-chart", name) for name in ("--loss", "--reset", "--valid")),
        *(("#boundary-chart", f"--part-{part}") for part in (1, 2, 3, 4)),
        ("#measure-area", "--loss"),
    ]:
        assert has_colour(opened, chart, variable), (chart, variable)
    gaps = "return GaffCharts.charts[0].u.data[1].filter(v => v === null).length"
    assert opened.execute_script(gaps) == 5  # the line of losses is cut at each reset
    assert opened.execute_script("return GaffCharts.charts[1].u.data[1].includes(null)") is False
    assert not has_colour(opened, "#boundary-chart", "--part-5")  # no boundary tells of it


def test_nothing_is_asked_for_but_the_page_itself(opened: Browser) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {opened.current_url}
    assert opened.current_url.startswith("file://")


def test_light_and_dark_differ_and_both_have_contrast(opened: Browser) -> None:
    def look() -> tuple[str, str]:
        body = find(opened, "body")
        return body.value_of_css_property("background-color"), body.value_of_css_property("color")

    seen = [look()]
    colours(opened, "dark")
    seen.append(look())
    assert has_colour(opened, "#loss-chart", "--loss")
    for theme, system in (("light", "dark"), ("dark", "light")):  # the button against the system
        colours(opened, system)
        click(opened, "#theme")
        assert find(opened, "#theme span").text == theme
        seen.append(look())
        assert has_colour(opened, "#loss-chart", "--loss")
    assert seen[0] == seen[2] != seen[1] == seen[3]
    for paper, ink in seen:
        dark, light = sorted(sum(map(float, text.strip("rgba()").split(",")[:3])) for text in (paper, ink))
        assert light - dark > 500


def test_hovering_reads_out_the_run(opened: Browser, full_run: ReportedRun) -> None:
    find(opened, "#loss-chart").send_keys("\ue011")  # Home
    find(opened, "#loss-chart").send_keys("\ue014" * 152)  # Right; two of the steps are the gap behind a reset
    read = find(opened, "#loss-chart output").text.split("\n")
    at = int(read[0].removeprefix("iteration ").replace(",", ""))
    lines = full_run.metrics.series
    assert 150 <= at <= 153
    assert float(read[1].removeprefix("loss ")) == pytest.approx(lines.loss[at - 1], rel=1e-3)
    assert float(read[3].removeprefix("learning rate ")) == pytest.approx(lines.learning_rate[at - 1], rel=1e-2)
    assert read[4:] == ["120 ms an iteration", f"{at - 100} after reset 1"]


def test_the_mouse_reads_out_and_drags_to_zoom(opened: Browser) -> None:
    actions = pytest.importorskip("selenium.webdriver").ActionChains
    over = find(opened, "#loss-chart .u-over")
    actions(opened, 0).move_to_element(over).perform()
    settle(opened)
    assert find(opened, "#loss-chart output").text.startswith("iteration 3")
    assert not find(opened, "#zoom-out").is_displayed()
    actions(opened, 0).click_and_hold(over).move_by_offset(200, 0).release().perform()
    settle(opened)
    low, high = scale(opened, 0)
    assert 250 < low < high < 500
    assert scale(opened, 1) == [low, high]  # the learning rate goes along
    script = "const y = GaffCharts.charts[0].u.scales.y; return y.max - y.min"
    zoomed = opened.execute_script(script)
    actions(opened, 0).double_click(over).perform()
    settle(opened)
    assert scale(opened, 0) == scale(opened, 1) == [1, 600]
    assert opened.execute_script(script) > 1.5 * zoomed  # the losses fill the height again


def test_keys_zoom_and_a_button_shows_the_whole_run(opened: Browser) -> None:
    find(opened, "#loss-chart").send_keys("++")
    settle(opened)
    low, high = scale(opened, 0)
    assert high - low == pytest.approx(599 / 4, abs=3)
    assert scale(opened, 1) == [low, high]
    click(opened, "#zoom-out")
    settle(opened)
    assert scale(opened, 0) == scale(opened, 1) == [1, 600]


def test_other_views_of_the_loss(opened: Browser) -> None:
    before = pixels(opened, "#loss-chart")
    click(opened, "#loss-scale button[value=log]")
    assert opened.execute_script("return GaffCharts.charts[0].u.scales.y.distr") == 3
    for view, word in (("difference", "change of the loss"), ("decrease", "relative decrease")):
        click(opened, f"#view button[value={view}]")
        assert pixels(opened, "#loss-chart") not in (0, before)
        assert word in find(opened, "#loss-chart-keys").text
        assert not find(opened, "#loss-scale").is_displayed()
    assert find(opened, "#view [aria-pressed=true]").text == "relative decrease"


def test_a_recovery_is_lifted_out_of_the_others(opened: Browser) -> None:
    def alphas() -> list[float]:
        script = "return GaffCharts.charts[2].u.series.slice(1).map(s => s.alpha)"
        return list(opened.execute_script(script))

    chips = opened.find_elements("css selector", "#overlay-chart-keys button")
    assert [chip.text for chip in chips] == ["1", "2", "3", "4", "5"]
    opened.execute_script("arguments[0].focus()", chips[2])
    assert [alpha == 1 for alpha in alphas()] == [False, False, True, False, False]
    opened.execute_script("arguments[0].blur()", chips[2])
    assert alphas() == [1] * 5
    before = opened.execute_script("return GaffCharts.charts[2].u.data[1][0]")
    click(opened, "#overlay-level button[value=loss]")
    after = opened.execute_script("return GaffCharts.charts[2].u.data[1][0]")
    assert after > before
    click(opened, "#overlay-scale button[value=log]")
    assert pixels(opened, "#overlay-chart") > 800


def test_table_is_sorted_by_its_headings(opened: Browser, full_run: ReportedRun) -> None:
    def shown() -> list[str]:
        cells = opened.find_elements("css selector", "table.sortable tbody td:first-child")
        return [cell.text for cell in cells]

    order = sorted(full_run.analysis.recoveries, key=lambda r: r.area or 0.0)
    numbers = [str(recovery.reset.number) for recovery in order]
    assert numbers != shown()
    for expected, word in ((numbers, "ascending"), (numbers[::-1], "descending")):
        click(opened, "table.sortable th:nth-child(7) button")
        assert shown() == expected
        assert find(opened, "table.sortable th:nth-child(7)").get_attribute("aria-sort") == word


def test_page_is_no_wider_than_the_window(opened: Browser) -> None:
    for pixels_wide in (390, 760):
        width(opened, pixels_wide)
        settle(opened)
        script = "const root = document.documentElement; return [innerWidth, root.scrollWidth - root.clientWidth]"
        assert opened.execute_script(script) == [pixels_wide, 0]
        fits = "return GaffCharts.charts.every(c => c.u.width === c.element.clientWidth && c.u.width > 100)"
        assert opened.execute_script(fits)


def test_on_paper_it_is_light_open_and_whole(opened: Browser) -> None:
    colours(opened, "dark")
    opened.execute_script("""
      addEventListener("beforeprint", () => { window.seen = [
        document.documentElement.dataset.theme,
        document.querySelectorAll("details:not([open])").length,
        Math.round(Math.max(...GaffCharts.charts.map(c => c.element.clientWidth)) / 96 * 25.4)]; });""")
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    assert opened.execute_script("return window.seen") == ["light", 0, 186]
    assert opened.execute_script("return document.documentElement.dataset.theme || 'auto'") == "auto"
    assert len(opened.find_elements("css selector", "details:not([open])")) == 2


def test_runs_without_resets_of_a_single_line_and_without_speeds_are_drawn(
    opened: Browser, make_run: MakeRun, tmp_path: Path
) -> None:
    for iterations in (90, 1):
        show(opened, page(make_run(iterations, 100)), tmp_path)
        assert has_colour(opened, "#loss-chart", "--loss"), iterations
    run = make_run()
    bare = run.metrics.series.with_columns(**dict.fromkeys(("learning_rate", "ms_per_iteration"), np.full(600, np.nan)))
    show(opened, page(replace(run, metrics=replace(run.metrics, series=bare, train_iters=None))), tmp_path)
    find(opened, "#loss-chart").send_keys("\ue011")  # Home
    assert find(opened, "#loss-chart output").text.startswith("iteration 1\nloss 7")
