# SPDX-License-Identifier: Apache-2.0
"""The recipes of the images agree with each other, with versions.env and with what GAFF was tested with; a broken copy
is refused with a line that names what is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gaff.trainers.neox.versions import CPU_SET, GPU_SET, PINNED_COMMIT, REPOSITORY

ROOT = Path(__file__).parents[2]
STEPS = ROOT / "containers" / "steps"


def has(linter: str) -> bool:
    return bool(shutil.which(linter) or shutil.which(linter, path=str(Path(sys.executable).parent)))


needs_linters = pytest.mark.skipif(
    not (has("hadolint") and has("shellcheck")), reason="hadolint and shellcheck are not installed"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of all that the recipes name, to be broken."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "containers", folder / "containers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("gaff", "slurm"):
        (folder / name).mkdir()
    return folder


def lint(project: Path) -> tuple[int, str]:
    command = [sys.executable, "-B", str(project / "containers" / "check"), "lint"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def versions(variant: str) -> dict[str, str]:
    """What a step of that variant sees, as bash makes it out of versions.env."""
    script = 'set -a; . "$1"; env -0'
    command = ["bash", "-c", script, "bash", str(ROOT / "containers" / "versions.env")]
    said = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True).stdout
    pairs = dict(entry.split("=", 1) for entry in said.split("\0") if entry)
    return {key.removesuffix(f"_{variant}"): value for key, value in pairs.items()}


def test_versions_are_those_that_gaff_was_tested_with() -> None:
    cpu, gpu = versions("CPU"), versions("GPU")
    assert (cpu["NEOX_REPOSITORY"], cpu["NEOX_COMMIT"]) == (REPOSITORY, PINNED_COMMIT)
    assert (cpu["TORCH"], gpu["TORCH"]) == (CPU_SET.torch, GPU_SET.torch)
    listed = [cpu["DEEPSPEED"], *cpu["NEOX_PACKAGES"].split(), *cpu["BUILD_TOOLS"].split()]
    assert sorted(listed) == sorted(CPU_SET.packages)
    assert gpu["DEEPSPEED"].endswith(f"@{gpu['DEEPSPEED_COMMIT']}")
    assert (gpu["CXX"], gpu["CC"]) == ("g++", "gcc")


def test_the_a100_is_among_the_architectures() -> None:
    assert {"8.0", "9.0"} <= set(versions("GPU")["CUDA_ARCHITECTURES"].split())


@needs_linters
def test_the_recipes_are_in_order() -> None:
    assert lint(ROOT) == (0, "Dockerfile, gaff.def and their steps are in order\n")


@needs_linters
def test_a_copy_is_in_order_as_well(project: Path) -> None:
    assert lint(project)[0] == 0


@needs_linters
@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("gaff.def", "%post\n", "%pst\n", "`%pst` is no section"),
        ("gaff.def", "%post\n", "%post\n%post\n", "is there twice"),
        ("gaff.def", "Bootstrap: docker\n", "", "lacks bootstrap"),
        ("gaff.def", "%test\n    /opt/image/steps/check.sh\n\n", "", "lacks %test"),
        ("gaff.def", "    LICENSE /opt", "    LICENCE /opt", "gaff.def copies LICENCE, which is not there"),
        ("gaff.def", "    /opt/image/steps/kernels.sh\n", "", "gaff.def runs system.sh"),
        ("gaff.def", "{{ MAX_JOBS }}", "{{ MAXJOBS }}", "MAXJOBS is used between braces"),
        ("gaff.def", "TORCH=default", "TORCH=torch==2.8.0", "build arguments differ"),
        ("gaff.def", "export CXX=g++", "export CXX=clang++", "variables differ"),
        ("gaff.def", "licenses Apache-2.0", "licenses MIT", "labels differ"),
        ("gaff.def", "    exec gaff", "    if exec gaff", "%runscript"),
        ("Dockerfile", "COPY gaff ", "COPY graff ", "Dockerfile copies graff, which is not there"),
        ("Dockerfile", "WORKDIR /work", "WORKDIRR /work", "Dockerfile:"),
        ("Dockerfile", "WORKDIR /work", "RUN apt-get install -y tini", "DL3008"),
        ("Dockerfile", "cuda:12.6.3-devel", "cuda:12.4.1-devel", "the base image is"),
        ("Dockerfile", 'image.version="', 'image.version="9', "the label says version 9"),
        ("versions.env", '_GPU="8.0 9.0"', '_GPU="9.0"', "the A100, which is 8.0, is missing"),
        ("versions.env", 'PIP="', "PIP='", 'is not KEY="value"'),
        ("steps/kernels.sh", 'rm -rf "$copy"', "rm -rf $copy", "SC2086"),
    ],
)
def test_what_is_broken_is_named(project: Path, file: str, old: str, new: str, told: str) -> None:
    replace(project / "containers" / file, old, new)
    code, said = lint(project)
    assert code == 1
    assert told in said


@needs_linters
def test_a_step_that_nobody_runs_is_named(project: Path) -> None:
    (project / "containers" / "steps" / "more.sh").write_text("#!/usr/bin/env bash\nset -e\n")
    assert "not run, or not there: more.sh" in lint(project)[1]


@needs_linters
def test_job_scripts_are_looked_at_too(project: Path) -> None:
    (project / "slurm" / "gaff.sge").write_text("#!/bin/bash\ncd $1\n")
    code, said = lint(project)
    assert code == 1
    assert "gaff.sge" in said


def test_a_missing_linter_is_said_in_one_sentence(project: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    bare = Path(sys.executable).resolve()  # the Python that an environment was made of
    if bare.with_name("hadolint").exists():
        pytest.skip("the linters lie beside every Python here")
    command = [str(bare), "-B", str(project / "containers" / "check"), "lint"]
    done = subprocess.run(command, env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Steps that look for the image's files in a directory of this test."""
    folder = tmp_path / "image"
    shutil.copytree(STEPS, folder / "steps")
    shutil.copy(ROOT / "containers" / "versions.env", folder)
    replace(folder / "steps" / "common.sh", "IMAGE_DIR=/opt/image ", f"IMAGE_DIR={folder} ")
    return folder


