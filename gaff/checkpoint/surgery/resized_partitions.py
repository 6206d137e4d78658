# SPDX-License-Identifier: Apache-2.0
"""ZeRO stages 1 and 2 and ``BF16_Optimizer``: flat groups cut into partitions anew after a parameter changed its size.

A group is its parameters one behind the other, padded to a multiple of 2 x DP elements and cut into DP equal
partitions (``runtime/zero/stage_1_and_2.py``, ``runtime/bf16_optimizer.py``, DeepSpeed 0.16.5).  ZeRO saves masters,
and in elastic checkpoints also the states, as views without their padding; ``BF16_Optimizer`` keeps it.  With
``parameter_alignment`` (DeepSpeed 0.19) all but the last parameter of a group are padded to 16 bytes of the model's
dtype, and how much that is stands in ``param_alignment_paddings``, which is compared on load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import MASTER, Parameter, canonical_name
from gaff.checkpoint.pickle_document import TensorNode
from gaff.checkpoint.pickle_nodes import ListNode, Node, fragment_address, ordered_dict
from gaff.checkpoint.surgery.resized_file import FileEditor
from gaff.checkpoint.surgery.resized_layout import Part, Place, ResizedLayout, Zeros
from gaff.checkpoint.unpickle import ITEM_SIZE, TensorRef

_STATE = "optimizer_state_dict"
_ALIGNMENT = 2  # elements, times the data ranks: where NCCL wants partitions to begin
_PARAMETER_ALIGNMENT = 16  # bytes


class Cut(NamedTuple):
    """How a flat group of ``total`` elements is partitioned: ``size`` elements for each of ``ranks``."""

    total: int
    ranks: int

    @property
    def size(self) -> int:
        return -(-self.total // (_ALIGNMENT * self.ranks)) * _ALIGNMENT

    def held(self, rank: int) -> int:
        """Elements of a rank's partition that are no padding."""
        return min(self.size, max(0, self.total - rank * self.size))

    def padding(self, rank: int, all_at_the_end: bool) -> int:
        """What DeepSpeed writes as the rank's padding; ``BF16_Optimizer`` counts the whole group's on the last rank."""
        if all_at_the_end:
            return self.size * self.ranks - self.total if rank == self.ranks - 1 else 0
        return self.size - self.held(rank)


class Span(NamedTuple):
    """Where a parameter lies in its flat group, in elements."""

    name: str
    start: int
    stop: int


def flat_group(order: Sequence[str], parameters: Mapping[str, Parameter], alignment: int) -> list[Span]:
    """A group's parameters one behind the other, each from a multiple of ``alignment`` elements on."""
    spans: list[Span] = []
    position = 0
    for name in order:
        position += -position % alignment
        spans.append(Span(name, position, position + parameters[name].block_numel))
        position = spans[-1].stop
    return spans


def repartition(resized: ResizedLayout, editors: Sequence[FileEditor], stage: int, tensor_rank: int) -> None:
    """Rebuild the optimizer shards of one model rank.

    Args:
        resized: what the tag is to become.
        editors: the shards', by data rank.
        stage, tensor_rank: whose they are.

    Raises:
        CheckpointError: there are gaps between the parameters of a group.
    """
    masters = editors[0].document.at(_STATE, "single_partition_of_fp32_groups")
    for group in range(len(editors[0].document.items(masters))):
        _Group(resized, editors, stage, tensor_rank, group).rebuild()


