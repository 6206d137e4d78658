# SPDX-License-Identifier: Apache-2.0
"""`gaff neox install`, the real command with a real git, venv and pip, on a tiny GPT-NeoX and without network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.trainers.neox.home import find
from tests.trainers.neox.install_parts import finish, git, offline, start, write_repository, write_tree, write_wheels

pytestmark = pytest.mark.timeout(600)


def record(home: Path) -> dict[str, Any]:
    (path,) = home.glob("neox/*/installation.json")
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def log(home: Path) -> str:
    (path,) = home.glob("neox/*/install.log")
    return path.read_text()


def wait_until(holds: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not holds():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheels(tmp_path_factory.mktemp("wheels"))


def test_a_clone_for_the_cpu_is_whole_and_done_once(tmp_path: Path, wheels: Path) -> None:
    source, home = write_repository(tmp_path / "source"), tmp_path / "home"
    first = git(source, "rev-parse", "v1^{commit}")
    command = ("install", "--cpu", "--home", home, "--source", source, "--ref", "v1")
    elsewhere = tmp_path / "elsewhere" / "ghost-1.0.dist-info"  # no package of the environment, though on PYTHONPATH
    elsewhere.mkdir(parents=True)
    (elsewhere / "METADATA").write_text("Metadata-Version: 2.1\nName: ghost\nVersion: 1.0\n")
    environment = {**offline(wheels), "PYTHONPATH": str(elsewhere.parent), "CXX": "icpc"}

    code, output, errors = finish(start(environment, *command, "--dry-run"))
    assert code == 0, errors
    assert "the Python package index that pip uses" in output
    assert str(source) in output
    assert not home.exists()

    code, output, errors = finish(start(environment, *command))
    assert code == 0, output + errors
    root = home / "neox" / f"{first[:12]}-cpu"
    installed = find(home=home)
    assert installed is not None
    assert (installed.root, installed.checkout, installed.commit) == (root, root / "gpt-neox", first)
    assert installed.cpu
    assert find(cpu=False, home=home) is None
    assert find(cpu=True, home=home, checkout=tmp_path) is None
    assert (installed.checkout / "version").read_text() == "1\n"
    assert git(installed.checkout, "status", "--porcelain") == ""
    assert list((installed.checkout / "megatron" / "data").glob("helpers.*.so"))
    assert (installed.extensions / "fused_adam" / "fused_adam.so").is_file()
    steps = record(home)["steps"]
    assert list(steps) == ["source", "environment", "torch", "requirements", "helper", "ops", "proof"]
    assert steps["requirements"]["facts"]["versions"]["deepspeed"] == "0.16.5"

    assert "ghost" not in steps["requirements"]["facts"]["versions"]

    before = log(home)
    code, output, _ = finish(start(environment, *command))
    assert code == 0
    assert "everything is in place" in output
    assert log(home) == before

    subprocess.run([installed.python, "-m", "pip", "uninstall", "--yes", "--quiet", "ftfy"], check=True, timeout=120)
    (installed.extensions / "fused_adam" / "lock").touch()  # what a killed build leaves
    code, output, errors = finish(start(environment, *command))
    assert code == 0, output + errors
    done = [line.split(" $ ")[1].split()[1:4] for line in log(home)[len(before) :].splitlines() if " $ " in line]
    assert len(done) == 2  # pip and the op's build; neither git nor venv nor torch again
    assert "install deepspeed" in output
    assert "install torch" not in output
    assert not (installed.extensions / "fused_adam" / "lock").exists()

    code, _, errors = finish(start(environment, *command, "--torch", "torch==9.9"))
    assert code == 1
    assert "No matching distribution" in errors
    assert str(root / "install.log") in errors
    assert "Traceback" not in errors
    assert find(home=home) is None  # it is in two minds now
    code, output, errors = finish(start(environment, *command, "--torch", "torch==2.13.0"))
    assert code == 0, output + errors
    assert find(home=home) is not None

    git(installed.checkout, "checkout", "--quiet", "main")
    code, _, errors = finish(start(environment, *command))
    assert code == 1
    assert "is at" in errors
    assert (installed.checkout / "version").read_text() == "2\n"  # somebody's work is not taken away


@pytest.mark.exhaustive
def test_killed_while_cloning_and_while_pip_unpacks_it_is_finished_by_the_next_two(tmp_path: Path) -> None:
    source, home = write_repository(tmp_path / "source"), tmp_path / "home"
    padded = write_wheels(tmp_path / "wheels", padding=400_000_000)
    command = ("install", "--cpu", "--home", home, "--source", source, "--ref", "main")
    environment = offline(padded)

    # A git that is killed together with GAFF when half of the clone is there.
    shim, real = tmp_path / "bin" / "git", shutil.which("git")
    shim.parent.mkdir()
    shim.write_text(
        '#!/bin/sh\ncase " $* " in *" clone "*) for last; do :; done; mkdir -p "$last/.git"; touch "$last/deepy.py"\n'
        f'kill -9 $PPID $$;; esac\nexec {real} "$@"\n'
    )
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    killed = start({**environment, "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"}, *command)
    assert finish(killed)[0] == -signal.SIGKILL
    assert {path.name for path in home.glob("neox/*/gpt-neox/*")} == {".git", "deepy.py"}
    assert find(home=home) is None

    unpacking = "neox/*/env/lib/python*/site-packages/torch/padding.bin"
    process = start(environment, *command)
    wait_until(lambda: list(home.glob(unpacking)), process)
    os.killpg(process.pid, signal.SIGKILL)  # GAFF and pip at once
    assert finish(process)[0] == -signal.SIGKILL
    assert "torch" not in record(home)["steps"]

    both = [start(environment, *command), start(environment, *command)]
    ends = [finish(process) for process in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    installed = find(home=home)
    assert installed is not None
    (torch,) = home.glob(unpacking)
    assert torch.stat().st_size == 400_000_000
    assert (installed.checkout / "version").read_text() == "2\n"
    commands = [line.split(" $ ")[1] for line in log(home).splitlines() if " $ " in line]
    assert sum("clone" in words for words in commands) == 2  # the killed one, and one more
    assert sum("megatron.training" in words for words in commands) == 1  # the second of the two had nothing to do


@pytest.mark.skipif(
    shutil.disk_usage(tempfile.gettempdir()).free < 2e10, reason="the packages for GPUs are refused on a small disk"
)
def test_an_existing_tree_is_used_in_place_and_left_as_it_is(tmp_path: Path, wheels: Path) -> None:
    tree, home = write_tree(tmp_path / "tree"), tmp_path / "home"
    before = {path.relative_to(tree): path.stat().st_mtime_ns for path in tree.rglob("*")}
    command = ("install", "--home", home, "--source", tree, "--torch", "torch>=2", "--json")
    code, output, errors = finish(start(offline(wheels), *command))
    assert code == 0, output + errors
    assert {path.relative_to(tree): path.stat().st_mtime_ns for path in tree.rglob("*")} == before
    printed = json.loads(output)
    assert printed == record(home)
    assert (printed["checkout"], printed["commit"], printed["device"]) == (str(tree), None, "gpu")
    assert list(printed["steps"]) == ["source", "environment", "torch", "requirements", "proof"]
    assert not list(home.glob("neox/*/gpt-neox"))
    installed = find(home=home, checkout=tree)
    assert installed is not None
    assert not installed.cpu
    shutil.rmtree(tree)
    assert find(home=home) is None


@pytest.mark.neox
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not os.environ.get("GPT_NEOX_DIR"), reason="GPT_NEOX_DIR is not set: there is nothing to install from"
)
def test_the_real_gpt_neox_installs_for_the_cpu(tmp_path: Path) -> None:
    """With its packages from the index that pip uses here."""
    source = Path(os.environ["GPT_NEOX_DIR"])
    commit = git(source, "rev-parse", "HEAD")
    process = start(dict(os.environ), "install", "--cpu", "--home", tmp_path, "--source", source, "--ref", commit)
    output, errors = process.communicate(timeout=3600)
    assert process.returncode == 0, output + errors
    installed = find(cpu=True, home=tmp_path)
    assert installed is not None
    assert installed.commit == commit
    assert git(installed.checkout, "status", "--porcelain") == ""
    assert git(source, "status", "--porcelain") == ""
    code, output, errors = finish(start({**os.environ, "GPT_NEOX_DIR": ""}, "info", "--home", tmp_path, "--json"))
    assert code == 0, output + errors
    used = json.loads(output)["in_use"]
    assert used["python"]["missing"] == []
    assert used["helper_built"]
    assert "fused_adam" in used["ops"]
    versions = used["python"]["versions"]
    assert all(versions[name]["tested"] for name in ("torch", "deepspeed", "transformers", "numpy")), versions
