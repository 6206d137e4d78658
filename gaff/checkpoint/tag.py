# SPDX-License-Identifier: Apache-2.0
"""One tag as a directory: which files it has, which it should have, and whether the trainer finished writing it.

File names are DeepSpeed's (``runtime/engine.py``, ``runtime/pipe/module.py``, 0.16.5):

==============================================  ====================================================
``layer_XX-model_TT-model_states.pt``           weights of layer XX, tensor rank TT (pipeline engine)
``mp_rank_MM_model_states.pt``                  scheduler, RNG, arguments of model rank MM = stage x TP + TT; without
                                                the pipeline engine its weights too; with ZeRO stage 0 the optimizer
``zero_pp_rank_R_mp_rank_MM_model_states.pt``   the same with ZeRO stage 3, whose weights are in the shards
``[bf16_]zero_pp_rank_R_mp_rank_MM_optim_…``    optimizer shard of data rank R, model rank MM
``configs/``                                    the config files, written after a barrier of all ranks
==============================================  ====================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.errors import CheckpointError, InputError, Location, Problem

TAG_NAME = re.compile(r"global_step(\d+)")
LAYER_FILE = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
MODEL_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
OPTIMIZER_FILE = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
ZERO3_MODEL_FILE = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_model_states\.pt")
_HEADS = (".final_linear.weight", ".rm_linear.weight")


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Say so in a sentence where what stands in a file is not laid out as GPT-NeoX's checkpoints are.

    Raises:
        CheckpointError: instead of what a missing key or a wrong type raises.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"is not laid out as GPT-NeoX's checkpoints are ({type(error).__name__}: {error})"
        raise CheckpointError(Problem("not-gpt-neox", what, "use another tag", Location(str(path)))) from None


def tag_name(iteration: int) -> str:
    """DeepSpeed's name of the checkpoint at ``iteration``, as GPT-NeoX gives it."""
    return f"global_step{iteration}"


def find_tag(checkpoint: Path) -> Path:
    """The tag directory that a CHECKPOINT argument means: itself, or what ``latest`` in it names.

    Raises:
        InputError: there is no such directory, or it is neither a tag nor a save directory.
    """
    where = Location(str(checkpoint))
    if not checkpoint.is_dir():
        raise InputError(Problem("no-checkpoint", "there is no such directory", "check the path", where))
    if any(checkpoint.glob("*.pt")):
        return checkpoint
    latest = checkpoint / "latest"
    if not latest.is_file():
        raise InputError(
            Problem(
                "no-checkpoint",
                "is neither a tag (it holds no .pt files) nor a save directory (it holds no `latest`)",
                "name a directory such as SAVE/global_step1000",
                where,
            )
        )
    tag = checkpoint / latest.read_text(encoding="utf-8", errors="replace").strip()
    if tag == checkpoint or not tag.is_dir():
        raise InputError(
            Problem(
                "latest-is-wrong",
                f"`latest` names {tag.name!r}, which is not there",
                "name the tag directory itself",
                where,
            )
        )
    return tag


@dataclass(frozen=True)
class Topology:
    """How many ways the model is split.  ``pipeline`` is 0 without the pipeline engine."""

    tensor: int
    pipeline: int
    data: int

    def __str__(self) -> str:
        return f"TP {self.tensor}, PP {self.pipeline}, DP {self.data}"


