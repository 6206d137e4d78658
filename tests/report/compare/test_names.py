# SPDX-License-Identifier: Apache-2.0
"""What runs are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaff.report.compare.names import common_name, distinct_names


def test_directories_give_the_names() -> None:
    assert distinct_names([Path("/runs/baseline"), Path("/runs/k50")]) == ["baseline", "k50"]


def test_those_that_end_alike_are_told_apart_by_their_paths() -> None:
    paths = [Path("/a/k50/run"), Path("/b/k50/run"), Path("/a/k100/run"), Path("/a/other")]
    assert distinct_names(paths) == ["a/k50/run", "b/k50/run", "k100/run", "other"]
    assert distinct_names([Path("/run"), Path("/a/run")]) == ["/run", "a/run"]


def test_a_link_is_called_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "2026-11-22").mkdir()
    (tmp_path / "k50").symlink_to(tmp_path / "2026-11-22")
    assert distinct_names([tmp_path / "k50", tmp_path / "k50" / ".." / "other"]) == ["k50", "other"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["k50-seed1", "k50-seed2"], "k50"),
        (["k50_s1", "k50_s22"], "k50"),
        (["k100", "k100-seed77"], "k100"),
        (["k50/1", "k50/2"], "k50"),
        (["one", "other"], "one"),
        (["left", "right"], "left"),
        (["k50-seed1"], "k50-seed1"),
    ],
)
def test_seeds_share_what_their_names_have_in_common(names: list[str], expected: str) -> None:
    assert common_name(names) == expected
