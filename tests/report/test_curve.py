# SPDX-License-Identifier: Apache-2.0
"""The picture and the page."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import RunWriter, finished_run

from gaff.report.chart import labelled, loss_range, runs, thinned, ticks
from gaff.report.curve import write_curve
from gaff.report.metrics import load_metrics

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Collects elements, and whether they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


def of_class(checker: Checker, name: str) -> list[dict[str, str | None]]:
    return [attributes for _, attributes in checker.elements if attributes.get("class") == name]


def test_picture_and_page_are_written_into_the_run_directory(tmp_path: Path) -> None:
    paths = write_curve(load_metrics(finished_run(tmp_path)), tmp_path, "pythia-14m")
    assert paths == [tmp_path / "loss_curve.png", tmp_path / "report.html"]
    png = paths[0].read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1650, 870)
    assert not list(tmp_path.glob(".*tmp"))


def test_picture_is_the_same_each_time(tmp_path: Path) -> None:
    metrics = load_metrics(finished_run(tmp_path))
    (png, html) = write_curve(metrics, tmp_path, "twice")
    before = png.read_bytes(), html.read_bytes()
    write_curve(metrics, tmp_path, "twice")
    assert (png.read_bytes(), html.read_bytes()) == before


def test_page_marks_each_reset_and_each_recovery(tmp_path: Path) -> None:
    write_curve(load_metrics(finished_run(tmp_path)), tmp_path, "pythia-14m")
    page = checked((tmp_path / "report.html").read_text())
    assert len(of_class(page, "reset")) == 3
    assert len(of_class(page, "back")) == 3
    assert len(of_class(page, "loss")) == 4  # the line is cut at each reset
    assert [tag for tag, _ in page.elements].count("tr") == 4


def test_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    write_curve(load_metrics(finished_run(tmp_path)), tmp_path, "pythia-14m")
    html = (tmp_path / "report.html").read_text()
    for tag, attributes in checked(html).elements:
        assert not {"src", "href", "srcset", "data"} & set(attributes), tag
    assert "http" not in html
    assert "url(" not in html.replace("url(#plot)", "")


def test_text_from_the_run_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    finished_run(tmp_path)
    with open(tmp_path / "segments/0004/attempt-1.log", "a") as log:
        log.write("Traceback (most recent call last):\nValueError: </script><script>alert(1)</script> $curve\n")
    title = '<b onload="x">&amp; $title </title>'
    write_curve(load_metrics(tmp_path), tmp_path, title)
    page = checked((tmp_path / "report.html").read_text())
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not any(tag == "b" for tag, _ in page.elements)
    assert title in page.text
    assert any("</script><script>alert(1)</script> $curve" in text for text in page.text)


def test_hover_data_has_every_point_in_its_words(tmp_path: Path) -> None:
    write_curve(load_metrics(finished_run(tmp_path)), tmp_path, "pythia-14m")
    html = (tmp_path / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html)
    assert found
    data = json.loads(found[1])
    assert len(data["points"]) == 40
    assert data["points"][0][:4] == [10, "4.800", "9.9e-4", "100 ms"]
    assert data["resets"] == [100, 200, 300]


@pytest.mark.parametrize(
    "losses",
    [{10: 5.0}, {10: 5.0, 20: 5.0}, {10: 5.0, 20: math.nan, 30: 4.0}],
    ids=["one line", "flat", "with NaN"],
)
def test_short_and_odd_curves_are_drawn(tmp_path: Path, losses: dict[int, float]) -> None:
    run = RunWriter(tmp_path)
    run.started()
    run.launch(1, 0, 400, losses)
    write_curve(load_metrics(tmp_path), tmp_path, "odd")
    html = (tmp_path / "report.html").read_text()
    checked(html)
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", html, flags=re.S).lower().replace(
        "nan iter", ""
    )


def test_run_without_a_loss_draws_nothing(tmp_path: Path) -> None:
    assert write_curve(load_metrics(tmp_path), tmp_path, "empty") == []
    assert list(tmp_path.iterdir()) == []


# --- what both draw alike ---


def test_first_fall_is_cut_off_where_it_would_hide_the_resets() -> None:
    curve = [(1, 11.0), (2, 9.0), *((i, 3.0) for i in range(10, 100)), (60, 4.0)]
    low, high = loss_range(curve, 100)
    assert low < 3.0
    assert 4.0 < high < 5.0


def test_first_fall_is_shown_where_it_hides_nothing() -> None:
    low, high = loss_range([(1, 4.2), (50, 4.0), (100, 2.0)], 100)
    assert low < 2.0
    assert high > 4.2


def test_thinning_keeps_the_spikes_and_the_ends() -> None:
    curve = [(i, 2.0 + (i % 7) / 100) for i in range(1, 20_001)]
    curve[12_345] = (12_346, 9.0)
    thin = thinned(curve, 1000)
    assert len(thin) <= 1010
    assert (12_346, 9.0) in thin
    assert (thin[0], thin[-1]) == (curve[0], curve[-1])
    assert thin == sorted(thin)


def test_curve_is_cut_after_the_line_at_the_reset() -> None:
    assert runs([(50, 1.0), (100, 2.0), (150, 3.0)], [100]) == [[(50, 1.0), (100, 2.0)], [(150, 3.0)]]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(1.9, 3.6, 4) == [2.0, 2.5, 3.0, 3.5]
    assert ticks(0, 143_000, 8) == [0, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000, 140_000]


def test_many_resets_get_few_texts() -> None:
    assert labelled([100, 200, 300]) == {0, 1, 2}
    assert [i + 1 for i in sorted(labelled(range(142)))] == [20, 40, 60, 80, 100, 120, 140]
