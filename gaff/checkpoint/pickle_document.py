# SPDX-License-Identifier: Apache-2.0
"""A ``data.pkl`` that can be edited and written again, without importing anything that it names.

Two kinds of edit.  :meth:`PickleDocument.scalar_patch` overwrites one number where it stands, in as many bytes, for
edits in place.  :meth:`replace`, :meth:`put`, :meth:`remove` and the two ``resize`` methods change the tree, and
:meth:`to_bytes` writes the whole pickle anew.  An unedited document is written byte for byte as ``torch.save`` wrote
it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gaff.checkpoint.pickle_nodes import (
    CallNode,
    DictNode,
    ListNode,
    Node,
    PersistentNode,
    Scalar,
    TupleNode,
    Value,
    children,
    node_of,
)
from gaff.checkpoint.pickle_parser import parse
from gaff.checkpoint.pickle_writer import write_pickle
from gaff.checkpoint.unpickle import GLOBALS, evaluate

_INTEGERS = {b"K": (1, 0, 0xFF), b"M": (2, 0, 0xFFFF), b"J": (4, -(1 << 31), (1 << 31) - 1)}  # bytes, smallest, largest
_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_WRAPPERS = {("torch._tensor", "_rebuild_from_type_v2"): 2, ("torch._utils", "_rebuild_parameter"): 0}


@dataclass(frozen=True)
class TensorNode:
    """A tensor: the call that makes it, the key and element count of its storage, and where it lies in that."""

    call: CallNode
    key: str
    storage_numel: int
    offset: int
    shape: tuple[int, ...]


class PickleDocument:
    """A pickle as a tree that can be edited.

    Raises:
        ForbiddenGlobalError: it names something that no GPT-NeoX checkpoint needs.
        DamagedPickleError: it is damaged (``gaff.checkpoint.pickle_parser``).
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._root = parse(data, GLOBALS)
        evaluate(self._root)  # refuses calls that are not as torch writes them
        self._replaced: dict[Node, Node] = {}

    @property
    def root(self) -> Node:
        return self._resolve(self._root)

    def _resolve(self, node: Node) -> Node:
        while node in self._replaced:
            node = self._replaced[node]
        return node

    def at(self, *path: str | int, start: Node | None = None) -> Node:
        """The node that dict keys and list indexes lead to, from the root or from ``start``.

        A ``torch.Size`` is indexed as a tuple; the fields of a ``fragment_address`` are found by their names.

        Raises:
            LookupError: there is no such node.
        """
        node = self.root if start is None else self._resolve(start)
        for step in path:
            node = self._step(node, step)
        return node

    def _step(self, node: Node, step: str | int) -> Node:
        if isinstance(node, CallNode) and node.function.key == ("torch", "Size"):
            node = self._resolve(self._resolve(node.args).items[0])  # type: ignore[union-attr]
        if isinstance(node, (TupleNode, ListNode)) and isinstance(step, int):
            return self._resolve(node.items[step])
        for key, value in reversed(self._pairs(node)):
            if key.value == step and type(key.value) is type(step):
                return self._resolve(value)
        raise KeyError(step)

    def _pairs(self, node: Node) -> list[tuple[Scalar, Node]]:
        if isinstance(node, CallNode) and node.state is not None and not node.pairs:
            node = self._resolve(node.state)
        return node.pairs if isinstance(node, (DictNode, CallNode)) else []

    def entries(self, node: Node) -> list[tuple[Value, Node]]:
        """Keys and value nodes of a dict, an OrderedDict, or a ``fragment_address``, in their order."""
        return [(key.value, self._resolve(value)) for key, value in self._pairs(self._resolve(node))]

    def items(self, node: Node) -> list[Node]:
        """The nodes in a list or tuple."""
        node = self._resolve(node)
        assert isinstance(node, (ListNode, TupleNode))
        return [self._resolve(item) for item in node.items]

    def value(self, node: Node) -> Any:
        """What a node stands for, with the edits made below it; tensors as ``TensorRef``."""
        return evaluate(node, self._resolve)

    def scalar_patch(self, node: Node, new: bool | int | float) -> tuple[int, bytes, bytes] | None:
        """The bytes that turn a number of the original pickle into another one where it stands.

        Returns:
            Offset in the pickle, the bytes there, and as many new ones; None where the new value needs another width
            or is of another type, or the node was not read from the pickle.
        """
        if not isinstance(node, Scalar) or not node.width or type(node.value) is not type(new):
            return None
        old = self._data[node.offset : node.offset + node.width]
        patched = _same_width(old, new)
        return None if patched is None else (node.offset, old, patched)

    def replace(self, node: Node, new: object) -> Node:
        """Put ``new``, a node or a plain value, wherever ``node`` stands.

        Numbers stand in one place; a text or a tuple may be shared with other places by the pickle's memo.
        """
        replacement = node_of(new)
        node = self._resolve(node)
        if replacement is not node:
            self._replaced[node] = replacement
        return replacement

    def put(self, mapping: Node, key: str | int, value: object) -> None:
        """Set one entry of a dict or OrderedDict; a new one comes last."""
        pairs = self._own_pairs(mapping)
        new = (Scalar(key), node_of(value))
        for index, (old, _) in enumerate(pairs):
            if old.value == key and type(old.value) is type(key):
                pairs[index] = (old, new[1])
                return
        pairs.append(new)

    def remove(self, mapping: Node, key: str | int) -> None:
        """Remove one entry of a dict or OrderedDict.

        Raises:
            KeyError: it is not there.
        """
        pairs = self._own_pairs(mapping)
        left = [pair for pair in pairs if pair[0].value != key]
        if len(left) == len(pairs):
            raise KeyError(key)
        pairs[:] = left

    def _own_pairs(self, mapping: Node) -> list[tuple[Scalar, Node]]:
        mapping = self._resolve(mapping)
        assert isinstance(mapping, (DictNode, CallNode)), "only a dict has entries"
        return mapping.pairs

    def nodes(self) -> Iterator[Node]:
        """Every node, each once."""
        seen: set[Node] = set()
        pending = [self.root]
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                yield node
                pending += [self._resolve(child) for child in children(node)]

    def tensor(self, node: Node) -> TensorNode:
        """A tensor's parts; of a parameter or a tensor subclass, those of the tensor in it.

        Raises:
            TypeError: the node is no tensor.
        """
        call = self._resolve(node)
        if isinstance(call, CallNode) and call.function.key in _WRAPPERS:
            inner = self.items(call.args)[_WRAPPERS[call.function.key]]
            if isinstance(inner, TupleNode):  # the arguments of the tensor's own call
                call = CallNode(call.function, inner)
                return self._tensor(call)
            return self.tensor(inner)
        if not isinstance(call, CallNode) or call.function.key != _REBUILD:
            raise TypeError("this node is no tensor")
        return self._tensor(call)

    def _tensor(self, call: CallNode) -> TensorNode:
        storage, offset, shape = self.items(call.args)[:3]
        assert isinstance(storage, PersistentNode)
        pid = self.value(storage.pid)
        return TensorNode(call, pid[2], pid[4], self.value(offset), self.value(shape))

    def resize_tensor(self, node: Node, shape: tuple[int, ...], offset: int | None = None) -> None:
        """Give a tensor another shape, contiguous, and perhaps another place in its storage (in elements)."""
        args = self.tensor(node).call.args
        stride = []
        expected = 1
        for size in reversed(shape):
            stride.append(expected)
            expected *= max(size, 1)
        if offset is not None:
            args.items[1] = Scalar(offset)
        args.items[2:4] = [node_of(tuple(shape)), node_of(tuple(reversed(stride)))]

    def resize_storage(self, key: str, numel: int) -> None:
        """Give a storage another number of elements, wherever a tensor names it."""
        for node in self.nodes():
            if isinstance(node, PersistentNode) and self.value(node.pid)[2] == key:
                node.pid = TupleNode([*self.items(node.pid)[:4], Scalar(numel)])

    def to_bytes(self) -> bytes:
        """The whole pickle, with the edits, in protocol 2."""
        return write_pickle(self._root, self._resolve)


def _same_width(old: bytes, new: bool | int | float) -> bytes | None:
    opcode = old[:1]
    if isinstance(new, bool):
        return b"\x88" if new else b"\x89"
    if isinstance(new, float):
        return b"G" + struct.pack(">d", new)
    try:
        if opcode == b"\x8a":  # LONG1: a length byte and as many of two's complement
            return old[:2] + new.to_bytes(len(old) - 2, "little", signed=True)
        width, smallest, _ = _INTEGERS[opcode]
        return opcode + new.to_bytes(width, "little", signed=smallest < 0)
    except OverflowError:
        return None
