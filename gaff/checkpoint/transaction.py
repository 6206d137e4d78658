# SPDX-License-Identifier: Apache-2.0
"""Doing an operation on a tag so that it can be killed anywhere, and done again.

Inside the tag, in ``gaff/``:

* ``intent.json`` is there, durably, before the first byte of a .pt file changes, and until the operation is recorded;
* ``new-values.safetensors`` and ``staged/`` hold what an operation was given and cannot work out again;
* ``0001-reset.json`` and so on are the records of what was done, oldest first.

New bytes are a pure function of the intent, and so are the new CRCs, therefore an operation that was cut short is
finished by doing all of it again.  Files with more than one hard link are replaced by a patched copy, so that no other
checkpoint changes with them.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gaff import __version__
from gaff.checkpoint.operation import SCHEMA, Operation, RecordCrcs, crc_digest, record_crcs, refuse_path
from gaff.checkpoint.patching import Outcome, patch_files
from gaff.checkpoint.sources import GoneValues
from gaff.checkpoint.tag import TagFiles
from gaff.errors import CheckpointError, Location, Problem
from gaff.files import TROUBLE, fsync_directory, fsync_file, make_directory_durably, remove_durably, write_json_durably

FOLDER = "gaff"
INTENT = "intent.json"
NEW_VALUES = "new-values.safetensors"  # given values, while an operation is under way
STAGED = "staged"  # new files that will take the place of old ones


@dataclass(frozen=True)
class Record:
    """An operation that was done, and where that stands."""

    operation: Operation
    outcome: Outcome
    path: Path


def begun_operation(tag: Path) -> Operation | None:
    """The operation whose intent stands in the tag: begun, and not known to be finished."""
    path = tag / FOLDER / INTENT
    fields = read_json(path)
    return None if fields is None else _operation(fields, path)


def refuse_half_done(tag: Path) -> None:
    """Make sure that no operation was begun in a tag and cut short.

    Raises:
        CheckpointError: one was.
    """
    begun = begun_operation(tag)
    if begun is not None:
        what = f"a {begun.kind} was begun here and not finished"
        remedy = "finish it with `gaff surgery finish`"
        raise CheckpointError(Problem("half-done", what, remedy, Location(str(tag))))


def is_announced(tag: Path) -> bool:
    """Whether an intent stands in the tag."""
    return (tag / FOLDER / INTENT).exists()


def records(tag: Path) -> list[Record]:
    """All records in the tag, oldest first, whether or not they still hold."""
    found = []
    for path in sorted((tag / FOLDER).glob("[0-9][0-9][0-9][0-9]-*.json")):
        fields = read_json(path)
        if fields is not None:
            operation = _operation(fields, path)
            try:
                outcome = Outcome(dict(fields["crcs_after"]), tuple(fields["written"]))
                for name in outcome.crcs_after:
                    refuse_path(name)
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(path, error) from None
            found.append(Record(operation, outcome, path))
    return found


def _operation(fields: dict[str, Any], path: Path) -> Operation:
    schema = fields.get("schema")
    if schema != SCHEMA and str(schema).startswith("gaff."):
        what = f"is of another version of GAFF ({schema}, where this one writes {SCHEMA})"
        remedy = "use that version, or move the file away if the checkpoint may lose its history"
        raise CheckpointError(Problem("other-version", what, remedy, Location(str(path))))
    try:
        return Operation.from_json(fields, path.parent)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def valid_records(tag: Path) -> list[Record]:
    """The records that hold for the files as they are now, oldest first.

    A record holds when the files' CRCs are those it left, or those from which the next valid record (or an operation
    that is under way) began.  A tag that the trainer wrote anew keeps none.
    """
    found = records(tag)
    if not found:
        return []
    begun = begun_operation(tag)
    if begun is None or begun.to_json() == found[-1].operation.to_json():
        crcs = {name: record_crcs(tag / name) for name in found[-1].outcome.crcs_after if (tag / name).is_file()}
        digests: dict[str, str] = {}
    else:
        crcs, digests = dict(begun.crcs_before), dict(begun.untouched)
    valid: list[Record] = []
    for record in reversed(found):
        if not _leaves(record, crcs, digests):
            break
        valid.insert(0, record)
        crcs = dict(record.operation.crcs_before)
        digests = dict(record.operation.untouched)
    return valid


def altered_since(tag: Path) -> list[tuple[str, str]]:
    """Records (file, name) that somebody changed after the newest operation, leaving some of its edits as they were.

    Empty also when none of its edits is as it was: then the trainer wrote the tag anew.
    """
    found = records(tag)
    if not found or valid_records(tag):
        return []
    newest = found[-1]
    now = {name: record_crcs(tag / name) for name in newest.outcome.crcs_after if (tag / name).is_file()}
    altered = [
        (name, part)
        for name, after in newest.outcome.crcs_after.items()
        for part, crc in after.items()
        if now.get(name, {}).get(part) != crc
    ]
    edited = _edited_records(newest.operation)
    return altered if edited - set(altered) else []


def _leaves(record: Record, crcs: dict[str, RecordCrcs], digests: dict[str, str]) -> bool:
    """Whether ``record`` left its files in the given state.  What the state does not name is not compared."""
    return all(
        crcs.get(name) == after or (name not in crcs and digests.get(name) == crc_digest(after))
        for name, after in record.outcome.crcs_after.items()
    )


def _edited_records(operation: Operation) -> set[tuple[str, str]]:
    edits = {(edit.copy.file, edit.copy.record) for edit in operation.edits}
    patches = {(patch.file, patch.record) for patch in operation.patches}
    return edits | patches | {(name, part) for name, crcs in operation.replaced.items() for part in crcs}


def begin(tag: Path, operation: Operation) -> None:
    """Put the intent on disk.  From here on the operation will be finished by whoever comes next."""
    make_directory_durably(tag / FOLDER)
    fsync_tag(tag)
    write_json_durably(tag / FOLDER / INTENT, operation.to_json())


def fsync_tag(tag: Path) -> None:
    """Make durable what the trainer wrote, which it leaves to the system (``torch.save`` does not fsync)."""
    for path in (*tag.glob("*.pt"), *(tag / "configs").glob("*")):
        fsync_file(path)
    for folder in (tag / "configs", tag, tag.parent):
        if folder.is_dir():
            fsync_directory(folder)


def apply(tag: Path, operation: Operation) -> Outcome:
    """Make every change durable (again, perhaps).

    Raises:
        CheckpointError: a staged file is gone that is not in its place either.
    """
    outcome = patch_files(tag, operation)
    for name, crcs in operation.replaced.items():
        staged = tag / FOLDER / STAGED / name
        if staged.exists():
            os.replace(staged, tag / name)
        elif record_crcs(tag / name) != crcs:
            what = f"the new {name} of the {operation.kind} that was begun here is gone"
            raise CheckpointError(Problem("stale-intent", what, "use an earlier tag", Location(str(tag))))
    if operation.replaced:
        fsync_directory(tag)
    crcs_after = {**outcome.crcs_after, **{name: dict(crcs) for name, crcs in operation.replaced.items()}}
    return Outcome(crcs_after, outcome.written)


def commit(tag: Path, operation: Operation, outcome: Outcome) -> Record:
    """Replace the intent by a record."""
    number = 1 + max((int(r.path.name[:4]) for r in records(tag)), default=0)
    path = tag / FOLDER / f"{number:04d}-{operation.kind}.json"
    write_json_durably(path, {**operation.to_json(), **asdict(outcome), "gaff": __version__})
    withdraw(tag, operation)
    return Record(operation, outcome, path)


def withdraw(tag: Path, operation: Operation) -> None:
    """Remove the intent of an operation that is recorded, and what it was given."""
    remove_durably(tag / FOLDER / INTENT)
    remove_leftovers(tag)


def remove_leftovers(tag: Path) -> None:
    """Remove what an operation prepared that was never begun, or is done.  Nothing but GAFF's own files."""
    if (tag / FOLDER / NEW_VALUES).exists():  # where nothing can be written, not even what is absent can be removed
        (tag / FOLDER / NEW_VALUES).unlink()
    shutil.rmtree(tag / FOLDER / STAGED, ignore_errors=True)
    for path in (*tag.glob(".*.gaff-tmp"), *(tag / FOLDER).glob(".*.gaff-tmp")):
        path.unlink(missing_ok=True)


