# SPDX-License-Identifier: Apache-2.0
"""Proofs about one tag: its files are whole, all copies of the embedding agree, a reset did what it says and no more.

That nothing else changed follows from CRCs: every record's CRC before a reset stands in the tag's record.  A record
that the reset did not name must still have it; one that it patched must have the CRC worked out from the old one and
the changed range alone, which matches the bytes only if every other byte is as it was (to the strength of CRC-32).
"""

from __future__ import annotations

from pathlib import Path

from gaff.checkpoint.layout import MASTER, MODEL, Copy, Layout, read_layout
from gaff.checkpoint.operation import Operation, crc_digest, record_crcs
from gaff.checkpoint.tag import TagFiles
from gaff.checkpoint.transaction import Outcome, Record, altered_since_reset, begun_operation, valid_records
from gaff.checkpoint.values import CopyReader, pieces
from gaff.errors import CheckpointError, Location, Problem


def verify_tag(tag: Path) -> list[Problem]:
    """Everything that is wrong with a tag, one problem a fault; empty when it is sound.  Reads all of it once."""
    found = TagFiles(tag).problems()
    if found:
        return found
    try:
        if begun_operation(tag) is not None:
            what = "a reset was begun here and not finished"
            remedy = "finish it with `gaff surgery finish`, or `gaff run` again"
            return [Problem("half-done-reset", what, remedy, Location(str(tag)))]
        found = damaged_records(tag)
        layout = read_layout(tag)
        found += disagreements(layout)
        held = valid_records(tag)
        found += [_altered(tag, name, record) for name, record in altered_since_reset(tag)]
    except CheckpointError as error:
        return [*found, *error.problems]
    if held:
        found += [fault for record in held for fault in changed_elsewhere(tag, record)]
        found += undone_edits(layout, held[-1].operation, held[-1].outcome)
    return found


def _altered(tag: Path, name: str, record: str) -> Problem:
    what = f"record {record} was changed after the reset, by something else than training"
    return Problem("altered-since-reset", what, "use another tag, or reset again", Location(str(tag / name)))


def damaged_records(tag: Path) -> list[Problem]:
    """Records whose bytes do not match their CRC, over all files."""
    files = TagFiles(tag)
    return [
        Problem("bad-crc", f"record {record} does not match its CRC-32", "use another tag", Location(str(tag / name)))
        for name in files.names
        for record in files.archive(name).damaged_records()
    ]


def disagreements(layout: Layout) -> list[Problem]:
    """Copies of the embedding that do not agree, one problem a copy.

    The model copy must be the master rounded to its dtype, bit for bit; a second master (tied embeddings, last pipeline
    stage) must equal the first.
    """
    reader = CopyReader(layout)
    found = [_difference(layout, reader, copy) for copy in layout.of_kind(MODEL)]
    found += [_difference(layout, reader, copy) for copy in layout.of_kind(MASTER) if copy.stage > 0]
    return [problem for problem in found if problem is not None]


def _difference(layout: Layout, reader: CopyReader, copy: Copy) -> Problem | None:
    import numpy as np

    different = 0
    for start, stop in pieces(copy.start, copy.stop):
        mine = reader.copy(copy, start, stop)
        with np.errstate(over="ignore"):  # beyond float16's range is infinity, as in training
            master = reader.values(MASTER, start, stop).astype(mine.dtype)
        different += int(np.count_nonzero(mine.view(np.uint8) != master.view(np.uint8)))
    if not different:
        return None
    what = f"its {copy.kind} copy of the embedding differs from the master in {different} bytes"
    remedy = "use an earlier tag, whose copies agree"
    return Problem("copies-disagree", what, remedy, Location(str(layout.path / copy.file)))


def undone_edits(layout: Layout, operation: Operation, outcome: Outcome) -> list[Problem]:
    """Edits of an operation whose bytes are not those it wrote."""
    reader = CopyReader(layout)
    found = []
    for edit, crc in zip(operation.edits, outcome.written, strict=True):
        copy, archive = edit.copy, reader.archive(edit.copy.file)
        if archive.range_crc(archive.records[copy.record], copy.offset, copy.offset + copy.length) != crc:
            what = f"the {copy.kind} copy is not as reset {operation.reset} left it"
            where = Location(str(layout.path / copy.file))
            found.append(Problem("reset-undone", what, "use an earlier tag, or reset again", where))
    return found


def changed_elsewhere(tag: Path, record: Record) -> list[Problem]:
    """Files that the operation did not touch and that changed all the same.

    In those it touched, every record's CRC is the record's own condition to hold (``transaction.valid_records``).
    """
    remedy = "use an earlier tag"
    return [
        Problem("changed-elsewhere", "changed, which the reset did not name", remedy, Location(str(tag / name)))
        for name, digest in record.operation.untouched.items()
        if not (tag / name).is_file() or crc_digest(record_crcs(tag / name)) != digest
    ]
