# SPDX-License-Identifier: Apache-2.0
"""safetensors files read and written in pieces, so that memory stays bounded whatever a tensor's size.

The library writes from memory and maps whole files; the format itself is a length, a JSON header and raw
little-endian data (https://github.com/huggingface/safetensors, "Format").  Files are checked as that page demands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaff.checkpoint.archive import numpy_dtype
from gaff.errors import InputError, Location, Problem
from gaff.files import fsync_directory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LARGEST_HEADER = 100 << 20  # the library's own limit, 100 MB
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMES = {name: code for code, name in _DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: torch's dtype name, shape, and where its data begin in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        return prod(self.shape)


class TensorFile:
    """A safetensors file, opened for reading piece by piece.

    Attributes:
        tensors: by name; those of dtypes that weights do not have are left out.
        about: the file's metadata.

    Raises:
        InputError: it cannot be read, or is not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.is_file():
                raise OSError("it is not there, or not a plain file")
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                size = os.fstat(file.fileno()).st_size
                if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                    raise ValueError("its header is longer than the file")
                header = json.loads(file.read(length))
            self.about: dict[str, str] = dict(header.pop("__metadata__", {}))
            self.tensors = dict(_tensors(header, 8 + length, size))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            what = f"cannot be read as a safetensors file ({error})"
            raise InputError(Problem("init-file", what, "check the path", Location(str(path)))) from None

    def values(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """A flat range of a tensor, as float32."""
        import numpy as np

        tensor = self.tensors[name]
        dtype = numpy_dtype(tensor.dtype)
        with open(self.path, "rb") as file:
            file.seek(tensor.offset + start * dtype.itemsize)
            data = file.read((stop - start) * dtype.itemsize)
        with np.errstate(over="ignore"):
            return np.frombuffer(data, dtype).astype(np.float32, copy=False)


def _tensors(header: Mapping[str, Any], begin: int, size: int) -> Iterator[tuple[str, StoredTensor]]:
    for name, fields in header.items():
        first, last = (int(x) for x in fields["data_offsets"])
        shape = tuple(int(x) for x in fields["shape"])
        dtype = _DTYPES.get(fields["dtype"])
        if not 0 <= first <= last <= size - begin or any(x < 0 for x in shape):
            raise ValueError(f"{name} lies outside the file")
        if dtype is None:
            continue
        if last - first != prod(shape) * numpy_dtype(dtype).itemsize:
            raise ValueError(f"{name} has {last - first} bytes, which is not its shape's size")
        yield str(name), StoredTensor(dtype, shape, begin + first)


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    data: Mapping[str, Iterable[NDArray[np.float32]]],
    about: Mapping[str, str],
) -> None:
    """Write float32 tensors piece by piece, durably, whole or not at all.

    Args:
        shapes: by name.
        data: by the same names, each tensor's values in flat pieces.
        about: the file's metadata.

    Raises:
        OSError: there is no room for it, or no right to write.
    """
    import numpy as np

    header: dict[str, Any] = {"__metadata__": dict(about)}
    position = 0
    for name, shape in shapes.items():
        length = prod(shape) * 4
        header[name] = {"dtype": _NAMES["float32"], "shape": list(shape), "data_offsets": [position, position + length]}
        position += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    staging = path.with_name(f".{path.name}.gaff-tmp")
    try:
        with open(staging, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in shapes:
                for piece in data[name]:
                    file.write(np.ascontiguousarray(piece, "<f4").data)
            if file.tell() != 8 + len(text) + position:
                raise ValueError(f"{path.name}: the pieces are not as long as the shapes say")
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)
