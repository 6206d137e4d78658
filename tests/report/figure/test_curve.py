# SPDX-License-Identifier: Apache-2.0
"""The picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import numpy as np
import pytest

from gaff.plan.schedule import Reset
from gaff.report.analysis.analyse import analyse
from gaff.report.figure.curve import PNG_NAME, SVG_NAME, loss_curve
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.metrics.series import series


def run(losses: Sequence[float], resets: Sequence[int] = ()) -> RunMetrics:
    iterations = np.arange(1, len(losses) + 1)
    lines = series(iteration=iterations, loss=losses, learning_rate=1e-3 / iterations)
    numbered = tuple(Reset(number, at) for number, at in enumerate(resets, start=1))
    return RunMetrics(lines, numbered, (), (), len(losses), 1)


def picture(metrics: RunMetrics, title: str = "a run") -> dict[str, bytes]:
    return loss_curve(metrics, analyse(metrics, ()).recoveries, title)


def spiky(count: int, every: int) -> tuple[list[float], list[int]]:
    return [2.0 + 3.0 * 0.9 ** ((i - 1) % every) for i in range(1, count + 1)], list(range(every, count, every))


def test_png_and_svg_are_pictures_the_same_each_time_that_show_each_loss() -> None:
    losses, resets = spiky(60, 20)
    made = picture(run(losses, resets))
    assert set(made) == {PNG_NAME, SVG_NAME}
    png = made[PNG_NAME]
    assert png.startswith(b"\x89PNG")
    assert [int.from_bytes(png[i : i + 4], "big") for i in (16, 20)] == [1650, 870]
    assert ElementTree.fromstring(made[SVG_NAME]).tag.endswith("svg")
    assert picture(run(losses, resets)) == made
    losses[30] += 1.0
    assert picture(run(losses, resets))[PNG_NAME] != png


@pytest.mark.parametrize("losses", [[5.0], [5.0, float("nan"), 5.0]], ids=["one line", "flat with NaN"])
def test_short_and_odd_curves_are_drawn(losses: list[float]) -> None:
    assert picture(run(losses), "$odd_{ \\title")[PNG_NAME].startswith(b"\x89PNG")


def test_run_without_a_loss_has_no_picture() -> None:
    assert picture(run([])) == {}
    assert picture(run([float("nan")])) == {}


def test_picture_of_many_resets_stays_small() -> None:
    assert len(picture(run(*spiky(20_000, 50)))[SVG_NAME]) < 1_000_000
