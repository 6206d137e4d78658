# SPDX-License-Identifier: Apache-2.0
"""Where every copy of every parameter lives in one tag."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaff.checkpoint.layout.parameter import (
    INPUT_EMBEDDING,
    MASTER,
    MODEL,
    POSITION_EMBEDDING,
    Copy,
    Parameter,
    Scalar,
    is_output_embedding,
)
from gaff.checkpoint.tag import Topology
from gaff.errors import CheckpointError, InputError, Location, Problem

NICKNAMES = ("input_embedding", "output_embedding", "position_embedding")


@dataclass(frozen=True)
class Layout:
    """One tag, understood.

    Attributes:
        wrapper: DeepSpeed's class around the optimizer, as far as the files tell it.
        copies: by canonical parameter name, in the model's order; all copies of a parameter.
        scalars: numbers that the optimizer keeps for several parameters at once.
    """

    path: Path
    iteration: int
    topology: Topology
    zero_stage: int
    model_dtype: str
    tied: bool
    wrapper: str
    deepspeed_version: str
    parameters: Mapping[str, Parameter]
    copies: Mapping[str, tuple[Copy, ...]]
    scalars: tuple[Scalar, ...]

    @property
    def vocabulary(self) -> tuple[int, int]:
        """(padded vocabulary, hidden size)."""
        rows, hidden = self.parameters[INPUT_EMBEDDING].shape
        return rows, hidden

    def of_kind(self, parameter: str, *kinds: str) -> tuple[Copy, ...]:
        return tuple(c for c in self.copies[parameter] if c.kind in kinds)

    def states(self, parameter: str) -> tuple[str, ...]:
        """Names of the optimizer's states of a parameter, such as ``exp_avg``; none before the first step."""
        return tuple(dict.fromkeys(c.kind for c in self.copies[parameter] if c.is_state))

    def truth(self, parameter: str) -> str:
        """The kind of copy that training goes on from: the master, or the model copy where there is no master."""
        return MASTER if any(c.kind == MASTER for c in self.copies[parameter]) else MODEL

    def stages(self, parameter: str, kind: str) -> tuple[int, ...]:
        """The pipeline stages that keep a kind of copy: one, or the first and the last when embeddings are tied."""
        return tuple(sorted({c.stage for c in self.of_kind(parameter, kind)}))

    @property
    def copies_follow(self) -> bool:
        """Whether model copies are their masters rounded.

        Not before the first step of ``FP16_UnfusedOptimizer``: a step without gradients, made at its start, moves the
        masters alone (seen 5e-4 apart with Adam).
        """
        return self.iteration > 0 or self.wrapper != "FP16_UnfusedOptimizer"

    def chain(self, parameter: str, kind: str, tensor_rank: int, stage: int | None = None) -> tuple[Copy, ...]:
        """The copies that together hold a tensor rank's block once, in order; of the first stage that has them."""
        stage = self.stages(parameter, kind)[0] if stage is None else stage
        mine = (c for c in self.of_kind(parameter, kind) if c.tensor_rank == tensor_rank and c.stage == stage)
        return tuple(sorted(mine, key=lambda c: c.start))

    def named(self, *patterns: str) -> tuple[str, ...]:
        """Canonical names of the parameters that the user means, in the model's order.

        Args:
            patterns: ``input_embedding``, ``output_embedding``, ``position_embedding``, or shell patterns of names.

        Raises:
            InputError: there is no such parameter.
        """
        wanted: set[str] = set()
        for pattern in patterns:
            found = {name for name in self.parameters if _means(pattern, name)}
            if not found:
                raise self._no_parameter(pattern)
            wanted |= found
        return tuple(name for name in self.parameters if name in wanted)

    def _no_parameter(self, pattern: str) -> InputError:
        where = Location(str(self.path))
        if pattern == "output_embedding" and self.tied:
            what = "has no output embedding of its own: it is tied to the input embedding"
            return InputError(Problem("no-parameter", what, "name input_embedding", where))
        what = f"has no parameter {pattern!r}"
        remedy = f"name {', '.join(NICKNAMES)}, or a pattern such as '*.attention.dense.weight'"
        return InputError(Problem("no-parameter", what, remedy, where))

    def check_whole(self) -> None:
        """Every copy or none: each chain covers its block exactly once, on every rank and stage that must keep one.

        Raises:
            CheckpointError: a gap, an overlap, or a stage without its master.
        """
        for name, parameter in self.parameters.items():
            places = {(c.kind, c.stage, c.tensor_rank) for c in self.copies[name]}
            if not any(kind == self.truth(name) for kind, _, _ in places):
                raise self.broken(f"has no weights for {name}")
            for kind, stage in sorted({(k, s) for k, s, _ in places}):
                for rank in range(parameter.tensor):
                    self._check_chain(parameter, kind, stage, rank)
            self._check_stages(name)

    def _check_chain(self, parameter: Parameter, kind: str, stage: int, rank: int) -> None:
        position = 0
        for copy in self.chain(parameter.name, kind, rank, stage):
            if copy.start != position:
                raise self.broken(
                    f"has a gap or an overlap at element {position} of the {kind} copy of {parameter.name}"
                )
            position = copy.stop
        if position != parameter.block_numel:
            what = f"holds {position} of {parameter.block_numel} elements of the {kind} copy of {parameter.name}"
            raise self.broken(f"{what}, stage {stage}, tensor rank {rank}")

    def _check_stages(self, name: str) -> None:
        truth = self.truth(name)
        last = self.topology.pipeline - 1
        shared = self.tied and name == INPUT_EMBEDDING and last > 0
        if truth == MASTER and shared and self.stages(name, MASTER) != (0, last):
            raise self.broken(f"has masters of {name} on stages {self.stages(name, MASTER)}, expected {(0, last)}")
        held = {self.stages(name, kind) for kind in self.states(name)}
        if len(held) > 1 or (held and truth == MASTER and held != {self.stages(name, MASTER)}):
            raise self.broken(f"keeps optimizer states of {name} on other stages than its master")

    def broken(self, what: str) -> CheckpointError:
        remedy = "use another tag; no byte was changed"
        return CheckpointError(Problem("inconsistent-layout", what, remedy, Location(str(self.path))))


def _means(pattern: str, name: str) -> bool:
    if pattern == "input_embedding":
        return name == INPUT_EMBEDDING
    if pattern == "position_embedding":
        return name == POSITION_EMBEDDING
    if pattern == "output_embedding":
        return is_output_embedding(name)
    return fnmatch.fnmatchcase(name, pattern)
