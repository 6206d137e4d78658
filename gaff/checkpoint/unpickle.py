# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's pickle as plain data: tensors become references, and nothing that the pickle names is imported or run.

Every global that a GPT-NeoX checkpoint may name is in one table and stands for a harmless class or function of ours.
Any other name is refused.  The list is what occurs in checkpoints written by GPT-NeoX ea7aefd8 with DeepSpeed 0.16.5
and 0.19.8, with the spellings of both numpy 1 and numpy 2.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

ITEM_SIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


@dataclass(frozen=True)
class StorageRef:
    """One storage: the record ``data/<key>`` of the same file, ``numel`` elements of ``dtype``."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor's values stand.  ``offset`` and ``stride`` count elements, not bytes."""

    record: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def item_size(self) -> int:
        return ITEM_SIZE[self.dtype]

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


class ForbiddenGlobalError(Exception):
    """The pickle names something that no checkpoint needs.  Carries the dotted name."""


class _Sealed(type):
    """Classes that a pickle's BUILD opcode cannot alter."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise ForbiddenGlobalError(f"{cls.__name__}.{name} = …")


class Opaque(metaclass=_Sealed):
    """Something that GAFF carries along without looking inside: numpy arrays of RNG states, loss scalers."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class FragmentAddress(metaclass=_Sealed):
    """``deepspeed.utils.tensor_fragment.fragment_address``: a parameter's piece in a flat partition, in elements."""

    numel: int
    start: int

    def __setstate__(self, state: dict[str, int]) -> None:
        self.numel, self.start = int(state["numel"]), int(state["start"])
        if self.numel < 0 or self.start < 0:
            raise pickle.UnpicklingError("a fragment with a negative address")


class _StorageType(metaclass=_Sealed):
    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


def _rebuild_tensor(
    storage: StorageRef,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: object = None,
    metadata: object = None,
) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise pickle.UnpicklingError("a tensor without a storage")
    return TensorRef(f"data/{storage.key}", storage.dtype, int(offset), tuple(shape), tuple(stride))


def _rebuild_from_type(rebuild: Callable[..., Any], kind: object, args: tuple[Any, ...], state: object) -> Any:
    if rebuild is not _rebuild_tensor:
        raise pickle.UnpicklingError("a tensor subclass that is not rebuilt from a storage")
    return _rebuild_tensor(*args)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding}")
    return text.encode("latin1")


def _size(items: Any = ()) -> tuple[int, ...]:
    return tuple(items)


def _numpy_reconstruct(kind: object, shape: object, typecode: object) -> Opaque:
    return Opaque()


_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip

_GLOBALS: dict[tuple[str, str], object] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
    ("torch", "Tensor"): Opaque,
    ("torch.nn.parameter", "Parameter"): Opaque,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): Opaque,
    ("numpy", "dtype"): Opaque,
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"): Opaque,
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"): Opaque,
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"): int,
    ("deepspeed.utils.tensor_fragment", "fragment_address"): FragmentAddress,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", dtype): dtype for dtype in ITEM_SIZE},
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _numpy_reconstruct), ("scalar", Opaque))
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[(module, name)]
        except KeyError:
            raise ForbiddenGlobalError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> StorageRef:
        kind, storage_type, key, _location, numel = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"an unknown persistent id {kind!r}")
        return StorageRef(str(key), storage_type.dtype, int(numel))


def unpickle(data: bytes) -> Any:
    """The object tree of a ``data.pkl``, with :class:`TensorRef` in place of tensors.

    Raises:
        ForbiddenGlobalError: the pickle names something outside the table.
        pickle.UnpicklingError: the pickle is damaged.
    """
    return _Unpickler(io.BytesIO(data)).load()
