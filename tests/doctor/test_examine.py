# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gaff.doctor import examine as module
from gaff.doctor.examine import AREAS, examine, examine_area, to_json
from gaff.doctor.finding import LEVELS, Finding, worst
from gaff.doctor.subject import Subject
from gaff.errors import CheckpointError, Problem
from gaff.plan.config import load_config
from tests.doctor.conftest import a100s
from tests.plan.conftest import load, project, write

__all__ = ["load", "project", "write"]


def raising(error: Exception) -> Callable[[Subject], Iterator[Finding]]:
    def area(subject: Subject) -> Iterator[Finding]:
        yield Finding("first", "broken", "ok", "this was found before")
        raise error

    return area


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/proc/x"), "PermissionError"),
        (ZeroDivisionError("division by zero"), "division by zero"),
        (CheckpointError(Problem("x", "the sentence", "y")), "the sentence"),
    ],
)
def test_a_probe_that_fails_is_a_finding(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.AREAS, "broken", raising(error))
    first, last = examine_area("broken", Subject({}, given_gpus=a100s(0)))
    assert first.id == "first"
    assert (last.id, last.area, last.level) == ("examination-failed", "broken", "warning")
    assert said in last.what


def test_an_empty_environment_and_no_programs_at_all(project: Path) -> None:
    """Nothing is on PATH: much is found missing, and no area fails."""
    findings = examine(Subject({"PATH": ""}))
    assert "examination-failed" not in {finding.id for finding in findings}
    missing = {finding.id for finding in findings if finding.level == "problem"}
    assert {"no-gpt-neox", "gxx", "no-gpu"} <= missing


def test_every_problem_has_a_remedy_and_every_finding_its_form(load: Callable[..., Any]) -> None:
    config = load("hidden_size=63", "precision=bfloat16", "use_wandb=true", "launcher=openmpi", "gaff.moments=keep")
    for finding in examine(Subject({"PATH": "", "MASTER_PORT": "1"}, config, given_gpus=a100s(3))):
        assert finding.area in AREAS
        assert finding.level in LEVELS
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", finding.id)
        assert finding.what.splitlines() == [finding.what]
        assert not finding.what.endswith(".")
        assert finding.remedy or finding.level in ("ok", "note"), finding
        assert "config FILE" not in (finding.remedy or "")


def test_overrides_become_whole_commands(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def area(subject: Subject) -> Iterator[Finding]:
        yield Finding("x", "some", "problem", "w", "-o a=1  # that\n-o b='[LAYERS]'\ngaff rehearse --config FILE")

    monkeypatch.setitem(module.AREAS, "some", area)
    config = load_config([write(name="my run.yml")], ["seed=5"])
    (finding,) = examine_area("some", Subject({}, config, overrides=("seed=5",)))
    given = "--config 'my run.yml' -o seed=5"
    assert finding.remedy == f"gaff run {given} -o a=1  # that\ngaff run {given} -o b='[2]'\ngaff rehearse {given}"
    (alone,) = examine_area("some", Subject({}))
    assert (alone.remedy or "").startswith("gaff run --config FILE -o a=1")


def test_the_gravest_finding_decides() -> None:
    notes = [Finding("a", "x", "ok", "fine"), Finding("b", "x", "warning", "hm", "true")]
    assert (worst([]), worst(notes)) == ("ok", "warning")
    assert to_json(notes) == {
        "schema": "gaff.doctor/1",
        "worst": "warning",
        "findings": [
            {"id": "a", "area": "x", "level": "ok", "what": "fine", "remedy": None},
            {"id": "b", "area": "x", "level": "warning", "what": "hm", "remedy": "true"},
        ],
    }
