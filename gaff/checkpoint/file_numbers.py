# SPDX-License-Identifier: Apache-2.0
"""The numbers that each file of a tag holds beside its tensors: iteration, schedule, optimizer steps, random states.

Where they stand (DeepSpeed 0.16.5, ``runtime/engine.py`` ``_save_checkpoint``; GPT-NeoX ``megatron/checkpointing.py``
``save_ds_checkpoint``): model files hold counters, ``lr_scheduler`` and the random states; ``param_groups``, ``state``
and the loss scaler stand with the optimizer, in the shards, or with ZeRO stage 0 in the model files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.pickle_document import PickleDocument
from gaff.checkpoint.pickle_nodes import CallNode, DictNode, GlobalNode, Node, PersistentNode, Scalar
from gaff.checkpoint.reader import in_parallel
from gaff.checkpoint.tag import MODEL_FILE, OPTIMIZER_FILE, ZERO3_MODEL_FILE, TagFiles, understood
from gaff.checkpoint.unpickle import TensorRef

STEP = "optimizer.step"
LEARNING_RATE = "optimizer.lr"
_COUNTERS = ("iteration", "global_steps", "global_samples", "skipped_steps", "ds_version", "dp_world_size",
             "mp_world_size")  # fmt: skip
_RANDOM = ("random_rng_state", "np_rng_state", "torch_rng_state", "cuda_rng_state", "rng_tracker_states")
_SCALER = ("cur_scale", "cur_iter")
_INNER = ("optimizer_state_dict", "base_optimizer_state")  # what the wrappers put around the optimizer's own state


@dataclass(frozen=True)
class FileNumbers:
    """What one file says.

    Attributes:
        file: its name.
        rank: (data rank, model rank); data rank 0 for a file that all data ranks share.
        values: by name, such as ``iteration``, ``lr_scheduler.num_iters``, ``optimizer.step``, ``optimizer.lr``; of
            what a file says several times, each distinct value, ascending.
        random: by name, a digest of a random number generator's state.
        has_optimizer, has_states: whether an optimizer's state belongs in this file, and whether there is any.
        adaptive: whether that optimizer keeps moments (Adam, Lion), so that a stateless one has taken no step.
    """

    file: str
    rank: tuple[int, int]
    values: Mapping[str, tuple[Any, ...]]
    random: Mapping[str, str] = field(default_factory=dict)
    has_optimizer: bool = False
    has_states: bool = False
    adaptive: bool = False


def read_numbers(tag: Path) -> list[FileNumbers]:
    """What every model file and optimizer shard says, in the order of their names.  Tensors are not read.

    Raises:
        CheckpointError: a file is damaged, or not GPT-NeoX's.
    """
    names = [(name, rank) for name in TagFiles(tag).names if (rank := _rank(name)) is not None]
    with understood(tag):
        return in_parallel(lambda item: _of_file(Archive(tag / item[0]), item[1]), names)


def gathered(numbers: list[FileNumbers]) -> dict[str, tuple[Any, ...]]:
    """By name, the distinct values over all files, in the order of their first appearance."""
    found: dict[str, dict[Any, None]] = {}
    for one in numbers:
        for name, values in one.values.items():
            found.setdefault(name, {}).update(dict.fromkeys(values))
    return {name: tuple(values) for name, values in found.items()}


def _rank(name: str) -> tuple[int, int] | None:
    shared = MODEL_FILE.fullmatch(name)
    if shared:
        return 0, int(shared[1])
    own = OPTIMIZER_FILE.fullmatch(name) or ZERO3_MODEL_FILE.fullmatch(name)
    return (int(own[1]), int(own[2])) if own else None


def _of_file(archive: Archive, rank: tuple[int, int]) -> FileNumbers:
    root = archive.root
    is_shard = OPTIMIZER_FILE.fullmatch(archive.path.name) is not None
    optimizer = root["optimizer_state_dict"] if is_shard else root.get("optimizer")
    values: dict[str, tuple[Any, ...]] = {name: (root[name],) for name in _COUNTERS if root.get(name) is not None}
    random: dict[str, str] = {}
    record = archive.records["data.pkl"]
    document = PickleDocument(archive.read(record, 0, record.size))
    if not is_shard:
        schedule = root.get("lr_scheduler") or {}
        values |= {f"lr_scheduler.{name}": (value,) for name, value in schedule.items() if _is_number(value)}
        random = {name: _digest(archive, document.at(name)) for name in _RANDOM if name in root}
    if optimizer is None:
        return FileNumbers(archive.path.name, rank, values, random)
    states = list(_states(optimizer))
    groups = _inner(optimizer).get("param_groups", ())
    steps = [_number(archive, state["step"]) for state in states if "step" in state]
    values |= {STEP: (max(steps),)} if steps else {}
    rates = sorted({float(group["lr"]) for group in groups if _is_number(group.get("lr"))})
    values |= {LEARNING_RATE: tuple(rates)} if rates else {}
    values |= _scaler(document, is_shard)
    values |= _partitions(optimizer)
    adaptive = any("betas" in group for group in groups)
    return FileNumbers(archive.path.name, rank, values, random, True, any(states), adaptive)


def _inner(optimizer: Any) -> dict[str, Any]:
    """The optimizer's own ``state`` and ``param_groups``; of an elastic checkpoint the states are a plain list."""
    while isinstance(optimizer, dict) and "state" not in optimizer:
        optimizer = next((optimizer[key] for key in _INNER if key in optimizer), None)
    if isinstance(optimizer, list):
        return {"state": dict(enumerate(optimizer))}
    return optimizer if isinstance(optimizer, dict) else {}


