# SPDX-License-Identifier: Apache-2.0
"""Where every copy of the input embedding lives in one tag.

Handled: pipeline checkpoints with ZeRO-1 (also bf16 with ``BF16_Optimizer``), any TP, PP and DP, fp32, fp16 and bf16,
untied and tied.  Other layouts are refused by name.  The places are those confirmed on real GPT-NeoX checkpoints
(commit ea7aefd8, DeepSpeed 0.16.5):

* model copy: ``layer_00-model_TT``, key ``word_embeddings.weight``, one block of rows per tensor rank;
* master and moments: flat partitions in the optimizer shards, found by ``param_slice_mappings``; a tensor rank's block
  runs on through the data ranks, with boundaries anywhere inside a row;
* tied embeddings with PP >= 2: a second master with its own moments in the shards of the last stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.tag import LAYER_FILE, OPTIMIZER_FILE, ZERO3_MODEL_FILE, TagFiles, Topology, understood
from gaff.checkpoint.unpickle import FragmentAddress, TensorRef
from gaff.errors import CheckpointError

PARAMETER = "word_embeddings.weight"
MODEL, MASTER = "model", "master"
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's first and second
_OPTIMIZER_NAMES = ("0.word_embeddings.weight", "tied_modules.embed.word_embeddings.weight")


@dataclass(frozen=True)
class Copy:
    """One contiguous byte range that holds part of the embedding.

    Attributes:
        kind: ``model``, ``master``, ``exp_avg`` or ``exp_avg_sq``.
        file: name within the tag.
        record: the record of that file.
        dtype: torch's name.
        offset: first byte, counted in the record.
        length: bytes.
        start: the first element's flat index in the whole (padded vocabulary x hidden) matrix.
        numel: elements.
        stage, tensor_rank, data_rank: whose it is; data rank 0 for model copies.
    """

    kind: str
    file: str
    record: str
    dtype: str
    offset: int
    length: int
    start: int
    numel: int
    stage: int
    tensor_rank: int
    data_rank: int

    @property
    def stop(self) -> int:
        return self.start + self.numel


@dataclass(frozen=True)
class Layout:
    """One tag, understood.  ``shape`` is (padded vocabulary, hidden)."""

    path: Path
    iteration: int
    topology: Topology
    zero_stage: int
    model_dtype: str
    tied: bool
    wrapper: str
    deepspeed_version: str
    shape: tuple[int, int]
    copies: tuple[Copy, ...]

    @property
    def numel(self) -> int:
        return self.shape[0] * self.shape[1]

    def of_kind(self, *kinds: str) -> tuple[Copy, ...]:
        return tuple(c for c in self.copies if c.kind in kinds)

    def chain(self, kind: str, stage: int = 0) -> tuple[Copy, ...]:
        """The copies of one kind that together hold the whole matrix once, in order of ``start``."""
        return tuple(sorted((c for c in self.of_kind(kind) if c.stage == stage), key=lambda c: c.start))

    def master_stages(self) -> tuple[int, ...]:
        """The pipeline stages that keep a master: the first, and the last as well when tied."""
        return tuple(sorted({c.stage for c in self.of_kind(MASTER)}))


def read_layout(tag: Path) -> Layout:
    """Understand one tag.

    Raises:
        CheckpointError: incomplete or damaged, or a layout that this version does not handle, by name.
    """
    files = TagFiles(tag)
    if not files.names:
        raise files.error("incomplete-tag", "holds no .pt files", "use a complete tag")
    with understood(tag):
        _refuse_other_layouts(files)
        missing = files.missing()
        if missing:
            what = f"lacks {len(missing)} of its files, {missing[0]} first"
            raise files.error("incomplete-tag", what, "use an earlier tag")
        return _Reader(files).layout()


def _refuse_other_layouts(files: TagFiles) -> None:
    layout = None
    if files.has(ZERO3_MODEL_FILE):
        layout = "ZeRO stage 3 (weights only in the optimizer shards)"
    elif not files.has(LAYER_FILE):
        layout = "a checkpoint without the pipeline engine (pipe_parallel_size: 0, no layer_XX files)"
    elif not files.sharded_optimizer:
        layout = "ZeRO stage 0 (no optimizer shards)"
    if layout:
        raise files.error(
            "unsupported-layout",
            f"is {layout}, which this version does not operate on",
            "use a pipeline checkpoint with ZeRO stage 1",
        )


class _Reader:
    """Collects the copies of one tag, file by file."""

    def __init__(self, files: TagFiles) -> None:
        self.files = files
        self.topology = files.topology
        args = files.header["args"]
        self.shape = (int(args["padded_vocab_size"]), int(args["hidden_size"]))
        self.block = self.shape[0] * self.shape[1] // self.topology.tensor  # elements per tensor rank
        self.zero_stage, self.wrapper = 1, ""

    def layout(self) -> Layout:
        tied = self.files.tied
        model = list(self._model_copies())
        shards = list(self._optimizer_copies())
        layout = Layout(
            path=self.files.path,
            iteration=self.files.iteration,
            topology=self.topology,
            zero_stage=self.zero_stage,
            model_dtype=model[0].dtype,
            tied=tied,
            wrapper=self.wrapper,
            deepspeed_version=str(self.files.header.get("ds_version", "unknown")),
            shape=self.shape,
            copies=(*model, *shards),
        )
        self._check_whole(layout)
        return layout

    def _check_whole(self, layout: Layout) -> None:
        """Every copy or none: each chain covers the matrix exactly once, on every stage that must keep one."""
        last = layout.topology.pipeline - 1
        stages = (0, last) if layout.tied and last > 0 else (0,)
        if layout.master_stages() != stages:
            raise self._broken(f"has masters on stages {list(layout.master_stages())}, expected {list(stages)}")
        moments = {c.kind for c in layout.of_kind(*MOMENTS)}
        for kind, stage in [(MODEL, 0), *((k, s) for k in (MASTER, *sorted(moments)) for s in stages)]:
            position = 0
            for copy in layout.chain(kind, stage):
                if copy.start != position:
                    raise self._broken(f"has a gap or an overlap at element {position} of the {kind} copy")
                position = copy.stop
            if position != layout.numel:
                raise self._broken(f"holds {position} of {layout.numel} elements of the {kind} copy, stage {stage}")

    def _broken(self, what: str) -> CheckpointError:
        return self.files.error("inconsistent-layout", what, "use another tag; no byte was changed")

    def _model_copies(self) -> Iterator[Copy]:
        for tensor_rank in range(self.topology.tensor):
            name = f"layer_00-model_{tensor_rank:02d}-model_states.pt"
            archive = self.files.archive(name)
            tensor = archive.root.get(PARAMETER)
            if not isinstance(tensor, TensorRef) or tensor.numel != self.block:
                raise self._broken(f"{name} lacks {PARAMETER} with {self.block} elements")
            start = tensor_rank * self.block
            yield _copy(MODEL, archive, tensor, 0, tensor.numel, start, (0, tensor_rank, 0))

    def _optimizer_copies(self) -> Iterator[Copy]:
        names = {(int(m[1]), int(m[2])): n for n in self.files.names if (m := OPTIMIZER_FILE.fullmatch(n))}
        for model_rank in range(self.topology.tensor * self.topology.pipeline):
            stage, tensor_rank = divmod(model_rank, self.topology.tensor)
            position = tensor_rank * self.block
            for data_rank in range(self.topology.data):
                archive = self.files.archive(names[data_rank, model_rank])
                copies = list(self._shard_copies(archive, position, (stage, tensor_rank, data_rank)))
                yield from copies
                position += next((c.numel for c in copies if c.kind == MASTER), 0)

    def _shard_copies(self, archive: Archive, start: int, rank: tuple[int, int, int]) -> Iterator[Copy]:
        state = archive.root["optimizer_state_dict"]
        self._check_shard(archive, state)
        for group, mapping in enumerate(state["param_slice_mappings"]):
            fragment = next((mapping[n] for n in _OPTIMIZER_NAMES if n in mapping), None)
            if fragment is None or fragment.numel == 0:
                continue
            if not isinstance(fragment, FragmentAddress):
                raise TypeError("param_slice_mappings holds something else than fragments")
            tensors = {MASTER: state["single_partition_of_fp32_groups"][group]}
            tensors |= self._moments(archive, state["base_optimizer_state"]["state"].get(group, {}))
            for kind, tensor in tensors.items():
                if tensor.numel < fragment.start + fragment.numel:
                    raise self._broken(f"{archive.path.name}: the {kind} is shorter than its fragments")
                yield _copy(kind, archive, tensor, fragment.start, fragment.numel, start, rank)

    def _check_shard(self, archive: Archive, state: dict[str, Any]) -> None:
        name = archive.path.name
        remedy = "use a checkpoint of DeepSpeed 0.16.5 with ZeRO stage 1"
        if "param_slice_mappings" not in state:
            what = f"{name} was written by a DeepSpeed without param_slice_mappings, not handled by this version"
            raise self.files.error("unsupported-layout", what, remedy)
        if isinstance(state.get("base_optimizer_state"), list):
            what = f"{name} is an elastic ZeRO checkpoint, not handled by this version"
            raise self.files.error("unsupported-layout", what, remedy)
        stage = int(state.get("zero_stage", archive.root["ds_config"].get("zero_optimization", {}).get("stage", 0)))
        if stage > 1:
            what = f"is ZeRO stage {stage}, which this version does not operate on"
            raise self.files.error("unsupported-layout", what, "use ZeRO stage 1")
        self.zero_stage = stage
        self.wrapper = "DeepSpeedZeroOptimizer" if "zero_stage" in state else "BF16_Optimizer"

    def _moments(self, archive: Archive, state: dict[str, Any]) -> dict[str, TensorRef]:
        """Adam's moments.  ``step`` belongs to the whole flat group, so it is left alone; absent before step 1."""
        tensors = {k: v for k, v in state.items() if isinstance(v, TensorRef) and v.shape}
        if unknown := sorted(set(tensors) - set(MOMENTS)):
            what = f"{archive.path.name} keeps optimizer state {unknown}, so it is not Adam's"
            raise self.files.error("unsupported-optimizer", what, "use a checkpoint trained with Adam or AdamW")
        return tensors


def _copy(
    kind: str, archive: Archive, tensor: TensorRef, first: int, numel: int, start: int, rank: tuple[int, int, int]
) -> Copy:
    record = archive.record_of(tensor)
    stage, tensor_rank, data_rank = rank
    return Copy(
        kind=kind,
        file=archive.path.name,
        record=record.name,
        dtype=tensor.dtype,
        offset=(tensor.offset + first) * tensor.item_size,
        length=numel * tensor.item_size,
        start=start,
        numel=numel,
        stage=stage,
        tensor_rank=tensor_rank,
        data_rank=data_rank,
    )
