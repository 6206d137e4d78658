# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gaff.doctor.areas.gpus import GpuFacts, Wanted, gather, judge
from gaff.doctor.finding import Finding
from gaff.doctor.gpus import Gpu, GpuProcess, Gpus
from gaff.doctor.subject import Subject
from tests.doctor.conftest import A100, a100s

FINE = GpuFacts(
    gpus=a100s(4),
    visible=a100s(4).found,
    environment={},
    needed=True,
    elsewhere=False,
    login=False,
    torch="2.7.1+cu121",
    torch_cuda=(12, 1),
    wanted=Wanted(None, 2, None),
    device=(),
)


def found(facts: GpuFacts) -> dict[str, Finding]:
    return {finding.id: finding for finding in judge(facts) if finding.level != "ok"}


def shown(environment: dict[str, str], gpus: Gpus = FINE.gpus) -> GpuFacts:
    return replace(FINE, gpus=gpus, environment=environment, visible=gpus.visible(environment))


def test_four_a100_are_fine() -> None:
    assert found(FINE) == {}
    first = next(iter(judge(FINE)))
    assert first.what == "4 × NVIDIA A100-SXM4-40GB, 42.9 GB, compute capability 8.0"


def test_without_a_gpu_the_rehearsal_and_the_cpu_are_named() -> None:
    finding = found(replace(FINE, gpus=Gpus(asked=False), visible=()))["no-gpu"]
    assert finding.level == "problem"
    assert "gaff rehearse" in (finding.remedy or "")
    assert "gaff.device=cpu" in (finding.remedy or "")


@pytest.mark.parametrize("elsewhere", [{"login": True}, {"elsewhere": True}])
def test_a_machine_that_only_starts_runs_needs_no_gpu(elsewhere: dict[str, bool]) -> None:
    assert found(replace(FINE, gpus=Gpus(asked=False), visible=(), **elsewhere))["no-gpu"].level == "warning"


def test_a_run_on_the_cpu_needs_none() -> None:
    assert found(replace(FINE, gpus=Gpus(asked=False), visible=(), needed=False)) == {}


def test_a_container_that_was_started_without_gpus() -> None:
    void = {"NVIDIA_VISIBLE_DEVICES": "void"}
    finding = found(replace(FINE, gpus=Gpus(asked=False), visible=(), environment=void))["no-gpu"]
    assert "--gpus all" in (finding.remedy or "")


def test_a_driver_that_fails() -> None:
    finding = found(replace(FINE, gpus=Gpus(trouble="Driver/library version mismatch"), visible=()))["nvidia-smi"]
    assert finding.level == "problem"
    assert "Driver/library version mismatch" in finding.what


def test_hidden_gpus() -> None:
    none = found(shown({"CUDA_VISIBLE_DEVICES": ""}))["visible-devices"]
    assert (none.level, none.remedy) == ("problem", "unset CUDA_VISIBLE_DEVICES")
    assert found(shown({"CUDA_VISIBLE_DEVICES": "0,1"}))["visible-devices"].level == "note"


def test_mig_slices() -> None:
    cut = Gpus((replace(A100, mig=True),), (replace(A100, uuid="MIG-1", memory=20_000_000_000),), (535,), (12, 2))
    finding = found(replace(shown({}, cut), wanted=Wanted(None, 1, None)))["mig"]
    assert finding.level == "warning"
    assert "CUDA_VISIBLE_DEVICES=MIG-1" in (finding.remedy or "")


def test_a_torch_that_the_driver_cannot_run() -> None:
    old = replace(a100s(2), driver=(470, 82, 1), cuda=(11, 4))
    finding = found(replace(FINE, gpus=old, visible=old.found))["driver"]
    assert finding.level == "problem"
    assert "builds for CUDA 11.4" in (finding.remedy or "")
    assert found(replace(FINE, torch_cuda=(12, 8))) == {}  # a newer minor version runs


