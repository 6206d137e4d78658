# SPDX-License-Identifier: Apache-2.0
"""The numbers of the learning rate in one file of a tag: the schedule's, and the rate of every group of parameters.

They stand inside ``data.pkl``: the schedule under ``lr_scheduler`` in model files, the rate under ``lr`` in each of the
``param_groups`` that an optimizer and DeepSpeed's wrappers around it keep.  They are overwritten where they stand; a
file in which one does not fit there has to be written anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.archive_writer import write_archive
from gaff.checkpoint.crc import crc32
from gaff.checkpoint.operation import Patch, RecordCrcs, record_crcs
from gaff.checkpoint.pickle_document import PickleDocument
from gaff.checkpoint.pickle_nodes import CallNode, DictNode, ListNode, Node, Scalar, TupleNode
from gaff.errors import CheckpointError, Location, Problem
from gaff.plan.annealing import Schedule

_PICKLE = "data.pkl"
_OPTIMIZERS = ("optimizer", "optimizer_state_dict")  # in model files and in shards
_SETTINGS = tuple(field.name for field in fields(Schedule) if field.name != "decay_style")


@dataclass(frozen=True)
class FileChange:
    """What becomes of one file.

    Attributes:
        name: the file's.
        schedule: what stands under ``lr_scheduler`` now; None in optimizer shards.
        rates: of each group of parameters, the rate before and after.
        patches: the numbers, where all of them fit.
        replaced: else the CRC of every record of the new file.
    """

    name: str
    schedule: Mapping[str, Any] | None
    rates: tuple[tuple[float, float], ...]
    patches: tuple[Patch, ...]
    replaced: RecordCrcs | None


def change_of(path: Path, new: Schedule) -> FileChange:
    """Work out what a schedule means for a file.

    Raises:
        CheckpointError: it is damaged.
        LookupError, TypeError: it keeps other things under these names.
    """
    edited = _EditedFile(path, new)
    replaced = None if edited.patches is not None else {**record_crcs(path), _PICKLE: crc32(edited.to_bytes())}
    return FileChange(path.name, edited.schedule, edited.rates, edited.patches or (), replaced)


def write_changed(path: Path, new: Schedule, target: Path) -> None:
    """Write a whole file with its new numbers to ``target``, durably; all but ``data.pkl`` is copied.

    Raises:
        CheckpointError: a record does not match its CRC.
        OSError: there is no room for it.
    """
    pickle = _EditedFile(path, new).to_bytes()
    archive = Archive(path)
    written = write_archive(
        target,
        archive.prefix,
        (
            (name, len(pickle), [pickle])
            if name == _PICKLE
            else (name, record.size, archive.chunks(record, 0, record.size))
            for name, record in archive.records.items()
        ),
    )
    bad = [name for name, record in archive.records.items() if name != _PICKLE and written[name] != record.crc]
    if bad:
        what = f"record {bad[0]} does not match its CRC-32"
        raise CheckpointError(Problem("bad-crc", what, "use another tag", Location(str(path))))
    shutil.copymode(path, target)


class _EditedFile:
    """A file's pickle with the new numbers.

    Attributes:
        schedule: see :class:`FileChange`.
        rates: see :class:`FileChange`.
        patches: of the rates, the iteration, and settings that change; None where one of them does not fit.
    """

    def __init__(self, path: Path, new: Schedule) -> None:
        archive = Archive(path)
        root = archive.root  # refused in a sentence where it is damaged
        record = archive.records[_PICKLE]
        self._document = PickleDocument(archive.read(record, 0, record.size))
        self.schedule: Mapping[str, Any] | None = root.get("lr_scheduler")
        groups = [g for key in _OPTIMIZERS if root.get(key) is not None for g in self._rates(self._document.at(key))]
        rate = new.rate()
        self.rates = tuple((_value(node), rate / width) for node, width in groups)
        self._new: list[tuple[str, Scalar, float]] = [("lr", node, rate / width) for node, width in groups]
        if self.schedule is not None:
            names = [n for n in _SETTINGS if n == "num_iters" or self.schedule[n] != getattr(new, n)]
            self._new += [(n, _number(self._document.at("lr_scheduler", n)), getattr(new, n)) for n in names]
        self._new = [(name, node, _as_stored(node, value)) for name, node, value in self._new]
        self.patches = self._patches(path.name)

    def _patches(self, file: str) -> tuple[Patch, ...] | None:
        patches = []
        for name, node, value in self._new:
            found = self._document.scalar_patch(node, value)
            if found is None:
                return None
            offset, before, after = found
            what = f"{name} {_value(node):g} to {value:g}"
            patches.append(Patch(file, _PICKLE, offset, before.hex(), after.hex(), what))
        return tuple(patches)

    def to_bytes(self) -> bytes:
        """The pickle, written anew."""
        for _, node, value in self._new:
            self._document.replace(node, value)
        return self._document.to_bytes()

    def _rates(self, root: Node) -> Iterator[tuple[Scalar, float]]:
        """The rate of every group below a node, and what muP divides it by (``width_mult``), 1 without muP."""
        for groups in self._param_groups(root):
            for group in self._document.items(groups):
                entries = dict(self._document.entries(group))
                if "lr" in entries:
                    width = _value(_number(entries["width_mult"])) if "width_mult" in entries else 1.0
                    if not width > 0:
                        raise TypeError(f"a width_mult of {width:g}")
                    yield _number(entries["lr"]), width

    def _param_groups(self, root: Node) -> Iterator[ListNode]:
        """Every list under the key ``param_groups``, each once, however deep the wrappers put it."""
        seen: set[Node] = set()
        pending = [root]
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if isinstance(node, (ListNode, TupleNode)):
                pending += self._document.items(node)
            elif isinstance(node, (DictNode, CallNode)):
                for key, value in self._document.entries(node):
                    if key == "param_groups" and isinstance(value, ListNode) and value not in seen:
                        seen.add(value)
                        yield value
                    else:
                        pending.append(value)


def _number(node: Node) -> Scalar:
    if not isinstance(node, Scalar) or type(node.value) not in (int, float):
        raise TypeError("something that is no number")
    return node


def _value(number: Scalar) -> float:
    assert isinstance(number.value, (int, float))
    return float(number.value)


def _as_stored(node: Scalar, value: float) -> float:
    """``value`` in the type that stands in the file, where that can hold it."""
    if type(node.value) is int:
        return int(value) if float(value).is_integer() else value
    return float(value)
