# SPDX-License-Identifier: Apache-2.0
"""The surgery that a run does on its own checkpoints: the reset that is due, and what was cut short."""

from __future__ import annotations

import time
from pathlib import Path

from gaff.checkpoint.surgery.learning_rate import RestartRequest, restart_lr
from gaff.checkpoint.surgery.perform import Result, finish_interrupted
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.tag import tag_name
from gaff.checkpoint.transaction import valid_records
from gaff.plan.schedule import Reset
from gaff.supervisor.progress import operations_of
from gaff.supervisor.run_context import RunContext


def finish_surgery(run: RunContext, iteration: int) -> None:
    """End whatever was begun in the tag to train on from, by a run or by hand, and cut short."""
    tag = run.directory.save / tag_name(iteration)
    record = finish_interrupted(tag)
    if record is not None:
        run.journal.write("surgery_finished", tag=tag.name, kind=record.operation.kind)
        run.observer.message(f"{tag.name}: the {record.operation.kind} that was cut short is finished")


def tell_reset(run: RunContext, due: Reset) -> None:
    """Say of a reset that it is made, where who made it was killed before it could."""
    for record in valid_records(_tag(run, due)):
        if record.operation.kind == "reset" and record.operation.about["reset"] == due.number:
            _report_reset(run, due, Result(record, already_done=True), 0.0)


def forget(run: RunContext, due: Reset) -> None:
    """Make the reset in its tag."""
    settings = run.config.gaff
    request = ResetRequest(
        number=due.number,
        seed=settings.seed,
        init=settings.init,
        moments=settings.moments,
        parameters=settings.parameters,
        save_forgotten=settings.save_forgotten,
    )
    run.journal.write("reset_begun", reset=due.number, iteration=due.iteration)
    run.observer.reset_started(due)
    began = time.monotonic()
    result = reset(_tag(run, due), request)
    _report_reset(run, due, result, time.monotonic() - began)


def restart_schedule(run: RunContext, due: Reset) -> None:
    """Begin the learning rate's warm-up and decay anew in the tag of the reset."""
    tag = _tag(run, due)
    result = restart_lr(tag, RestartRequest())
    about = result.operation.about
    run.journal.write(
        "schedule_restarted",
        reset=due.number,
        iteration=due.iteration,
        already_done=result.already_done,
        lr_before=about["lr_before"],
        lr_after=about["lr_after"],
    )
    run.observer.message(f"{tag.name}: the learning rate's warm-up and decay begin anew")


def tell_operations_by_hand(run: RunContext, due: Reset) -> None:
    """Say what was done to the tag beside what the run itself does to it."""
    made = operations_of(_tag(run, due), due) or []
    by_hand = made[1:] if run.config.gaff.lr_schedule == "restart" and made[:1] == ["restart-lr"] else made
    if by_hand:
        run.journal.write("operated_by_hand", reset=due.number, iteration=due.iteration, operations=by_hand)
        name = tag_name(due.iteration)
        run.observer.message(f"{name}: after reset {due.number} came {', '.join(by_hand)} by hand: left as it is")


def _tag(run: RunContext, due: Reset) -> Path:
    return run.directory.save / tag_name(due.iteration)


def _report_reset(run: RunContext, due: Reset, result: Result, seconds: float) -> None:
    operation = result.operation
    run.journal.write(
        "reset_done",
        reset=due.number,
        iteration=due.iteration,
        already_done=result.already_done,
        copies=len(operation.edits),
        bytes=operation.bytes_changed,
        seconds=round(seconds, 4),
        forgotten=dict(operation.about["forgotten"]),
    )
    run.observer.reset_done(due, seconds, len(operation.edits), operation.bytes_changed)
