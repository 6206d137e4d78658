# SPDX-License-Identifier: Apache-2.0
"""The in-loop reference: a trainer that never stops, and resets its embedding in memory after given iterations.

Runs inside a rank, also in GPT-NeoX's own Python, so it needs torch and numpy alone.  It finds every copy where
DeepSpeed keeps it in memory, by the addresses of its tensors, and shares no code with ``gaff.checkpoint``, whose work
it is to judge; only the new values are given to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

VARIABLE = "GAFF_FIDELITY_PLAN"
MODEL, MASTER, FIRST_MOMENT, SECOND_MOMENT = "model", "master", "exp_avg", "exp_avg_sq"


@dataclass(frozen=True)
class Plan:
    """What is done after which iteration.

    Attributes:
        values: new float32 values of the whole embedding (.npy), by the iteration after which they are set.
        forgets: kinds of copies that are left as they are, for references that must go wrong.
        only_first_stage: forget the copies of all pipeline stages but the first.
        restarts_schedule: whether the learning rate begins anew as well.
    """

    values: dict[int, Path]
    forgets: tuple[str, ...] = ()
    only_first_stage: bool = False
    restarts_schedule: bool = False

    def write(self, path: Path) -> dict[str, str]:
        """Store the plan and return the environment that hands it to all ranks."""
        values = {str(iteration): str(file) for iteration, file in self.values.items()}
        path.write_text(json.dumps({**self.__dict__, "values": values}), encoding="utf-8")
        return {VARIABLE: str(path)}

    @classmethod
    def handed_over(cls) -> Plan:
        fields = json.loads(Path(os.environ[VARIABLE]).read_text(encoding="utf-8"))
        values = {int(iteration): Path(file) for iteration, file in fields.pop("values").items()}
        return cls(values=values, **fields)

    def after(self, iteration: int, engine: Any) -> None:
        """Do what is due after an iteration in this rank."""
        if iteration not in self.values:
            return
        new = torch.from_numpy(np.load(self.values[iteration]))
        for parameter in embeddings(engine.module):
            if not (self.only_first_stage and engine.grid.get_stage_id() > 0):
                self._reset(engine.optimizer, parameter, new)
        if self.restarts_schedule:
            engine.lr_scheduler.step(0)  # sets num_iters, and the rate in every group of the optimizer

    def _reset(self, optimizer: Any, parameter: torch.nn.Parameter, new: torch.Tensor) -> None:
        assert parameter.shape == new.shape
        if MODEL not in self.forgets:
            parameter.data.copy_(new)
        for kind, piece, first in pieces(optimizer, parameter):
            if kind in self.forgets:
                continue
            if kind == MASTER:
                piece.copy_(new.view(-1)[first : first + piece.numel()])
            else:
                piece.zero_()


def embeddings(module: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """The token embedding of this rank; none in a middle stage of a pipeline."""
    for name, parameter in module.named_parameters():
        if name.endswith("word_embeddings.weight"):
            yield parameter


def pieces(optimizer: Any, parameter: torch.nn.Parameter) -> Iterator[tuple[str, torch.Tensor, int]]:
    """This rank's flat master and moments of a parameter: kind, the piece, its first element within the parameter."""
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # ZeRO 1 and 2
        flats, masters = optimizer.bit16_groups_flat, optimizer.single_partition_of_fp32_groups
    elif hasattr(optimizer, "fp32_groups_flat_partition"):  # BF16_Optimizer
        flats, masters = optimizer.bf16_groups_flat, optimizer.fp32_groups_flat_partition
    else:  # no ZeRO: the parameter is its own master
        for kind in (FIRST_MOMENT, SECOND_MOMENT):
            yield kind, optimizer.state[parameter][kind].view(-1), 0
        return
    for group, (flat, master) in enumerate(zip(flats, masters, strict=True)):
        at = (parameter.data_ptr() - flat.data_ptr()) // flat.element_size()
        if not 0 <= at < flat.numel():
            continue
        rank = torch.distributed.get_rank(group=optimizer.real_dp_process_group[group])
        left = rank * master.numel()
        begin, end = max(at, left), min(at + parameter.numel(), left + master.numel())
        state = optimizer.optimizer.state[master]
        for kind, tensor in ((MASTER, master.data), *((k, state[k]) for k in (FIRST_MOMENT, SECOND_MOMENT))):
            if begin < end:
                yield kind, tensor.view(-1)[begin - left : end - left], begin - at
        return
    raise AssertionError("the embedding is in no flat group")
