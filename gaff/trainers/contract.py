# SPDX-License-Identifier: Apache-2.0
"""The contract between supervisor and trainer.

A trainer is a program that trains one segment per launch and writes DeepSpeed checkpoints.  The supervisor knows it
only through :class:`Trainer`: it asks for a :class:`Launch`, runs it, and reads its output as events.  What a trainer
owes:

* it resumes from exactly the tag ``global_step<start>`` of ``save`` (from scratch when ``start`` is 0);
* it stops by itself after iteration ``stop`` with a checkpoint written there;
* it writes checkpoints as GPT-NeoX does: ``configs/`` inside the tag last of all.

Whether it kept its word is judged from the checkpoint directory, never from exit code, ``latest`` or log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gaff.errors import Problem
from gaff.plan.config import Config

# --- events: what a line of output can mean ---


@dataclass(frozen=True)
class IterationLogged:
    """The trainer's periodic line.  ``loss`` is the mean over the interval since the previous such line."""

    iteration: int
    total: int
    loss: float | None
    learning_rate: float | None
    ms_per_iteration: float | None
    samples_per_s: float | None
    skipped: int
    nan: int
    losses: Mapping[str, float] = field(default_factory=dict)
    loss_scale: float | None = None


@dataclass(frozen=True)
class ValidationLogged:
    """``iteration`` is None for the results printed at the end of training."""

    iteration: int | None
    loss: float
    split: str  # "validation" or "test"


@dataclass(frozen=True)
class ResumedAt:
    """The trainer says which iteration it starts from.  0 means from scratch, also when that was not asked."""

    iteration: int


@dataclass(frozen=True)
class LoadFailed:
    """The trainer could not load a checkpoint.  GPT-NeoX then trains from scratch, or exits 0 without training."""

    message: str


@dataclass(frozen=True)
class CheckpointSaved:
    """One rank says the tag is ready.  No proof of completeness: other ranks may still be writing."""

    tag: str


@dataclass(frozen=True)
class StoppedAt:
    """The trainer stops by itself, as asked, after this iteration."""

    iteration: int


@dataclass(frozen=True)
class ErrorLogged:
    """A decisive line: the last line of a traceback, or a sentence with which the trainer leaves.

    ``lines`` are the log's own, the last the one that says it, so that a person can be shown them.
    """

    message: str
    lines: tuple[str, ...] = field(default=(), compare=False)


Event = IterationLogged | ValidationLogged | ResumedAt | LoadFailed | CheckpointSaved | StoppedAt | ErrorLogged


# --- the launch ---


@dataclass(frozen=True)
class SegmentRequest:
    """What the supervisor asks of a trainer: iterations ``start`` (exclusive) to ``stop`` (inclusive).

    Attributes:
        save: checkpoint directory, absolute; the tag ``global_step<start>`` is there unless ``start`` is 0.
        directory: the segment's own directory in the run directory; the trainer's config is written here.
        master_port: a TCP port that was free a moment ago and that no other run of GAFF on this machine takes.
        run_id: the same in all segments of a run.
    """

    start: int
    stop: int
    save: Path
    directory: Path
    master_port: int
    run_id: str


@dataclass(frozen=True)
class Launch:
    """A command line, ready to run.

    Attributes:
        argv, cwd: of the process to start.
        env: only what is added to or changed in the supervisor's environment, which is handed on without the variables
            of one rank (RANK and its like), should a shell have these left over.
        clean_up: commands that end what no kill of the launch's processes reaches (a container belongs to its daemon).
            Run before the launch, in case an earlier one was killed, and after it; they may fail.
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    clean_up: tuple[tuple[str, ...], ...] = ()


class Trainer(Protocol):
    """A trainer, as the supervisor sees it.  A third one is one new module."""

    name: str

    def check(self, config: Config) -> list[Problem]:
        """Everything that would stop this trainer from running ``config`` here, by name.  Writes nothing."""
        ...

    def warnings(self, config: Config) -> list[Problem]:
        """What a person should read before the run, about this trainer.  ``config`` was checked."""
        ...

    def fixed_port(self, config: Config) -> int | None:
        """The only port at which this trainer's ranks can meet under ``config``; None when it takes any."""
        ...

    def launcher_keys(self, config: Config) -> Mapping[str, Any]:
        """GPT-NeoX keys that its launcher needs in every segment beside the user's, for the plan to show."""
        ...

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        """Write the segment's merged config into ``request.directory`` and return how to launch it."""
        ...
