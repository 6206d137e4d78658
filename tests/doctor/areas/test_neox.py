# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.doctor.areas.neox import NeoxFacts, gather, judge, needed_packages
from gaff.doctor.finding import Finding
from gaff.doctor.neox_python import NeoxPython
from gaff.doctor.subject import Subject
from gaff.errors import Problem
from gaff.trainers.neox.interpreter import Interpreter
from gaff.trainers.neox.versions import PINNED_COMMIT
from tests.doctor.conftest import a100s

VERSIONS = {"torch": "2.13.0+cpu", "deepspeed": "0.16.5", "transformers": "4.38.0", "numpy": "1.26.4"}


def python(**versions: str | None) -> NeoxPython:
    return NeoxPython("/neox/bin/python", Interpreter("/neox/bin/python", (3, 11, 7), (), {**VERSIONS, **versions}))


FINE = NeoxFacts(Path("/neox"), None, PINNED_COMMIT, (), "gaff neox install", python(), {})


def found(facts: NeoxFacts) -> dict[str, Finding]:
    return {finding.id: finding for finding in judge(facts) if finding.level != "ok"}


def test_the_tested_commit_and_versions_are_fine() -> None:
    assert found(FINE) == {}
    assert [finding.id for finding in judge(FINE)] == ["neox-commit", "versions"]


def test_no_gpt_neox_at_all() -> None:
    finding = found(replace(FINE, root=None))["no-gpt-neox"]
    assert (finding.level, (finding.remedy or "").split("  #")[0]) == ("problem", "gaff neox install")


@pytest.mark.parametrize(
    ("named_by", "remedy"),
    [
        (None, "gaff neox install"),
        ("--neox-dir", "gaff neox install  # and leave --neox-dir out"),
        ("GPT_NEOX_DIR", "unset GPT_NEOX_DIR  # after: gaff neox install"),
        ("gaff.neox_dir", "-o gaff.neox_dir=null  # after: gaff neox install"),
    ],
)
def test_what_names_a_wrong_checkout_has_to_go(named_by: str | None, remedy: str) -> None:
    wrong = replace(FINE, problem=Problem("no-gpt-neox", "is none", "name one"), named_by=named_by)
    assert found(wrong)["no-gpt-neox"].remedy == remedy


@pytest.mark.parametrize("named_by", [None, "GPT_NEOX_DIR"])
def test_a_named_checkout_is_mended_itself(named_by: str | None) -> None:
    remedy = found(replace(FINE, commit="0" * 40, named_by=named_by))["neox-commit"].remedy
    assert remedy == (f"git -C /neox checkout {PINNED_COMMIT[:8]}" if named_by else "gaff neox install")


def test_another_commit_and_changed_files() -> None:
    findings = found(replace(FINE, commit="0" * 40, changes=("M train.py", "?? a", "?? b", "?? c")))
    assert findings["neox-commit"].level == "warning"
    assert findings["neox-changed"].what.endswith("train.py, a, b and 1 more")


@pytest.mark.parametrize(
    ("name", "version", "level"),
    [("torch", "2.7.1+cu126", "note"), ("numpy", "2.1.0", "warning"), ("deepspeed", "0.18.0", "warning")],
)
def test_versions_that_were_not_tested(name: str, version: str, level: str) -> None:
    finding = found(replace(FINE, python=python(**{name: version})))[f"{name}-version"]
    assert finding.level == level
    assert (finding.remedy is None) == (name == "torch")


def test_what_a_config_needs_and_the_python_lacks() -> None:
    needed = {"flash-attn": "attention_config", "apex": "layernorm_fusion", "wandb": "use_wandb"}
    findings = found(replace(FINE, needed=needed, python=python(wandb="0.17.0")))
    assert {name: finding.level for name, finding in findings.items()} == {
        "needs-flash-attn": "problem",
        "needs-apex": "problem",
    }
    assert "pip install flash-attn==2.5.6 --no-build-isolation" in (findings["needs-flash-attn"].remedy or "")
    assert (findings["needs-apex"].remedy or "").startswith("-o layernorm_fusion=false")


def test_what_keys_need(load: Callable[..., Any]) -> None:
    config = load(
        'attention_config=[[["flash"], 2]]',
        "norm=te_rmsnorm",
        "rmsnorm_fusion=true",
        "use_wandb=true",
        "launcher=openmpi",
    )
    needed = {
        "flash-attn": "attention_config",
        "transformer-engine": "norm",
        "apex": "rmsnorm_fusion",
        "wandb": "use_wandb",
        "mpi4py": "launcher",
    }
    assert needed_packages(config, on_gpus=True) == needed
    assert needed_packages(config, on_gpus=False) == {"wandb": "use_wandb", "mpi4py": "launcher"}
    assert needed_packages(load(), on_gpus=True) == {}


def test_a_directory_that_is_no_checkout(tmp_path: Path) -> None:
    facts = gather(Subject({"PATH": ""}, neox_dir=tmp_path, given_gpus=a100s(0)))
    assert "lacks deepy.py" in found(facts)["no-gpt-neox"].what


def test_a_real_work_tree(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", *identity, "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "megatron").mkdir()
    for name in ("deepy.py", "train.py", "megatron/__init__.py"):
        (tmp_path / name).touch()
    git("add", ".")
    git("commit", "-qm", "x")
    (tmp_path / "train.py").write_text("changed")
    findings = found(gather(Subject({"PATH": ""}, neox_dir=tmp_path, given_gpus=a100s(0))))
    assert findings["neox-commit"].level == "warning"
    assert "train.py" in findings["neox-changed"].what
