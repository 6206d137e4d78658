# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gaff.doctor.areas.extensions import ExtensionFacts, examine, extension_directory, gather, judge
from gaff.doctor.finding import Finding
from gaff.doctor.subject import Subject
from tests.doctor.conftest import a100s


def subject(cache: Path, **others: Path) -> Subject:
    return Subject({"TORCH_EXTENSIONS_DIR": str(cache), "PATH": ""}, given_gpus=a100s(0), **others)  # type: ignore[arg-type]


def build(cache: Path, op: str = "fused_adam") -> Path:
    folder = cache / "py311_cu121" / op
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    return folder


def one(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.id == name]
    return found


def test_a_lock_that_a_killed_build_left_is_removed_by_the_remedy(tmp_path: Path) -> None:
    build(tmp_path / "with blank")
    finding = one(list(examine(subject(tmp_path / "with blank"))), "extension-lock")
    assert finding.level == "problem"
    subprocess.run(["sh", "-c", finding.remedy or "false"], check=True)
    assert [f.level for f in examine(subject(tmp_path / "with blank"))] == ["ok"]


def test_locks_of_gpt_neox_own_kernels(tmp_path: Path) -> None:
    lock = tmp_path / "neox" / "megatron" / "fused_kernels" / "build" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    facts = gather(subject(tmp_path / "cache", neox_dir=tmp_path / "neox"))
    assert facts.locks == (lock,)


def test_a_build_that_goes_on_keeps_its_lock(tmp_path: Path) -> None:
    folder = build(tmp_path)
    sleep = shutil.which("sleep")
    assert sleep
    compiler = tmp_path / "ninja"  # the name of a process is that of its program
    shutil.copy(sleep, compiler)
    process = subprocess.Popen([str(compiler), "60"], cwd=folder)
    try:
        if psutil.Process(process.pid).name() != "ninja":
            pytest.skip("sleep is a link to a program of many names here")
        findings = list(examine(subject(tmp_path)))
    finally:
        process.kill()
        process.wait()
    assert [finding.id for finding in findings] == ["extension-build"]
    assert one(list(examine(subject(tmp_path))), "extension-lock").level == "problem"


def test_ops_on_a_network_file_system() -> None:
    finding = one(list(judge(ExtensionFacts(Path("/home/me/x"), "nfs4", (), ()))), "extension-directory")
    assert finding.level == "warning"
    assert (finding.remedy or "").startswith("export TORCH_EXTENSIONS_DIR=")


def test_where_torch_builds() -> None:
    assert extension_directory({"TORCH_EXTENSIONS_DIR": "/x"}, Path("/installed")) == Path("/x")
    assert extension_directory({"HOME": "/home/me"}, Path("/installed")) == Path("/installed")
    assert extension_directory({"HOME": "/home/me", "XDG_CACHE_HOME": "/c"}, None) == Path("/c/torch_extensions")
    cpp = pytest.importorskip("torch.utils.cpp_extension")
    asked = subprocess.run(
        [sys.executable, "-c", f"import {cpp.__name__} as c; print(c.get_default_build_root())"],
        env={"HOME": "/home/me"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(asked.stdout.strip()) == extension_directory({"HOME": "/home/me"}, None)
