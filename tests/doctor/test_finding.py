# SPDX-License-Identifier: Apache-2.0
"""Findings made of problems: their remedies can be typed."""

from __future__ import annotations

import pytest

from gaff.doctor.finding import Finding, from_problem, worst
from gaff.errors import Location, Problem


@pytest.mark.parametrize(
    ("where", "remedy"),
    [
        (Location("my runs/a.yml", 3), "${EDITOR:-vi} +3 'my runs/a.yml'  # mend it"),
        (Location("-o lr=1"), "# mend it"),
        (None, "# mend it"),
    ],
)
def test_the_remedy_opens_the_file_at_its_line(where: Location | None, remedy: str) -> None:
    finding = from_problem("area", Problem("x", "it is wrong", "mend it", where))
    assert (finding.remedy, finding.level) == (remedy, "problem")


def test_the_gravest_level() -> None:
    assert worst([]) == "ok"
    assert (
        worst([Finding("a", "x", "note", ""), Finding("b", "x", "warning", ""), Finding("c", "x", "ok", "")])
        == "warning"
    )
