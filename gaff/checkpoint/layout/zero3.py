# SPDX-License-Identifier: Apache-2.0
"""ZeRO stage 3: no model copy; each data rank has an equal piece of every parameter in flat sub groups.

Rank r of R has elements [r c, (r+1) c) of each parameter, c = ceil(numel / R); what the last pieces are short of c is
padding right behind them.  Sub groups are as many whole parameters of one optimizer group as fit into
``sub_group_size`` (``runtime/zero/stage3.py``, ``partition_parameters.py``); how many is read off their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.draft import Draft, Rank
from gaff.checkpoint.layout.parameter import MASTER, canonical_name
from gaff.checkpoint.tag import OPTIMIZER_FILE, ZERO3_MODEL_FILE


def read_zero3(draft: Draft) -> None:
    """Note every master and moment."""
    draft.zero_stage, draft.wrapper = 3, "DeepSpeedZeroOptimizer_Stage3"
    headers = {(int(m[1]), int(m[2])): n for n in draft.files.names if (m := ZERO3_MODEL_FILE.fullmatch(n))}
    names = {(int(m[1]), int(m[2])): n for n in draft.files.names if (m := OPTIMIZER_FILE.fullmatch(n))}
    for tensor_rank in range(draft.topology.tensor):
        root = draft.files.archive(headers[0, tensor_rank]).root
        if root.get("frozen_param_shapes"):
            raise draft.refused("holds frozen parameters, which this version does not operate on")
        groups = [{canonical_name(n): tuple(s) for n, s in group.items()} for group in root["param_shapes"]]
        _note_shapes(draft, [canonical_name(n) for n in root["module"]], groups)
        for data_rank in range(draft.topology.data):
            archive = draft.files.archive(names[data_rank, tensor_rank])
            _read_shard(draft, archive, groups, (0, tensor_rank, data_rank))


def _note_shapes(draft: Draft, order: list[str], groups: list[dict[str, tuple[int, ...]]]) -> None:
    """``module`` holds empty tensors, but in the model's order."""
    shapes = {name: shape for group in groups for name, shape in group.items()}
    for name in sorted(shapes, key=lambda n: order.index(n) if n in order else len(order)):
        draft.shape(name, shapes[name])


def _read_shard(draft: Draft, archive: Archive, groups: list[dict[str, tuple[int, ...]]], rank: Rank) -> None:
    state = archive.root["optimizer_state_dict"]
    moments = state["optimizer_state_dict"]["state"]
    parameters = list(_sub_groups(draft, state["fp32_flat_groups"], groups))
    for number, (flat, members) in enumerate(zip(state["fp32_flat_groups"], parameters, strict=True)):
        tensors = {MASTER: flat, **draft.states(archive, moments.get(number, {}), number)}
        position = 0
        for name, numel, piece in members:
            start = rank[2] * piece
            held = max(0, min(piece, numel - start))
            for kind, tensor in tensors.items():
                draft.add(name, kind, archive, tensor, rank, first=position, start=start, numel=held)
            position += piece


def _sub_groups(
    draft: Draft, flats: list[Any], groups: list[dict[str, tuple[int, ...]]]
) -> Iterator[list[tuple[str, int, int]]]:
    """By sub group, its parameters with their elements and their piece's size."""
    ranks = draft.topology.data
    waiting = [[(n, prod(s), -(-prod(s) // ranks)) for n, s in group.items()] for group in groups]
    for flat in flats:
        while waiting and not waiting[0]:
            waiting.pop(0)
        members: list[tuple[str, int, int]] = []
        left = flat.numel
        while left > 0 and waiting and waiting[0]:
            members.append(waiting[0].pop(0))
            left -= members[-1][2]
        if left:
            raise draft.broken("has a ZeRO-3 sub group that is not made of whole parameters")
        yield members
    if any(waiting):
        raise draft.broken("has fewer ZeRO-3 sub groups than its parameters need")