class _Group:
    def __init__(
        self, resized: ResizedLayout, editors: Sequence[FileEditor], stage: int, tensor_rank: int, group: int
    ) -> None:
        self.resized = resized
        self.editors = editors
        self.stage, self.tensor_rank, self.group = stage, tensor_rank, group
        self.alignment = self._parameter_alignment()
        self.order = self._order()
        self.spans = flat_group(self.order, resized.parameters, self.alignment)
        self.cut = Cut(self.spans[-1].stop if self.spans else 0, len(editors))

    def rebuild(self) -> None:
        if not set(self.order) & set(self.resized.changed):
            return
        names = self._names_in_files()
        for rank, editor in enumerate(self.editors):
            for kind, node in self._tensors(editor):
                self._replace(editor, rank, kind, node)
            self._note_padding(editor, rank)
            self._note_fragments(editor, rank, names)

    def _parameter_alignment(self) -> int:
        """Elements of which multiples parameters begin at."""
        document = self.editors[0].document
        try:
            document.at(_STATE, "param_alignment_paddings")
            asked = document.value(document.at("ds_config", "zero_optimization", "parameter_alignment"))
        except LookupError:
            return 1
        size = ITEM_SIZE[self.resized.layout.model_dtype]
        return _PARAMETER_ALIGNMENT // gcd(_PARAMETER_ALIGNMENT, size) if asked else 1

    def _order(self) -> list[str]:
        """The group's parameters in flat order, which is not always the model's (``round_robin_gradients``)."""
        layout = self.resized.layout
        size = self._tensor(self.editors[0]).storage_numel
        places = []
        for rank, editor in enumerate(self.editors):
            record = f"data/{self._tensor(editor).key}"
            places += [
                (rank * size + copy.offset // copy.item_size - copy.start, copy.parameter)
                for copies in layout.copies.values()
                for copy in copies
                if copy.kind == MASTER and copy.file == editor.archive.path.name and copy.record == record
            ]
        expected = [name for _, name in sorted(set(places))]
        spans = flat_group(expected, layout.parameters, self.alignment)
        if sorted(set(places)) != [(span.start, span.name) for span in spans]:
            raise layout.broken(f"does not have the parameters of group {self.group} where DeepSpeed puts them")
        return expected

    def _master(self, editor: FileEditor) -> Node:
        return editor.document.at(_STATE, "single_partition_of_fp32_groups", self.group)

    def _tensor(self, editor: FileEditor) -> TensorNode:
        return editor.document.tensor(self._master(editor))

    def _tensors(self, editor: FileEditor) -> Iterator[tuple[str, Node]]:
        """The group's master and states in one shard."""
        yield MASTER, self._master(editor)
        document = editor.document
        base = document.at(_STATE, "base_optimizer_state")
        try:
            held = document.at(*((self.group,) if isinstance(base, ListNode) else ("state", self.group)), start=base)
        except LookupError:
            return  # before the first step
        for key, node in document.entries(held):
            value = document.value(node)
            if isinstance(value, TensorRef) and value.shape:
                yield str(key), node

    def _replace(self, editor: FileEditor, rank: int, kind: str, node: Node) -> None:
        parts = self._partition(rank, kind, ITEM_SIZE[editor.document.value(node).dtype])
        held = self.cut.held(rank) if self._is_lean(editor, kind) else self.cut.size
        editor.replace_storage(node, tuple(parts), self.cut.size, held)

    def _partition(self, rank: int, kind: str, item: int) -> Iterator[Part]:
        first = position = rank * self.cut.size
        place = Place(kind, self.stage, self.tensor_rank)
        for span, low, high in _within(self.spans, first, first + self.cut.size):
            if position < low:
                yield Zeros((low - position) * item)
            yield from self.resized.parts(span.name, place, low - span.start, high - span.start)
            position = high
        if position < first + self.cut.size:
            yield Zeros((first + self.cut.size - position) * item)

    def _is_lean(self, editor: FileEditor, kind: str) -> bool:
        """Whether a tensor is saved without its padding."""
        if keeps_padding(self.resized.layout):
            return False
        return kind == MASTER or isinstance(editor.document.at(_STATE, "base_optimizer_state"), ListNode)

    def _note_padding(self, editor: FileEditor, rank: int) -> None:
        padding = self.cut.padding(rank, keeps_padding(self.resized.layout))
        behind = [following.start - span.stop for span, following in pairwise(self.spans)]
        for key, new in (("group_paddings", padding), ("param_alignment_paddings", [*behind, 0])):
            try:
                node = editor.document.at(_STATE, key, self.group)
            except LookupError:
                continue  # DeepSpeed of this version does not write it
            editor.document.replace(node, new)

    def _names_in_files(self) -> Mapping[str, str]:
        """What the shards call the group's parameters, by canonical name and in the order of their mappings."""
        found = {}
        for editor in self.editors:
            mapping = self._mapping(editor)
            if mapping is not None:
                found.update({canonical_name(str(name)): str(name) for name, _ in editor.document.entries(mapping)})
        return found

    def _mapping(self, editor: FileEditor) -> Node | None:
        try:
            return editor.document.at(_STATE, "param_slice_mappings", self.group)
        except LookupError:
            return None

    def _note_fragments(self, editor: FileEditor, rank: int, names: Mapping[str, str]) -> None:
        """Fragments as DeepSpeed notes them: in the mappings' own order, also where the group has another one."""
        mapping = self._mapping(editor)
        if mapping is None:
            return
        spans = flat_group(list(names), self.resized.parameters, self.alignment)
        first = rank * self.cut.size
        fragments: dict[object, object] = {
            names[span.name]: fragment_address(high - low, low - first)
            for span, low, high in _within(spans, first, first + self.cut.size)
        }
        editor.document.replace(mapping, ordered_dict(fragments))


def _within(spans: Sequence[Span], first: int, last: int) -> Iterator[tuple[Span, int, int]]:
    """The parameters between two places of a group, and which of its elements lie between."""
    for span in spans:
        low, high = max(first, span.start), min(last, span.stop)
        if low < high:
            yield span, low, high


def keeps_padding(layout: Layout) -> bool:
    """Whether the optimizer's wrapper saves partitions with their padding."""
    return layout.wrapper == "BF16_Optimizer"
