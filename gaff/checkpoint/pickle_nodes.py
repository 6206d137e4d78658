# SPDX-License-Identifier: Apache-2.0
"""What a pickle says, as a tree of nodes: nothing that it names is imported, and what it shares stays one node.

Nodes are compared and hashed by identity; one node that stands in two places is the pickle's memo at work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | bytes | None"


@dataclass(eq=False, slots=True)
class Scalar:
    """None, a bool, int, float, str or bytes.

    ``offset`` and ``width`` say which bytes of the pickle are its opcode and argument; a node that was not read from a
    pickle has width 0.
    """

    value: Value
    offset: int = 0
    width: int = 0


@dataclass(eq=False, slots=True)
class TupleNode:
    items: list[Node]


@dataclass(eq=False, slots=True)
class ListNode:
    items: list[Node]


@dataclass(eq=False, slots=True)
class DictNode:
    """A dict; its keys are scalars.  Where a key stands twice, the last one counts."""

    pairs: list[tuple[Scalar, Node]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class GlobalNode:
    """A class or function, by name."""

    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.module, self.name


@dataclass(eq=False, slots=True)
class CallNode:
    """What ``function(*args)`` gives, then filled with ``pairs`` (SETITEMS), then given ``state`` (BUILD).

    ``new`` tells ``cls.__new__(cls, *args)`` (NEWOBJ) from a call (REDUCE).
    """

    function: GlobalNode
    args: TupleNode
    new: bool = False
    pairs: list[tuple[Scalar, Node]] = field(default_factory=list)
    state: Node | None = None


@dataclass(eq=False, slots=True)
class PersistentNode:
    """A storage: ``("storage", type, key, location, numel)`` as torch writes it."""

    pid: TupleNode


Node: TypeAlias = "Scalar | TupleNode | ListNode | DictNode | GlobalNode | CallNode | PersistentNode"


def children(node: Node) -> Iterator[Node]:
    """The nodes that a node is made of."""
    if isinstance(node, (TupleNode, ListNode)):
        yield from node.items
    elif isinstance(node, PersistentNode):
        yield node.pid
    elif isinstance(node, CallNode):
        yield node.function
        yield node.args
    if isinstance(node, (DictNode, CallNode)):
        for key, value in node.pairs:
            yield key
            yield value
    if isinstance(node, CallNode) and node.state is not None:
        yield node.state


def node_of(value: object) -> Node:
    """The node of a plain value: None, bool, int, float, str, bytes, or a tuple, list or dict of such and of nodes.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, (Scalar, TupleNode, ListNode, DictNode, GlobalNode, CallNode, PersistentNode)):
        return value
    if value is None or type(value) in (bool, int, float, str, bytes):
        return Scalar(value)  # type: ignore[arg-type]
    if type(value) is tuple:
        return TupleNode([node_of(item) for item in value])
    if type(value) is list:
        return ListNode([node_of(item) for item in value])
    if type(value) is dict:
        return DictNode(pairs_of(value))
    raise TypeError(f"a pickle cannot be given a {type(value).__name__}")


def pairs_of(entries: dict[object, object]) -> list[tuple[Scalar, Node]]:
    """The nodes of a dict's keys and values."""
    pairs = []
    for key, value in entries.items():
        key_node = node_of(key)
        if not isinstance(key_node, Scalar):
            raise TypeError(f"a pickle's dict cannot be given a key of type {type(key).__name__}")
        pairs.append((key_node, node_of(value)))
    return pairs


def ordered_dict(entries: dict[object, object]) -> CallNode:
    """``collections.OrderedDict`` with these entries."""
    return CallNode(GlobalNode("collections", "OrderedDict"), TupleNode([]), pairs=pairs_of(entries))


def torch_size(shape: tuple[int, ...]) -> CallNode:
    """``torch.Size(shape)``, as in DeepSpeed's ``param_shapes``."""
    return CallNode(GlobalNode("torch", "Size"), TupleNode([node_of(shape)]))


def fragment_address(numel: int, start: int) -> CallNode:
    """``deepspeed.utils.tensor_fragment.fragment_address``, as in ``param_slice_mappings``; both count elements."""
    cls = GlobalNode("deepspeed.utils.tensor_fragment", "fragment_address")
    return CallNode(cls, TupleNode([]), new=True, state=node_of({"numel": numel, "start": start}))
