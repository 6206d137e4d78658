# SPDX-License-Identifier: Apache-2.0
"""The page put together: template, style sheets, scripts, text and data in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from gaff.report.page.chart_data import chart_data
from gaff.report.page.reported import ReportedRun
from gaff.report.page.sections import body

_ASSETS = files("gaff.report.page") / "assets"
STYLES = ("uplot/uPlot.min.css", "page.css")
CHARTS = ("uplot/uPlot.iife.min.js", "charts.js")


def page(run: ReportedRun) -> str:
    """``report.html`` of a run with at least one logged loss."""
    data = chart_data(run.metrics, run.analysis)
    return document(run.title, body(run, data), data, "page.js")


def document(title: str, content: str, data: Any, script: str, styles: Sequence[str] = ()) -> str:
    """A whole page with the house's style and charts.

    Args:
        title: plain text.
        content: HTML, escaped where it comes from a run.
        data: what ``script``, an asset's name, finds as JSON in the element ``data``.
        styles: assets with rules of this page's own, after those of the house.
    """
    return Template(asset("page.html")).substitute(
        title=escape(title),
        style="\n".join(asset(name) for name in (*STYLES, *styles)),
        content=content,
        data=script_json(data),
        script="\n".join(asset(name) for name in (*CHARTS, script)),
    )


@cache
def asset(name: str) -> str:
    """The text of a file that is installed beside this module."""
    return (_ASSETS / name).read_text(encoding="utf-8")


def script_json(value: Any) -> str:
    """JSON that no text in it can break out of its script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
