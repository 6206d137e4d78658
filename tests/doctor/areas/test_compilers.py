# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gaff.doctor.areas.compilers import CompilerFacts, gather, judge
from gaff.doctor.finding import Finding
from gaff.doctor.neox_python import NeoxPython
from gaff.doctor.probes import Tool
from gaff.doctor.subject import Subject
from gaff.trainers.neox.interpreter import Foundation
from tests.doctor.conftest import a100s

Programs = Callable[..., dict[str, str]]
SUFFIX = ".cpython-311-x86_64-linux-gnu.so"
FOUNDATION = Foundation(
    "/py/bin/python", (3, 11, 7), Path("/py/Python.h"), SUFFIX, Path("/py/bin/python3.11-config"), True
)
NEOX = NeoxPython("/neox/bin/python", None, None, FOUNDATION, (12, 1))
FINE = CompilerFacts(
    named={},
    gxx=Tool("/usr/bin/g++", (12, 2, 0)),
    make=Tool("/usr/bin/make", (4, 3)),
    ninja=Tool("/usr/bin/ninja", (1, 11)),
    nvcc=Tool("/cuda/bin/nvcc", (12, 4)),
    cuda_home=None,
    cuda_home_there=False,
    gpus=True,
    kernels=(),
    neox=NEOX,
    python_config=("/py/bin/python3-config", SUFFIX),
    helper_built=False,
)


def found(facts: CompilerFacts) -> dict[str, Finding]:
    return {finding.id: finding for finding in judge(facts) if finding.level != "ok"}


def test_nothing_is_wrong_with_a_fine_machine() -> None:
    assert found(FINE) == {}


@pytest.mark.parametrize(
    "gxx", [None, Tool("/usr/bin/g++", (7, 5, 0)), Tool("/usr/bin/g++", (12, 2), "error: no <filesystem>")]
)
def test_no_usable_gxx(gxx: Tool | None) -> None:
    finding = found(replace(FINE, gxx=gxx))["gxx"]
    assert finding.level == "problem"
    assert "module load gcc" in (finding.remedy or "")


def test_a_python_config_of_another_python_gets_the_right_one_before_it() -> None:
    other = replace(FINE, python_config=("/usr/bin/python3-config", ".cpython-39-x86_64-linux-gnu.so"))
    finding = found(other)["python-config"]
    assert finding.level == "problem"
    assert finding.remedy == "ln -s /py/bin/python3.11-config /neox/bin/python3-config"
    assert found(replace(other, helper_built=True))["python-config"].level == "warning"


def test_no_python_config_no_make_no_headers() -> None:
    findings = found(replace(FINE, python_config=None, make=None, headers=False, ninja=None))
    assert {name: finding.level for name, finding in findings.items()} == {
        "python-config": "problem",
        "make": "problem",
        "python-headers": "problem",
        "ninja": "warning",
    }
    assert findings["ninja"].remedy == "/neox/bin/python -m pip install ninja"


def test_nvcc_is_needed_where_kernels_are_compiled_at_every_start() -> None:
    assert found(replace(FINE, nvcc=None))["nvcc"].level == "warning"
    finding = found(replace(FINE, nvcc=None, kernels=("rope_fusion",)))["nvcc"]
    assert finding.level == "problem"
    assert "-o rope_fusion=false" in (finding.remedy or "")
    assert found(replace(FINE, nvcc=None, gpus=False)) == {}


def test_nvcc_of_another_major_version_than_torch() -> None:
    finding = found(replace(FINE, nvcc=Tool("/cuda/bin/nvcc", (11, 8))))["nvcc-version"]
    assert (finding.level, finding.remedy and finding.remedy.split(" &&")[0]) == ("problem", "module load cuda/12.1")


def test_a_cuda_home_that_is_not_there() -> None:
    assert found(replace(FINE, cuda_home="/opt/cuda-10"))["cuda-home"].level == "problem"


@pytest.mark.parametrize(
    ("variables", "trapped"),
    [
        ({"CXX": "icpc"}, True),
        ({"CXX": "/opt/cray/pe/craype/2.7/bin/CC", "CC": "cc"}, True),
        ({"CXX": "nvc++"}, True),
        ({"CC": "icx"}, True),
        ({"CXX": "/usr/bin/g++-12", "CC": "gcc-12"}, False),
        ({"CXX": "ccache g++"}, False),
        ({}, False),
    ],
)
def test_the_trap_of_another_compiler(variables: dict[str, str], trapped: bool, programs: Programs) -> None:
    facts = gather(Subject({**programs(), **variables}, given_gpus=a100s(0)))
    assert ("cxx-trap" in found(facts)) == trapped
    if trapped:
        assert found(facts)["cxx-trap"].remedy == "export CXX=g++ CC=gcc"


def test_programs_are_asked_for_what_they_can_do(programs: Programs) -> None:
    environment = programs(
        gxx='case "$1" in -dump*) echo 12.2.0;; *) cat >&2; exit 1;; esac',
        make="echo GNU Make 4.3",
        nvcc="echo 'Cuda compilation tools, release 12.1, V12.1.105'",
    )
    facts = gather(Subject(environment, given_gpus=a100s(1)))
    assert facts.gxx is not None
    assert facts.gxx.version == (12, 2, 0)
    assert facts.gxx.trouble is not None  # it is given a program, and fails
    assert facts.make is not None
    assert facts.make.version == (4, 3)
    assert facts.nvcc is not None
    assert facts.nvcc.version == (12, 1)
    assert (facts.ninja, facts.gpus) == (None, True)


def test_the_compiler_of_this_machine() -> None:
    facts = gather(Subject(os.environ, given_gpus=a100s(0)))
    if facts.gxx is None:
        pytest.skip("there is no g++")
    assert facts.gxx.trouble is None


def test_the_python_config_of_a_launch_is_that_of_its_python(tmp_path: Path, programs: Programs) -> None:
    """The PATH of a launch begins with GPT-NeoX's Python, whatever this shell's begins with."""
    environment = programs(python3_config="echo .other.so")
    own = tmp_path / "env" / "bin"
    own.mkdir(parents=True)
    (own / "python3-config").write_text(f"#!/bin/sh\necho {SUFFIX}\n")
    (own / "python3-config").chmod(0o755)
    (tmp_path / "neox").mkdir()
    subject = Subject(environment, neox_dir=tmp_path / "neox", neox_python=str(own / "python"), given_gpus=a100s(0))
    assert gather(subject).python_config == (str(own / "python3-config"), SUFFIX)
