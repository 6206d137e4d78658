# SPDX-License-Identifier: Apache-2.0
"""Tokens per iteration and bytes per checkpoint, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gaff.plan.config import Config
from gaff.plan.model import ModelSize, stored_parameters
from gaff.plan.typed import integer, items, number, pipeline, precision, tensor_parallel, text, word, zero_stage

_ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bfloat16": 2}
_MASTER = 4
_MOMENTS = 8
_RANDOM_STATES = 15168  # three torch generator states of 5056 bytes in each mp_rank file (measured, CPU)
_HOST = re.compile(r"(\S+)\s+slots\s*=\s*(\d+)")


@dataclass(frozen=True)
class Batch:
    """Tokens of one iteration.

    Attributes:
        samples: sequences per iteration over all GPUs, None when the number of GPUs is not known.
        samples_per_gpu: sequences per iteration and data-parallel rank, None when only ``samples`` is given.
        sequence: tokens per sequence.
        gpus: number of GPUs, None when neither ``global_num_gpus`` nor a hostfile says it.
    """

    samples: int | None
    samples_per_gpu: int | None
    sequence: int
    gpus: int | None

    @property
    def tokens(self) -> int | None:
        """Tokens per iteration over all GPUs."""
        return None if self.samples is None else self.samples * self.sequence

    @property
    def tokens_per_gpu(self) -> int | None:
        return None if self.samples_per_gpu is None else self.samples_per_gpu * self.sequence


def batch(config: Config) -> Batch | None:
    """The batch as GPT-NeoX derives it (contract 1.3), or None when its keys are missing."""
    sequence = integer(config, "seq_length")
    given, micro = integer(config, "train_batch_size"), integer(config, "train_micro_batch_size_per_gpu")
    if not sequence or not (given or micro):
        return None
    gpus = gpu_count(config)
    group = tensor_parallel(config) * max(1, pipeline(config))
    replicas = gpus // group if gpus and gpus % group == 0 else None
    per_gpu = micro * (integer(config, "gradient_accumulation_steps") or 1) if micro else None
    samples = given
    if samples is None and per_gpu and replicas:
        samples = per_gpu * replicas
    return Batch(samples=samples, samples_per_gpu=per_gpu, sequence=sequence, gpus=gpus)


def gpu_count(config: Config) -> int | None:
    """GPUs of the run: ``global_num_gpus``, else the slots of the hostfile; None when neither says."""
    given = integer(config, "global_num_gpus")
    if given is not None:
        return given
    hostfile = text(config, "hostfile")
    if hostfile is None or config.get("include") is not None or config.get("exclude") is not None:
        return None
    slots = _slots(Path(hostfile))
    nodes, per_node = integer(config, "num_nodes"), integer(config, "num_gpus")
    if nodes is not None and nodes > 0:
        slots = slots[:nodes]
    if per_node is not None and per_node > 0:
        slots = [per_node] * len(slots)
    return sum(slots) or None


def _slots(hostfile: Path) -> list[int]:
    try:
        lines = hostfile.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = (_HOST.match(line.strip()) for line in lines)
    return [int(match[2]) for match in found if match]


def checkpoint_bytes(config: Config, size: ModelSize) -> int:
    """Bytes of all tensors of one tag: model copy, optimizer state, random states.  Pickle overhead comes on top.

    ZeRO 0 in fp32 has no master copy, and ZeRO 3 no model copy.  With tied embeddings and several pipeline stages the
    last stage keeps a master and moments of its own (contract 5.1, 7.1; checked against real tags).
    """
    stage, stored = zero_stage(config), stored_parameters(config, size)
    element = _ELEMENT_BYTES.get(precision(config), 4)
    model = 0 if stage == 3 else stored * element
    master = 0 if stage == 0 and element == 4 else _MASTER
    tied_copy = size.input_embedding + size.position_embedding  # the tied layer has both
    owned = stored + (tied_copy if size.tied and pipeline(config) > 1 else 0)
    ranks = tensor_parallel(config) * max(1, pipeline(config))
    return model + owned * (master + moment_bytes(config)) + ranks * _RANDOM_STATES


def moment_bytes(config: Config) -> int:
    """Bytes of optimizer state per parameter beside the master: 8 for Adam, 4 for Lion and SGD with momentum."""
    optimizer = str(config.get("optimizer.type", "adam")).lower()
    if optimizer == "sgd":
        return 4 if number(config, "optimizer.params.momentum") else 0
    return 4 if optimizer == "lion" else _MOMENTS


def tags(config: Config, stops: Iterable[int], train_iters: int) -> tuple[int, ...]:
    """The iterations that leave a tag: the config's own, every stop of a segment, and 0 for `init: step0`."""
    found = {*stops, train_iters} | own_saves(config, train_iters)
    if config.gaff.init.kind == "step0":
        found.add(0)
    return tuple(sorted(found))


def own_saves(config: Config, train_iters: int) -> set[int]:
    """The iterations for which the config itself asks a tag: ``checkpoint_factor`` and ``extra_save_iters``."""
    found = {i for i in items(config, "extra_save_iters") if type(i) is int and 0 <= i <= train_iters}
    factor = number(config, "checkpoint_factor")
    if factor and word(config, "checkpoint_scale") == "log":
        if factor >= 2:
            power = 1.0
            while power <= train_iters:
                found.update({int(power)} if power == int(power) else ())
                power *= factor
    elif factor and factor >= 1 and factor == int(factor):
        found.update(range(int(factor), train_iters + 1, int(factor)))
    return found