def test_a_torch_without_cuda_beside_gpus() -> None:
    assert found(replace(FINE, torch="2.13.0+cpu", torch_cuda=()))["torch-cpu"].level == "problem"
    assert found(replace(FINE, torch=None, torch_cuda=())) == {}  # nobody was asked


def test_others_on_the_gpus() -> None:
    busy = replace(a100s(2), processes=(GpuProcess("GPU-a1", 4242, "python", 30 << 30),))
    finding = found(replace(FINE, gpus=busy, visible=busy.found))["gpu-occupied"]
    assert "process 4242 (python) holds 32.2 GB of GPU 1" in finding.what
    assert "kill 4242" in (finding.remedy or "")


def test_others_that_this_user_cannot_see() -> None:
    full = Gpus((A100, replace(A100, index=1, uuid="GPU-a1", used=20 << 30)), driver=(535,), cuda=(12, 2))
    finding = found(replace(FINE, gpus=full, visible=full.found))["gpu-occupied"]
    assert finding.remedy == "export CUDA_VISIBLE_DEVICES=0"


def test_gpus_of_several_kinds() -> None:
    mixed = Gpus((A100, Gpu(1, "GPU-v", "Tesla V100", 16 << 30, 0, (7, 0))), driver=(535,), cuda=(12, 2))
    assert found(replace(FINE, gpus=mixed, visible=mixed.found))["gpus-differ"].level == "warning"


def test_bfloat16_on_a_gpu_that_has_none() -> None:
    volta = Gpu(0, "GPU-v", "Tesla V100-SXM2-16GB", 16 << 30, 0, (7, 0))
    facts = replace(FINE, gpus=Gpus((volta,), driver=(535,), cuda=(12, 2)), visible=(volta,))
    finding = found(replace(facts, wanted=Wanted(None, 1, "bfloat16")))["compute-capability"]
    assert (finding.level, finding.remedy) == ("problem", "-o precision=fp16")
    assert "compute-capability" not in found(replace(facts, wanted=Wanted(None, 1, None)))


@pytest.mark.parametrize(
    ("wanted", "level", "remedy"),
    [
        (Wanted(8, 1, None), "problem", "-o global_num_gpus=4"),
        (Wanted(2, 1, None), "warning", "-o global_num_gpus=4"),
        (Wanted(None, 3, None), "problem", "export CUDA_VISIBLE_DEVICES=0,1,2"),
        (Wanted(None, 8, None), "problem", "-o model_parallel_size=1"),
    ],
)
def test_more_or_other_gpus_than_here(wanted: Wanted, level: str, remedy: str) -> None:
    finding = found(replace(FINE, wanted=wanted))["gpu-count"]
    assert finding.level == level
    assert (finding.remedy or "").startswith(remedy)
    assert "gpu-count" not in found(replace(FINE, wanted=wanted, elsewhere=True))


def test_what_is_asked_of_the_machine(load: Callable[..., object]) -> None:
    config = load("precision=bfloat16", "model_parallel_size=2", "pipe_parallel_size=2", "global_num_gpus=4")
    facts = gather(Subject({"PATH": ""}, config, given_gpus=a100s(4)))  # type: ignore[arg-type]
    assert facts.wanted == Wanted(4, 4, "bfloat16")
    assert (facts.needed, len(facts.visible), facts.elsewhere) == (True, 4, False)
    cpu = load("gaff.device=cpu")
    assert gather(Subject({"PATH": ""}, cpu, given_gpus=a100s(0))).needed is False  # type: ignore[arg-type]


def test_a_gpu_without_memory_of_its_own_is_listed_without() -> None:
    shared = Gpus((Gpu(0, "GPU-b", "NVIDIA GB10", 0, 0, (12, 1)),))
    assert next(iter(judge(replace(FINE, gpus=shared)))).what == "1 × NVIDIA GB10, compute capability 12.1"
