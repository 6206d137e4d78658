# SPDX-License-Identifier: Apache-2.0
"""Whether the model fits the GPUs: the estimate of :mod:`gaff.plan.gpu_memory` against the smallest of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gaff.doctor.finding import Finding
from gaff.doctor.subject import Subject
from gaff.plan.gpu_memory import GpuMemory, gpu_memory
from gaff.plan.memory_advice import memory_advice
from gaff.report.format import size

AREA = "GPU memory"
_TIGHT = 0.9  # of a GPU's memory
_SOURCE = "estimated after Korthikanti et al. 2022 (arXiv 2205.05198) and ZeRO (arXiv 1910.02054), not measured"


@dataclass(frozen=True)
class MemoryFacts:
    """Attributes:
    need: None when the model or its batch cannot be counted.
    capacity: bytes of the smallest GPU; None where there is none here, or it does not say.
    replicas: data-parallel ranks that the estimate is for.
    unknown: why there is no estimate.
    advice: overrides that make it fit; None when none was found.
    """

    need: GpuMemory | None
    capacity: int | None
    replicas: int
    unknown: str
    advice: tuple[str, ...] | None


def examine(subject: Subject) -> Iterator[Finding]:
    if subject.config is not None and subject.on_gpus:
        yield from judge(gather(subject))


def gather(subject: Subject) -> MemoryFacts:
    assert subject.config is not None
    model, replicas = subject.plan.model if subject.plan else None, subject.replicas()
    if model is None:
        why = subject.plan.model_unknown if subject.plan else "the config has errors"
        return MemoryFacts(None, None, replicas, why, None)
    need = gpu_memory(subject.config, model, replicas)
    visible = subject.gpus.visible(subject.environment)
    smallest = min(visible, key=lambda gpu: gpu.memory, default=None)
    capacity = (smallest.memory if smallest else 0) or None
    advice = None
    if need and capacity and need.total > _TIGHT * capacity:
        advice = memory_advice(subject.config, replicas, capacity)
    why = "" if need else "train_micro_batch_size_per_gpu or seq_length is not given"
    return MemoryFacts(need, capacity, replicas, why, advice)


def judge(facts: MemoryFacts) -> Iterator[Finding]:
    if facts.need is None:
        what = f"what the model needs cannot be estimated: {facts.unknown}"
        yield Finding("gpu-memory", AREA, "note", what)
        return
    need = facts.need
    yield Finding("gpu-memory-parts", AREA, "note", _parts(need, facts.replicas))
    yield Finding("gpu-memory-source", AREA, "note", _SOURCE)
    if facts.capacity is None:
        what = f"about {size(need.total)} are needed on each GPU; none here says how much it has"
        yield Finding("gpu-memory", AREA, "note", what)
        return
    what = f"about {size(need.total)} of {size(facts.capacity)} are needed on each GPU"
    remedy = " ".join(f"-o {change}" for change in facts.advice or ()) or "# take larger GPUs, or more of them"
    if need.total > facts.capacity:
        yield Finding("gpu-memory", AREA, "problem", f"the model does not fit: {what}", remedy)
    elif need.total > _TIGHT * facts.capacity:
        yield Finding("gpu-memory", AREA, "warning", f"the model may not fit: {what}", remedy)
    else:
        yield Finding("gpu-memory", AREA, "ok", what)


def _parts(need: GpuMemory, replicas: int) -> str:
    named = [
        ("weights", need.weights),
        ("gradients", need.gradients),
        ("optimizer", need.optimizer),
        ("reduction buckets", need.buckets),
        ("activations", need.activations),
        ("logits, or one block computed again", need.working),
        ("CUDA and NCCL (assumed)", need.context),
    ]
    listed = ", ".join(f"{name} {size(amount)}" for name, amount in named if amount)
    return f"per GPU with {replicas} data-parallel rank{'' if replicas == 1 else 's'}: {listed}"
