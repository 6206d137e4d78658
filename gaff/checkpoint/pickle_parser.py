# SPDX-License-Identifier: Apache-2.0
"""A pickle's bytes to nodes, for the opcodes that ``torch.save`` writes, with bounds on all that it can ask for.

Opcodes are those of CPython's ``Lib/pickletools.py``, protocols 2 to 4.  What no pickle of torch's needs is refused:
text opcodes (their numbers have no bounded length), EXT, INST, POP, sets of objects, keys that are no scalars.  A
pickle whose parts are shared so that it would be immense when walked through, or that contains itself, is refused too:
whoever walks, compares, hashes or prints what was read does a bounded amount of work.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container

from gaff.checkpoint.pickle_nodes import (
    CallNode,
    DictNode,
    GlobalNode,
    ListNode,
    Node,
    PersistentNode,
    Scalar,
    TupleNode,
    Value,
    children,
)

MAX_OPCODES = 1_000_000  # a tensor takes some thirty
MAX_DEPTH = 64  # of nodes; GPT-NeoX checkpoints have six levels of containers
MAX_WEIGHT = 1 << 28  # of the tree with nothing shared: 16 a node, and the length of its text
MAX_KEY = (1 << 61) - 2  # integers up to here have different hashes, so no choice of keys makes a dict slow
_NODE_WEIGHT = 16
_MAX_NAME = 256


class DamagedPickleError(Exception):
    """The pickle breaks off, contradicts itself, or is not of the kind that ``torch.save`` writes."""


class ForbiddenGlobalError(Exception):
    """The pickle names something that no checkpoint needs.  Carries the dotted name."""


def parse(data: bytes, allowed: Container[tuple[str, str]]) -> Node:
    """The tree that a pickle describes.

    Args:
        data: the whole pickle.
        allowed: the (module, name) of every global that it may name.

    Raises:
        ForbiddenGlobalError: it names another global.
        DamagedPickleError: it is damaged, or asks for more than a checkpoint can need.
    """
    root = _Parser(data, allowed).run()
    _check_bounds(root)
    return root


class _Parser:
    """The pickle machine: a stack, marks on it, and a memo."""

    def __init__(self, data: bytes, allowed: Container[tuple[str, str]]) -> None:
        self.data = data
        self.allowed = allowed
        self.position = 0
        self.start = 0  # of the opcode in hand
        self.stack: list[Node] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Node] = {}

    def run(self) -> Node:
        for _ in range(MAX_OPCODES):
            self.start = self.position
            opcode = self.take(1)
            if opcode == b".":
                return self.finish()
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise DamagedPickleError(f"opcode {opcode!r} at byte {self.start}, which torch does not write")
            handler(self)
        raise DamagedPickleError(f"more than {MAX_OPCODES} opcodes")

    def finish(self) -> Node:
        root = self.pop()
        if self.stack or self.marks or self.position != len(self.data):
            raise DamagedPickleError("something is left over at its end")
        return root

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise DamagedPickleError("it breaks off")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise DamagedPickleError(f"text at byte {self.start} is not UTF-8") from None

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + _MAX_NAME)
        if end < 0:
            raise DamagedPickleError(f"a name at byte {self.start} that does not end")
        name = self.text(end - self.position)
        self.position += 1
        return name

    def pop(self) -> Node:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise DamagedPickleError(f"its stack is empty at byte {self.start}")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Node]:
        if not self.marks:
            raise DamagedPickleError(f"a mark is missing at byte {self.start}")
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def push(self, node: Node) -> None:
        self.stack.append(node)

    def push_value(self, value: Value) -> None:
        self.stack.append(Scalar(value, self.start, self.position - self.start))

    def push_global(self, module: str, name: str) -> None:
        if (module, name) not in self.allowed:
            raise ForbiddenGlobalError(f"{module}.{name}")
        self.push(GlobalNode(module, name))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, Scalar) and isinstance(module, Scalar)):
            raise DamagedPickleError(f"a name at byte {self.start} that is no text")
        if not (isinstance(name.value, str) and isinstance(module.value, str)):
            raise DamagedPickleError(f"a name at byte {self.start} that is no text")
        self.push_global(module.value[:_MAX_NAME], name.value[:_MAX_NAME])

    def push_tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(TupleNode(items[::-1]))

    def call(self, new: bool) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, GlobalNode) or not isinstance(args, TupleNode):
            raise DamagedPickleError(f"a call at byte {self.start} of what is no function")
        self.push(CallNode(function, args, new))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if not isinstance(target, CallNode) or target.state is not None:
            raise DamagedPickleError(f"a state at byte {self.start} for what has none")
        target.state = state

    def persistent(self) -> None:
        pid = self.pop()
        if not isinstance(pid, TupleNode):
            raise DamagedPickleError(f"a persistent id at byte {self.start} that is no tuple")
        self.push(PersistentNode(pid))

    def top(self) -> Node:
        node = self.pop()
        self.stack.append(node)
        return node

    def append(self, items: list[Node]) -> None:
        target = self.top()
        if not isinstance(target, ListNode):
            raise DamagedPickleError(f"items at byte {self.start} for what is no list")
        target.items += items

    def set_items(self, items: list[Node]) -> None:
        target = self.top()
        if not isinstance(target, (DictNode, CallNode)) or len(items) % 2:
            raise DamagedPickleError(f"entries at byte {self.start} for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, Scalar) or (isinstance(key.value, int) and abs(key.value) > MAX_KEY):
                raise DamagedPickleError(f"a key at byte {self.start} that is neither a text nor a plain number")
            target.pairs.append((key, value))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise DamagedPickleError(f"byte {self.start} refers to memo {index}, which was not set")
        self.push(self.memo[index])

    def protocol(self) -> None:
        version = self.number(1)
        if not 2 <= version <= 4:
            raise DamagedPickleError(f"protocol {version}, where torch writes 2")

    def frame(self) -> None:
        if self.number(8) > len(self.data) - self.position:
            raise DamagedPickleError("it breaks off")


_HANDLERS: dict[bytes, Callable[[_Parser], None]] = {
    b"\x80": _Parser.protocol,
    b"\x95": _Parser.frame,
    b"(": lambda p: p.marks.append(len(p.stack)),
    b"N": lambda p: p.push_value(None),
    b"\x88": lambda p: p.push_value(True),
    b"\x89": lambda p: p.push_value(False),
    b"K": lambda p: p.push_value(p.number(1)),
    b"M": lambda p: p.push_value(p.number(2)),
    b"J": lambda p: p.push_value(int.from_bytes(p.take(4), "little", signed=True)),
    b"\x8a": lambda p: p.push_value(int.from_bytes(p.take(p.number(1)), "little", signed=True)),
    b"G": lambda p: p.push_value(float(struct.unpack(">d", p.take(8))[0])),
    b"\x8c": lambda p: p.push_value(p.text(p.number(1))),
    b"X": lambda p: p.push_value(p.text(p.number(4))),
    b"\x8d": lambda p: p.push_value(p.text(p.number(8))),
    b"C": lambda p: p.push_value(p.take(p.number(1))),
    b"B": lambda p: p.push_value(p.take(p.number(4))),
    b"\x8e": lambda p: p.push_value(p.take(p.number(8))),
    b")": lambda p: p.push(TupleNode([])),
    b"]": lambda p: p.push(ListNode([])),
    b"}": lambda p: p.push(DictNode()),
    b"\x85": lambda p: p.push_tuple(1),
    b"\x86": lambda p: p.push_tuple(2),
    b"\x87": lambda p: p.push_tuple(3),
    b"t": lambda p: p.push(TupleNode(p.pop_to_mark())),
    b"l": lambda p: p.push(ListNode(p.pop_to_mark())),
    b"a": lambda p: p.append([p.pop()]),
    b"e": lambda p: p.append(p.pop_to_mark()),
    b"s": _Parser.set_item,
    b"u": lambda p: p.set_items(p.pop_to_mark()),
    b"q": lambda p: p.put(p.number(1)),
    b"r": lambda p: p.put(p.number(4)),
    b"\x94": lambda p: p.put(len(p.memo)),
    b"h": lambda p: p.get(p.number(1)),
    b"j": lambda p: p.get(p.number(4)),
    b"c": lambda p: p.push_global(p.line(), p.line()),
    b"\x93": _Parser.stack_global,
    b"R": lambda p: p.call(new=False),
    b"\x81": lambda p: p.call(new=True),
    b"b": _Parser.build,
    b"Q": _Parser.persistent,
}


OPCODES = b"".join(_HANDLERS) + b"."  # all that are understood


def _check_bounds(root: Node) -> None:
    """Refuse a tree that contains itself, is too deep, or is too large once nothing is shared."""
    measured: dict[Node, tuple[int, int]] = {}  # weight, depth
    opened: set[Node] = set()
    pending = [root]
    while pending:
        node = pending[-1]
        if node in measured:
            pending.pop()
        elif node in opened:  # all its children have been measured
            pending.pop()
            opened.remove(node)
            measured[node] = _measure(node, measured)
        else:
            opened.add(node)
            for child in children(node):
                if child in opened:
                    raise DamagedPickleError("an object contains itself")
                if not isinstance(child, Scalar) and child not in measured:
                    pending.append(child)


def _measure(node: Node, measured: dict[Node, tuple[int, int]]) -> tuple[int, int]:
    weight, depth = _weight(node), 0
    for child in children(node):
        child_weight, child_depth = (_weight(child), 0) if isinstance(child, Scalar) else measured[child]
        weight += child_weight
        depth = max(depth, 1 + child_depth)
    if weight > MAX_WEIGHT:
        raise DamagedPickleError("what it shares would be immense when written out")
    if depth > MAX_DEPTH:
        raise DamagedPickleError(f"more than {MAX_DEPTH} levels of nesting")
    return weight, depth


def _weight(node: Node) -> int:
    """A node's own weight, without its children."""
    has_text = isinstance(node, Scalar) and isinstance(node.value, (str, bytes))
    return _NODE_WEIGHT + (len(node.value) if has_text else 0)  # type: ignore[union-attr,arg-type]
