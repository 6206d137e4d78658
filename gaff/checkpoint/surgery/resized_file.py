# SPDX-License-Identifier: Apache-2.0
"""One .pt file that is written anew, with some of its records longer or shorter; all else byte for byte as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gaff.checkpoint.archive import Archive, numpy_dtype
from gaff.checkpoint.archive_writer import write_archive
from gaff.checkpoint.operation import RecordCrcs
from gaff.checkpoint.pickle_document import PickleDocument
from gaff.checkpoint.pickle_nodes import CallNode, Node
from gaff.checkpoint.reader import CopyReader, OpenFiles, pieces
from gaff.checkpoint.rounding import rounded
from gaff.checkpoint.sources import ValueSource
from gaff.checkpoint.surgery.resized_layout import NewValues, OldBytes, Part, Zeros, length_of
from gaff.errors import CheckpointError, Location, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PICKLE = "data.pkl"
_BYTES = 1 << 20  # in memory at a time, in each thread
_VALUES = 1 << 18  # new ones in memory at a time; they pass through float64
_TENSORS = (("torch._utils", "_rebuild_tensor_v2"), ("torch._tensor", "_rebuild_from_type_v2"))


class Slot(NamedTuple):
    """Elements ``first`` to ``first + numel`` of a storage, which become ``new_numel`` elements made of ``parts``."""

    first: int
    numel: int
    new_numel: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class NewFile:
    """What a file will be.

    Attributes:
        name: the file's.
        pickle: its new ``data.pkl``.
        records: the other records that change, and what they are made of.
    """

    name: str
    pickle: bytes
    records: Mapping[str, tuple[Part, ...]]

    def size(self, archive: Archive) -> int:
        """Bytes of all its records."""
        sizes = {name: record.size for name, record in archive.records.items()}
        sizes[PICKLE] = len(self.pickle)
        return sum((sizes | {name: length_of(parts) for name, parts in self.records.items()}).values())


class FileEditor:
    """Collects what changes in one file."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        record = archive.records[PICKLE]
        self._pickle = archive.read(record, 0, record.size)
        self.document = PickleDocument(self._pickle)
        self.records: dict[str, tuple[Part, ...]] = {}

    def result(self) -> NewFile | None:
        """The new file; None when nothing changes."""
        data = self.document.to_bytes()
        if not self.records and data == self._pickle:
            return None
        return NewFile(self.archive.path.name, data, dict(self.records))

    def tensors(self, record: str) -> Iterator[Node]:
        """The tensors that lie in a record."""
        for node in list(self.document.nodes()):
            is_tensor = isinstance(node, CallNode) and node.function.key in _TENSORS
            if is_tensor and f"data/{self.document.tensor(node).key}" == record:
                yield node

    def replace_slots(self, record: str, item_size: int, slots: Iterable[Slot]) -> None:
        """Give some stretches of a storage new content and another length; what lies between them moves along."""
        ordered = sorted(slots)
        total = self.archive.records[record].size // item_size
        parts: list[Part] = []
        position = 0
        for slot in ordered:
            parts += [*self._between(record, item_size, position, slot.first), *slot.parts]
            position = slot.first + slot.numel
        parts += self._between(record, item_size, position, total)
        self.records[record] = tuple(parts)

        def moved(element: int) -> int:
            return element + sum(s.new_numel - s.numel for s in ordered if s.first + s.numel <= element)

        for node in self.tensors(record):
            tensor = self.document.tensor(node)
            begin, end = moved(tensor.offset), moved(tensor.offset + prod(tensor.shape))
            self.document.resize_tensor(node, _reshaped(tensor.shape, end - begin), begin)
        self.document.resize_storage(record.removeprefix("data/"), moved(total))

    def _between(self, record: str, item_size: int, start: int, stop: int) -> Iterator[Part]:
        if start < stop:
            yield OldBytes(self.archive.path.name, record, start * item_size, (stop - start) * item_size)

    def replace_storage(self, node: Node, parts: Sequence[Part], numel: int, held: int) -> None:
        """Give a one-dimensional tensor that has a storage of its own new content.

        Args:
            node: the tensor.
            parts: the storage's new content.
            numel: elements of it.
            held: how many of them the tensor shows.

        Raises:
            CheckpointError: the storage is shared with another tensor.
        """
        tensor = self.document.tensor(node)
        record = f"data/{tensor.key}"
        if tensor.offset or len(list(self.tensors(record))) > 1:
            what = f"keeps {record} as one storage of several tensors, where DeepSpeed has one for each"
            where = Location(str(self.archive.path))
            raise CheckpointError(Problem("unsupported-layout", what, "use another tag; no byte was changed", where))
        self.records[record] = tuple(parts)
        self.document.resize_tensor(node, (held,))
        self.document.resize_storage(tensor.key, numel)


