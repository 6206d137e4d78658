# SPDX-License-Identifier: Apache-2.0
"""Segments and resets over many schedules."""

from __future__ import annotations

import itertools

import pytest

from gaff.plan.schedule import schedule

CASES = [
    (train_iters, every, first, last)
    for train_iters, every in itertools.product((1, 2, 7, 100, 101, 143), (1, 2, 3, 10, 50, 100, 200))
    for first in (None, 1, 5, 60)
    for last in (None, 1, 50, 99, 1000)
]


@pytest.mark.parametrize("train_iters", [1, 2, 99, 100, 101, 1000])
def test_the_last_reset_comes_before_the_last_iteration(train_iters: int) -> None:
    for every in range(1, 40):
        segments = schedule(train_iters, every)
        assert segments[-1].reset is None
        assert segments[-1].stop == train_iters
        assert all(segment.stop < train_iters for segment in segments[:-1])


def test_segments_cover_every_iteration_once_and_none_is_empty() -> None:
    for case in CASES:
        segments = schedule(*case)
        assert segments[0].start == 0
        assert all(a.stop == b.start for a, b in itertools.pairwise(segments))
        assert all(segment.iterations >= 1 for segment in segments)
        assert sum(segment.iterations for segment in segments) == case[0]


def test_resets_are_k_apart_numbered_from_one_and_within_their_bounds() -> None:
    for train_iters, every, first, last in CASES:
        resets = [segment.reset for segment in schedule(train_iters, every, first, last) if segment.reset]
        at = [reset.iteration for reset in resets]
        assert [reset.number for reset in resets] == list(range(1, len(resets) + 1))
        assert all(b - a == every for a, b in itertools.pairwise(at))
        assert at == [i for i in range(first or every, train_iters, every) if last is None or i <= last]


def test_issue_2_resets_after_100_200_300_and_not_at_400() -> None:
    assert [s.reset.iteration for s in schedule(400, 100) if s.reset] == [100, 200, 300]


def test_a_baseline_is_one_segment() -> None:
    [segment] = schedule(400, None)
    assert (segment.start, segment.stop, segment.reset) == (0, 400, None)
