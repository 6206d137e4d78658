# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from gaff.doctor.areas.python import PythonFacts, judge, unmet
from gaff.doctor.neox_python import NeoxPython
from gaff.trainers.neox.interpreter import Interpreter

FINE = PythonFacts("/venv/bin/python", (3, 11, 7), (), None, None)


def neox(python: tuple[int, int, int] = (3, 10, 2), missing: tuple[str, ...] = ()) -> NeoxPython:
    return NeoxPython("/neox/bin/python", Interpreter("/neox/bin/python", python, missing, {}))


def ids(facts: PythonFacts) -> dict[str, str]:
    return {finding.id: finding.level for finding in judge(facts)}


def test_nothing_missing() -> None:
    assert ids(FINE) == {"gaff": "ok"}
    assert ids(replace(FINE, neox=neox(), bundled=())) == {"gaff": "ok", "bundled-packages": "ok", "neox-python": "ok"}


def test_what_gaff_lacks_is_installed_into_its_own_python() -> None:
    needed, slower = judge(replace(FINE, lacking=("psutil>=5.9", "isal>=1.7")))
    assert (needed.level, needed.remedy) == ("problem", "/venv/bin/python -m pip install 'psutil>=5.9'")
    assert (slower.level, slower.remedy) == ("note", "/venv/bin/python -m pip install 'isal>=1.7'")


def test_the_bundled_trainer() -> None:
    finding = list(judge(replace(FINE, bundled=("deepspeed==0.16.5",))))[-1]
    assert (finding.id, finding.level) == ("bundled-packages", "problem")
    assert finding.remedy == "/venv/bin/python -m pip install deepspeed==0.16.5"


def test_a_python_for_gpt_neox_that_does_not_run() -> None:
    finding = list(judge(replace(FINE, neox=NeoxPython("/no/python", None, "No such file or directory"))))[-1]
    assert (finding.id, finding.level) == ("neox-python", "problem")
    assert "/no/python" in finding.what
    assert "No such file" in finding.what


@pytest.mark.parametrize(
    ("named_by", "remedy"),
    [
        (None, "gaff neox install --cpu  # or name another: export GPT_NEOX_PYTHON=PATH"),
        ("GPT_NEOX_PYTHON", "unset GPT_NEOX_PYTHON  # or name another; one of its own makes: gaff neox install --cpu"),
        ("gaff.neox_python", "-o gaff.neox_python=null  # or name another; one of its own makes: "
                             "gaff neox install --cpu"),
    ],
)  # fmt: skip
def test_what_names_a_wrong_python_has_to_go(named_by: str | None, remedy: str) -> None:
    own = NeoxPython(sys.executable, Interpreter(sys.executable, (3, 11, 7), ("torch",), {}))
    for wrong in (NeoxPython("/no/python", None, "No such file or directory"), own):
        facts = replace(FINE, neox=wrong, named_by=named_by, install="gaff neox install --cpu")
        assert list(judge(facts))[-1].remedy == remedy


@pytest.mark.parametrize("version", [(3, 7, 1), (3, 13, 0)])
def test_a_python_that_gpt_neox_has_no_wheels_for(version: tuple[int, int, int]) -> None:
    assert ids(replace(FINE, neox=neox(version)))["neox-python-version"] == "warning"


def test_packages_that_gpt_neox_lacks_are_installed_at_the_tested_versions() -> None:
    finding = list(judge(replace(FINE, neox=neox(missing=("transformers", "numpy", "pkg_resources", "ftfy")))))[-1]
    assert (finding.id, finding.level) == ("neox-packages", "problem")
    assert finding.remedy is not None
    assert finding.remedy.startswith(
        "/neox/bin/python -m pip install transformers==4.38.0 'numpy<2' 'setuptools<80' ftfy"
    )


@pytest.mark.parametrize(
    ("requirement", "installed", "met"),
    [
        ("numpy>=1.26", "2.0.1", True),
        ("numpy>=1.26", "1.9", False),
        ("deepspeed==0.16.5", "0.16.5", True),
        ("deepspeed==0.16.5", "0.16.50", False),
        ("PyYAML>=6.0", "6", True),
        ("isal>=1.7; platform_machine in 'x86_64'", "1.8.0", True),
        ("setuptools<80,>=60", "80.1", False),
        ("torch>=2.4", "2.13.0+cpu", True),
        ("torch>=2.4", None, False),
    ],
)
def test_versions_against_requirements(requirement: str, installed: str | None, met: bool) -> None:
    name = requirement.split(";")[0]
    found = list(unmet([requirement], {} if installed is None else dict.fromkeys(_names(requirement), installed)))
    assert found == ([] if met else [name.strip()])


def _names(requirement: str) -> list[str]:
    return [requirement.split(sign)[0] for sign in (">=", "==", "<") if sign in requirement]