class TagFiles:
    """The files of one tag and what ``mp_rank_00`` says about them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = tuple(sorted(p.name for p in path.glob("*.pt")))

    def has(self, pattern: re.Pattern[str]) -> bool:
        return any(pattern.fullmatch(name) for name in self.names)

    def archive(self, name: str) -> Archive:
        """One of the files, opened."""
        return Archive(self.path / name)

    @cached_property
    def header(self) -> dict[str, Any]:
        """The root of the first model file: arguments, iteration, world sizes, parameter shapes.

        Raises:
            CheckpointError: there is none, or it is damaged or not GPT-NeoX's.
        """
        name = next((n for n in self.names if MODEL_FILE.fullmatch(n) or ZERO3_MODEL_FILE.fullmatch(n)), None)
        if name is None:
            raise self.error("incomplete-tag", "holds no mp_rank_*_model_states.pt", "use a complete tag")
        root = self.archive(name).root
        if not isinstance(root, dict) or not isinstance(root.get("args"), dict):
            raise self.error("not-gpt-neox", f"{name} lacks the `args` that GPT-NeoX saves", "use a GPT-NeoX tag")
        return root

    @cached_property
    def topology(self) -> Topology:
        header = self.header
        tensor = int(header["args"]["model_parallel_size"])
        stages = int(header["mp_world_size"]) // tensor if self.has(LAYER_FILE) else 0
        return Topology(tensor, stages, int(header["dp_world_size"]))

    @property
    def iteration(self) -> int:
        with understood(self.path):
            return int(self.header["iteration"])

    @property
    def sharded_optimizer(self) -> bool:
        """Whether the optimizer is in shards of its own, as with ZeRO 1 to 3 and ``BF16_Optimizer``."""
        return self.header.get("optimizer") is None

    @cached_property
    def tied(self) -> bool:
        """Whether input and output embedding are one parameter: told by the absence of a head of its own."""
        if self.topology.pipeline:
            head = int(self.header["args"]["num_layers"]) + 4
            return not any(n.startswith(f"layer_{head:02d}-") for n in self.names) and self._names_tied()
        return not any(name.endswith(_HEADS) for name in self.header["module"])

    def _names_tied(self) -> bool:
        """False where a head belongs to this model and only its file is missing.  ZeRO stage 0 names nothing."""
        shapes = self.header.get("param_shapes")
        return shapes is None or any(name.startswith("tied_modules.") for group in shapes for name in group)

    @property
    def trained_dtype(self) -> str:
        """The dtype that the model computes in where no weights are stored (ZeRO stage 3: of its empty tensors)."""
        first = next(iter(self.header["module"].values()))
        return str(first.dtype)

    def strangers(self) -> list[str]:
        """Names of .pt files that no dense GPT-NeoX model has."""
        known = (LAYER_FILE, MODEL_FILE, OPTIMIZER_FILE, ZERO3_MODEL_FILE)
        return [name for name in self.names if not any(pattern.fullmatch(name) for pattern in known)]

    def error(self, problem_id: str, what: str, remedy: str) -> CheckpointError:
        return CheckpointError(Problem(problem_id, what, remedy, Location(str(self.path))))

    def missing(self) -> list[str]:
        """Names of the files that a complete tag of this topology has and this one lacks."""
        topology = self.topology
        model_ranks = range(topology.tensor * max(1, topology.pipeline))
        data_ranks = range(topology.data)
        expected = [*self._layer_files()]
        if self.has(ZERO3_MODEL_FILE):
            expected += [f"zero_pp_rank_{r}_mp_rank_{m:02d}_model_states.pt" for r in data_ranks for m in model_ranks]
        else:
            expected += [f"mp_rank_{m:02d}_model_states.pt" for m in model_ranks]
        if self.sharded_optimizer:
            prefix = "bf16_" if any(n.startswith("bf16_") for n in self.names) else ""
            shard = prefix + "zero_pp_rank_{}_mp_rank_{:02d}_optim_states.pt"
            expected += [shard.format(r, m) for r in data_ranks for m in model_ranks]
        return [name for name in expected if name not in self.names]

    def _layer_files(self) -> list[str]:
        if not self.topology.pipeline:
            return []
        layers = int(self.header["args"]["num_layers"])
        numbers = [0, *range(2, layers + 2), layers + 3]
        if not self.tied:
            numbers.append(layers + 4)
        return [f"layer_{n:02d}-model_{t:02d}-model_states.pt" for n in numbers for t in range(self.topology.tensor)]

    def problems(self) -> list[Problem]:
        """Why this tag is not whole: files missing, cut off or damaged, no ``configs/``.  Empty when it is."""
        try:
            with understood(self.path):
                missing = self.missing()
        except CheckpointError as error:
            return list(error.problems)
        found = []
        if missing:
            what = f"lacks {len(missing)} of its files, {missing[0]} first"
            found.append(Problem("incomplete-tag", what, "use an earlier tag", Location(str(self.path))))
        if not any((self.path / "configs").glob("*")):
            what = "has no configs/, which the trainer writes last"
            found.append(Problem("incomplete-tag", what, "use an earlier tag", Location(str(self.path))))
        for name in self.names:
            try:
                self.archive(name)
            except CheckpointError as error:
                found.extend(error.problems)
        return found

    def written_after_commit(self) -> list[str]:
        """Names of the .pt files that are newer than ``configs/``.

        GPT-NeoX writes ``configs/`` after a barrier behind all ranks' saving, so in a tag that it finished there are
        none, except those that surgery patched later.  Meaningless where a tag was copied without its times.
        """
        configs = [p.stat().st_mtime_ns for p in (self.path / "configs").glob("*")]
        newest = max(configs, default=0)
        return [name for name in self.names if (self.path / name).stat().st_mtime_ns > newest]
