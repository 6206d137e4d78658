# SPDX-License-Identifier: Apache-2.0
"""``device: cpu``: what it puts into a launch, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gaff.plan.config import Config, load_config
from gaff.trainers.contract import SegmentRequest
from gaff.trainers.neox import device
from gaff.trainers.neox.device import SHIM, check_accelerator, check_device, cpu_environment
from gaff.trainers.neox.trainer import NeoxTrainer
from tests.live import write_config

Make = Callable[..., Config]


@pytest.fixture
def config(tmp_path: Path) -> Make:
    path = write_config(tmp_path / "run.yml", tmp_path / "data", train_iters=40, reset_every=10)
    return lambda *overrides: load_config([path], ["gaff.trainer=neox", *overrides])


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "signs_of_gpus", list)


def launch(config: Config, tmp_path: Path) -> tuple[dict[str, str], dict[str, object]]:
    request = SegmentRequest(0, 10, tmp_path / "save", tmp_path, 1, "r1")
    environment = dict(NeoxTrainer(tmp_path, "/opt/bin/python", Path("/ops")).prepare(config, request).env)
    return environment, yaml.safe_load((tmp_path / "neox.yml").read_text())


def test_a_launch_on_gpus_switches_off_a_shim_that_the_shell_has_on(
    tmp_path: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAFF_CPU_SHIM", "8")
    monkeypatch.setenv("GAFF_CPU_SHIM_BESIDE_GPUS", "1")
    environment, keys = launch(config("distributed_backend=nccl"), tmp_path)
    assert environment["GAFF_CPU_SHIM"] == environment["GAFF_CPU_SHIM_BESIDE_GPUS"] == ""
    assert "PYTHONPATH" not in environment
    assert keys["distributed_backend"] == "nccl"


def test_a_launch_on_the_cpu_has_the_shim_on_its_path_and_gloo(
    tmp_path: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    environment, keys = launch(config("gaff.device=cpu", "distributed_backend=nccl"), tmp_path)
    assert environment["PYTHONPATH"] == f"{SHIM}:/mine"
    assert (environment["GAFF_CPU_SHIM"], environment["LOCAL_SIZE"], environment["DS_ACCELERATOR"]) == ("2", "2", "cpu")
    assert environment["TORCH_EXTENSIONS_DIR"] == "/ops"
    assert keys["distributed_backend"] == "gloo"


@pytest.mark.parametrize(
    ("overrides", "ranks"),
    [
        (["global_num_gpus=6"], 6),
        (["global_num_gpus=null", "model_parallel_size=2", "pipe_parallel_size=3"], 6),
        (["global_num_gpus=null", "model_parallel_size=2", "pipe_parallel_size=0"], 2),
    ],
)
def test_as_many_ranks_as_the_layout_asks(config: Make, overrides: list[str], ranks: int) -> None:
    variables = cpu_environment(config("gaff.device=cpu", *overrides), {}, None)
    assert variables["GAFF_CPU_SHIM"] == variables["LOCAL_SIZE"] == str(ranks)


def test_what_the_user_set_stays(config: Make) -> None:
    base = {"OMP_NUM_THREADS": "4", "TORCH_EXTENSIONS_DIR": "/theirs"}
    variables = cpu_environment(config("gaff.device=cpu"), base, Path("/ops"))
    assert "OMP_NUM_THREADS" not in variables
    assert "TORCH_EXTENSIONS_DIR" not in variables
    assert variables["MKL_NUM_THREADS"] == "1"


def test_a_cpu_config_on_a_machine_with_gpus_is_refused_unless_that_is_meant(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "signs_of_gpus", lambda: ["/dev/nvidia0"])
    (problem,) = check_device(config("gaff.device=cpu"))
    assert problem.id == "cpu-beside-gpus"
    assert "/dev/nvidia0" in problem.what
    assert list(check_device(config("gaff.device=cpu-beside-gpus"))) == []
    assert list(check_device(config())) == []
    assert cpu_environment(config("gaff.device=cpu"), {}, None)["GAFF_CPU_SHIM_BESIDE_GPUS"] == ""
    assert cpu_environment(config("gaff.device=cpu-beside-gpus"), {}, None)["GAFF_CPU_SHIM_BESIDE_GPUS"] == "1"


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("scaled_upper_triang_masked_softmax_fusion=true", "scaled_upper_triang_masked_softmax_fusion"),
        ("rope_fusion=true", "rope_fusion"),
        ('attention_config=[[["flash"], 2]]', "flash attention"),
        ("norm=te_layernorm", "te_layernorm"),
    ],
)
def test_what_needs_a_gpu_is_refused_by_name(config: Make, override: str, key: str) -> None:
    (problem,) = check_device(config("gaff.device=cpu", override))
    assert (problem.id, key in problem.what) == ("needs-gpu", True)
    assert list(check_device(config(override))) == []


@pytest.mark.parametrize("device_name", ["cpu", "cpu-beside-gpus"])
def test_no_shell_can_let_the_shim_overlook_a_gpu_or_leave_out_ranks(
    tmp_path: Path, config: Make, monkeypatch: pytest.MonkeyPatch, device_name: str
) -> None:
    left_over = {"GAFF_CPU_SHIM_BESIDE_GPUS": "yes", "CUDA_VISIBLE_DEVICES": "0", "DS_ACCELERATOR": "cuda"}
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    environment, _ = launch(config(f"gaff.device={device_name}"), tmp_path)
    assert environment["GAFF_CPU_SHIM_BESIDE_GPUS"] == ("" if device_name == "cpu" else "1")
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["DS_ACCELERATOR"]) == ("", "cpu")


def test_a_variable_that_would_leave_the_gpus_idle_is_refused(config: Make) -> None:
    (problem,) = check_accelerator(config(), {"DS_ACCELERATOR": "cpu"})
    assert (problem.id, "unset DS_ACCELERATOR" in problem.remedy) == ("cpu-accelerator", True)
    (problem,) = check_accelerator(config('gaff.environment={"DS_ACCELERATOR": "cpu"}'), {})
    assert "in `gaff: environment`" in problem.what
    for good in ({}, {"DS_ACCELERATOR": "cuda"}):
        assert list(check_accelerator(config(), good)) == []
    assert list(check_accelerator(config("gaff.device=cpu"), {"DS_ACCELERATOR": "cpu"})) == []
