# SPDX-License-Identifier: Apache-2.0
"""Rules of the house: imports only go down, nothing names a machine, what the README promises is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    "errors",
    "files",
    "plan",
    "checkpoint",
    "data",
    "cluster",
    "trainers",
    "supervisor",
    "report",
    "doctor",
    "cli",
]  # lowest first
MODULES = sorted((ROOT / "gaff").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Names of the packages of gaff that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gaff."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("gaff.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    own = path.relative_to(ROOT / "gaff").with_suffix("").parts[0]
    if own not in LAYERS:  # gaff/__init__.py and gaff/__main__.py
        return
    above = [name for name in imported(path) if LAYERS.index(name) > LAYERS.index(own)]
    assert above == []


def test_every_verb_of_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    verbs = set(re.findall(r"gaff (surgery [a-z]+|[a-z]+)(?=[ `\n])", readme))
    assert {"run", "rehearse", "plan", "status", "surgery reset"} <= verbs
    for verb in sorted(verbs - {"block", "on"}):
        done = subprocess.run(
            [sys.executable, "-m", "gaff", *verb.split(), "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, verb


def test_every_file_that_the_readme_names_exists() -> None:
    for page in (ROOT / "README.md", ROOT / "neox_configs" / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), target


def test_every_test_that_the_docs_name_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "neox.md").read_text())
    assert len(set(named)) >= 30
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


def test_each_of_the_twenty_surprises_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \|.*::test_", (ROOT / "docs" / "neox.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 21))
