# SPDX-License-Identifier: Apache-2.0
"""The restart of the learning rate: the schedule of one tag set to another iteration, in every file that keeps it.

GPT-NeoX's schedule stands in every model file.  The rate itself stands in every optimizer state, which DeepSpeed loads
after the schedule with ZeRO 1 to 3 and ``BF16_Optimizer``, so the first step after a resume uses it
(``runtime/engine.py``, ``_load_zero_checkpoint``).  Both are set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.operation import Operation
from gaff.checkpoint.reader import in_parallel
from gaff.checkpoint.surgery.perform import Result, done_before, new_operation, perform
from gaff.checkpoint.surgery.schedule_files import FileChange, change_of, write_changed
from gaff.checkpoint.tag import MODEL_FILE, OPTIMIZER_FILE, ZERO3_MODEL_FILE, TagFiles
from gaff.checkpoint.transaction import FOLDER, STAGED
from gaff.errors import CheckpointError, InputError, Location, Problem
from gaff.files import fsync_directory, make_directory_durably
from gaff.plan.annealing import Schedule


@dataclass(frozen=True)
class RestartRequest:
    """What a user or the supervisor wants.

    Attributes:
        iteration: of the schedule; 0 restarts it.
        lr, min_lr, warmup_iters, decay_iters: new settings of the schedule, its ``start_lr``, ``min_lr``,
            ``warmup_iter`` and ``end_iter``; those that are there when None.
    """

    iteration: int = 0
    lr: float | None = None
    min_lr: float | None = None
    warmup_iters: float | None = None
    decay_iters: int | None = None

    @property
    def changes_settings(self) -> bool:
        return (self.lr, self.min_lr, self.warmup_iters, self.decay_iters) != (None, None, None, None)

    def applied_to(self, old: Schedule) -> Schedule:
        return Schedule(
            start_lr=old.start_lr if self.lr is None else self.lr,
            min_lr=old.min_lr if self.min_lr is None else self.min_lr,
            warmup_iter=old.warmup_iter if self.warmup_iters is None else self.warmup_iters,
            end_iter=old.end_iter if self.decay_iters is None else self.decay_iters,
            decay_style=old.decay_style,
            num_iters=self.iteration,
        )


def restart_lr(tag: Path, request: RestartRequest) -> Result:
    """Set the schedule of a tag, in place, durably; leave it if the tag's newest operation did exactly that.

    Raises:
        CheckpointError, InputError: see :func:`gaff.checkpoint.surgery.perform.perform`.
    """
    return perform(
        tag,
        lambda layout: plan_restart_lr(layout, request),
        already=lambda layout: done_before(layout, "restart-lr", lambda: {"request": asdict(request)}),
        prepare=lambda layout, operation: _stage(layout, operation, request),
    )


def plan_restart_lr(layout: Layout, request: RestartRequest) -> Operation:
    """Work out a restart without writing anything.

    Raises:
        CheckpointError: the tag is not whole, has no schedule of GPT-NeoX's, or its files do not agree on it.
        InputError: the new settings make no schedule.
    """
    problems = TagFiles(layout.path).problems()
    if problems:
        raise CheckpointError(problems)
    old = _schedule(layout)
    new = request.applied_to(old)
    _refuse_impossible(layout, new)
    changes = _changes(layout, new)
    _refuse_disagreement(layout, changes)
    return new_operation(
        "restart-lr",
        layout,
        _about(request, changes, old, new),
        (),
        patches=tuple(patch for change in changes for patch in change.patches),
        replaced={change.name: change.replaced for change in changes if change.replaced is not None},
    )


def _model_files(layout: Layout) -> list[str]:
    names = TagFiles(layout.path).names
    return [name for name in names if MODEL_FILE.fullmatch(name) or ZERO3_MODEL_FILE.fullmatch(name)]


def _schedule(layout: Layout) -> Schedule:
    """What the first model file says."""
    state = TagFiles(layout.path).header.get("lr_scheduler")
    if not isinstance(state, dict):
        raise _unknown(layout, f"{_model_files(layout)[0]} holds no learning rate schedule (`lr_scheduler`)")
    try:
        return Schedule.of(state)
    except (LookupError, TypeError) as error:
        raise _unknown(layout, f"its lr_scheduler is not GPT-NeoX's ({error})") from None


def _refuse_impossible(layout: Layout, schedule: Schedule) -> None:
    no_decay = schedule.warmup_iter == schedule.end_iter < schedule.num_iters
    if schedule.warmup_iter > schedule.end_iter or no_decay:
        what = f"a warm-up of {schedule.warmup_iter:g} iterations leaves no decay before iteration {schedule.end_iter}"
        remedy = "choose other --warmup-iters or --decay-iters"
        raise InputError(Problem("schedule", what, remedy, Location(str(layout.path))))


def _changes(layout: Layout, new: Schedule) -> list[FileChange]:
    """All files that keep the schedule or the rate."""
    shards = [name for name in TagFiles(layout.path).names if OPTIMIZER_FILE.fullmatch(name)]
    try:
        return in_parallel(lambda name: change_of(layout.path / name, new), [*_model_files(layout), *shards])
    except (LookupError, TypeError, AttributeError) as error:
        raise _unknown(layout, f"keeps its learning rate in a way that is not known ({error})") from None


def _refuse_disagreement(layout: Layout, changes: Sequence[FileChange]) -> None:
    first, *others = changes[: len(_model_files(layout))]
    different = next((change.name for change in others if change.schedule != first.schedule), None)
    if different is not None:
        what = f"{different} and {first.name} hold different learning rate schedules"
        remedy = "use an earlier tag, whose files agree"
        raise CheckpointError(Problem("copies-disagree", what, remedy, Location(str(layout.path))))


def _unknown(layout: Layout, what: str) -> CheckpointError:
    remedy = "use a checkpoint that GPT-NeoX wrote with its own schedule"
    return CheckpointError(Problem("no-schedule", what, remedy, Location(str(layout.path))))


def _about(request: RestartRequest, changes: Sequence[FileChange], old: Schedule, new: Schedule) -> dict[str, object]:
    was, will = ({pair[side] for change in changes for pair in change.rates} for side in (0, 1))
    notes = [f"schedule ({new.decay_style}): from iteration {old.num_iters} to {new.num_iters} of {new.end_iter}"]
    if will:
        notes.append(f"learning rate of the next step: from {_listed(was)} to {_listed(will)}")
    else:
        notes.append(f"learning rate of the next step: {new.rate():g}; the optimizer's files keep none")
    if request.changes_settings:
        notes.append("GPT-NeoX must be told the same settings, or `use_checkpoint_lr_scheduler: true`")
    if new.decay_style == "cosine" and new.num_iters > new.end_iter:
        notes.append("this is past the schedule's end, where GPT-NeoX's cosine rises again")
    return {
        "request": asdict(request),
        "schedule_before": asdict(old),
        "schedule_after": asdict(new),
        "lr_before": sorted(was),
        "lr_after": sorted(will) or [new.rate()],
        "notes": notes,
    }


def _listed(rates: set[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in sorted(rates))


def _stage(layout: Layout, operation: Operation, request: RestartRequest) -> Operation:
    """Write the files that are to be replaced where the operation looks for them."""
    if operation.replaced:
        folder = layout.path / FOLDER / STAGED
        make_directory_durably(folder)
        new = request.applied_to(_schedule(layout))
        for name in operation.replaced:
            write_changed(layout.path / name, new, folder / name)
        fsync_directory(folder)
    return operation