def _states(optimizer: Any) -> Iterator[dict[str, Any]]:
    for state in _inner(optimizer).get("state", {}).values():
        if isinstance(state, dict):
            yield state


def _partitions(optimizer: Any) -> dict[str, tuple[Any, ...]]:
    """How many data ranks the optimizer's groups were cut for."""
    count = optimizer.get("partition_count") if isinstance(optimizer, dict) else None
    counts = count if isinstance(count, list) else [count]
    return {"dp_world_size": tuple(sorted(set(counts)))} if count and all(map(_is_number, counts)) else {}


def _scaler(document: PickleDocument, is_shard: bool) -> dict[str, tuple[Any, ...]]:
    """The dynamic loss scale: of ``LossScaler`` objects in shards, of plain numbers in ``FP16_Optimizer``."""
    where = ("optimizer_state_dict", "loss_scaler") if is_shard else ("optimizer",)
    try:
        entries = dict(document.entries(document.at(*where)))
    except LookupError:
        return {}
    found = {f"loss_scaler.{name}": entries.get(name) for name in _SCALER}
    return {name: (node.value,) for name, node in found.items() if isinstance(node, Scalar) and _is_number(node.value)}


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))


def _number(archive: Archive, value: Any) -> float:
    """A step count, which torch's own optimizers keep as a tensor without dimensions."""
    if not isinstance(value, TensorRef):
        return float(value)
    return float(archive.elements(archive.record_of(value), value.dtype, value.offset * value.item_size, 1)[0])


def _digest(archive: Archive, node: Node) -> str:
    """A digest of what a node stands for, tensors by the CRC of their records, whatever device and numpy wrote it."""
    digest = hashlib.sha256()
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, Scalar):
            digest.update(f"{node.value!r};".encode())
        elif isinstance(node, GlobalNode):
            digest.update(f"{node.name};".encode())
        elif isinstance(node, PersistentNode):
            key = getattr(node.pid.items[2], "value", None)  # the parser saw to it that this is a persistent id
            digest.update(f"{archive.records[f'data/{key}'].crc:08x};".encode())
        elif isinstance(node, (DictNode, CallNode)):
            digest.update(f"{type(node).__name__}{len(node.pairs)};".encode())
            pending += [part for pair in node.pairs for part in pair]
            if isinstance(node, CallNode):
                pending += [node.function, node.args, *([node.state] if node.state is not None else [])]
        else:
            digest.update(f"{type(node).__name__}{len(node.items)};".encode())
            pending += node.items
    return digest.hexdigest()[:32]
