# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.doctor.neox_python import ask_neox_python, requirement
from gaff.doctor.subject import Subject, subject_of
from gaff.plan.config import load_config
from gaff.trainers.neox.trainer import NeoxTrainer
from tests.doctor.conftest import a100s
from tests.plan.conftest import load, project, write
from tests.trainers.neox.install_parts import write_tree

__all__ = ["load", "project", "write"]


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAFF_HOME", str(tmp_path / "home"))
    for name in ("GPT_NEOX_DIR", "GPT_NEOX_PYTHON"):
        monkeypatch.delenv(name, raising=False)


def test_where_a_run_would_live(write: Callable[..., Path], project: Path) -> None:
    config = load_config([write(name="small.yml")])
    assert subject_of(config, None, None, {"PATH": ""}).save == project / "runs" / "small" / "checkpoints"
    assert subject_of(config, None, Path("there"), {"PATH": ""}).save == project / "there" / "checkpoints"
    saved = load_config([write(name="small.yml")], ["save=elsewhere"])
    assert subject_of(saved, None, None, {"PATH": ""}).save == project / "elsewhere"


def test_which_gpt_neox(load: Callable[..., Any], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subject_of(None, None, None, {"PATH": ""}).neox_dir is None
    monkeypatch.setenv("GPT_NEOX_DIR", "/from/variable")
    assert subject_of(None, None, None, {"PATH": ""}).neox_dir == Path("/from/variable")
    named = subject_of(load("gaff.neox_dir=there", "gaff.neox_python=/py"), None, None, {"PATH": ""})
    assert (named.neox_dir, named.neox_python) == (project / "there", "/py")
    assert subject_of(load("gaff.neox_dir=there"), Path("/option"), None, {"PATH": ""}).neox_dir == Path("/option")


def test_what_names_it_and_what_installs_for_it(
    load: Callable[..., Any], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = subject_of(None, None, None, {"PATH": ""})
    assert (nothing.named_by, nothing.install(for_checkout=True)) == (None, "gaff neox install --cpu")
    monkeypatch.setenv("GPT_NEOX_DIR", "/no/checkout")
    assert "--source" not in subject_of(None, None, None, {"PATH": ""}).install(for_checkout=True)
    tree = write_tree(tmp_path / "a tree")
    monkeypatch.setenv("GPT_NEOX_DIR", str(tree))
    named = subject_of(None, None, None, {"PATH": ""})
    assert (named.named_by, named.python_named_by, named.install()) == ("GPT_NEOX_DIR", None, "gaff neox install --cpu")
    assert named.install(for_checkout=True) == f"gaff neox install --source '{tree}' --cpu"
    monkeypatch.setenv("GPT_NEOX_PYTHON", "/from/variable")
    config = load("gaff.neox_dir=there", "gaff.neox_python=/py", "gaff.device=cpu")
    both = subject_of(config, None, None, {"PATH": ""})
    assert (both.named_by, both.python_named_by) == ("gaff.neox_dir", "gaff.neox_python")
    assert subject_of(config, Path("/option"), None, {"PATH": ""}).named_by == "--neox-dir"
    assert replace(both, given_gpus=a100s(1)).on_cpu
    assert not replace(named, given_gpus=a100s(1)).on_cpu


def test_the_search_path_is_that_of_a_launch() -> None:
    subject = Subject({"PATH": "/usr/bin"}, neox_dir=Path("/neox"), neox_python=sys.executable)
    assert subject.search_path == NeoxTrainer(Path("/neox"), sys.executable).search_path({"PATH": "/usr/bin"})
    assert Subject({}).search_path == os.defpath


def test_what_is_not_looked_at(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_NEOX_DIR", "/from/variable")
    bundled = subject_of(load("gaff.trainer=bundled"), None, None, {"PATH": ""})
    assert (bundled.trainer, bundled.on_gpus, bundled.neox_dir) == ("bundled", False, None)
    inside = subject_of(load("gaff.container={engine: docker, image: x}"), None, None, {"PATH": ""})
    assert (inside.contained, inside.neox_dir) == (True, None)
    assert subject_of(load("gaff.device=cpu"), None, None, {"PATH": ""}).on_gpus is False


def test_gpus_of_the_run(load: Callable[..., Any]) -> None:
    subject = Subject({}, load("global_num_gpus=null", "model_parallel_size=2"), given_gpus=a100s(8))
    assert (subject.gpus_of_run(), subject.replicas()) == (8, 4)
    assert replace(subject, config=load("global_num_gpus=64")).replicas() == 64
    assert replace(subject, given_gpus=a100s(0)).replicas() == 1


def test_a_config_without_a_plan_is_still_a_subject(load: Callable[..., Any]) -> None:
    assert Subject({}, load("train_iters=null")).plan is None


def test_gaffs_own_python_answers() -> None:
    answer = ask_neox_python(sys.executable)
    assert answer.interpreter is not None
    assert answer.interpreter.python == sys.version_info[:3]
    assert answer.is_own
    assert answer.foundation is not None
    torch = pytest.importorskip("torch")
    assert answer.torch_cuda == tuple(int(part) for part in (torch.version.cuda or "").split(".") if part)
    assert answer.version("torch") == torch.__version__


def test_a_python_that_is_none(tmp_path: Path) -> None:
    assert ask_neox_python(str(tmp_path / "python")).trouble == "No such file or directory"


def test_requirements_of_the_tested_set() -> None:
    assert requirement("numpy") == "numpy<2"
    assert requirement("transformers") == "transformers==4.38.0"
    assert requirement("mpi4py") == "mpi4py"