def of_step(image: Path, name: str, **arguments: str) -> str:
    script = f'. "{image}/steps/common.sh"; printf %s "${name}"'
    environment = {"PATH": os.environ["PATH"], **arguments}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30)
    return done.stdout if done.returncode == 0 else done.stderr


def test_a_build_argument_wins_over_the_file(image: Path) -> None:
    assert of_step(image, "TORCH") == GPU_SET.torch
    assert of_step(image, "TORCH", VARIANT="cpu", TORCH="default") == CPU_SET.torch
    assert of_step(image, "TORCH", VARIANT="cpu", TORCH="") == CPU_SET.torch
    assert of_step(image, "TORCH", TORCH="torch==2.8.0 --index-url X") == "torch==2.8.0 --index-url X"
    assert of_step(image, "NEOX_SOURCE") == REPOSITORY
    assert of_step(image, "CUDA_ARCHITECTURES", CUDA_ARCHITECTURES="8.0") == "8.0"
    assert "it can be gpu or cpu" in of_step(image, "TORCH", VARIANT="tpu")


def test_a_constraints_file_is_kept_to_where_there_is_one(image: Path, tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    script = f'. "{image}/steps/common.sh"; install_into "{tmp_path}/env" numpy'
    environment = {"PATH": os.environ["PATH"], "VARIANT": "cpu"}

    def said() -> str:
        return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True).stdout

    assert "--constraint" not in said()
    (image / "constraints").mkdir()
    (image / "constraints" / "env-cpu.txt").write_text("numpy==1.26.4\n")
    assert said().split()[-3:] == ["--constraint", f"{image}/constraints/env-cpu.txt", "numpy"]
