# SPDX-License-Identifier: Apache-2.0
"""Doing an operation on a tag so that it can be killed anywhere, and done again.

Inside the tag, in ``gaff/``:

* ``intent.json`` is there, durably, before the first byte of a .pt file changes, and until the operation is recorded;
* ``0001-reset.json`` and so on are the records of what was done, oldest first.

New bytes are a pure function of the intent, and so are the new CRCs, therefore an operation that was cut short is
finished by doing all of it again.  Files with more than one hard link are replaced by a patched copy, so that no other
checkpoint changes with them.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gaff import __version__
from gaff.checkpoint.archive import Archive, numpy_dtype
from gaff.checkpoint.crc import patched_crc
from gaff.checkpoint.operation import Edit, Operation, RecordCrcs, crc_digest, record_crcs
from gaff.checkpoint.tag import TagFiles
from gaff.checkpoint.values import StoredValues, ValueSource, pieces
from gaff.errors import CheckpointError, Location, Problem
from gaff.files import fsync_directory, fsync_file, make_directory_durably, remove_durably, write_json_durably

FOLDER = "gaff"
INTENT = "intent.json"


@dataclass(frozen=True)
class Outcome:
    """What an operation left on disk.

    Attributes:
        crcs_after: for each touched file, the CRC of each of its records.
        written: the CRC-32 of what each edit wrote, in the order of the operation's edits.
    """

    crcs_after: dict[str, RecordCrcs]
    written: tuple[int, ...]


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


def records(tag: Path) -> list[Record]:
    """All records in the tag, oldest first, whether or not they still hold."""
    found = []
    for path in sorted((tag / FOLDER).glob("[0-9][0-9][0-9][0-9]-reset.json")):
        fields = read_json(path)
        if fields is not None:
            operation = _operation(fields, path)
            try:
                outcome = Outcome(dict(fields["crcs_after"]), tuple(fields["written"]))
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(path, error) from None
            found.append(Record(operation, outcome, path))
    return found


def _operation(fields: dict[str, Any], path: Path) -> Operation:
    try:
        return Operation.from_json(fields, path.parent)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def valid_records(tag: Path) -> list[Record]:
    """The records that hold for the files as they are now, oldest first.

    A record holds when the files' CRCs are those it left, or those from which the next valid record began.  A tag that
    the trainer wrote anew keeps none.
    """
    found = records(tag)
    if not found:
        return []
    crcs = {name: record_crcs(tag / name) for name in found[-1].outcome.crcs_after if (tag / name).is_file()}
    digests: dict[str, str] = {}
    valid: list[Record] = []
    for record in reversed(found):
        if not _leaves(record, crcs, digests):
            break
        valid.insert(0, record)
        crcs = dict(record.operation.crcs_before)
        digests = dict(record.operation.untouched)
    return valid


def altered_since_reset(tag: Path) -> list[tuple[str, str]]:
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
    edited = {(edit.copy.file, edit.copy.record) for edit in newest.operation.edits}
    return altered if edited - set(altered) else []


def _leaves(record: Record, crcs: dict[str, RecordCrcs], digests: dict[str, str]) -> bool:
    """Whether ``record`` left its files in the given state.  What the state does not name is not compared."""
    return all(
        crcs.get(name) == after or (name not in crcs and digests.get(name) == crc_digest(after))
        for name, after in record.outcome.crcs_after.items()
    )


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
    """Make every edit durable (again, perhaps)."""
    by_file: dict[str, list[Edit]] = {}
    for edit in operation.edits:
        by_file.setdefault(edit.copy.file, []).append(edit)
    crcs_after: dict[str, RecordCrcs] = {}
    written: dict[Edit, int] = {}
    for name, edits in by_file.items():
        crcs_after[name] = patch_file(tag / name, edits, operation, written)
    return Outcome(crcs_after, tuple(written[edit] for edit in operation.edits))


def commit(tag: Path, operation: Operation, outcome: Outcome) -> Record:
    """Replace the intent by a record."""
    number = 1 + max((int(r.path.name[:4]) for r in records(tag)), default=0)
    path = tag / FOLDER / f"{number:04d}-reset.json"
    write_json_durably(path, {**operation.to_json(), **asdict(outcome), "gaff": __version__})
    withdraw(tag, operation)
    return Record(operation, outcome, path)


def withdraw(tag: Path, operation: Operation) -> None:
    """Remove the intent of an operation that is recorded, and the values that it was given."""
    remove_durably(tag / FOLDER / INTENT)
    if isinstance(operation.source, StoredValues):
        remove_durably(operation.source.path)


def refuse_other_state(tag: Path, operation: Operation) -> None:
    """Make sure that a begun operation belongs to what is in the tag now: all that it does not edit is as it was.

    Raises:
        CheckpointError: the tag was written again since, or the values that the operation was given are gone.
    """
    edited = {(edit.copy.file, edit.copy.record) for edit in operation.edits}
    same = TagFiles(tag).iteration == operation.iteration and all(
        (tag / name).is_file() and crc_digest(record_crcs(tag / name)) == digest
        for name, digest in operation.untouched.items()
    )
    for name, before in operation.crcs_before.items():
        now = record_crcs(tag / name) if (tag / name).is_file() else {}
        same = same and now.keys() == before.keys()
        same = same and all(now[part] == crc for part, crc in before.items() if (name, part) not in edited)
    if not same:
        what = "the reset that was begun here belongs to an earlier state of this checkpoint"
        remedy = f"remove {FOLDER}/{INTENT} if the checkpoint was written again since"
        raise CheckpointError(Problem("stale-intent", what, remedy, Location(str(tag))))
    if isinstance(operation.source, StoredValues) and not operation.source.path.is_file():
        what = "the new values of the reset that was begun here are gone"
        raise CheckpointError(Problem("stale-intent", what, "use an earlier tag", Location(str(operation.source.path))))


def patch_file(path: Path, edits: list[Edit], operation: Operation, written: dict[Edit, int]) -> RecordCrcs:
    """Make the edits of one .pt file durable, with its CRCs.

    Args:
        written: gets the CRC-32 of what each edit wrote.

    Returns:
        The new CRC of every record of the file.
    """
    shared = path.is_symlink() or path.stat().st_nlink > 1
    target = path.with_name(f".{path.name}.gaff-tmp") if shared else path
    if shared:
        shutil.copy2(path, target)
    archive = Archive(target)
    crcs = dict(operation.crcs_before[path.name])
    with open(target, "r+b") as file:
        for edit in edits:
            record = archive.records[edit.copy.record]
            written[edit] = _write(file, record.data_offset, edit, operation.source)
            bytes_after = record.size - edit.copy.offset - edit.copy.length
            crcs[record.name] = patched_crc(crcs[record.name], edit.crc_before, written[edit], bytes_after)
        for name in {edit.copy.record for edit in edits}:
            for field in archive.records[name].crc_fields:
                file.seek(field)
                file.write(crcs[name].to_bytes(4, "little"))
        file.flush()
        os.fsync(file.fileno())
    if shared:
        os.replace(target, path)
        fsync_directory(path.parent)
    return crcs


def _write(file: BinaryIO, record_start: int, edit: Edit, source: ValueSource) -> int:
    """Write one edit's bytes; returns their CRC-32."""
    file.seek(record_start + edit.copy.offset)
    crc = 0
    for chunk in new_bytes(edit, source):
        crc = zlib.crc32(chunk, crc)
        file.write(chunk)
    return crc


def new_bytes(edit: Edit, source: ValueSource) -> Iterator[bytes]:
    """What an edit writes, in pieces of bounded size: zeros, or the source's values rounded to the copy's dtype.

    float32 to float16 and bfloat16 round to nearest even, as torch and the hardware do.
    """
    dtype = numpy_dtype(edit.copy.dtype)
    for start, stop in pieces(edit.copy.start, edit.copy.stop):
        if edit.content == "zeros":
            yield bytes((stop - start) * dtype.itemsize)
        else:
            yield source.values(start, stop).astype(dtype).tobytes()


def read_json(path: Path) -> dict[str, Any] | None:
    """One of the files in ``gaff/``; None where it is not there.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(fields, dict):
        raise _damaged(path, ValueError("it is no object"))
    return fields


def _damaged(path: Path, error: Exception) -> CheckpointError:
    what = f"cannot be read ({type(error).__name__}: {error})"
    remedy = "restore it, or move the tag away and use an earlier one"
    return CheckpointError(Problem("damaged-record", what, remedy, Location(str(path))))
