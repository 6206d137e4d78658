# SPDX-License-Identifier: Apache-2.0
"""The reset: re-initialise the input embedding in every copy of one tag, zero its moments, touch nothing else.

Read -> plan -> apply -> verify.  ``plan_reset`` only reads; ``reset`` does it, or finishes it, or finds it done.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from gaff.checkpoint.init_source import source_of
from gaff.checkpoint.layout import MASTER, MODEL, MOMENTS, PARAMETER, Copy, Layout, read_layout
from gaff.checkpoint.operation import Edit, Operation, crc_digest, record_crcs
from gaff.checkpoint.tag import TagFiles
from gaff.checkpoint.transaction import (
    FOLDER,
    Record,
    apply,
    begin,
    begun_operation,
    commit,
    refuse_other_state,
    valid_records,
    withdraw,
)
from gaff.checkpoint.values import ArrayValues, CopyReader, pieces, save_matrix
from gaff.checkpoint.verify import disagreements, undone_edits
from gaff.errors import CheckpointError, InputError, Location, Problem
from gaff.files import exclusive_lock, make_directory_durably
from gaff.plan.settings import InitSpec

_NEW_VALUES = "new-values.safetensors"  # given values, while an operation is under way


@dataclass(frozen=True)
class ResetRequest:
    """What a user or the supervisor wants: reset number ``number`` of a run, with this seed."""

    number: int
    seed: int
    init: InitSpec = field(default_factory=InitSpec)
    moments: str = "zero"
    save_forgotten: bool = False


@dataclass(frozen=True)
class ResetResult:
    """What was done.  ``already_done`` when the tag already carried exactly this reset."""

    record: Record
    already_done: bool

    @property
    def operation(self) -> Operation:
        return self.record.operation


def reset(tag: Path, request: ResetRequest, *, step0_from: Path | None = None) -> ResetResult:
    """Make one reset in place, durably; finish it if it was begun; leave it if it is done.

    Args:
        tag: the tag directory.
        request: what is wanted.
        step0_from: the save directory that holds ``global_step0``; the tag's own by default.

    Raises:
        CheckpointError: the tag is incomplete, damaged, of an unsupported layout, or its copies disagree.  Nothing was
            written then.
        InputError: ``request.init`` cannot be had, or another process operates on the tag.
    """
    with _alone(tag):
        _finish_interrupted(tag)
        layout = read_layout(tag)
        done = _already_done(layout, request)
        if done is not None:
            return ResetResult(done, already_done=True)
        operation = plan_reset(layout, request, step0_from=step0_from)
        _refuse_unwritable(tag, operation)
        make_directory_durably(tag / FOLDER)
        if request.save_forgotten:
            save_forgotten(layout, operation)
        if isinstance(operation.source, ArrayValues):
            operation = replace(operation, source=operation.source.store(tag / FOLDER / _NEW_VALUES))
        begin(tag, operation)
        return ResetResult(_finish(tag, operation), already_done=False)


def finish_interrupted(tag: Path) -> Record | None:
    """Finish the operation that was begun in the tag and cut short, if there is one.  Returns its record.

    Raises:
        CheckpointError: the tag is not as the operation found it, or the bytes on disk are not those that were written.
        InputError: another process operates on the tag.
    """
    with _alone(tag):
        return _finish_interrupted(tag)


@contextmanager
def _alone(tag: Path) -> Iterator[None]:
    """Hold the tag: two operations at once would mix their bytes."""
    descriptor = os.open(tag, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with exclusive_lock(descriptor):
            yield
    except BlockingIOError:
        what = "another process is operating on this checkpoint"
        raise InputError(Problem("tag-locked", what, "wait until it is done", Location(str(tag)))) from None
    finally:
        os.close(descriptor)


def _finish_interrupted(tag: Path) -> Record | None:
    operation = begun_operation(tag)
    if operation is None:
        return None
    done = [r for r in valid_records(tag) if r.operation == operation]
    if done:  # killed between the record and the removal of the intent
        withdraw(tag, operation)
        return done[-1]
    refuse_other_state(tag, operation)
    return _finish(tag, operation)


def _finish(tag: Path, operation: Operation) -> Record:
    outcome = apply(tag, operation)
    layout = read_layout(tag)
    faults = undone_edits(layout, operation, outcome) + disagreements(layout)
    if faults:
        raise CheckpointError(faults)
    return commit(tag, operation, outcome)


def plan_reset(layout: Layout, request: ResetRequest, *, step0_from: Path | None = None) -> Operation:
    """Work out a reset without writing anything.

    Raises:
        CheckpointError: the tag is incomplete, or its copies of the embedding disagree already, so that GAFF would
            build on sand.
        InputError: the new values cannot be had.
    """
    files = TagFiles(layout.path)
    faults = files.problems() or disagreements(layout)
    if faults:
        raise CheckpointError(faults)
    reader = CopyReader(layout)
    forgotten = embedding_statistics(layout)
    edits = tuple(_edit(reader, copy) for copy in _copies_to_edit(layout, request.moments))
    touched = {edit.copy.file for edit in edits}
    init, seed, number = request.init, request.seed, request.number
    return Operation(
        iteration=layout.iteration,
        reset=number,
        seed=seed,
        parameter=PARAMETER,
        shape=layout.shape,
        init=str(init),
        moments=request.moments,
        source=source_of(layout, init, seed=seed, reset=number, forgotten=forgotten, save=step0_from),
        edits=edits,
        crcs_before={name: record_crcs(layout.path / name) for name in sorted(touched)},
        untouched={n: crc_digest(record_crcs(layout.path / n)) for n in files.names if n not in touched},
        began=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        forgotten=forgotten,
    )


def _already_done(layout: Layout, request: ResetRequest) -> Record | None:
    """The tag's newest record, if it holds and is exactly this request."""
    held = valid_records(layout.path)
    if not held:
        return None
    done = held[-1].operation
    asked = (request.number, request.seed, str(request.init), request.moments)
    same = (done.reset, done.seed, done.init, done.moments) == asked and done.iteration == layout.iteration
    return held[-1] if same else None


