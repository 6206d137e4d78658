# SPDX-License-Identifier: Apache-2.0
"""Reading and writing elements of copies, from several threads, in pieces of bounded size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from gaff.checkpoint.archive import Archive, numpy_dtype
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import Copy, Parameter
from gaff.errors import CheckpointError, Location, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE_ELEMENTS = 1 << 17  # stays in the processor's cache; smaller ones lose more to the interpreter
TASK_ELEMENTS = 1 << 22  # what one thread works on without coming back
_MOST_OPEN = 24  # files a thread; in 16 threads, and on two tags at once, below the usual limit of 1024 a process

Item = TypeVar("Item")
Result = TypeVar("Result")


def pieces(start: int, stop: int, step: int = PIECE_ELEMENTS) -> Iterator[tuple[int, int]]:
    """``start`` to ``stop`` in ranges of at most ``step``."""
    for position in range(start, stop, step):
        yield position, min(position + step, stop)


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``work`` on every item, on all cores that this process may use; results in the items' order."""
    listed = list(items)
    workers = min(len(listed), max(1, len(os.sched_getaffinity(0))), 16)
    if workers <= 1:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, listed))


class OpenFiles:
    """Files of one folder, opened when needed; the last few stay open until all are closed.  For one thread."""

    def __init__(self, folder: Path, flags: int = os.O_RDONLY) -> None:
        self.folder = folder
        self._flags = flags | os.O_CLOEXEC
        self._descriptors: dict[str, int] = {}

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def __getitem__(self, name: str) -> int:
        if name not in self._descriptors:
            if len(self._descriptors) == _MOST_OPEN:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[name] = os.open(self.folder / name, self._flags)
        return self._descriptors[name]

    def read(self, name: str, offset: int, count: int, dtype: str) -> NDArray[Any]:
        """``count`` elements from byte ``offset`` of a file.

        Raises:
            CheckpointError: the file ends before.
        """
        import numpy as np

        values = np.empty(count, numpy_dtype(dtype))
        buffer = values.view(np.uint8).data
        done = 0
        while done < len(buffer):
            got = os.preadv(self[name], [buffer[done:]], offset + done)
            if not got:
                where = Location(str(self.folder / name))
                raise CheckpointError(
                    Problem("truncated-file", "ends inside a record", "use another checkpoint", where)
                )
            done += got
        return values

    def write(self, name: str, offset: int, data: memoryview) -> None:
        """All of ``data`` from byte ``offset`` of a file on."""
        done = 0
        while done < len(data):
            done += os.pwrite(self[name], data[done:], offset + done)


class CopyReader:
    """Reads values out of the copies of one tag, keeping its files' directories at hand."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._archives: dict[str, Archive] = {}

    def archive(self, file: str) -> Archive:
        if file not in self._archives:
            self._archives[file] = Archive(self.layout.path / file)
        return self._archives[file]

    def open_all(self, copies: Iterable[Copy]) -> None:
        """Read the directories of the copies' files now, so that threads find them."""
        in_parallel(self.archive, sorted({copy.file for copy in copies}))

    def offset(self, copy: Copy) -> int:
        """Where a copy begins in its file, in bytes."""
        return self.archive(copy.file).records[copy.record].data_offset + copy.offset

    def copy(self, files: OpenFiles, copy: Copy, start: int, stop: int) -> NDArray[Any]:
        """One copy's values from ``start`` to ``stop`` of its block, in the copy's dtype."""
        offset = self.offset(copy) + (start - copy.start) * copy.item_size
        return files.read(copy.file, offset, stop - start, copy.dtype)

    def block(
        self, files: OpenFiles, parameter: str, kind: str, rank: int, start: int, stop: int, stage: int | None = None
    ) -> NDArray[np.float32]:
        """A flat range of a tensor rank's block, put together from the copies of one kind."""
        import numpy as np

        parts = [
            self.copy(files, copy, max(start, copy.start), min(stop, copy.stop)).astype(np.float32, copy=False)
            for copy in self.layout.chain(parameter, kind, rank, stage)
            if copy.start < stop and start < copy.stop
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def values(
        self, files: OpenFiles, parameter: str, kind: str, start: int, stop: int, stage: int | None = None
    ) -> NDArray[np.float32]:
        """A flat range of the whole parameter, put together from its tensor ranks' blocks."""
        import numpy as np

        whole = self.layout.parameters[parameter]
        if whole.split == 1:
            return self._columns(files, whole, kind, start, stop, stage)
        per_rank = whole.block_numel if whole.split == 0 else whole.numel
        parts = []
        for low, high in _cut(start, stop, per_rank):
            rank = low // per_rank
            first = rank * per_rank
            parts.append(self.block(files, parameter, kind, rank, low - first, high - first, stage))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _columns(
        self, files: OpenFiles, whole: Parameter, kind: str, start: int, stop: int, stage: int | None
    ) -> NDArray[np.float32]:
        import numpy as np

        first, last, width = start // whole.width, -(-stop // whole.width), whole.block_width
        blocks = [
            self.block(files, whole.name, kind, rank, first * width, last * width, stage).reshape(-1, width)
            for rank in range(whole.tensor)
        ]
        flat = np.concatenate(blocks, axis=1).reshape(-1)
        return flat[start - first * whole.width : stop - first * whole.width]


def _cut(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """``start`` to ``stop`` cut where multiples of ``size`` lie."""
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        yield start, end
        start = end
