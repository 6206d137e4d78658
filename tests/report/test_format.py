# SPDX-License-Identifier: Apache-2.0
"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from gaff.report import format as fmt


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "4 ms"),
        (0.042, "42 ms"),
        (0.31, "0.31 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (130, "0:02:10"),
        (100_000, "1 d 3:46:40"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (51_511_296, "51.5 MB"), (2.5e15, "2.5 PB")]
)
def test_size(size: float, text: str) -> None:
    assert fmt.size(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (2.16823, "2.168"), (1234.5, "1234"), (float("nan"), "NaN"), (float("inf"), "infinite")],
)
def test_loss(value: float | None, text: str) -> None:
    assert fmt.loss(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "—"), (9.1e-4, "9.1e-4"), (1e-3, "1.0e-3"), (0.0, "0")])
def test_rate(value: float | None, text: str) -> None:
    assert fmt.rate(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "—"), (85.4, "85 ms"), (12_340.0, "12.3 s")])
def test_milliseconds(value: float | None, text: str) -> None:
    assert fmt.milliseconds(value) == text


def test_count() -> None:
    assert (fmt.count(1, "copy", "copies"), fmt.count(8, "copy", "copies")) == ("1 copy", "8 copies")
    assert fmt.count(1234, "iteration") == "1,234 iterations"
