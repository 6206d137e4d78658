# SPDX-License-Identifier: Apache-2.0
"""What an operation on a tag is: a list of plain edits, with all that is needed to do it again and to prove it.

Read -> plan -> show -> apply -> verify: an :class:`Operation` is the plan.  Written into the tag as *intent* before the
first byte changes, and as *record* when it is done (``transaction``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout import Copy
from gaff.checkpoint.values import ValueSource, source_from_json

SCHEMA = "gaff.operation/1"

RecordCrcs = dict[str, int]


@dataclass(frozen=True)
class Edit:
    """One byte range that is rewritten: with new values, or with zeros.

    ``crc_before`` is the CRC-32 of the range's bytes before the operation; with it the record's new CRC follows without
    reading the rest of the record, also when the operation is done again after a crash.
    """

    copy: Copy
    content: Literal["values", "zeros"]
    crc_before: int


@dataclass(frozen=True)
class Operation:
    """One reset of one tag, worked out.

    Attributes:
        iteration: the tag's.
        reset, seed: number of the reset in its run, and the seed: with the row they make the new values.
        parameter, shape: what is forgotten.
        init, moments: as the user said it.
        source: where new values come from.
        edits: every byte range that changes.
        crcs_before: for each file that is touched, the CRC of each of its records.
        untouched: for each other .pt file, a digest of its records' names and CRCs.
        began: UTC time, ISO 8601.
        forgotten: statistics of what was there: norm, mean, std.
    """

    iteration: int
    reset: int
    seed: int
    parameter: str
    shape: tuple[int, int]
    init: str
    moments: str
    source: ValueSource
    edits: tuple[Edit, ...]
    crcs_before: Mapping[str, RecordCrcs]
    untouched: Mapping[str, str]
    began: str
    forgotten: Mapping[str, float]

    @property
    def bytes_changed(self) -> int:
        return sum(edit.copy.length for edit in self.edits)

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            "schema": SCHEMA,
            "operation": "reset",
            **fields,
            "shape": list(self.shape),
            "source": self.source.to_json(),
            "edits": [asdict(e) for e in self.edits],
            "crcs_before": dict(self.crcs_before),
            "untouched": dict(self.untouched),
            "forgotten": dict(self.forgotten),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], folder: Path) -> Operation:
        """``folder`` is the one that the fields were read from.

        Raises:
            KeyError, TypeError, ValueError: they are not an operation.
        """
        known = {k: v for k, v in fields.items() if k in cls.__dataclass_fields__}
        known["shape"] = tuple(known["shape"])
        known["source"] = source_from_json(known["source"], folder)
        known["edits"] = tuple(Edit(**{**e, "copy": Copy(**e["copy"])}) for e in known["edits"])
        return cls(**known)


def record_crcs(path: Path) -> RecordCrcs:
    """The CRC of every record of a .pt file, from its central directory."""
    return {name: record.crc for name, record in Archive(path).records.items()}


def crc_digest(crcs: RecordCrcs) -> str:
    """One short digest of a file's records and CRCs."""
    return hashlib.sha256(json.dumps(sorted(crcs.items())).encode()).hexdigest()[:32]
