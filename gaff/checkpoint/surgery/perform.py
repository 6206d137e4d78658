# SPDX-License-Identifier: Apache-2.0
"""Doing one operation on one tag: alone, from a sound state, prepared, announced, done, recorded.

Read -> plan -> apply -> record.  Whatever is missing or wrong is found before the first byte changes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import Copy
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.operation import Edit, Operation, crc_digest, record_crcs, storable
from gaff.checkpoint.reader import in_parallel
from gaff.checkpoint.selection import RowSelection
from gaff.checkpoint.sources import ValueSource, is_lasting, store
from gaff.checkpoint.survey import Survey
from gaff.checkpoint.tag import TagFiles
from gaff.checkpoint.transaction import (
    FOLDER,
    NEW_VALUES,
    Record,
    apply,
    begin,
    begun_operation,
    commit,
    is_announced,
    refuse_other_state,
    remove_leftovers,
    valid_records,
    withdraw,
)
from gaff.errors import CheckpointError, InputError, Location, Problem
from gaff.files import exclusive_lock, make_directory_durably

_SPARE = 64 << 20  # bytes to leave on the disk


@dataclass(frozen=True)
class Result:
    """What was done.  ``already_done`` when the tag already carried exactly this operation."""

    record: Record
    already_done: bool

    @property
    def operation(self) -> Operation:
        return self.record.operation


def perform(
    tag: Path,
    plan: Callable[[Layout], Operation],
    *,
    already: Callable[[Layout], Record | None] = lambda layout: None,
    prepare: Callable[[Layout, Operation], Operation] = lambda layout, operation: operation,
) -> Result:
    """Do one operation in place, durably; finish first whatever was begun in the tag and cut short.

    Args:
        tag: the tag directory.
        plan: works out the operation; only reads.
        already: finds the record of the same operation, done before.
        prepare: leaves in the tag what the operation needs or keeps, before it begins; returns it completed.

    Raises:
        CheckpointError: the tag is incomplete, damaged, of an unsupported layout, or its copies disagree, or there is
            no room.  Nothing was changed then.
        InputError: what the user asked for cannot be had, or another process operates on the tag.
    """
    with alone(tag):
        _finish_interrupted(tag)
        remove_leftovers(tag)
        layout = read_layout(tag)
        done = already(layout)
        if done is not None:
            return Result(done, already_done=True)
        operation = plan(layout)
        _refuse_unwritable(tag, operation)
        _refuse_full_disk(tag, operation)
        try:
            make_directory_durably(tag / FOLDER)
            operation = prepare(layout, operation)
            operation = _with_lasting_sources(tag, operation)
            begin(tag, operation)
        except BaseException as error:
            if not is_announced(tag):  # else whoever comes next needs what was prepared
                remove_leftovers(tag)
            if isinstance(error, OSError):
                raise _no_room(tag, error) from error
            raise
        return Result(_finish(tag, operation), already_done=False)


def done_before(layout: Layout, kind: str, identity: Callable[[], Mapping[str, Any]]) -> Record | None:
    """The tag's newest record, if it holds and is of an operation of this ``kind`` that said the same of itself."""
    held = valid_records(layout.path)
    if not held or held[-1].operation.kind != kind or held[-1].operation.iteration != layout.iteration:
        return None
    about = held[-1].operation.about
    return held[-1] if all(about.get(key) == value for key, value in storable(dict(identity())).items()) else None


def finish_interrupted(tag: Path) -> Record | None:
    """Finish the operation that was begun in the tag and cut short, if there is one.  Returns its record.

    Raises:
        CheckpointError: the tag is not as the operation found it.
        InputError: another process operates on the tag.
    """
    with alone(tag):
        return _finish_interrupted(tag)


@contextmanager
def alone(tag: Path) -> Iterator[None]:
    """Hold a tag: two operations at once would mix their bytes, and a reader would see half of one.

    Raises:
        InputError: another process holds it.
    """
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
    done = [r for r in valid_records(tag) if r.operation.to_json() == operation.to_json()]
    if done:  # killed between the record and the removal of the intent
        withdraw(tag, operation)
        return done[-1]
    refuse_other_state(tag, operation)
    return _finish(tag, operation)


