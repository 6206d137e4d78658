# SPDX-License-Identifier: Apache-2.0
"""Proofs about one tag: its files are whole and belong together, its copies agree, operations did only what they say.

That nothing else changed follows from CRCs: every record's CRC before an operation stands in the tag's record of it.
What the operation did not name must still have it; what it patched must have the CRC worked out from the old one and
the changed range alone, which matches the bytes only if every other byte is as it was (to the strength of CRC-32).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.attribution import disagreements
from gaff.checkpoint.consistency import foreign_files
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.operation import crc_digest, record_crcs
from gaff.checkpoint.reader import in_parallel
from gaff.checkpoint.survey import survey
from gaff.checkpoint.tag import TagFiles
from gaff.checkpoint.transaction import Record, altered_since, begun_operation, valid_records
from gaff.errors import CheckpointError, Location, Problem


def verify_tag(tag: Path) -> list[Problem]:
    """Everything that is wrong with a tag, one problem a fault; empty when it is sound.  Reads all of it."""
    found = TagFiles(tag).problems()
    if found:
        return found
    try:
        begun = begun_operation(tag)
        if begun is not None:
            what = f"a {begun.kind} was begun here and not finished"
            remedy = "finish it with `gaff surgery finish`, or `gaff run` again"
            return [Problem("half-done", what, remedy, Location(str(tag)))]
        damaged = damaged_records(tag)
        found = [_damage(tag, name, record) for name, record in damaged]
        found += _once(foreign_files(tag), found)
        found += _once(_since_operations(tag), found)
        known = {Path(str(problem.where)).name for problem in found if problem.id != "bad-crc"}
        found += _disagreements(tag, damaged, known)
    except CheckpointError as error:
        return found or list(error.problems)  # what was found before is the reason
    return found


def _once(later: Sequence[Problem], found: Sequence[Problem]) -> list[Problem]:
    """What is found first tells most: that the same file fails a later test too is no news."""
    told = {problem.where for problem in found}
    return [problem for problem in later if problem.where not in told]


def _since_operations(tag: Path) -> list[Problem]:
    """What changed that should not have, by the tag's records of operations."""
    found = _altered(tag)
    held = valid_records(tag)
    for record, following in zip_longest(held, held[1:]):
        found += changed_elsewhere(tag, record, following)
    if held:
        found += undone_edits(tag, held[-1])
    return found


def _disagreements(tag: Path, damaged: list[tuple[str, str]], known: set[str]) -> list[Problem]:
    """Copies that differ, where neither damage nor one of the files ``known`` to be wrong says why."""
    layout = read_layout(tag)
    if layout.wrapper == "FP16_UnfusedOptimizer" and layout.iteration == 0:
        return []  # it steps its masters once when it starts, and the model copies follow at the first true step
    names = [n for n, copies in layout.copies.items() if not any((c.file, c.record) in damaged for c in copies)]
    return disagreements(layout, survey(layout, names, states=False), known)


def _altered(tag: Path) -> list[Problem]:
    """What was changed after the last operation, one problem a file."""
    altered: dict[str, list[str]] = {}
    for name, record in altered_since(tag):
        altered.setdefault(name, []).append(record)
    return [_changed_after(tag, name, records) for name, records in altered.items()]


def _changed_after(tag: Path, name: str, records: list[str]) -> Problem:
    some = ", ".join(records[:3]) + (f" and {len(records) - 3} others" if len(records) > 3 else "")
    what = f"changed after the last operation, by something else than training, in {some}"
    return Problem("altered-since", what, "use another tag, or operate again", Location(str(tag / name)))


def damaged_records(tag: Path) -> list[tuple[str, str]]:
    """Records, as (file, name), whose bytes do not match their CRC, over all files."""
    return [
        (name, record)
        for name, records in in_parallel(lambda n: (n, Archive(tag / n).damaged_records()), TagFiles(tag).names)
        for record in records
    ]


def why_damaged(tag: Path) -> str | None:
    """Why a tag cannot be read back, in words that follow its name; None when every byte is as its CRC says.

    Reads all of it.  torch does not look at these CRCs (its zip reader is built without), so a trainer would train on
    from what it found.
    """
    damaged = damaged_records(tag)
    if not damaged:
        return None
    name, record = damaged[0]
    return f"is damaged: {name}, {record} is not what was written"


def _damage(tag: Path, name: str, record: str) -> Problem:
    what = f"record {record} does not match its CRC-32"
    return Problem("bad-crc", what, "use another tag", Location(str(tag / name)))


def undone_edits(tag: Path, record: Record) -> list[Problem]:
    """Edits of an operation whose bytes are not those it left."""
    operation = record.operation
    found = []
    archives = {name: Archive(tag / name) for name in {edit.copy.file for edit in operation.edits}}
    for edit, crc in zip(operation.edits, record.outcome.written, strict=True):
        copy, archive = edit.copy, archives[edit.copy.file]
        if archive.range_crc(archive.records[copy.record], copy.offset, copy.offset + copy.length) != crc:
            what = f"the {copy.kind} copy of {copy.parameter} is not as the last {operation.kind} left it"
            remedy = "use an earlier tag, or operate again"
            found.append(Problem("edit-undone", what, remedy, Location(str(tag / copy.file))))
    return found


def changed_elsewhere(tag: Path, record: Record, following: Record | None = None) -> list[Problem]:
    """Files that the operation did not touch and that changed all the same, before the ``following`` one began.

    In those it touched, every record's CRC is the record's own condition to hold (``transaction.valid_records``).
    """
    what = f"changed, which the {record.operation.kind} did not name"
    return [
        Problem("changed-elsewhere", what, "use an earlier tag", Location(str(tag / name)))
        for name, digest in record.operation.untouched.items()
        if _digest_then(tag, name, following) != digest
    ]


def _digest_then(tag: Path, name: str, following: Record | None) -> str | None:
    """The digest of a file when the ``following`` operation began; as it is now where there is none."""
    if following is None:
        return crc_digest(record_crcs(tag / name)) if (tag / name).is_file() else None
    before = following.operation.crcs_before.get(name)
    return following.operation.untouched.get(name) if before is None else crc_digest(before)
