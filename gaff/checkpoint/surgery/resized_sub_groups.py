# SPDX-License-Identifier: Apache-2.0
"""ZeRO stage 3: every data rank's piece of a parameter that changed its size, in the flat sub groups.

Piece r of R is elements [r c, (r+1) c), c = ceil(numel / R), and padding behind what there is.  A sub group is closed
by the parameter with which its pieces reach ``sub_group_size`` elements (``runtime/zero/stage3.py``,
``_create_fp16_sub_groups``), so a larger embedding can move the borders; that is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from gaff.checkpoint.layout.parameter import MASTER, canonical_name
from gaff.checkpoint.pickle_nodes import Node
from gaff.checkpoint.surgery.resized_file import FileEditor, Slot
from gaff.checkpoint.surgery.resized_layout import Part, Place, ResizedLayout, Zeros
from gaff.checkpoint.unpickle import ITEM_SIZE, TensorRef
from gaff.errors import CheckpointError, Location, Problem

_STATE = "optimizer_state_dict"
_SUB_GROUP_SIZE = 1_000_000_000  # DeepSpeed's default, elements


class _Member(NamedTuple):
    """A parameter of a sub group and the size of its piece, now and later."""

    name: str
    piece: int
    new_piece: int


def resize_sub_groups(
    resized: ResizedLayout, editors: Sequence[FileEditor], root: Mapping[str, Any], rank: int
) -> None:
    """Rebuild the optimizer shards of one tensor rank.

    Args:
        resized: what the tag is to become.
        editors: the shards', by data rank.
        root: a model file of that tensor rank, which names the groups' parameters.
        rank: the tensor rank.

    Raises:
        CheckpointError: the sub groups would be made of other parameters than now.
    """
    groups = [[canonical_name(name) for name in group] for group in root["param_shapes"]]
    members = [[_member(resized, name, len(editors)) for name in group] for group in groups]
    limit = _sub_group_size(editors[0])
    old = [sub for group in members for sub in _sub_groups(group, [m.piece for m in group], limit)]
    new = [sub for group in members for sub in _sub_groups(group, [m.new_piece for m in group], limit)]
    flats = editors[0].document.items(editors[0].document.at(_STATE, "fp32_flat_groups"))
    sizes = [prod(editors[0].document.tensor(flat).shape) for flat in flats]
    if sizes != [sum(member.piece for member in sub) for sub in old] or old != new:
        what = "has ZeRO-3 sub groups that DeepSpeed would put together otherwise after the resize"
        remedy = "load and save it once with a zero_optimization.sub_group_size above the model's size, then resize"
        raise CheckpointError(Problem("unsupported-layout", what, remedy, Location(str(resized.layout.path))))
    for data_rank, editor in enumerate(editors):
        for number, sub in enumerate(old):
            _resize(resized, editor, number, sub, Place(MASTER, 0, rank), data_rank)


def _member(resized: ResizedLayout, name: str, ranks: int) -> _Member:
    old, new = resized.layout.parameters[name], resized.parameters[name]
    return _Member(name, -(-old.block_numel // ranks), -(-new.block_numel // ranks))


def _sub_group_size(editor: FileEditor) -> int:
    try:
        return int(editor.document.value(editor.document.at("ds_config", "zero_optimization", "sub_group_size")))
    except LookupError:
        return _SUB_GROUP_SIZE


def _sub_groups(group: Sequence[_Member], pieces: Sequence[int], limit: int) -> Iterator[list[_Member]]:
    if limit >= sum(pieces):
        yield list(group)
        return
    members: list[_Member] = []
    held = 0
    for member, piece in zip(group, pieces, strict=True):
        members.append(member)
        held += piece
        if held >= limit:
            yield members
            members, held = [], 0
    if members:
        yield members


def _resize(
    resized: ResizedLayout, editor: FileEditor, number: int, members: Sequence[_Member], place: Place, data_rank: int
) -> None:
    if not {member.name for member in members} & set(resized.changed):
        return
    for kind, node in _tensors(editor, number):
        tensor = editor.document.value(node)
        item = ITEM_SIZE[tensor.dtype]
        slots = []
        position = tensor.offset
        for member in members:
            if member.name in resized.changed:
                parts = tuple(_piece(resized, member, Place(kind, place.stage, place.tensor_rank), data_rank, item))
                slots.append(Slot(position, member.piece, member.new_piece, parts))
            position += member.piece
        editor.replace_slots(tensor.record, item, slots)


def _tensors(editor: FileEditor, number: int) -> Iterator[tuple[str, Node]]:
    """A sub group's master and states in one shard."""
    document = editor.document
    yield MASTER, document.at(_STATE, "fp32_flat_groups", number)
    try:
        held = document.at(_STATE, _STATE, "state", number)
    except LookupError:
        return  # before the first step
    for key, node in document.entries(held):
        value = document.value(node)
        if isinstance(value, TensorRef) and value.shape:
            yield str(key), node


def _piece(resized: ResizedLayout, member: _Member, place: Place, data_rank: int, item: int) -> Iterator[Part]:
    numel, piece = resized.parameters[member.name].block_numel, member.new_piece
    start = min(numel, data_rank * piece)
    stop = min(numel, start + piece)
    yield from resized.parts(member.name, place, start, stop)
    if stop - start < piece:
        yield Zeros((piece - (stop - start)) * item)
