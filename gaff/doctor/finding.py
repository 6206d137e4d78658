# SPDX-License-Identifier: Apache-2.0
"""One thing that the doctor found."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gaff.errors import Problem

SCHEMA = "gaff.doctor/1"

Level = Literal["ok", "note", "warning", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")  # mildest first


@dataclass(frozen=True)
class Finding:
    """Attributes:
    id: stable kebab-case name, for scripts and tests.
    area: which part of the examination found it.
    level: ``problem`` stops a run or spoils it; ``warning`` may; ``note`` is worth knowing; ``ok`` is as it should be.
    what: one sentence without a final full stop.
    remedy: the command that mends it, a line for a shell; None when there is nothing to mend.
    """

    id: str
    area: str
    level: Level
    what: str
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def from_problem(area: str, problem: Problem, level: Level = "problem") -> Finding:
    """A problem with a config, mended in its file."""
    where = problem.where
    remedy = f"# {problem.remedy}"
    if where is not None and where.line:
        remedy = f"${{EDITOR:-vi}} +{where.line} {shlex.quote(where.file)}  {remedy}"
    what = f"{where}: {problem.what}" if where else problem.what
    return Finding(problem.id, area, level, what, remedy)


def worst(findings: Iterable[Finding]) -> Level:
    """The gravest level; ``ok`` when there is nothing."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")
