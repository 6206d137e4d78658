# SPDX-License-Identifier: Apache-2.0
"""Writing an operation's new bytes into the files, in parallel, each value made once for all of its copies.

New bytes are a pure function of the operation, and so are the new CRCs: doing it again gives the same files, from
whatever state a crash left behind.  Rows that an operation leaves alone are never written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gaff.checkpoint.archive import Archive, numpy_dtype
from gaff.checkpoint.crc import combined_crc, crc32, patched_crc, zeros_crc
from gaff.checkpoint.flusher import Flusher
from gaff.checkpoint.operation import ZEROS, Edit, Operation, RecordCrcs
from gaff.checkpoint.reader import TASK_ELEMENTS, OpenFiles, in_parallel, pieces
from gaff.checkpoint.rounding import rounded
from gaff.checkpoint.sources import block_values
from gaff.files import clone_or_copy, fsync_directory, make_writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True)
class Outcome:
    """What an operation left on disk.

    Attributes:
        crcs_after: for each touched file, the CRC of each of its records.
        written: the CRC-32 of each edit's range afterwards, in the order of the operation's edits.
    """

    crcs_after: dict[str, RecordCrcs]
    written: tuple[int, ...]


def patch_files(tag: Path, operation: Operation) -> Outcome:
    """Make all edits and patches of an operation durable (again, perhaps).

    A file with more than one link, or behind a symbolic link, is not touched: a patched copy takes its name.
    """
    names = sorted({e.copy.file for e in operation.edits} | {p.file for p in operation.patches})
    targets = dict(zip(names, in_parallel(lambda name: _own_file(tag / name), names), strict=True))
    archives = dict(zip(names, in_parallel(lambda name: Archive(targets[name]), names), strict=True))
    written = _Writer(tag, operation, archives).write_all()
    crcs = {name: _crcs_after(name, operation, archives[name], written) for name in names}
    in_parallel(lambda name: _finish_file(tag / name, archives[name], operation, crcs[name]), names)
    return Outcome(crcs, tuple(written))


def _own_file(path: Path) -> Path:
    """The file to write to: ``path`` itself, or a private copy of it when others share it."""
    if not path.is_symlink() and path.stat().st_nlink == 1:
        return path
    target = path.with_name(f".{path.name}.gaff-tmp")
    clone_or_copy(path, target)
    make_writable(target)
    return target


def _crcs_after(name: str, operation: Operation, archive: Archive, written: Sequence[int]) -> RecordCrcs:
    """The CRC of every record of a file once all is written, worked out from the changed ranges alone."""
    crcs = dict(operation.crcs_before[name])
    changes = [
        (e.copy.record, e.copy.offset, e.copy.length, e.crc_before, crc)
        for e, crc in zip(operation.edits, written, strict=True)
        if e.copy.file == name
    ]
    changes += [
        (p.record, p.offset, p.length, crc32(bytes.fromhex(p.before)), crc32(bytes.fromhex(p.after)))
        for p in operation.patches
        if p.file == name
    ]
    for record, offset, length, before, after in changes:
        bytes_behind = archive.records[record].size - offset - length
        crcs[record] = patched_crc(crcs[record], before, after, bytes_behind)
    return crcs


def _finish_file(path: Path, archive: Archive, operation: Operation, crcs: RecordCrcs) -> None:
    """Write the patches and the new CRCs of one file, make it durable, and give it its name."""
    changed = {e.copy.record for e in operation.edits if e.copy.file == path.name}
    changed |= {p.record for p in operation.patches if p.file == path.name}
    descriptor = os.open(archive.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for patch in operation.patches:
            if patch.file == path.name:
                place = archive.records[patch.record].data_offset + patch.offset
                _write_all(descriptor, bytes.fromhex(patch.after), place)
        for record in sorted(changed):
            for place in archive.records[record].crc_fields:
                _write_all(descriptor, crcs[record].to_bytes(4, "little"), place)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if archive.path != path:
        os.replace(archive.path, path)
        fsync_directory(path.parent)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


class _Task(NamedTuple):
    """Elements ``start`` to ``stop`` of one tensor rank's block, in every copy that gets the same content."""

    parameter: str
    tensor_rank: int
    content: str
    edits: tuple[int, ...]
    start: int
    stop: int


def _zeros_first(task: _Task) -> bool:
    """Zeros cost no thought: once they are written, the disk is busy while values are made."""
    return task.content != ZEROS


