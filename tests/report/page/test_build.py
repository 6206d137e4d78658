# SPDX-License-Identifier: Apache-2.0
"""The page as text: what it says, what it holds, what it cannot be made to do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaff.plan.schedule import Reset
from gaff.report.analysis.measures import Recovery
from gaff.report.page import table
from gaff.report.page.build import page
from gaff.report.page.reported import HealthEvent, ReportedRun
from gaff.report.page.table import columns, reset_table
from tests.report.page.conftest import HOSTILE, MakeRun
from tests.report.page.markup import Markup, data_of

ASSETS = Path(__file__).parents[3] / "gaff/report/page/assets"


def table_of_resets(html: str) -> list[list[tuple[str, str | None]]]:
    rows = Markup(html).rows
    begin = next(place for place, row in enumerate(rows) if row[0][0] == "reset")
    return rows[begin : begin + 1 + sum(1 for row in rows[begin + 1 :] if len(row) == len(rows[begin]))]


SHOWN: dict[str, Callable[[Recovery], float | None]] = {
    "reset": lambda r: r.reset.number,
    "after iteration": lambda r: r.reset.iteration,
    "loss before": lambda r: r.before,
    "highest": lambda r: r.peak,
    "at iteration": lambda r: r.peak_iteration,
    "spike": lambda r: r.spike,
    "area": lambda r: r.area,
    "half-life": lambda r: r.half_life,
    "back after": lambda r: r.iterations,
    "spent": lambda r: r.spent,
    "loss at end": lambda r: r.loss_after,
    "decrease": lambda r: r.relative_decrease,
}


def test_table_has_every_number_of_every_recovery(make_run: MakeRun) -> None:
    run = make_run()
    head, *rows = table_of_resets(page(run))
    names = [text for text, _ in head]
    assert set(SHOWN) < set(names)
    assert len(rows) == len(run.analysis.recoveries) == 5
    for row, recovery in zip(rows, run.analysis.recoveries, strict=True):
        shown = {name: value for name, (_, value) in zip(names, row, strict=True)}
        for name, told in SHOWN.items():
            expected = told(recovery)
            value = shown[name]
            assert (None if value is None else float(value)) == (expected and pytest.approx(expected, rel=1e-9)), name
        for percent, waited in recovery.within.items():
            assert shown[f"within {percent:g}%"] == (None if waited is None else str(waited))


def test_a_recovery_that_has_not_come_is_told_from_one_that_nobody_saw(make_run: MakeRun) -> None:
    losses = np.concatenate([np.full(100, 2.0), np.full(100, 4.0), np.full(50, np.nan)])
    head, first, second = table_of_resets(page(make_run(250, 100, losses)))
    back = [text for text, _ in head].index("back after")
    assert (first[back], second[back]) == (("not yet", None), ("—", None))


def test_plateaus_have_columns_only_where_there_are_any(make_run: MakeRun) -> None:
    without = [replace(recovery, plateau=None) for recovery in make_run().analysis.recoveries]
    assert not {"plateau", "from", "its level", "above before"} & {column.heading for column in columns(without)}


def test_more_resets_than_a_page_holds_are_chosen_evenly(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_ROWS", 50)
    one = make_run().analysis.recoveries[0]
    many = [replace(one, reset=Reset(number, 100 * number)) for number in range(1, 101)]
    _, *rows = Markup(reset_table(many)).rows
    numbers = [int(row[0][1] or 0) for row in rows]
    assert (len(numbers), numbers[0], numbers[-1]) == (50, 1, 100)
    assert numbers == sorted(numbers)


def test_page_needs_nothing_from_outside(full_run: ReportedRun) -> None:
    for tag, attributes in Markup(page(full_run)).elements:
        assert not {"src", "srcset", "data", "action"} & set(attributes), tag
        assert attributes.get("href") in (None, "data:,")
    assert "default-src 'none'" in page(full_run)
    for asset in ASSETS.rglob("*.css"):
        assert not re.search(r"url\(|@import", asset.read_text()), asset


def test_text_from_the_run_cannot_break_out_of_the_page(full_run: ReportedRun) -> None:
    html = page(full_run)
    markup = Markup(html)
    assert markup.names().count("script") == 2
    assert "img" not in markup.names()
    assert HOSTILE in markup.text
    assert sum(HOSTILE in text for text in markup.text) >= 12
    data_of(html)


def test_data_cannot_end_its_script(make_run: MakeRun) -> None:
    run = make_run()
    odd = tuple(replace(v, split="</script><b>") for v in run.metrics.validations)
    html = page(replace(run, metrics=replace(run.metrics, validations=odd)))
    assert "b" not in Markup(html).names()
    assert data_of(html)["curve"]["validations"][0]["split"] == "</script><b>"


def test_what_a_run_lacks_is_left_out(make_run: MakeRun, full_run: ReportedRun) -> None:
    everything = {"loss", "recoveries", "boundaries", "resets", "health", "config", "environment", "provenance"}
    assert everything <= Markup(page(full_run)).ids()
    imported = Markup(page(make_run(90, 100, source="read from train.log")))
    assert everything & imported.ids() == {"loss"}
    assert "read from train.log" in imported.text


@pytest.mark.parametrize(
    "losses",
    [[5.0], [5.0] * 3, [5.0, np.nan, 4.0], [5.0, np.inf, 4.0], [5.0, 4.0, np.nan], [0.0, 0.0]],
    ids=["one line", "flat", "NaN", "infinite", "NaN at the end", "zero"],
)
def test_short_and_odd_curves_have_a_page(make_run: MakeRun, losses: list[float]) -> None:
    data = data_of(page(make_run(len(losses), 2, np.array(losses))))
    right = [loss for loss in losses if np.isfinite(loss)]
    assert data["curve"]["loss"] == right
    assert data["curve"]["lost"] == [place + 1 for place, loss in enumerate(losses) if not np.isfinite(loss)]


def test_long_messages_are_shortened_and_many_events_counted(make_run: MakeRun) -> None:
    events = tuple(HealthEvent(None, "trouble", "warning", f"{number} {'x' * 5000}") for number in range(1500))
    html = page(make_run(health=events))
    assert "The last 500 of 1,500." in html
    assert "1499 xxx" in html
    assert "999 xxx" not in html
    assert len(html) < 1_000_000


def test_the_same_run_gives_the_same_page(full_run: ReportedRun) -> None:
    assert page(full_run) == page(full_run)


# --- what is installed beside it ---


def test_uplot_is_the_one_that_its_readme_names() -> None:
    named = re.findall(r"\| `([\w.]+)` \| `([0-9a-f]{64})` \|", (ASSETS / "uplot/README.md").read_text())
    assert {name for name, _ in named} == {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"}
    for name, digest in named:
        assert hashlib.sha256((ASSETS / "uplot" / name).read_bytes()).hexdigest() == digest


def test_no_asset_can_end_its_element() -> None:
    for asset in ASSETS.rglob("*.*s"):
        assert not re.search(r"</(script|style)|<!--", asset.read_text(), re.I), asset


def test_every_asset_is_installed() -> None:
    declared = re.findall(r'"(report/page/assets/[^"]*)"', (ASSETS.parents[3] / "pyproject.toml").read_text())
    installed = {path for pattern in declared for path in (ASSETS.parents[2]).glob(pattern) if path.is_file()}
    assert installed == {path for path in ASSETS.rglob("*") if path.is_file()}
    assert len(installed) >= 8
