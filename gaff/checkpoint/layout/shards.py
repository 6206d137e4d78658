# SPDX-License-Identifier: Apache-2.0
"""Masters and moments of ZeRO stages 1 and 2 and of ``BF16_Optimizer``: flat partitions in the optimizer shards.

A group's parameters, flattened one behind the other, are cut into as many partitions as there are data ranks, with
boundaries anywhere, also inside a row.  Where each piece lies stands in ``param_slice_mappings``; DeepSpeed before it
wrote none, and there it follows from the order of ``param_shapes`` and the partitions' size, as it does with
``round_robin_gradients`` (``runtime/zero/stage_1_and_2.py``, ``runtime/bf16_optimizer.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.draft import Draft, Rank
from gaff.checkpoint.layout.parameter import MASTER, canonical_name
from gaff.checkpoint.tag import OPTIMIZER_FILE
from gaff.checkpoint.unpickle import FragmentAddress, TensorRef


class Fragment(NamedTuple):
    """Elements ``first`` to ``first + numel`` of a partition are a parameter's."""

    name: str
    first: int
    numel: int


def read_shards(draft: Draft) -> None:
    """Note every master and moment."""
    names = {(int(m[1]), int(m[2])): n for n in draft.files.names if (m := OPTIMIZER_FILE.fullmatch(n))}
    for model_rank in range(draft.topology.tensor * max(1, draft.topology.pipeline)):
        stage, tensor_rank = divmod(model_rank, draft.topology.tensor)
        groups = param_groups(draft, model_rank)
        done: dict[str, int] = {}  # elements of each parameter that earlier data ranks hold
        for data_rank in range(draft.topology.data):
            archive = draft.files.archive(names[data_rank, model_rank])
            _read_shard(draft, archive, groups, (stage, tensor_rank, data_rank), done)


def param_groups(draft: Draft, model_rank: int) -> list[dict[str, tuple[int, ...]]]:
    """By optimizer group, the parameters of a model rank and their blocks' shapes, in flat order."""
    file = f"mp_rank_{model_rank:02d}_model_states.pt"
    root = draft.files.header if model_rank == 0 else draft.files.archive(file).root  # parsed already
    if root.get("frozen_param_shapes"):
        raise draft.refused(f"{file} holds frozen parameters, which this version does not operate on")
    groups = [{canonical_name(n): tuple(s) for n, s in group.items()} for group in root["param_shapes"]]
    for group in groups:
        for name, shape in group.items():
            draft.shape(name, shape)
    return groups


def _read_shard(
    draft: Draft, archive: Archive, groups: list[dict[str, tuple[int, ...]]], rank: Rank, done: dict[str, int]
) -> None:
    state = archive.root["optimizer_state_dict"]
    _understand(draft, archive, state)
    mappings = None if _is_round_robin(archive) else state.get("param_slice_mappings")
    for group, partition in enumerate(state["single_partition_of_fp32_groups"]):
        if mappings is not None:
            fragments = list(_mapped(mappings[group]))
        else:
            fragments = list(_computed(draft, groups[group], partition, rank, group))
        tensors = {MASTER: partition, **draft.states(archive, _state_of(state, group), group)}
        for name, first, numel in fragments:
            for kind, tensor in tensors.items():
                draft.add(name, kind, archive, tensor, rank, first=first, start=done.get(name, 0), numel=numel)
            done[name] = done.get(name, 0) + numel


def _is_round_robin(archive: Archive) -> bool:
    """Whether parameters are dealt out to the data ranks in turns.

    ``param_shapes`` has their order then, and ``param_slice_mappings`` says where they would be without it (seen with
    DeepSpeed 0.16.5), so it is of no use.
    """
    return bool((archive.root.get("ds_config") or {}).get("zero_optimization", {}).get("round_robin_gradients"))


def _mapped(mapping: dict[str, Any]) -> Iterator[Fragment]:
    for name, address in mapping.items():
        if not isinstance(address, FragmentAddress):
            raise TypeError("param_slice_mappings holds something else than fragments")
        yield Fragment(canonical_name(name), address.start, address.numel)


def _computed(
    draft: Draft, shapes: dict[str, tuple[int, ...]], partition: TensorRef, rank: Rank, group: int
) -> Iterator[Fragment]:
    """By arithmetic: the group is padded to a multiple of 2 x DP elements and cut into equal partitions."""
    ranks = draft.topology.data
    total = sum(prod(shape) for shape in shapes.values())
    size = -(-total // (2 * ranks)) * 2
    first = rank[2] * size
    held = min(size, max(0, total - first))
    if partition.numel not in (held, size):
        what = f"a partition of group {group} has {partition.numel} elements where its parameters come to {held}"
        raise draft.broken(f"{what} (data rank {rank[2]} of {ranks})")
    position = 0
    for name, shape in shapes.items():
        low, high = max(position, first), min(position + prod(shape), first + size)
        if low < high:
            yield Fragment(name, low - first, high - low)
        position += prod(shape)


def _state_of(state: dict[str, Any], group: int) -> dict[str, Any]:
    """What the optimizer keeps for a flat group; elastic checkpoints have a plain list.  Empty before step 1."""
    base = state["base_optimizer_state"]
    found = base[group] if isinstance(base, list) else base["state"].get(group, {})
    if not isinstance(found, dict):
        raise TypeError("base_optimizer_state is not laid out as DeepSpeed's")
    return found


def _understand(draft: Draft, archive: Archive, state: dict[str, Any]) -> None:
    if "local_sub_partitions_of_fp32_groups" in state or "single_partition_of_fp32_groups" not in state:
        raise draft.refused(f"{archive.path.name} has the partitions of DeepSpeed before 0.4, not handled here")
    stage = state.get("zero_stage")
    configured = (archive.root.get("ds_config") or {}).get("zero_optimization", {}).get("stage", 0)
    draft.zero_stage = int(configured if stage is None else stage)
    draft.wrapper = "BF16_Optimizer" if stage is None and "loss_scaler" not in state else "DeepSpeedZeroOptimizer"