def refuse_other_state(tag: Path, operation: Operation) -> None:
    """Make sure that a begun operation belongs to what is in the tag now: all that it does not edit is as it was.

    Raises:
        CheckpointError: the tag was written again since, or the values that the operation was given are gone.
    """
    edited = _edited_records(operation)
    same = TagFiles(tag).iteration == operation.iteration and all(
        (tag / name).is_file() and crc_digest(record_crcs(tag / name)) == digest
        for name, digest in operation.untouched.items()
    )
    for name, before in operation.crcs_before.items():
        now = record_crcs(tag / name) if (tag / name).is_file() else {}
        if name in operation.replaced:
            same = same and now in (before, operation.replaced[name])
        else:
            same = same and now.keys() == before.keys()
            same = same and all(now[part] == crc for part, crc in before.items() if (name, part) not in edited)
    if not same:
        what = f"the {operation.kind} that was begun here belongs to an earlier state of this checkpoint"
        remedy = f"remove {FOLDER}/{INTENT} if the checkpoint was written again since"
        raise CheckpointError(Problem("stale-intent", what, remedy, Location(str(tag))))
    if any(isinstance(source, GoneValues) for source in operation.sources.values()):
        what = f"the new values of the {operation.kind} that was begun here are gone"
        raise CheckpointError(
            Problem("stale-intent", what, "use an earlier tag", Location(str(tag / FOLDER / NEW_VALUES)))
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """One of the files in ``gaff/``; None where it is not there.

    Raises:
        CheckpointError: it is damaged.
        OSError: the machine cannot read it (``files.TROUBLE``), which says nothing about it.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in TROUBLE:
            raise
        raise _damaged(path, error) from None
    if not isinstance(fields, dict):
        raise _damaged(path, ValueError("it is no object"))
    return fields


def _damaged(path: Path, error: Exception) -> CheckpointError:
    what = f"cannot be read ({type(error).__name__}: {error})"
    remedy = "restore it, or move the tag away and use an earlier one"
    return CheckpointError(Problem("damaged-record", what, remedy, Location(str(path))))