def _finish(tag: Path, operation: Operation) -> Record:
    try:
        outcome = apply(tag, operation)
        for name, crcs in outcome.crcs_after.items():
            if record_crcs(tag / name) != crcs:
                what = "does not hold what was written to it"
                raise CheckpointError(Problem("bad-write", what, "check the disk", Location(str(tag / name))))
        return commit(tag, operation, outcome)
    except OSError as error:
        raise _no_room(tag, error, "then finish it with `gaff surgery finish`, or run again") from error


def new_operation(
    kind: str,
    layout: Layout,
    about: Mapping[str, Any],
    edits: Iterable[Edit],
    *,
    selections: Mapping[str, RowSelection] | None = None,
    sources: Mapping[str, ValueSource] | None = None,
    **other: Any,
) -> Operation:
    """An operation on a tag as it is now, with the CRCs that prove that nothing else changed."""
    listed = tuple(sorted(edits, key=lambda e: (e.copy.file, e.copy.record, e.copy.offset)))
    operation = Operation(
        kind=kind,
        iteration=layout.iteration,
        about=about,
        began=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        crcs_before={},
        untouched={},
        parameters={name: layout.parameters[name] for name in dict.fromkeys(e.copy.parameter for e in listed)},
        selections=dict(selections or {}),
        sources=dict(sources or {}),
        edits=listed,
        **other,
    )
    names = TagFiles(layout.path).names
    crcs = dict(zip(names, in_parallel(lambda name: record_crcs(layout.path / name), names), strict=True))
    touched = operation.touched
    return replace(
        operation,
        crcs_before={name: crcs[name] for name in sorted(touched)},
        untouched={name: crc_digest(crcs[name]) for name in names if name not in touched},
    )


def edit_of(survey: Survey, copy: Copy, content: str) -> Edit:
    """An edit of a copy that was surveyed."""
    return Edit(copy, content, survey.crcs[copy])


def refuse_unsound(layout: Layout, survey: Survey) -> None:
    """Make sure that a tag is whole and its surveyed copies agree, so that nothing is built on sand.

    Raises:
        CheckpointError: it is not.
    """
    faults = TagFiles(layout.path).problems() or survey.problems(layout.path)
    if faults:
        raise CheckpointError(faults)


def _with_lasting_sources(tag: Path, operation: Operation) -> Operation:
    if all(is_lasting(source) for source in operation.sources.values()):
        return operation
    shapes = {
        edit.content: operation.parameters[edit.copy.parameter].shape
        for edit in operation.edits
        if edit.content in operation.sources
    }
    return replace(operation, sources=store(tag / FOLDER / NEW_VALUES, operation.sources, shapes))


def _refuse_unwritable(tag: Path, operation: Operation) -> None:
    for path in (tag, *sorted(tag / name for name in operation.touched)):
        if not os.access(path, os.W_OK) and not (path != tag and _is_shared(path)):  # that is replaced, not written to
            remedy = "make it writable, or use --output"
            raise CheckpointError(Problem("read-only", "cannot be written to", remedy, Location(str(path))))


def _refuse_full_disk(tag: Path, operation: Operation) -> None:
    """Room for private copies of shared files, and for values that must be stored."""
    needed = sum((tag / name).stat().st_size for name in operation.touched if _is_shared(tag / name))
    contents = {edit.content: edit.copy.parameter for edit in operation.edits}
    for content, source in operation.sources.items():
        if not is_lasting(source) and content in contents:
            needed += 4 * operation.parameters[contents[content]].numel
    if needed and shutil.disk_usage(tag).free < needed + _SPARE:
        what = f"there is no room for the {needed:,} bytes that this operation needs beside the checkpoint"
        raise CheckpointError(Problem("disk-full", what, "free some space", Location(str(tag))))


def _is_shared(path: Path) -> bool:
    return path.is_symlink() or path.stat().st_nlink > 1


def _no_room(tag: Path, error: OSError, then: str = "and try again") -> CheckpointError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else f"cannot be written to ({error.strerror or error})"
    remedy = f"{'free some space' if full else 'mend that'}, {then}"
    return CheckpointError(Problem("disk-full" if full else "unwritable", what, remedy, Location(str(tag))))