def _copies_to_edit(layout: Layout, moments: str) -> list[Copy]:
    kinds = (MODEL, MASTER, *MOMENTS) if moments == "zero" else (MODEL, MASTER)
    return sorted(layout.of_kind(*kinds), key=lambda c: (c.file, c.record, c.offset))


def _edit(reader: CopyReader, copy: Copy) -> Edit:
    archive = reader.archive(copy.file)
    crc = archive.range_crc(archive.records[copy.record], copy.offset, copy.offset + copy.length)
    return Edit(copy, "zeros" if copy.kind in MOMENTS else "values", crc)


def _refuse_unwritable(tag: Path, operation: Operation) -> None:
    for path in (tag, *sorted({tag / edit.copy.file for edit in operation.edits})):
        if not os.access(path, os.W_OK):
            remedy = "make it writable, or use --output"
            raise CheckpointError(Problem("read-only", "cannot be written to", remedy, Location(str(path))))


def embedding_statistics(layout: Layout) -> dict[str, float]:
    """Norm, mean and standard deviation of the master, all rows, summed in float64."""
    import numpy as np

    reader = CopyReader(layout)
    total = squares = 0.0
    for start, stop in pieces(0, layout.numel):
        values = reader.values(MASTER, start, stop).astype(np.float64)
        total += float(values.sum())
        squares += float((values * values).sum())
    mean = total / layout.numel
    return {
        "norm": math.sqrt(squares),
        "mean": mean,
        "std": math.sqrt(max(0.0, squares / layout.numel - mean * mean)),
    }


def save_forgotten(layout: Layout, operation: Operation) -> Path:
    """Write the embedding as it is (the master, float32) into the tag's ``gaff/`` as safetensors."""
    path = layout.path / FOLDER / f"forgotten-{operation.reset:04d}.safetensors"
    matrix = CopyReader(layout).values(MASTER, 0, layout.numel).reshape(layout.shape)
    about = {"iteration": str(operation.iteration), "reset": str(operation.reset)}
    save_matrix(path, operation.parameter, matrix, about)
    return path
