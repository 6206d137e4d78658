# SPDX-License-Identifier: Apache-2.0
"""Walltimes as people and schedulers write them."""

from __future__ import annotations

import pytest

from gaff.cluster.times import clock_time, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("1.5h", 5400),
        ("45m", 2700),
        ("2d", 172_800),
        ("90", 5400),
        ("10:30", 630),
        ("1:30:00", 5400),
        ("2-12", 216_000),
        ("1-02:03:04", 93_784),
    ],
)
def test_times_are_read_as_sbatch_reads_them(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-5", "1:2:3:4", "1-", "5x"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_time(text)


@pytest.mark.parametrize(("seconds", "text"), [(90, "00:01:30"), (86_400, "24:00:00"), (400_000.4, "111:06:40")])
def test_clock_times_are_read_back(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text
    assert parse_time(text) == round(seconds)
