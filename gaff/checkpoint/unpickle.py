# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's pickle as plain data: tensors become references, and nothing that the pickle names is imported or run.

Every global that a GPT-NeoX checkpoint may name is in one table and stands for a harmless class or function of ours.
Any other name is refused.  The list is what occurs in checkpoints written by GPT-NeoX ea7aefd8 with DeepSpeed 0.16.5
and 0.19.8, with the spellings of both numpy 1 and numpy 2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from gaff.checkpoint.pickle_nodes import (
    CallNode,
    DictNode,
    GlobalNode,
    ListNode,
    Node,
    PersistentNode,
    Scalar,
    TupleNode,
)
from gaff.checkpoint.pickle_parser import DamagedPickleError, parse

ITEM_SIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
MAX_COUNT = (1 << 63) - 1  # of elements: torch counts in int64
MAX_DIMENSIONS = 64


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


class Opaque:
    """Something that GAFF carries along without looking inside: numpy arrays of RNG states, loss scalers."""

    def __init__(self, *args: object) -> None: ...


@dataclass(frozen=True)
class FragmentAddress:
    """``deepspeed.utils.tensor_fragment.fragment_address``: a parameter's piece in a flat partition, in elements."""

    numel: int
    start: int


@dataclass(frozen=True)
class _StorageType:
    dtype: str


def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise DamagedPickleError(f"{what} that is no count of elements")
    return value


def _counts(value: object, what: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMENSIONS:
        raise DamagedPickleError(f"{what} that is no list of dimensions")
    return tuple(_count(item, what) for item in value)


def _rebuild_tensor(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise DamagedPickleError("a tensor without a storage")
    sizes, strides = _counts(shape, "a shape"), _counts(stride, "a stride")
    if len(sizes) != len(strides):
        raise DamagedPickleError("a tensor whose shape and stride differ in length")
    return TensorRef(f"data/{storage.key}", storage.dtype, _count(offset, "an offset"), sizes, strides)


def _rebuild_from_type(rebuild: object, kind: object, args: object, state: object) -> TensorRef:
    if rebuild is not _rebuild_tensor or not isinstance(args, tuple):
        raise DamagedPickleError("a tensor subclass that is not rebuilt from a storage")
    return _rebuild_tensor(*args)


def _rebuild_parameter(data: object, requires_grad: object, hooks: object) -> TensorRef:
    if not isinstance(data, TensorRef):
        raise DamagedPickleError("a parameter without a tensor")
    return data


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise DamagedPickleError("bytes in an encoding that pickle does not use")
    return text.encode("latin1")


def _size(items: object = ()) -> tuple[int, ...]:
    return _counts(items, "a size")


def _set(items: object = ()) -> set[object]:
    if not isinstance(items, list) or not all(_is_plain(item) for item in items):
        raise DamagedPickleError("a set of other things than plain values")
    return set(items)


def _is_plain(item: object) -> bool:
    return isinstance(item, str) or (type(item) is int and 0 <= item <= MAX_COUNT >> 2)  # these have different hashes


def _is_key(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20  # torch numbers its storages


def _ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _enumeration(value: object) -> int:
    return _count(value, "a ZeRO stage")


def _opaque(*args: object) -> Opaque:
    return Opaque()


def _fragment_address() -> FragmentAddress:
    return FragmentAddress(0, 0)  # its state follows


_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip

GLOBALS: dict[tuple[str, str], object] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Tensor"): _opaque,
    ("torch.nn.parameter", "Parameter"): _opaque,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _ordered_dict,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _opaque,
    ("numpy", "dtype"): _opaque,
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"): _opaque,
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"): _opaque,
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"): _enumeration,
    ("deepspeed.utils.tensor_fragment", "fragment_address"): _fragment_address,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", dtype): dtype for dtype in ITEM_SIZE},
    **{
        (f"numpy.{core}.multiarray", name): _opaque for core in ("core", "_core") for name in ("_reconstruct", "scalar")
    },
}


def unpickle(data: bytes) -> Any:
    """The object tree of a ``data.pkl``, with :class:`TensorRef` in place of tensors.

    Raises:
        ForbiddenGlobalError: the pickle names something outside the table.
        DamagedPickleError: the pickle is damaged, or not of the kind that GPT-NeoX checkpoints hold.
    """
    return evaluate(parse(data, GLOBALS))


def evaluate(node: Node, resolve: Callable[[Node], Node] = lambda node: node) -> Any:
    """What a parsed pickle, or a part of one, stands for.

    Args:
        node: its root.
        resolve: gives the node that counts in place of one.

    Raises:
        DamagedPickleError: it calls something with arguments that are not right for it.
    """
    return _Evaluator(resolve).value(node)


class _Evaluator:
    """Each node is evaluated once, so what is shared stays shared.  Depth is bounded by the parser."""

    def __init__(self, resolve: Callable[[Node], Node]) -> None:
        self.resolve = resolve
        self.values: dict[Node, Any] = {}

    def value(self, node: Node) -> Any:
        node = self.resolve(node)
        if isinstance(node, Scalar):
            return node.value
        if node not in self.values:
            self.values[node] = self._evaluate(node)
        return self.values[node]

    def _evaluate(self, node: Node) -> Any:
        if isinstance(node, TupleNode):
            return tuple([self.value(item) for item in node.items])
        if isinstance(node, ListNode):
            return [self.value(item) for item in node.items]
        if isinstance(node, DictNode):
            return {key.value: self.value(value) for key, value in node.pairs}
        if isinstance(node, GlobalNode):
            return GLOBALS[node.key]
        if isinstance(node, PersistentNode):
            return self._storage(node)
        assert isinstance(node, CallNode)
        return self._call(node)

    def _call(self, node: CallNode) -> Any:
        function = GLOBALS[node.function.key]
        if not callable(function):
            raise DamagedPickleError(f"{'.'.join(node.function.key)} is called, which is no function")
        try:
            result = function(*self.value(node.args))
        except (TypeError, UnicodeError) as error:
            raise DamagedPickleError(f"{'.'.join(node.function.key)} is called wrongly ({error})") from None
        if isinstance(result, OrderedDict):
            result.update((key.value, self.value(value)) for key, value in node.pairs)
        elif node.pairs:
            raise DamagedPickleError(f"{'.'.join(node.function.key)} is given entries")
        if node.state is not None:
            result = self._with_state(result, node.state)
        return result

    def _with_state(self, result: object, state: Node) -> Any:
        if isinstance(result, (Opaque, OrderedDict)):  # an OrderedDict's is its ``_metadata``, of no use here
            self.value(state)
            return result
        fields = self.value(state)
        if not isinstance(result, FragmentAddress) or not isinstance(fields, dict):
            raise DamagedPickleError("a state is given to what has none")
        what = "a fragment's address"
        return FragmentAddress(_count(fields.get("numel"), what), _count(fields.get("start"), what))

    def _storage(self, node: PersistentNode) -> StorageRef:
        pid = self.value(node.pid)
        if len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType) or not _is_key(pid[2]):
            raise DamagedPickleError("a persistent id that names no storage")
        return StorageRef(pid[2], pid[1].dtype, _count(pid[4], "a storage"))