def _reshaped(shape: tuple[int, ...], numel: int) -> tuple[int, ...]:
    """``shape`` with as many rows as give ``numel`` elements."""
    return (numel // max(1, prod(shape[1:])), *shape[1:]) if shape else shape


class FileWriter:
    """Writes new files, reading the old ones in pieces.  Several threads may use one."""

    def __init__(self, reader: CopyReader, sources: Mapping[str, ValueSource]) -> None:
        self.reader = reader
        self.sources = sources

    def write(self, new: NewFile, folder: Path) -> RecordCrcs:
        """Write a file into ``folder``, durably; returns the CRC of each of its records.

        Raises:
            CheckpointError: a record of the old file does not match its CRC.
            OSError: there is no room for it.
        """
        archive = self.reader.archive(new.name)
        self._refuse_damaged(archive, [r for r in new.records if r in archive.records])
        with OpenFiles(self.reader.layout.path) as files:
            crcs = write_archive(folder / new.name, archive.prefix, self._records(files, archive, new))
        for name, record in archive.records.items():
            if name != PICKLE and name not in new.records and crcs[name] != record.crc:
                raise _damaged(archive, name)
        (folder / new.name).chmod(archive.path.stat().st_mode & 0o777)
        return crcs

    def _refuse_damaged(self, archive: Archive, names: Iterable[str]) -> None:
        """Old values go into records with new CRCs, so a bit that has flipped would never be noticed again."""
        for name in names:
            record = archive.records[name]
            if archive.range_crc(record, 0, record.size) != record.crc:
                raise _damaged(archive, name)

    def _records(
        self, files: OpenFiles, archive: Archive, new: NewFile
    ) -> Iterator[tuple[str, int, Iterable[bytes | memoryview]]]:
        for name, record in archive.records.items():
            if name == PICKLE:
                yield name, len(new.pickle), [new.pickle]
            else:
                parts = new.records.get(name, (OldBytes(new.name, name, 0, record.size),))
                yield name, length_of(parts), self._content(files, parts)

    def _content(self, files: OpenFiles, parts: Iterable[Part]) -> Iterator[bytes | memoryview]:
        for part in parts:
            if isinstance(part, OldBytes):
                yield from self._old(files, part)
            elif isinstance(part, Zeros):
                yield from (bytes(stop - start) for start, stop in pieces(0, part.length, _BYTES))
            else:
                for start, stop in pieces(part.start, part.stop, _VALUES):
                    yield self._new(part, start, stop).view("u1").data

    def _old(self, files: OpenFiles, part: OldBytes) -> Iterator[memoryview]:
        place = self.reader.archive(part.file).records[part.record].data_offset + part.offset
        for start, stop in pieces(0, part.length, _BYTES):
            yield files.read(part.file, place + start, stop - start, "uint8").data

    def _new(self, part: NewValues, start: int, stop: int) -> NDArray[np.generic]:
        import numpy as np

        values = self.sources[part.parameter].values(start, stop)
        return np.ascontiguousarray(rounded(values, numpy_dtype(part.dtype)))


def _damaged(archive: Archive, record: str) -> CheckpointError:
    what = f"record {record} does not match its CRC-32"
    return CheckpointError(
        Problem("bad-crc", what, "use another tag; no byte was changed", Location(str(archive.path)))
    )
