# SPDX-License-Identifier: Apache-2.0
"""ZeRO stage 0: the optimizer of each model rank stands in its model file, whole.

* fp32: ``optimizer.state[i]``, one entry per parameter and in its shape; there is no master, the model copy is it.
* fp16 (``FP16_Optimizer``): ``optimizer.fp32_groups_flat[g]`` and flat moments per group.
* fp16 with an optimizer that DeepSpeed does not fuse (``FP16_UnfusedOptimizer``): ``optimizer.fp32_groups[g][j]``.

These files name no parameters: which is which follows from the groups (``groups``); every shape is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.draft import Draft, Rank
from gaff.checkpoint.layout.groups import Group, assigned, by_decay
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER
from gaff.checkpoint.unpickle import TensorRef


def read_unsharded(draft: Draft) -> None:
    """Note masters, where there are any, and moments."""
    for model_rank in range(draft.topology.tensor * max(1, draft.topology.pipeline)):
        stage, tensor_rank = divmod(model_rank, draft.topology.tensor)
        archive = draft.files.archive(f"mp_rank_{model_rank:02d}_model_states.pt")
        optimizer = archive.root["optimizer"]
        rank = (stage, tensor_rank, 0)
        if "fp32_groups_flat" in optimizer:
            draft.wrapper = "FP16_Optimizer"
            _read_flat(draft, archive, optimizer, rank)
        else:
            _read_whole(draft, archive, optimizer, rank)


def _read_flat(draft: Draft, archive: Archive, optimizer: dict[str, Any], rank: Rank) -> None:
    """``FP16_Optimizer``: groups flattened whole, parameters one behind the other."""
    flats = optimizer["fp32_groups_flat"]
    state = optimizer["optimizer_state_dict"]["state"]
    for group, (flat, names) in enumerate(zip(flats, _flat_groups(draft, flats, rank), strict=True)):
        tensors = {MASTER: flat, **draft.states(archive, state.get(group, {}), group)}
        position = 0
        for name in names:
            numel = prod(draft.shapes[name])
            for kind, tensor in tensors.items():
                draft.add(name, kind, archive, tensor, rank, first=position, numel=numel)
            position += numel


def _flat_groups(draft: Draft, flats: list[TensorRef], rank: Rank) -> list[list[str]]:
    """The parameters of each flat group of one stage: as many more of the model's as fill its groups exactly."""
    wanted = [flat.numel for flat in flats]
    candidates = list(_stage_candidates(draft, rank[0]))
    for count in range(1, len(candidates) + 1):
        groups = by_decay(candidates[:count], len(flats))
        if [sum(prod(draft.shapes[n]) for n in group) for group in groups] == wanted:
            draft.stage_members[rank[0]] = candidates[:count]
            return groups
    raise draft.refused("the optimizer orders its parameters in a way that is not known")


def _read_whole(draft: Draft, archive: Archive, optimizer: dict[str, Any], rank: Rank) -> None:
    """One entry per parameter (plain optimizers), with masters of their own under ``FP16_UnfusedOptimizer``."""
    masters: list[list[TensorRef]] | None = optimizer.get("fp32_groups")
    inner = optimizer if masters is None else optimizer["optimizer_state_dict"]
    draft.wrapper = "none" if masters is None else "FP16_UnfusedOptimizer"
    state = inner["state"]
    indexes = [list(group["params"]) for group in inner["param_groups"]]
    members = list(_stage_candidates(draft, rank[0]))[: sum(map(len, indexes))]
    draft.stage_members[rank[0]] = members
    if not any(state.values()) and masters is None:
        return  # before the first step there is nothing to find
    kept = {number: draft.states(archive, state.get(number, {}), number) for numbers in indexes for number in numbers}
    shapes = [tuple(_shape(kept[number]) for number in numbers) for numbers in indexes]
    groups = [Group(str(g.get("name")), s) for g, s in zip(inner["param_groups"], shapes, strict=True)]
    found = assigned(members, draft.shapes, groups)
    if found is None:
        raise draft.refused(f"{archive.path.name} orders its parameters in a way that is not known")
    for group, (names, numbers) in enumerate(zip(found, indexes, strict=True)):
        for place, (name, number) in enumerate(zip(names, numbers, strict=True)):
            tensors = dict(kept[number])
            if masters is not None:
                tensors[MASTER] = masters[group][place]
            for kind, tensor in tensors.items():
                if tuple(tensor.shape) != draft.shapes[name]:
                    raise draft.refused(f"{archive.path.name} keeps a {kind} of another shape than {name}")
                draft.add(name, kind, archive, tensor, rank)


def _shape(tensors: dict[str, TensorRef]) -> tuple[int, ...] | None:
    """The shape of the parameter that states belong to; None where there are none."""
    return next((tensor.shape for tensor in tensors.values()), None)


def _stage_candidates(draft: Draft, stage: int) -> Iterator[str]:
    """The parameters that a stage may have, in the model's order: those that no earlier stage has.

    The last of several stages keeps a tied embedding too, before its own (``runtime/pipe/module.py``).
    """
    if draft.files.tied and 0 < stage == draft.topology.pipeline - 1:
        yield INPUT_EMBEDDING
    earlier = {name for other in range(stage) for name in draft.stage_members.get(other, ())}
    yield from (name for name in draft.shapes if name not in earlier)
