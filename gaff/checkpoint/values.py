# SPDX-License-Identifier: Apache-2.0
"""Where the new values of a reset come from.

A source is a pure function of what stands in its ``to_json()`` and in the tag, so an interrupted reset is done again
from the tag alone.  Elements are counted flat over the whole (padded vocabulary x hidden) matrix, and values are
float32: the master takes them as they are, the model copy rounded to its dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.init_methods import Distribution
from gaff.checkpoint.layout import Copy, Layout
from gaff.checkpoint.random_rows import key_for, open_uniform, standard_normal
from gaff.checkpoint.unpickle import ITEM_SIZE
from gaff.errors import InputError, Location, Problem
from gaff.files import write_durably

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK_ELEMENTS = 1 << 16  # stays in the processor's cache
LARGEST_NORMAL = 6.4  # the quantile of the last of 2^32 intervals is 6.36
_TENSOR = "values"
_FILE_DTYPES = ("F64", "F32", "F16")


class ValueSource(Protocol):
    """New float32 values for any flat range of the matrix."""

    def values(self, start: int, stop: int) -> NDArray[np.float32]: ...

    def largest(self) -> float:
        """A bound on the magnitude of all values; not finite where one of them is not."""
        ...

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

    def largest(self) -> float:
        reach = LARGEST_NORMAL if self.distribution.kind == "normal" else 1.0
        return abs(self.distribution.mean) + reach * self.distribution.scale

    def to_json(self) -> dict[str, Any]:
        return {"kind": "drawn", **asdict(self)}


@dataclass(frozen=True)
class ArrayValues:
    """Given values, in memory.  An operation needs them on disk (:meth:`store`) before it begins."""

    matrix: NDArray[np.float32]
    origin: str

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.matrix.reshape(-1)[start:stop]

    def largest(self) -> float:
        import numpy as np

        return float(np.abs(self.matrix).max(initial=0.0))

    def to_json(self) -> dict[str, Any]:
        return {"kind": "array", "origin": self.origin}

    def store(self, path: Path) -> StoredValues:
        """Write them durably, so that the operation can be done again from the tag alone."""
        save_matrix(path, _TENSOR, self.matrix, {"origin": self.origin})
        return StoredValues(path, self.origin)


@dataclass(frozen=True)
class StoredValues:
    """Given values, in a safetensors file of the tag itself, which goes away when the operation is recorded."""

    path: Path
    origin: str

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        import numpy as np
        from safetensors import safe_open

        with safe_open(str(self.path), framework="numpy") as file:
            part = file.get_slice(_TENSOR)
            width = part.get_shape()[1]
            first, last = start // width, -(-stop // width)
            flat = np.asarray(part[first:last], dtype=np.float32).reshape(-1)
        return flat[start - first * width : stop - first * width]

    def largest(self) -> float:
        return 0.0  # looked at before they were stored

    def to_json(self) -> dict[str, Any]:
        return {"kind": "stored", "file": self.path.name, "origin": self.origin}


def source_from_json(fields: Mapping[str, Any], folder: Path) -> ValueSource:
    """The inverse of ``to_json``; ``folder`` is the one in which a stored source lies."""
    if fields["kind"] == "stored":
        return StoredValues(folder / fields["file"], fields["origin"])
    arguments = {k: v for k, v in fields.items() if k != "kind"}
    return DrawnValues(**{**arguments, "distribution": Distribution(**arguments["distribution"])})


def values_of_file(path: Path, parameter: str, shape: tuple[int, int]) -> ArrayValues:
    """The tensor of a safetensors file that is named ``parameter``, or its only one.

    Raises:
        InputError: no such file or tensor, another shape, or a dtype that numpy does not have.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    where = Location(str(path))
    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            name = parameter if parameter in shapes else next(iter(shapes)) if len(shapes) == 1 else None
            if name is None or shapes[name] != shape:
                what = f"holds {shapes}, not a tensor {parameter!r} of shape {shape}"
                raise InputError(Problem("init-file", what, "give a tensor of the padded vocabulary's size", where))
            dtype = file.get_slice(name).get_dtype()
            if dtype not in _FILE_DTYPES:
                what = f"holds {dtype} values"
                raise InputError(Problem("init-file", what, "convert them to float32", where))
            return ArrayValues(np.asarray(file.get_tensor(name), dtype=np.float32), str(path))
    except (OSError, SafetensorError) as error:
        raise InputError(Problem("init-file", f"cannot be read ({error})", "check the path", where)) from None


def save_matrix(path: Path, name: str, matrix: NDArray[Any], about: dict[str, str]) -> None:
    """Write one tensor as safetensors, whole or not at all.

    Raises:
        OSError: there is no room for it, or no right to write.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save

    try:
        data = save({name: np.ascontiguousarray(matrix)}, metadata=about)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None
    write_durably(path, data)


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
