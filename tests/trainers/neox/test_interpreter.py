# SPDX-License-Identifier: Apache-2.0
"""What a Python is asked about itself."""

from __future__ import annotations

import importlib.metadata
import stat
import sys
from pathlib import Path

import pytest

from gaff.trainers.neox.interpreter import NEEDED, ask, ask_distributions, ask_foundation
from gaff.trainers.neox.versions import TESTED, is_tested


def test_a_python_tells_its_version_and_what_it_has() -> None:
    found = ask(sys.executable, ("numpy", "no-such-distribution"))
    assert found.python == sys.version_info[:3]
    assert found.versions == {"numpy": importlib.metadata.version("numpy"), "no-such-distribution": None}
    assert "numpy" not in found.missing
    assert set(found.missing) <= set(NEEDED)
    assert ask_distributions(sys.executable)["numpy"] == found.versions["numpy"]


def test_a_folder_here_that_is_called_like_a_package_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask(sys.executable).missing
    for module in NEEDED:
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").touch()
    (tmp_path / "json.py").write_text("raise SystemExit('imported from here')")
    monkeypatch.chdir(tmp_path)
    assert ask(sys.executable).missing == before


def test_what_an_environment_can_be_made_of() -> None:
    found = ask_foundation(sys.executable)
    assert found.python == sys.version_info[:3]
    assert found.headers.name == "Python.h"
    assert found.config_script.name == f"python3.{sys.version_info.minor}-config"
    assert found.suffix.endswith(".so")
    assert found.can_make


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho broken >&2; exit 3\n", "it exited with 3, saying: broken"),
        ("#!/bin/sh\necho hello\n", "its answer is not that of a Python"),
        ("no program\n", "Permission denied"),
    ],
)
def test_what_is_no_python_is_said_why(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "python"
    path.write_text(text)
    if text.startswith("#!"):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    for question in (ask, ask_foundation, ask_distributions):
        with pytest.raises(OSError, match=words):
            question(str(path))


def test_a_build_of_a_tested_version_is_tested() -> None:
    assert is_tested("torch", TESTED["torch"][0])
    assert is_tested("torch", TESTED["torch"][0] + "+cpu")
    assert not is_tested("torch", "1.13.1")
