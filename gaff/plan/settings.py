# SPDX-License-Identifier: Apache-2.0
"""The ``gaff:`` block: every key, its type, its default and its meaning.  Nothing else in GAFF reads raw gaff keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SCALES = "above 0 (from 1.2e-38 to 10000)"  # in words, what usable_scale() takes


def usable_scale(scale: float) -> bool:
    """Whether new weights can have this standard deviation or bound.

    Below, float32 has only subnormal numbers; above, values overflow float16 (65504) a few deviations out.
    """
    return 2.0**-126 <= scale <= 1e4


InitKind = Literal["config", "normal", "uniform", "matched", "step0", "file"]
TrainerName = Literal["auto", "neox", "bundled"]
Moments = Literal["zero", "keep"]
LrSchedule = Literal["continue", "restart"]
Device = Literal["gpu", "cpu", "cpu-beside-gpus"]
Engine = Literal["apptainer", "docker"]
Policy = Literal["warn", "restart", "stop"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]

#: Names of parameters that every GPT-NeoX model has or may have; others are named by patterns.
NICKNAMES = ("input_embedding", "output_embedding", "position_embedding")


@dataclass(frozen=True)
class InitSpec:
    """Where the new values of a reset come from (the ``init`` key, parsed).

    Attributes:
        kind: ``config`` (GPT-NeoX's own ``init_method``), ``normal`` (``value`` is the standard deviation), ``uniform``
            (``value`` is the bound), ``matched`` (normal with mean and std of what is forgotten), ``step0`` (the values
            of ``global_step0``) or ``file`` (``path`` is a .safetensors file).
    """

    kind: InitKind = "config"
    value: float | None = None
    path: str | None = None

    def __str__(self) -> str:
        if self.kind == "file":
            return str(self.path)
        return self.kind if self.value is None else f"{self.kind}:{self.value!r}"


def _about(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(frozen=True, kw_only=True)
class ContainerSettings:
    """The ``container`` key: GPT-NeoX runs in this image, GAFF itself outside."""

    engine: Engine = field(metadata=_about("apptainer or docker"))
    image: str = field(metadata=_about("an .sif file, or the image's name"))
    neox_dir: str = field(default="/opt/gpt-neox", metadata=_about("the GPT-NeoX checkout inside the image"))
    python: str = field(default="python", metadata=_about("the Python inside the image that has GPT-NeoX's packages"))
    binds: tuple[str, ...] = field(
        default=(), metadata=_about("further directories to mount, HOST or HOST:INSIDE or HOST:INSIDE:ro")
    )
    options: tuple[str, ...] = field(default=(), metadata=_about("further words for the engine's command line"))


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """The ``watch`` key: when the supervisor steps in, and what it does then.

    A policy is one of ``warn`` (say so, go on), ``restart`` (end the trainer, go on from the newest checkpoint, within
    the budget of restarts) and ``stop`` (end the trainer and the run).  A threshold of None (``never``) switches its
    watchdog off.
    """

    silence_minutes: float | None = field(
        default=30.0,
        metadata=_about("no line from the trainer for so long is a hang; or never"),
    )
    on_silence: Policy = field(
        default="restart", metadata=_about("after a hang, the ranks' stacks in the log: warn, restart or stop")
    )
    slow_factor: float | None = field(
        default=10.0, metadata=_about("an iteration is slow when it takes so many times the run's own median; or never")
    )
    slow_minutes: float = field(default=5.0, metadata=_about("how long the trainer may be slow before that is told"))
    on_slow: Policy = field(default="warn", metadata=_about("after a slow time: warn, restart or stop"))
    nan_lines: int | None = field(
        default=1, metadata=_about("iteration lines in a row whose loss is NaN or infinite; or never")
    )
    on_nan: Policy = field(default="restart", metadata=_about("when the loss is no number: warn, restart or stop"))
    skipped_in_a_row: int | None = field(
        default=40, metadata=_about("iterations in a row that were skipped for their gradients; or never")
    )
    on_skipped: Policy = field(default="stop", metadata=_about("when so many were skipped: warn, restart or stop"))
    on_loss_scale: Policy = field(
        default="warn", metadata=_about("when fp16's loss scale has fallen to its minimum: warn, restart or stop")
    )
    high_loss_factor: float | None = field(
        default=1.5, metadata=_about("a loss is high at so many times the peak after the last reset; or never")
    )
    on_high_loss: Policy = field(default="warn", metadata=_about("when the loss is high: warn, restart or stop"))
    on_late_checkpoint: Policy = field(
        default="warn", metadata=_about("when training went past a checkpoint that is not there: warn, restart or stop")
    )
    disk_factor: float | None = field(
        default=1.1,
        metadata=_about("free space that must be there before training, in sizes of the next checkpoint; or never"),
    )
    restarts: int = field(
        default=10, metadata=_about("restarts in a row without a new checkpoint; 0 leaves them to you")
    )
    same_iteration: int = field(
        default=3, metadata=_about("failures after the same iteration in a row that end the run")
    )
    backoff_seconds: float = field(
        default=10.0, metadata=_about("wait before the first restart; doubled for each further one, up to 10 minutes")
    )
    grace_seconds: float = field(
        default=20.0,
        metadata=_about("after SIGTERM, SIGINT or SIGHUP: train on to a checkpoint that comes within so long"),
    )
    warning_seconds: float = field(
        default=100.0, metadata=_about("after SIGUSR1 or SIGUSR2: train on to a checkpoint that comes within so long")
    )


@dataclass(frozen=True, kw_only=True)
class KeepSettings:
    """The ``keep`` key: which of the tags that GAFF had written stay.  What it says is added up.

    All of them where ``newest`` is None (``keep: all``).  The tag to resume from is among the newest always.
    """

    newest: int | None = field(
        default=None, metadata=_about("so many of the newest; 1 where only the next two are given, all where none is")
    )
    every: int | None = field(default=None, metadata=_about("those whose iteration is a multiple of this"))
    resets: bool = field(default=False, metadata=_about("those in which a reset was made"))


@dataclass(frozen=True, kw_only=True)
class GaffSettings:
    """The ``gaff:`` block, checked.  Field docs (``metadata["doc"]``) are what ``gaff plan --keys`` prints."""

    reset_every: int | None = field(
        metadata=_about("k: iterations between two resets; `never` trains the baseline without any")
    )
    first_reset: int | None = field(default=None, metadata=_about("iteration of the first reset; default k"))
    last_reset: int | None = field(
        default=None,
        metadata=_about("no reset after this iteration; default: the last multiple before train_iters"),
    )
    parameters: tuple[str, ...] = field(
        default=("input_embedding",),
        metadata=_about(
            "what is forgotten: input_embedding, output_embedding, position_embedding, a pattern of names such as"
            " '*.attention.dense.weight', or a list of these"
        ),
    )
    init: InitSpec = field(
        default=InitSpec(),
        metadata=_about(
            "new values: config (as GPT-NeoX's init_method), normal:STD, uniform:BOUND, matched, step0,"
            " or a .safetensors file"
        ),
    )
    moments: Moments = field(
        default="zero", metadata=_about("the optimizer's moments of what is forgotten: zero or keep")
    )
    lr_schedule: LrSchedule = field(
        default="continue",
        metadata=_about("continue, or restart: the learning rate's warm-up and decay begin anew after each reset"),
    )
    seed: int = field(default=1234, metadata=_about("seed of the resets, apart from GPT-NeoX's own seed"))
    trainer: TrainerName = field(
        default="auto",
        metadata=_about("neox, bundled, or auto (neox where it is found, else an error that says so)"),
    )
    neox_dir: str | None = field(
        default=None, metadata=_about("the GPT-NeoX checkout; else --neox-dir or GPT_NEOX_DIR")
    )
    neox_python: str | None = field(
        default=None, metadata={"doc": "the Python that has GPT-NeoX's packages; else GPT_NEOX_PYTHON, else GAFF's own"}
    )
    device: Device = field(
        default="gpu",
        metadata=_about(
            "what GPT-NeoX trains on: gpu, cpu (through GAFF's shim; no GPU may be there), cpu-beside-gpus"
        ),
    )
    container: ContainerSettings | None = field(
        default=None, metadata=_about("run GPT-NeoX in an image: engine (apptainer or docker), image, binds, options …")
    )
    environment: tuple[tuple[str, str | None], ...] = field(
        default=(),
        metadata=_about("variables for every rank on every node, as KEY: value; `KEY: null` hands on this shell's"),
    )
    watch: WatchSettings = field(
        default=WatchSettings(),
        metadata=_about("when to step in, and how: silence_minutes, on_nan, restarts … (docs/supervision.md)"),
    )
    notify: str | None = field(
        default=None,
        metadata=_about("a shell command for warnings, failure and the end; it finds GAFF_EVENT and GAFF_MESSAGE set"),
    )
    track: tuple[TrackerName, ...] = field(
        default=("tensorboard",),
        metadata=_about("where the metrics go as the run goes: tensorboard, wandb, mlflow, a list of these, or none"),
    )
    save_forgotten: bool = field(
        default=False, metadata=_about("keep what was forgotten as safetensors inside the tag")
    )
    keep: KeepSettings = field(
        default=KeepSettings(),
        metadata=_about("which tags stay: all, resets, a number of newest, or {newest: N, every: M, resets: true}"),
    )