class _Writer:
    """Makes an operation's edits, task by task, in threads."""

    def __init__(self, tag: Path, operation: Operation, archives: Mapping[str, Archive]) -> None:
        self.tag = tag
        self.operation = operation
        self.archives = archives

    def write_all(self) -> list[int]:
        """Returns the CRC-32 of each edit's whole range afterwards."""
        crcs: dict[int, int] = {}
        with Flusher() as flusher:
            done = in_parallel(lambda task: self._do(task, flusher), sorted(self._tasks(), key=_zeros_first))
        for found in done:  # in order of start, so CRCs join from left to right
            for number, (crc, length) in found.items():
                crcs[number] = combined_crc(crcs[number], crc, length) if number in crcs else crc
        return [crcs[number] for number in range(len(self.operation.edits))]

    def _tasks(self) -> Iterable[_Task]:
        groups: dict[tuple[str, int, str], list[int]] = {}
        for number, edit in enumerate(self.operation.edits):
            key = (edit.copy.parameter, edit.copy.tensor_rank, edit.content)
            groups.setdefault(key, []).append(number)
        for (name, rank, content), numbers in groups.items():
            for start, stop in pieces(0, self.operation.parameters[name].block_numel, TASK_ELEMENTS):
                yield _Task(name, rank, content, tuple(self._reaching(numbers, start, stop)), start, stop)

    def _reaching(self, numbers: Sequence[int], start: int, stop: int) -> Iterable[int]:
        for number in numbers:
            copy = self.operation.edits[number].copy
            if copy.start < stop and start < copy.stop:
                yield number

    def _do(self, task: _Task, flusher: Flusher) -> dict[int, tuple[int, int]]:
        """Write one task; returns, for each edit it reached, the CRC-32 and the length of what is there now."""
        found: dict[int, tuple[int, int]] = {}
        edits = [(number, self.operation.edits[number]) for number in task.edits]
        partial = task.parameter in self.operation.selections
        with OpenFiles(self.tag, os.O_RDWR) as files:
            if task.content == ZEROS and not partial:
                for number, edit in edits:
                    found[number] = self._write_zeros(files, edit, task)
            else:
                for start, stop in pieces(task.start, task.stop):
                    self._piece(files, task, edits, start, stop, found)
        for number, (_, length) in found.items():
            flusher.written(self.archives[self.operation.edits[number].copy.file].path, length)
        return found

    def _write_zeros(self, files: OpenFiles, edit: Edit, task: _Task) -> tuple[int, int]:
        copy = edit.copy
        low, high = max(task.start, copy.start), min(task.stop, copy.stop)
        length = (high - low) * copy.item_size
        place = self._place(edit, low)
        for start, stop in pieces(0, length, len(_ZEROS)):
            files.write(self._file(edit), place + start, memoryview(_ZEROS)[: stop - start])
        return zeros_crc(length), length

    def _piece(
        self, files: OpenFiles, task: _Task, edits: Sequence[tuple[int, Edit]], start: int, stop: int,
        found: dict[int, tuple[int, int]],
    ) -> None:  # fmt: skip
        """One piece of every copy: its values are made once, and rounded and written for each."""
        import numpy as np

        changing = any(self._changes(edit, start, stop) for _, edit in edits)
        new: NDArray[Any] | None = None
        if changing and task.content == ZEROS:
            new = np.zeros(stop - start, np.float32)
        elif changing:
            parameter = self.operation.parameters[task.parameter]
            new = block_values(self.operation.sources[task.content], parameter, task.tensor_rank, start, stop)
        for number, edit in edits:
            low, high = max(start, edit.copy.start), min(stop, edit.copy.stop)
            if low < high:
                data = self._write(files, edit, low, high, None if new is None else new[low - start : high - start])
                crc, length = found.get(number, (0, 0))
                found[number] = (crc32(data, crc), length + len(data))

    def _write(self, files: OpenFiles, edit: Edit, low: int, high: int, new: NDArray[Any] | None) -> memoryview:
        """Write what changes between ``low`` and ``high`` of a copy; returns all that is there afterwards."""
        import numpy as np

        copy = edit.copy
        dtype = numpy_dtype(copy.dtype)
        runs = list(self.operation.edited(copy, low, high))
        if runs == [(low, high)]:
            assert new is not None
            values = np.ascontiguousarray(rounded(new, dtype))
        else:
            values = files.read(self._file(edit), self._place(edit, low), high - low, copy.dtype)
            for start, stop in runs:
                assert new is not None
                values[start - low : stop - low] = rounded(new[start - low : stop - low], dtype)
        data = values.view(np.uint8).data
        for start, stop in runs:
            part = data[(start - low) * copy.item_size : (stop - low) * copy.item_size]
            files.write(self._file(edit), self._place(edit, start), part)
        return data

    def _changes(self, edit: Edit, start: int, stop: int) -> bool:
        low, high = max(start, edit.copy.start), min(stop, edit.copy.stop)
        return low < high and any(True for _ in self.operation.edited(edit.copy, low, high))

    def _file(self, edit: Edit) -> str:
        return self.archives[edit.copy.file].path.name

    def _place(self, edit: Edit, element: int) -> int:
        """Where an element of a copy's block lies in its file, in bytes."""
        copy = edit.copy
        record = self.archives[copy.file].records[copy.record]
        return record.data_offset + copy.offset + (element - copy.start) * copy.item_size
