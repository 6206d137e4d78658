# SPDX-License-Identifier: Apache-2.0
"""The CPU shim in processes of their own, as GPT-NeoX's ranks load it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gaff.trainers.neox.device import SHIM

pytest.importorskip("torch")


def python(code: str, *path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with the shim's directory, and ``path`` after it, on PYTHONPATH."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GAFF_") and key != "RANK"}
    search = os.pathsep.join(map(str, (SHIM, *path)))
    environment = {**kept, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


LOOK = """
import json, torch
from torch.nn.functional import linear
from torch.utils.data import DataLoader
facts = {"gpus": torch.cuda.device_count() if torch.cuda.is_available() else 0}
facts["moved"] = str(torch.ones(2).cuda().device) if facts["gpus"] else None

torch.manual_seed(3)
before = torch.get_rng_state()
list(DataLoader([1, 2, 3]))
facts["loader leaves random numbers alone"] = torch.equal(before, torch.get_rng_state())

a, b = torch.randn(7, 300).half().requires_grad_(), torch.randn(5, 300).half().requires_grad_()
wide_a, wide_b = a.detach().float().requires_grad_(), b.detach().float().requires_grad_()
got, expected = linear(a, b), linear(wide_a, wide_b)
got.sum().backward(), expected.sum().backward()
facts["linear"] = torch.equal(got, expected.half())
facts["backward"] = torch.equal(a.grad, wide_a.grad.half()) and torch.equal(b.grad, wide_b.grad.half())
x = torch.randn(2, 3, 4).half()
wide = x.float() @ x.float().transpose(1, 2)
y = torch.baddbmm(torch.ones(2, 3, 3).half(), x, x.transpose(1, 2), beta=0.5, alpha=2.0)
facts["baddbmm"] = torch.equal(y, (0.5 + 2.0 * wide).half())
facts["matmul"] = torch.equal(x @ x.transpose(1, 2), wide.half())
facts["double"] = str(torch.ones(2, 2).double().matmul(torch.ones(2, 2).double()).dtype)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What a rank prints that looks about with the shim on: one of four on this machine."""
    done = python(LOOK, GAFF_CPU_SHIM="4", RANK="1")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def facts(said: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said[-1])
    return found


def test_there_seem_to_be_as_many_gpus_as_ranks_and_they_are_the_cpu(facts: dict[str, Any]) -> None:
    assert (facts["gpus"], facts["moved"]) == (4, "cpu")


def test_each_rank_announces_it(said: list[str]) -> None:
    assert said[0] == "GAFF's CPU shim: rank 1 trains on the CPU, torch.cuda is a stand-in"


@pytest.mark.parametrize("product", ["linear", "backward", "baddbmm", "matmul"])
def test_float16_products_are_those_of_float32_rounded_once(facts: dict[str, Any], product: str) -> None:
    assert facts[product] is True
    assert facts["double"] == "torch.float64"


def test_a_new_loader_leaves_the_random_numbers_of_dropout_alone(facts: dict[str, Any]) -> None:
    without = python(LOOK)
    assert facts["loader leaves random numbers alone"] is True
    assert json.loads(without.stdout)["loader leaves random numbers alone"] is False, "or there is no need for this"
    assert "shim" not in without.stdout


@pytest.mark.parametrize("variables", [{}, {"GAFF_CPU_SHIM": ""}])
def test_nothing_is_loaded_unless_it_is_asked_for(variables: dict[str, str]) -> None:
    code = "import sys; print('gaff_cpu_shim' in sys.modules, any('gaff' in type(f).__module__ for f in sys.meta_path))"
    assert python(code, **variables).stdout == "False False\n"
    assert python(code, GAFF_CPU_SHIM="2").stdout == "True True\n"


def test_it_refuses_a_machine_with_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()  # refused before anything of torch is touched
    code = "import gaff_cpu_shim.gpus as gpus; gpus._SIGNS = ('/proc/self/stat',); import torch"
    done = python(code, tmp_path, GAFF_CPU_SHIM="2")
    assert done.returncode == 1
    assert "this machine has a GPU (/proc/self/stat): remove `device: cpu`" in done.stderr.splitlines()[-1]


def test_beside_gpus_it_works_where_that_is_said_and_tells_of_the_idle_ones() -> None:
    code = "import gaff_cpu_shim.gpus as gpus; gpus._SIGNS = ('/proc/self/stat',); import torch"
    done = python(code, GAFF_CPU_SHIM="2", GAFF_CPU_SHIM_BESIDE_GPUS="1", RANK="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("rank 0 trains on the CPU, torch.cuda is a stand-in; 1 GPUs are left idle")


def test_the_sitecustomize_that_it_hides_is_run_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.hidden = 'was run'")
    for variables in ({}, {"GAFF_CPU_SHIM": "2"}):
        assert python("print(hidden)", tmp_path, **variables).stdout == "was run\n"


def test_torchs_adam_is_offered_as_apex_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "training.py").touch()
    offered = "import megatron.training; from apex.optimizers import FusedAdam as Adam; print(Adam.__name__)"
    assert python(offered, tmp_path, GAFF_CPU_SHIM="2", GAFF_CPU_SHIM_ADAM="torch").stdout == "AdamW\n"
    assert "No module named 'apex'" in python(offered, tmp_path, GAFF_CPU_SHIM="2").stderr
    wrong = python("pass", tmp_path, GAFF_CPU_SHIM="2", GAFF_CPU_SHIM_ADAM="apex")
    assert wrong.returncode != 0
    assert "GAFF_CPU_SHIM_ADAM must be deepspeed or torch, not apex" in wrong.stderr


@pytest.mark.slow
def test_deepspeed_takes_float16_on_the_cpu_and_compiles_nothing_for_shared_memory() -> None:
    pytest.importorskip("deepspeed")
    code = """
import deepspeed, torch
from deepspeed.accelerator import get_accelerator
from gaff_cpu_shim.optimizers import LionBuilder
accelerator = get_accelerator()
print(accelerator.device_name(), accelerator.is_fp16_supported(), accelerator.device_count())
print(deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"], accelerator.Stream(device="cpu") is not None)
g, w, m = torch.tensor([0.5, -2.0]), torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 0.0])
LionBuilder.load().multi_tensor_lion(0, None, [[g], [w], [m]], 0.1, 0.9, 0.99, 1, 0.2)
print([round(x, 4) for x in w.tolist()], [round(x, 4) for x in m.tolist()])
"""
    said = python(code, GAFF_CPU_SHIM="3", DS_ACCELERATOR="cpu", LOCAL_SIZE="3").stdout.splitlines()
    # Lion: update = sign(0.9 m + 0.1 g) = (-1, -1); w = 1 (1 - 0.1 * 0.2) + 0.1; m = 0.99 m + 0.01 g
    assert said[-3:] == ["cpu True 3", "False True", "[1.08, 1.08] [-0.985, -0.02]"]


def test_who_looks_for_torch_before_it_is_imported_does_not_lose_the_shim() -> None:
    code = "import importlib.util; importlib.util.find_spec('torch'); import torch; print(torch.cuda.device_count())"
    assert python(code, GAFF_CPU_SHIM="3").stdout == "3\n"
