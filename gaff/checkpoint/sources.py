# SPDX-License-Identifier: Apache-2.0
"""Where the new values of an operation come from.

A source is a pure function of what stands in its ``to_json()`` and in the tag, so an interrupted operation is done
again from the tag alone; values from elsewhere are first stored in the tag (:func:`store`).  Elements are counted flat
over the whole parameter (all tensor ranks), and values are float32: masters take them as they are, model copies rounded
to their dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gaff.checkpoint.archive import numpy_dtype
from gaff.checkpoint.init_methods import Distribution
from gaff.checkpoint.layout.parameter import Parameter
from gaff.checkpoint.random_rows import LARGEST_NORMAL, key_for, open_uniform, standard_normal
from gaff.checkpoint.reader import TASK_ELEMENTS, CopyReader, OpenFiles, pieces
from gaff.checkpoint.tensor_file import TensorFile, write_tensors
from gaff.errors import InputError, Location, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ValueSource(Protocol):
    """New float32 values for any flat range of one parameter."""

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
            rows = open_uniform(key, first, last - first, self.width)
            rows *= np.float32(2.0)
            rows -= np.float32(1.0)
        rows *= np.float32(self.distribution.scale)
        if self.distribution.mean:
            rows += np.float32(self.distribution.mean)
        return rows.reshape(-1)[start - first * self.width : stop - first * self.width]

    def largest(self) -> float:
        reach = LARGEST_NORMAL if self.distribution.kind == "normal" else 1.0
        return abs(self.distribution.mean) + reach * self.distribution.scale

    def to_json(self) -> dict[str, Any]:
        return {"kind": "drawn", **asdict(self)}


@dataclass(frozen=True)
class ConstantValue:
    """One value everywhere, as GPT-NeoX initialises norms and biases."""

    value: float

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        import numpy as np

        return np.full(stop - start, self.value, np.float32)

    def largest(self) -> float:
        return abs(self.value)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "constant", "value": self.value}


@dataclass(frozen=True)
class FileValues:
    """A tensor of a safetensors file."""

    file: TensorFile
    tensor: str

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.file.values(self.tensor, start, stop)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "file", "file": str(self.file.path), "tensor": self.tensor}


@dataclass(frozen=True)
class TagValues:
    """What another tag holds of a parameter."""

    reader: CopyReader
    parameter: str
    kind: str

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        with OpenFiles(self.reader.layout.path) as files:
            return self.reader.values(files, self.parameter, self.kind, start, stop)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "tag", "file": str(self.reader.layout.path), "tensor": self.parameter}


@dataclass(frozen=True)
class ArrayValues:
    """Values that had to be worked out in memory."""

    matrix: NDArray[np.float32]

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.matrix.reshape(-1)[start:stop]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "array"}


@dataclass(frozen=True)
class StoredValues:
    """Values in a safetensors file of the tag itself, which goes away when the operation is recorded."""

    file: TensorFile
    tensor: str
    origin: str

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.file.values(self.tensor, start, stop)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "stored", "file": self.file.path.name, "tensor": self.tensor, "origin": self.origin}


@dataclass(frozen=True)
class GoneValues:
    """Stored values of an operation that is recorded: they were there."""

    origin: str
    name: str

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        raise AssertionError("the values of a recorded operation are not kept")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "stored", "file": self.name, "tensor": "", "origin": self.origin}


def source_from_json(fields: Mapping[str, Any], folder: Path) -> ValueSource:
    """The inverse of ``to_json``; ``folder`` is the one in which stored values lie.

    Raises:
        KeyError, TypeError, ValueError: the fields are not a source.
    """
    arguments = {k: v for k, v in fields.items() if k != "kind"}
    if fields["kind"] == "stored":
        path = folder / Path(fields["file"]).name
        if not path.is_file():
            return GoneValues(fields["origin"], path.name)
        file = TensorFile(path)
        if fields["tensor"] not in file.tensors:  # the file is a later operation's
            return GoneValues(fields["origin"], path.name)
        return StoredValues(file, fields["tensor"], fields["origin"])
    if fields["kind"] == "constant":
        return ConstantValue(float(fields["value"]))
    if fields["kind"] != "drawn":
        raise ValueError(f"a source of kind {fields['kind']!r}")
    return DrawnValues(**{**arguments, "distribution": Distribution(**arguments["distribution"])})


def is_lasting(source: ValueSource) -> bool:
    """Whether a source can be read again from the tag alone."""
    return isinstance(source, (DrawnValues, ConstantValue, StoredValues))


def store(
    path: Path, sources: Mapping[str, ValueSource], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, ValueSource]:
    """Write what is not lasting durably into ``path``, and return all sources in a form that is.

    Raises:
        OSError: there is no room for it.
    """
    passing = {key: source for key, source in sources.items() if not is_lasting(source)}
    if not passing:
        return dict(sources)
    data = {key: _all_values(source, _numel(shapes[key])) for key, source in passing.items()}
    write_tensors(path, {key: shapes[key] for key in passing}, data, {})
    file = TensorFile(path)
    stored = {key: StoredValues(file, key, str(source.to_json().get("file", ""))) for key, source in passing.items()}
    return {key: stored.get(key, source) for key, source in sources.items()}


def _all_values(source: ValueSource, numel: int) -> Iterator[NDArray[np.float32]]:
    for start, stop in pieces(0, numel, TASK_ELEMENTS):
        yield source.values(start, stop)


def _numel(shape: tuple[int, ...]) -> int:
    from math import prod

    return prod(shape)


def block_values(
    source: ValueSource, parameter: Parameter, tensor_rank: int, start: int, stop: int
) -> NDArray[np.float32]:
    """A flat range of one tensor rank's block, cut out of the whole parameter's values."""
    if parameter.split != 1:
        first = parameter.first_row(tensor_rank) * parameter.width
        return source.values(first + start, first + stop)
    width, left = parameter.block_width, parameter.first_column(tensor_rank)
    top, bottom = start // width, -(-stop // width)
    rows = source.values(top * parameter.width, bottom * parameter.width).reshape(-1, parameter.width)
    return rows[:, left : left + width].reshape(-1)[start - top * width : stop - top * width]


def refuse_overflow(source: ValueSource, numel: int, dtype: str, said: str, where: Path) -> None:
    """Make sure that all values are finite in the model's dtype.

    Raises:
        InputError: one is not.
    """
    import ml_dtypes
    import numpy as np

    limit = float(ml_dtypes.finfo(numpy_dtype(dtype)).max)
    if isinstance(source, (DrawnValues, ConstantValue)):
        fits = source.largest() <= limit
    else:
        fits = all(
            float(np.abs(source.values(start, stop)).max(initial=0.0)) <= limit for start, stop in pieces(0, numel)
        )
    if not fits:
        what = f"{said} gives values that are not finite in the model's {dtype}"
        raise InputError(Problem("init-overflow", what, "choose other values", Location(str(where))))
