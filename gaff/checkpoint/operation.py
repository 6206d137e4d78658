# SPDX-License-Identifier: Apache-2.0
"""What an operation on a tag is: a list of plain edits, with all that is needed to do it again and to prove it.

Read -> plan -> show -> apply -> verify: an :class:`Operation` is the plan.  Written into the tag as *intent* before the
first byte changes, and as *record* when it is done (``transaction``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.parameter import Copy, Parameter
from gaff.checkpoint.selection import RowSelection
from gaff.checkpoint.sources import ValueSource, source_from_json

SCHEMA = "gaff.operation/2"
ZEROS = "zeros"

RecordCrcs = dict[str, int]


@dataclass(frozen=True)
class Edit:
    """One copy that is rewritten: with zeros, or with the values of a source.

    Attributes:
        copy: the byte range.
        content: ``zeros``, or the name of one of the operation's sources.
        crc_before: the CRC-32 of the range's bytes before the operation; with it the record's new CRC follows without
            reading the rest of the record, also when the operation is done again after a crash.
    """

    copy: Copy
    content: str
    crc_before: int


@dataclass(frozen=True)
class Patch:
    """A few bytes of a record that are replaced by as many others, such as a number inside ``data.pkl``.

    ``before`` and ``after`` are hexadecimal; ``what`` says for a person what they mean.
    """

    file: str
    record: str
    offset: int
    before: str
    after: str
    what: str

    @property
    def length(self) -> int:
        return len(self.after) // 2


@dataclass(frozen=True)
class ByteRange:
    """One range of bytes that an operation changes, for a person to read.  ``offset`` counts in the record."""

    file: str
    record: str
    offset: int
    length: int
    what: str
    content: str


@dataclass(frozen=True)
class Operation:
    """One operation on one tag, worked out.

    Attributes:
        kind: ``reset``, ``restore``, ``splice``, ``resize`` or ``restart-lr``.
        iteration: the tag's.
        about: what the user said and what was found, ready for JSON.
        began: UTC time, ISO 8601.
        crcs_before: for each file that is touched, the CRC of each of its records.
        untouched: for each other .pt file, a digest of its records' names and CRCs.
        parameters: the geometry of those that change.
        selections: by parameter, the rows that change; all where it is not named.
        sources: where new values come from, by the name that edits use.
        edits, patches: every byte range that changes in files that keep their size.
        replaced: files that are replaced whole by one that was staged, and the new CRC of each of its records.
    """

    kind: str
    iteration: int
    about: Mapping[str, Any]
    began: str
    crcs_before: Mapping[str, RecordCrcs]
    untouched: Mapping[str, str]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    selections: Mapping[str, RowSelection] = field(default_factory=dict)
    sources: Mapping[str, ValueSource] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    patches: tuple[Patch, ...] = ()
    replaced: Mapping[str, RecordCrcs] = field(default_factory=dict)

    @property
    def bytes_changed(self) -> int:
        return sum(found.length for found in self.ranges())

    @property
    def touched(self) -> set[str]:
        """Names of the files that change."""
        return {*(e.copy.file for e in self.edits), *(p.file for p in self.patches), *self.replaced}

    def ranges(self) -> Iterator[ByteRange]:
        """Every byte range that changes, file by file; a replaced file is one range of unknown length, 0."""
        for edit in self.edits:
            copy = edit.copy
            for start, stop in self.edited(copy):
                offset = copy.offset + (start - copy.start) * copy.item_size
                length = (stop - start) * copy.item_size
                yield ByteRange(
                    copy.file, copy.record, offset, length, f"{copy.kind} of {copy.parameter}", edit.content
                )
        for patch in self.patches:
            yield ByteRange(patch.file, patch.record, patch.offset, patch.length, "number", patch.what)
        for name in self.replaced:
            yield ByteRange(name, "*", 0, 0, "whole file", "rewritten")

    def edited(self, copy: Copy, low: int | None = None, high: int | None = None) -> Iterator[tuple[int, int]]:
        """The ranges of a copy (or of elements ``low`` to ``high`` of its block) that change, ascending."""
        low = copy.start if low is None else low
        high = copy.stop if high is None else high
        selection = self.selections.get(copy.parameter)
        if selection is None:
            yield low, high
            return
        parameter = self.parameters[copy.parameter]
        width, top = parameter.block_width, parameter.first_row(copy.tensor_rank)
        for first, last in selection.between(top + low // width, top + -(-high // width)):
            start, stop = max(low, (first - top) * width), min(high, (last - top) * width)
            if start < stop:
                yield start, stop

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "operation": self.kind,
            "iteration": self.iteration,
            "began": self.began,
            "about": storable(dict(self.about)),
            "crcs_before": dict(self.crcs_before),
            "untouched": dict(self.untouched),
            "parameters": {name: asdict(p) for name, p in self.parameters.items()},
            "selections": {name: s.to_json() for name, s in self.selections.items()},
            "sources": storable({name: s.to_json() for name, s in self.sources.items()}),
            "edits": [asdict(e) for e in self.edits],
            "patches": [asdict(p) for p in self.patches],
            "replaced": dict(self.replaced),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], folder: Path) -> Operation:
        """``folder`` is the one that the fields were read from.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: they are not an operation on files of one tag.
        """
        if fields["schema"] != SCHEMA:
            raise ValueError(f"schema {fields['schema']!r} is not {SCHEMA!r}")
        operation = cls(
            kind=str(fields["operation"]),
            iteration=int(fields["iteration"]),
            about=dict(fields["about"]),
            began=str(fields["began"]),
            crcs_before=dict(fields["crcs_before"]),
            untouched=dict(fields["untouched"]),
            parameters={n: Parameter(**{**p, "shape": tuple(p["shape"])}) for n, p in fields["parameters"].items()},
            selections={n: RowSelection.from_json(s) for n, s in fields["selections"].items()},
            sources={n: source_from_json(s, folder) for n, s in fields["sources"].items()},
            edits=tuple(Edit(**{**e, "copy": Copy(**e["copy"])}) for e in fields["edits"]),
            patches=tuple(Patch(**p) for p in fields["patches"]),
            replaced=dict(fields["replaced"]),
        )
        operation._refuse_loose_ends()
        return operation

    def _refuse_loose_ends(self) -> None:
        """Make sure that all names lead somewhere, and none out of the tag: it may come from other people."""
        for name in (*self.crcs_before, *self.untouched):
            refuse_path(name)
        if self.touched != set(self.crcs_before):
            raise ValueError("it does not say what all of its files were before")
        for edit in self.edits:
            if edit.copy.parameter not in self.parameters or edit.content not in (ZEROS, *self.sources):
                raise ValueError(f"{edit.content!r} for {edit.copy.parameter!r} comes from nowhere")


def refuse_path(name: str) -> None:
    """Make sure that a name is that of a file in a tag.

    Raises:
        ValueError: it is a path to elsewhere.
    """
    if Path(name).name != name or not name.endswith(".pt"):
        raise ValueError(f"{name!r} is no file of a checkpoint")


def storable(value: Any) -> Any:
    """``value`` as JSON and UTF-8 can hold it.

    Numbers that are not finite become null, tuples lists, and what is no character in a file's name its escape.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, (list, tuple)) else value


def record_crcs(path: Path) -> RecordCrcs:
    """The CRC of every record of a .pt file, from its central directory."""
    return {name: record.crc for name, record in Archive(path).records.items()}


def crc_digest(crcs: RecordCrcs) -> str:
    """One short digest of a file's records and CRCs."""
    return hashlib.sha256(json.dumps(sorted(crcs.items())).encode()).hexdigest()[:32]
