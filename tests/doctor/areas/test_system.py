# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import resource
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from gaff.doctor.areas.system import SystemFacts, gather, judge
from gaff.doctor.finding import Finding
from gaff.doctor.subject import Subject
from tests.doctor.conftest import a100s

FINE = SystemFacts(
    system="Linux",
    git=True,
    files=1_048_576,
    locked=None,
    core=0,
    infiniband=True,
    overcommit=1,
    now=1.8e9,
    newest=1.7e9,
    cores=8,
    environment={},
    netrc=False,
    wandb_asked=False,
    neox=True,
    gpus=True,
)


def found(facts: SystemFacts) -> dict[str, Finding]:
    return {finding.id: finding for finding in judge(facts) if finding.level != "ok"}


def test_a_fine_system() -> None:
    assert found(FINE) == {}


@pytest.mark.parametrize(
    ("changed", "name", "level"),
    [
        ({"system": "Darwin"}, "not-linux", "problem"),
        ({"git": False}, "git", "warning"),
        ({"now": 1e9}, "clock", "problem"),
        ({"now": 1.6e9}, "clock", "problem"),
        ({"files": 1024}, "limit-files", "warning"),
        ({"locked": 65536}, "limit-locked", "warning"),
        ({"core": None}, "core-dumps", "note"),
        ({"overcommit": 2}, "overcommit", "warning"),
        ({"environment": {"NCCL_P2P_DISABLE": "1"}}, "env-nccl-p2p-disable", "note"),
        ({"environment": {"OMP_NUM_THREADS": "64"}}, "env-omp-num-threads", "warning"),
        ({"environment": {"CUDA_LAUNCH_BLOCKING": "1"}}, "env-cuda-launch-blocking", "warning"),
        ({"environment": {"WANDB_API_KEY": "x"}}, "wandb-key", "note"),
        ({"netrc": True}, "wandb-key", "note"),
        ({"wandb_asked": True}, "wandb-key", "problem"),
    ],
)
def test_what_is_found(changed: dict[str, object], name: str, level: str) -> None:
    findings = found(replace(FINE, **changed))  # type: ignore[arg-type]
    assert {key: finding.level for key, finding in findings.items()} == {name: level}
    assert findings[name].remedy


def test_a_small_lock_limit_matters_for_infiniband_only() -> None:
    assert found(replace(FINE, locked=65536, infiniband=False)) == {}


def test_wandb_offline_needs_no_key() -> None:
    assert found(replace(FINE, wandb_asked=True, environment={"WANDB_MODE": "offline"})) == {}


def test_no_secret_is_repeated() -> None:
    said = str(found(replace(FINE, environment={"WANDB_API_KEY": "s3cret"})))
    assert "s3cret" not in said


def test_a_key_in_netrc_is_noticed(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password s3cret\n")
    assert gather(Subject({"HOME": str(tmp_path), "PATH": ""}, given_gpus=a100s(0))).netrc is True
    assert gather(Subject({"HOME": "/nowhere", "PATH": ""}, given_gpus=a100s(0))).netrc is False


def test_the_limits_are_those_of_this_process() -> None:
    facts = gather(Subject({"PATH": ""}, given_gpus=a100s(0)))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert facts.files == (None if soft == resource.RLIM_INFINITY else soft)


def test_the_remedy_for_few_files_works_in_a_shell() -> None:
    remedy = found(replace(FINE, files=1024))["limit-files"].remedy or ""
    done = subprocess.run(
        ["bash", "-c", f"ulimit -Sn 256; {remedy}; ulimit -n"], capture_output=True, text=True, check=True
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert shlex.split(done.stdout) == ["unlimited" if hard == resource.RLIM_INFINITY else str(hard)]
