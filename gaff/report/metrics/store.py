# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl`` of a run directory: the series of a run, appended as it goes (docs/metrics.md has the schema).

JSON Lines for the same reasons as the journal: it can be appended to and read at once from any node of any shared
filesystem without a lock, a torn line costs that line alone, and every tool reads it.  It is a cache of the trainers'
logs: a block without its end is read from the log again, and all of it can be made anew.

Rows are arrays of numbers, so that a million of them load in one to two seconds (``benchmarks/metrics.py``).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gaff.report.metrics.columns import COLUMNS, LaunchLines
from gaff.trainers.contract import ErrorLogged, Event, IterationLogged, ResumedAt, ValidationLogged

NAME = "metrics.jsonl"
SCHEMA = "gaff.metrics/1"

_RECORD = re.compile(rb"^\{.*\}$", re.MULTILINE)  # every line that is no row

#: A launch: (segment, attempt), its numbers in the journal.
Key = tuple[int, int]


# --- writing ---


def header() -> str:
    """The first line of the file."""
    return _line({"schema": SCHEMA, "columns": list(COLUMNS)})


def launch_line(segment: int, attempt: int, start: int) -> str:
    """The line that begins the block of a launch."""
    return _line({"launch": {"segment": segment, "attempt": attempt, "start": start}})


def end_line() -> str:
    """The line that ends a block, once everything that the launch said is in it."""
    return _line({"end": True})


class Encoder:
    """Turns the events of one launch into lines."""

    def __init__(self) -> None:
        self._scale: float | None = None
        self._total: int | None = None

    def lines(self, event: Event) -> str:
        """What is to be appended; empty for an event that does not belong here."""
        if isinstance(event, IterationLogged):
            return self._iteration(event)
        if isinstance(event, ResumedAt):
            return _line({"resumed": event.iteration})
        if isinstance(event, ValidationLogged):
            loss = event.loss if math.isfinite(event.loss) else str(event.loss)
            return _line({"validation": {"iteration": event.iteration, "loss": loss, "split": event.split}})
        if isinstance(event, ErrorLogged):
            return _line({"error": event.message})
        return ""

    def _iteration(self, event: IterationLogged) -> str:
        records: dict[str, Any] = {}
        loss = event.loss
        if loss is not None and not math.isfinite(loss):
            records["not_finite"], loss = True, None
        if event.skipped:
            records["skipped"] = event.skipped
        if event.nan:
            records["nan"] = event.nan
        if event.loss_scale is not None and event.loss_scale != self._scale:
            records["loss_scale"] = self._scale = event.loss_scale
        if event.losses:
            records["losses"] = {name: v if math.isfinite(v) else str(v) for name, v in event.losses.items()}
        if event.total != self._total:
            records["total"] = self._total = event.total
        row = (event.iteration, loss, event.learning_rate, event.ms_per_iteration, event.samples_per_s)
        line = "[" + ",".join("null" if value is None else repr(value) for value in row) + "]\n"
        return line + (_line({"at": event.iteration, **records}) if records else "")


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


# --- reading ---


@dataclass
class Block:
    """A launch as the store has it.  Without its end, the log may say more."""

    lines: LaunchLines
    has_end: bool = False
    _pieces: list[bytes] = field(default_factory=list)

    def add_rows(self, text: bytes) -> None:
        if text:
            self._pieces.append(text)

    def finish(self) -> None:
        """Turn the rows into numbers, all at once: that is what makes it fast."""
        if self._pieces:
            self.lines.values.extend(_numbers(b"".join(self._pieces)))
            self._pieces = []


def read_store(run_dir: Path) -> dict[Key, Block]:
    """The launches that the store of ``run_dir`` has, in the order in which they were first made; none without a store.

    Of several blocks of one launch the last counts.  Lines that cannot be read are passed over.
    """
    try:
        text = (run_dir / NAME).read_bytes()
    except OSError:
        return {}
    blocks: dict[Key, Block] = {}
    block: Block | None = None
    for record, rows in _records(text):
        if block is not None:
            block.add_rows(rows)
        launch = record.get("launch")
        if isinstance(launch, dict):
            key, begun = _begun(launch)
            block = blocks[key] = begun
        elif block is not None:
            _take(record, block)
    for one in blocks.values():
        one.finish()
    return blocks


def _records(text: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each record with the rows in front of it; an empty one at the end."""
    begin = 0
    for match in _RECORD.finditer(text):
        try:
            record = json.loads(match[0])
        except ValueError:
            continue
        yield record, text[begin : match.start()]
        begin = match.end() + 1
    yield {}, text[begin:]


def _begun(launch: Mapping[str, Any]) -> tuple[Key, Block]:
    segment, attempt, start = (int(launch.get(name) or 0) for name in ("segment", "attempt", "start"))
    return (segment, attempt), Block(LaunchLines(segment, attempt, start))


def _take(record: Mapping[str, Any], block: Block) -> None:
    lines = block.lines
    if record.get("end"):
        block.has_end = True
    elif "resumed" in record:
        lines.see(ResumedAt(int(record["resumed"])))
    elif "error" in record:
        lines.see(ErrorLogged(str(record["error"])))
    elif isinstance(found := record.get("validation"), dict):
        lines.see(ValidationLogged(found.get("iteration"), float(found["loss"]), str(found.get("split"))))
    elif "at" in record:
        _take_sparse(int(record["at"]), record, lines)


def _take_sparse(iteration: int, record: Mapping[str, Any], lines: LaunchLines) -> None:
    if record.get("not_finite"):
        lines.not_finite.add(iteration)
    if "skipped" in record:
        lines.skipped[iteration] = int(record["skipped"])
    if "nan" in record:
        lines.nan[iteration] = int(record["nan"])
    if "loss_scale" in record:
        lines.loss_scale[iteration] = float(record["loss_scale"])
    if "total" in record:
        lines.total = lines.total or int(record["total"])
    for name, value in record.get("losses", {}).items():
        lines.losses.setdefault(name, {})[iteration] = float(value)


def _numbers(rows: bytes) -> array[float]:
    """The numbers of whole rows, one behind the other."""
    expected = rows.count(b"[") * len(COLUMNS)
    text = rows.translate(None, b"[]").replace(b"null", b"nan").rstrip(b"\n").replace(b"\n", b",")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # as numpy before 2.3 tells text that is no number
        try:
            values = np.fromstring(text.decode("ascii", "replace"), dtype=np.float64, sep=",")
        except (ValueError, DeprecationWarning):
            return _whole_rows(rows)
    return array("d", values.tobytes()) if values.size == expected else _whole_rows(rows)


def _whole_rows(rows: bytes) -> array[float]:
    """As :func:`_numbers`, row by row: where a kill left a part of one."""
    found = array("d")
    for line in rows.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, list) and len(row) == len(COLUMNS):
            found.extend(math.nan if value is None else float(value) for value in row)
    return found
