# SPDX-License-Identifier: Apache-2.0
"""The CPU variant of the image, built for real from both recipes over a fresh Debian, and used inside.

`containers/check build` does it and is what is tested; it ends with an error at the first thing that is not as it
should be: the image's user, labels and health check, its steps' own check as a user that it does not know and, for the
Dockerfile, a whole rehearsal on the bundled trainer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not (shutil.which("buildah") and shutil.which("debootstrap")), reason="buildah or debootstrap is not installed"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and chroots need root"),
]


@pytest.mark.timeout(2000)
def test_both_recipes_build_the_cpu_variant_and_it_rehearses_inside(tmp_path: Path) -> None:
    check = [sys.executable, "-B", str(ROOT / "containers" / "check")]
    build = [
        *check,
        "build",
        "--variant",
        "cpu",
        "--base",
        "debootstrap",
        "--engine",
        "buildah",
        "--neox-source",
        "none",
    ]
    try:
        done = subprocess.run(
            [*build, "--work", str(tmp_path / "work")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1900,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        for part in ("Dockerfile", "what it made", "gaff.def"):
            assert f"containers/check: {part}: fine" in done.stdout
        assert "resets" in done.stdout  # of the plan and of the rehearsal
    finally:
        shutil.rmtree(tmp_path / "work", ignore_errors=True)  # gigabytes, which pytest would keep


@pytest.mark.timeout(600)
def test_a_step_that_fails_ends_the_build(tmp_path: Path) -> None:
    """Over an image with nothing in it the first step cannot even start."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "containers", project / "containers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    for name in ("gaff", "slurm"):
        (project / name).mkdir()
    command = [sys.executable, "-B", str(project / "containers" / "check"), "build", "--variant", "cpu"]
    command += ["--engine", "buildah", "--base", "scratch", "--work", str(tmp_path / "work")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500)
    assert done.returncode == 1
    assert "containers/check: `buildah" in done.stdout
    assert "Traceback" not in done.stdout
