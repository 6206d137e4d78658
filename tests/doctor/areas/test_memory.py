# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gaff.doctor.areas.memory import examine, gather, judge
from gaff.doctor.finding import Finding
from gaff.doctor.gpus import Gpu, Gpus
from gaff.doctor.subject import Subject
from tests.doctor.conftest import a100s

LARGE = ("hidden_size=4096", "num_layers=32", "num_attention_heads=32", "seq_length=2048")
POSITIONS = "max_position_embeddings=2048"


def one(findings: list[Finding]) -> Finding:
    (found,) = [finding for finding in findings if finding.id == "gpu-memory"]
    return found


def test_a_small_model_fits(load: Callable[..., Any]) -> None:
    finding = one(list(examine(Subject({}, load(), given_gpus=a100s(2)))))
    assert finding.level == "ok"
    assert "of 42.9 GB" in finding.what


def test_a_large_model_does_not_and_what_would_help_is_a_command(load: Callable[..., Any]) -> None:
    config = load(*LARGE, POSITIONS, "precision=fp16", "train_micro_batch_size_per_gpu=8", "global_num_gpus=8")
    finding = one(list(examine(Subject({}, config, given_gpus=a100s(8)))))
    assert finding.level == "problem"
    assert (finding.remedy or "").startswith("-o ")


def test_the_smallest_gpu_decides(load: Callable[..., Any]) -> None:
    small = Gpu(1, "GPU-s", "NVIDIA T4", 15 << 30, 0, (7, 5))
    mixed = Gpus((*a100s(1).found, small))
    facts = gather(Subject({}, load(), given_gpus=mixed))
    assert facts.capacity == 15 << 30
    assert facts.need is not None
    tight = replace(facts, capacity=int(facts.need.total * 1.05))
    assert one(list(judge(tight))).level == "warning"


def test_data_parallel_ranks_come_from_the_gpus_that_are_seen(load: Callable[..., Any]) -> None:
    config = load("global_num_gpus=null", "model_parallel_size=2")
    assert gather(Subject({}, config, given_gpus=a100s(8))).replicas == 4
    assert gather(Subject({"CUDA_VISIBLE_DEVICES": "0,1"}, config, given_gpus=a100s(8))).replicas == 1


def test_without_gpus_the_need_is_told_and_nothing_compared(load: Callable[..., Any]) -> None:
    assert one(list(examine(Subject({}, load(), given_gpus=a100s(0))))).level == "note"


def test_a_model_that_cannot_be_counted(load: Callable[..., Any]) -> None:
    finding = one(list(examine(Subject({}, load("pos_emb=rpe"), given_gpus=a100s(1)))))
    assert (finding.level, "rpe" in finding.what) == ("note", True)


def test_on_the_cpu_it_is_no_matter(load: Callable[..., Any]) -> None:
    assert list(examine(Subject({}, load("gaff.device=cpu"), given_gpus=a100s(0)))) == []


def test_a_gpu_that_does_not_say_how_much_memory_it_has_is_not_one_of_none(load: Callable[..., Any]) -> None:
    shared = Gpus((Gpu(0, "GPU-b", "NVIDIA GB10", 0, 0, (12, 1)),))
    assert one(list(examine(Subject({}, load(), given_gpus=shared)))).level == "note"
