# SPDX-License-Identifier: Apache-2.0
"""Nodes to a pickle's bytes, protocol 2, in the words of CPython's pickler (``Lib/pickle.py``, ``_Pickler.save_*``)."""

from __future__ import annotations

import struct
from collections.abc import Callable

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

_BATCH = 1000  # entries to one SETITEMS or APPENDS
_TUPLES = {1: b"\x85", 2: b"\x86", 3: b"\x87"}


def write_pickle(root: Node, resolve: Callable[[Node], Node] = lambda node: node) -> bytes:
    """The pickle of a tree.

    Args:
        root: its root.
        resolve: gives the node that is to be written in place of one.
    """
    writer = _Writer(resolve)
    writer.write(root)
    return b"\x80\x02" + bytes(writer.out) + b"."


class _Writer:
    def __init__(self, resolve: Callable[[Node], Node]) -> None:
        self.resolve = resolve
        self.out = bytearray()
        self.memo: dict[Node, int] = {}

    def write(self, node: Node) -> None:
        node = self.resolve(node)
        if node in self.memo:
            self.numbered(b"h", b"j", self.memo[node])
        elif isinstance(node, Scalar):
            self.scalar(node)
        elif isinstance(node, TupleNode):
            self.sequence(node)
        elif isinstance(node, ListNode):
            self.out += b"]"
            self.memoize(node)
            self.batches([(item,) for item in node.items], b"a", b"e")
        elif isinstance(node, DictNode):
            self.out += b"}"
            self.memoize(node)
            self.batches(node.pairs, b"s", b"u")
        elif isinstance(node, GlobalNode):
            self.out += f"c{node.module}\n{node.name}\n".encode()
            self.memoize(node)
        elif isinstance(node, PersistentNode):
            self.write(node.pid)
            self.out += b"Q"
        else:
            self.call(node)

    def numbered(self, short: bytes, long: bytes, index: int) -> None:
        self.out += short + bytes([index]) if index < 256 else long + struct.pack("<I", index)

    def memoize(self, node: Node) -> None:
        index = len(self.memo)
        self.memo[node] = index
        self.numbered(b"q", b"r", index)

    def scalar(self, node: Scalar) -> None:
        value = node.value
        if value is None or isinstance(value, bool):
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            self.out += _integer(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self.text(value)
            self.memoize(node)
        else:  # protocol 2 has no bytes
            self.out += b"c_codecs\nencode\n"
            self.text(value.decode("latin1"))
            self.text("latin1")
            self.out += b"\x86R"
            self.memoize(node)

    def text(self, value: str) -> None:
        encoded = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + struct.pack("<I", len(encoded)) + encoded

    def sequence(self, node: TupleNode) -> None:
        if not node.items:
            self.out += b")"
            return
        closing = _TUPLES.get(len(node.items))
        if closing is None:
            self.out += b"("
        for item in node.items:
            self.write(item)
        self.out += closing or b"t"
        self.memoize(node)

    def batches(self, entries: list[tuple[Scalar, Node]] | list[tuple[Node]], one: bytes, many: bytes) -> None:
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            self.out += b"(" if len(batch) > 1 else b""
            for entry in batch:
                for part in entry:
                    self.write(part)
            self.out += many if len(batch) > 1 else one

    def call(self, node: CallNode) -> None:
        self.write(node.function)
        self.write(node.args)
        self.out += b"\x81" if node.new else b"R"
        self.memoize(node)
        self.batches(node.pairs, b"s", b"u")
        if node.state is not None:
            self.write(node.state)
            self.out += b"b"


def _integer(value: int) -> bytes:
    if 0 <= value <= 0xFF:
        return b"K" + bytes([value])
    if 0 <= value <= 0xFFFF:
        return b"M" + struct.pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    width = (value.bit_length() >> 3) + 1
    if value < 0 and value == -(1 << (8 * width - 9)):  # the pickler writes no byte that only repeats the sign
        width -= 1
    assert width < 256, "a number of more than 2000 bits"
    return b"\x8a" + bytes([width]) + value.to_bytes(width, "little", signed=True)
