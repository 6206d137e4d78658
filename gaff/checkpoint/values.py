# SPDX-License-Identifier: Apache-2.0
"""Where the new values of a reset come from.

A source is a pure function of what stands in its ``to_json()``: an interrupted reset is done again from the intent
alone.  Elements are counted flat over the whole (padded vocabulary x hidden) matrix, and values are float32: the master
takes them as they are, the model copy rounded to its dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.init_methods import Distribution
from gaff.checkpoint.layout import MASTER, Copy, Layout, read_layout
from gaff.checkpoint.random_rows import key_for, open_uniform, standard_normal
from gaff.checkpoint.unpickle import ITEM_SIZE
from gaff.errors import InputError, Location, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK_ELEMENTS = 1 << 16  # stays in the processor's cache


class ValueSource(Protocol):
    """New float32 values for any flat range of the matrix."""

    def values(self, start: int, stop: int) -> NDArray[np.float32]: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class DrawnValues:
    """Values drawn from a distribution: row r depends on seed, reset number, parameter name and r alone."""

    distribution: Distribution
    seed: int
    reset: int
    parameter: str
    width: int

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        import numpy as np

        key = key_for("gaff-reset", self.seed, self.reset, self.parameter)
        first, last = start // self.width, -(-stop // self.width)
        if self.distribution.kind == "normal":
            rows = standard_normal(key, first, last - first, self.width)
        else:
            rows = open_uniform(key, first, last - first, self.width) * 2.0 - 1.0
        rows *= self.distribution.scale
        rows += self.distribution.mean
        flat = rows.reshape(-1)[start - first * self.width : stop - first * self.width]
        return flat.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "drawn", **asdict(self)}


@dataclass(frozen=True)
class TagValues:
    """The master of another tag of the same shape, for instance ``global_step0``."""

    tag: Path

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        return self._reader.values(MASTER, start, stop)

    @cached_property
    def _reader(self) -> CopyReader:
        return CopyReader(read_layout(self.tag))

    def to_json(self) -> dict[str, Any]:
        return {"kind": "tag", "tag": str(self.tag)}


@dataclass(frozen=True)
class FileValues:
    """A tensor in a safetensors file, of exactly the matrix's shape."""

    path: Path
    tensor: str
    width: int

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        import numpy as np
        from safetensors import safe_open

        first, last = start // self.width, -(-stop // self.width)
        with safe_open(str(self.path), framework="numpy") as file:
            rows = file.get_slice(self.tensor)[first:last]
        flat = np.asarray(rows, dtype=np.float32).reshape(-1)
        return flat[start - first * self.width : stop - first * self.width]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "file", "path": str(self.path), "tensor": self.tensor, "width": self.width}


def source_from_json(fields: Mapping[str, Any]) -> ValueSource:
    """The inverse of ``to_json``."""
    arguments = {k: v for k, v in fields.items() if k != "kind"}
    if fields["kind"] == "drawn":
        return DrawnValues(**{**arguments, "distribution": Distribution(**arguments["distribution"])})
    if fields["kind"] == "tag":
        return TagValues(Path(arguments["tag"]))
    return FileValues(**{**arguments, "path": Path(arguments["path"])})


def file_values(path: Path, parameter: str, shape: tuple[int, int]) -> FileValues:
    """A safetensors file as a source: its tensor named ``parameter``, or its only one.

    Raises:
        InputError: no such file or tensor, or another shape.
    """
    from safetensors import SafetensorError, safe_open

    where = Location(str(path))
    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(Problem("init-file", f"cannot be read ({error})", "check the path", where)) from None
    name = parameter if parameter in shapes else next(iter(shapes)) if len(shapes) == 1 else None
    if name is None or shapes[name] != shape:
        what = f"holds {shapes}, not a tensor {parameter!r} of shape {shape}"
        raise InputError(Problem("init-file", what, "give a tensor of the padded vocabulary's size", where))
    return FileValues(path, name, shape[1])


def pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """``start`` to ``stop`` in ranges of bounded size."""
    for position in range(start, stop, CHUNK_ELEMENTS):
        yield position, min(position + CHUNK_ELEMENTS, stop)


class CopyReader:
    """Reads values out of the copies of one tag, keeping its files' directories at hand."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._archives: dict[str, Archive] = {}

    def archive(self, file: str) -> Archive:
        if file not in self._archives:
            self._archives[file] = Archive(self.layout.path / file)
        return self._archives[file]

    def copy(self, copy: Copy, start: int, stop: int) -> NDArray[Any]:
        """One copy's values in flat range ``start`` to ``stop`` of the matrix, in the copy's dtype."""
        archive = self.archive(copy.file)
        offset = copy.offset + (start - copy.start) * ITEM_SIZE[copy.dtype]
        return archive.elements(archive.records[copy.record], copy.dtype, offset, stop - start)

    def values(self, kind: str, start: int, stop: int, stage: int = 0) -> NDArray[np.float32]:
        """A flat range of the matrix, put together from the copies of one kind."""
        import numpy as np

        parts = [
            self.copy(copy, max(start, copy.start), min(stop, copy.stop)).astype(np.float32)
            for copy in self.layout.chain(kind, stage)
            if copy.start < stop and start < copy.stop
        ]
        return np.concatenate(parts)
