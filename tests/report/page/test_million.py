# SPDX-License-Identifier: Apache-2.0
"""A million iterations and a thousand resets on one page."""

from __future__ import annotations

import pytest

from gaff.report.figure.curve import SVG_NAME, loss_curve
from gaff.report.page.build import page
from tests.report.page.conftest import MakeRun, losses_of
from tests.report.page.markup import Markup, data_of


@pytest.mark.exhaustive
def test_a_million_lines_and_a_thousand_resets_make_a_small_page(make_run: MakeRun) -> None:
    losses = losses_of(1_001_000, 1000)
    losses[345_678] = 77.0
    run = make_run(1_001_000, 1000, losses)
    html = page(run)
    assert len(html.encode()) < 3_000_000
    data = data_of(html)
    assert 77.0 in data["curve"]["loss"]
    assert data["curve"]["of"] == 1_001_000
    assert f"{data['curve']['shown']:,} of 1,001,000 logged losses are drawn" in html
    assert sum(1 for row in Markup(html).rows if row[0][1] is not None) == 1000
    assert len(loss_curve(run.metrics, run.analysis.recoveries, "long")[SVG_NAME]) < 1_500_000
