# SPDX-License-Identifier: Apache-2.0
"""About how much memory a config takes on its fullest GPU, part by part, before anything runs.

States (weights, gradients, optimizer) are counted as DeepSpeed lays them out: Rajbhandari et al. 2020, "ZeRO",
arXiv 1910.02054; ``runtime/zero/stage_1_and_2.py`` and ``runtime/bf16_optimizer.py`` of 0.16.5.  Activations follow
Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", arXiv 2205.05198, sections 4
and 5, with their factors written per tensor, so that what GPT-NeoX does otherwise counts too.  The loss is counted as
``megatron/mpu/cross_entropy.py`` computes it: in place, in fp32.

Not counted: fragmentation of torch's allocator, buffers of all-gathers, and kernels' workspaces beyond
:data:`CONTEXT`.  Activations were compared with what layers of GPT-NeoX save on the CPU; the sum is an estimate that no
GPU has confirmed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from gaff.plan.config import Config
from gaff.plan.estimates import moment_bytes
from gaff.plan.model import ModelSize, mlp_widths
from gaff.plan.typed import (
    at_least,
    flag,
    integer,
    items,
    mapping,
    number,
    pipeline,
    precision,
    tensor_parallel,
    word,
    zero_stage,
)

CONTEXT = 1_000_000_000  # bytes; CUDA context, NCCL channels, cuBLAS workspace: an assumption, 0.5 to 2 GB in practice

_FP32 = 4
_BUCKET = 500_000_000  # elements; DeepSpeed's default of reduce_bucket_size
_LIVE = 1_000_000_000  # elements; DeepSpeed's default of stage3_max_live_parameters
_FUSED_ATTENTION = ("flash",)  # do not keep the s x s scores


@dataclass(frozen=True)
class GpuMemory:
    """Bytes on one GPU.

    Attributes:
        weights: in the training dtype; under ZeRO 3 the shard and what is gathered at a time.
        gradients: with BF16_Optimizer also their fp32 sums.
        optimizer: fp32 master copy and moments, divided among data-parallel ranks from ZeRO 1 up.
        buckets: buffers in which ZeRO reduces gradients.
        buckets_apart: they exist only when the activations are gone, as under the pipeline engine.
        activations: what the forward passes in flight keep for their backward passes.
        working: the larger of: logits and loss; one checkpointed block while it is computed again.
        context: see :data:`CONTEXT`.
    """

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    buckets_apart: bool
    activations: int
    working: int
    context: int = CONTEXT

    @property
    def total(self) -> int:
        passing = self.activations + self.working
        passing = max(passing, self.buckets) if self.buckets_apart else passing + self.buckets
        return self.weights + self.gradients + self.optimizer + passing + self.context

    def to_json(self) -> dict[str, int | bool]:
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class _Layout:
    """What the estimate reads from the config, once."""

    element: int  # bytes of the training dtype
    bfloat16: bool
    stage: int  # of ZeRO
    replicas: int  # data-parallel ranks
    tensor: int
    stages: int  # of the pipeline, 1 without
    engine: bool  # whether DeepSpeed's pipeline engine runs

    @classmethod
    def of(cls, config: Config, replicas: int) -> _Layout:
        kind = precision(config)
        pipes = pipeline(config)
        return cls(
            element=_FP32 if kind == "fp32" else 2,
            bfloat16=kind == "bfloat16",
            stage=min(zero_stage(config), 3),
            replicas=max(1, replicas),
            tensor=tensor_parallel(config),
            stages=max(1, pipes),
            engine=pipes >= 1,
        )


def gpu_memory(config: Config, size: ModelSize, replicas: int) -> GpuMemory | None:
    """The estimate for the fullest pipeline stage, or None when batch or sequence length is not given.

    Args:
        config: the run's.
        size: of its model.
        replicas: data-parallel ranks, GPUs / (tensor x pipeline).
    """
    micro, sequence = integer(config, "train_micro_batch_size_per_gpu"), integer(config, "seq_length")
    if not micro or not sequence or min(micro, sequence) < 1:
        return None
    layout = _Layout.of(config, replicas)
    ends = {0, layout.stages - 1}  # the first stage has most passes in flight, the last one the logits
    return max((_stage(config, size, layout, number) for number in ends), key=lambda memory: memory.total)


def _stage(config: Config, size: ModelSize, layout: _Layout, number: int) -> GpuMemory:
    parameters = _parameters(size, layout, number)
    last = number == layout.stages - 1
    return GpuMemory(
        weights=_weights(config, layout, parameters),
        gradients=_gradients(config, layout, parameters),
        optimizer=_optimizer(config, layout, parameters),
        buckets=_buckets(config, layout),
        buckets_apart=layout.engine,
        activations=_activations(config, size, layout, number),
        working=max(_logits(config, size, layout) if last else 0, _recomputed(config, size, layout)),
    )


def _layers(size: ModelSize, layout: _Layout) -> int:
    """Transformer layers of the fullest stage."""
    return -(-size.layers // layout.stages)


def _parameters(size: ModelSize, layout: _Layout, number: int) -> int:
    """Parameters on one GPU of a pipeline stage.  A tied embedding is on the first stage and on the last."""
    inner = size.replicated - size.position_embedding - size.final_norm  # of all layers, on every tensor rank
    layer = (size.per_layer - inner // size.layers) // layout.tensor + inner // size.layers
    total = _layers(size, layout) * layer
    first, last = number == 0, number == layout.stages - 1
    if first:
        total += size.input_embedding // layout.tensor + size.position_embedding
    if last:
        head = size.input_embedding if size.tied and not first else size.output_embedding
        total += head // layout.tensor + size.final_norm
    return total


def _keeps_bf16_sums(config: Config, layout: _Layout) -> bool:
    """Whether DeepSpeed takes its ``BF16_Optimizer``, which adds gradients up in fp32 (contract 7.1)."""
    wanted = str(mapping(config, "data_types").get("grad_accum_dtype", "")).lower()
    return layout.bfloat16 and (layout.stage == 0 or (layout.stage == 1 and wanted == "fp32"))


def _offloaded(config: Config, what: str) -> bool:
    block = mapping(config, "zero_optimization")
    inner = block.get(what)
    kind = inner.get("device") if isinstance(inner, dict) else None
    return kind in ("cpu", "nvme") or (what == "offload_optimizer" and block.get("cpu_offload") is True)


def _weights(config: Config, layout: _Layout, parameters: int) -> int:
    if layout.stage < 3:
        return parameters * layout.element
    live = mapping(config, "zero_optimization").get("stage3_max_live_parameters")
    gathered = min(parameters, int(live) if isinstance(live, (int, float)) and live >= 0 else _LIVE)
    shard = 0 if _offloaded(config, "offload_param") else parameters // layout.replicas
    return (shard + gathered) * layout.element


def _gradients(config: Config, layout: _Layout, parameters: int) -> int:
    kept = parameters // layout.replicas if layout.stage >= 2 else parameters
    return kept * (layout.element + (_FP32 if _keeps_bf16_sums(config, layout) else 0))


def _optimizer(config: Config, layout: _Layout, parameters: int) -> int:
    if _offloaded(config, "offload_optimizer"):
        return 0
    master = 0 if layout.stage == 0 and layout.element == _FP32 else _FP32
    divided = layout.stage >= 1 or layout.bfloat16  # BF16_Optimizer always divides
    owned = parameters // layout.replicas if divided else parameters
    return owned * (master + moment_bytes(config))


def _buckets(config: Config, layout: _Layout) -> int:
    """ZeRO's reduction buffers; DeepSpeed switches ``overlap_comm``, which doubles them, off for pipelines."""
    block = mapping(config, "zero_optimization")
    if layout.stage == 0 or _keeps_bf16_sums(config, layout) or block.get("contiguous_gradients") is False:
        return 0
    given = block.get("reduce_bucket_size")
    elements = int(given) if isinstance(given, (int, float)) and given >= 0 else _BUCKET
    overlap = block.get("overlap_comm", layout.stage == 3) is True and not layout.engine
    return elements * layout.element * (2 if overlap else 1)


def _tokens(config: Config) -> int:
    """Tokens of one micro-batch, s x b."""
    return at_least(config, "seq_length", 1) * at_least(config, "train_micro_batch_size_per_gpu", 1)


def _fused_share(config: Config, layers: int) -> float:
    """The share of layers whose attention keeps no scores."""
    if flag(config, "te_mha") or flag(config, "te_fp8_mha"):
        return 1.0
    kinds: list[str] = []
    for entry in items(config, "attention_config"):
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list) and entry[0]:
            names = [str(name) for name in entry[0]]
            count = entry[1] if isinstance(entry[1], int) else layers
            kinds += (names * (count // len(names) + 1))[: max(0, count)]
    kinds = kinds[:layers]
    return sum(kind in _FUSED_ATTENTION for kind in kinds) / len(kinds) if kinds else 0.0


def layer_activations(config: Config, size: ModelSize) -> int:
    """Bytes that one transformer layer keeps for the backward pass of one micro-batch.

    For 16-bit with dropout, learned positions, multi-head attention and an MLP of 4h this is
    ``sbh(10 + 24/t + 5as/(ht))``, without the last term where attention is fused (Korthikanti et al., equation 2 and
    section 5; equation 4 with ``sequence_parallel``).  What GPT-NeoX does otherwise was seen in the tensors that its
    layer saves (commit ea7aefd8, bf16 and fp32): without dropout no masks and no second copy of the scores; with
    ``gpt_j_residual`` one input for both norms; with rotary positions copies of queries and keys beside the one tensor
    of queries, keys and values.
    """
    layout = _Layout.of(config, 1)
    heads = at_least(config, "num_attention_heads", 1)
    kv_share = (integer(config, "num_kv_heads") or heads) / heads
    outer, inner = (width / size.hidden for width in mlp_widths(config, size.hidden))
    # Tensors of s x b x h that every tensor rank has: inputs and outputs of the norms; masks of one byte per element.
    whole: float = (3 if flag(config, "gpt_j_residual") else 4) * layout.element
    whole += 2 if number(config, "hidden_dropout") else 0
    # Those that are divided: queries, keys, values, the input of the projection, both sides of the activation function.
    qkv = 1 + 2 * kv_share + (1 + kv_share if word(config, "pos_emb") == "rotary" else 0)
    split = (qkv + 1 + outer + inner) * layout.element
    # Scores of a x s x s: softmax, and with dropout its output and its mask.
    per_score = 2 * layout.element + 1 if number(config, "attention_dropout") else layout.element
    sequence = at_least(config, "seq_length", 1)
    scores = heads * sequence / size.hidden * per_score * (1 - _fused_share(config, size.layers))
    if flag(config, "sequence_parallel"):
        split, whole = split + whole, 0
    return int(_tokens(config) * size.hidden * (whole + (split + scores) / layout.tensor))


def _activations(config: Config, size: ModelSize, layout: _Layout, number: int) -> int:
    accumulation = at_least(config, "gradient_accumulation_steps", 1)
    in_flight = min(layout.stages - number, accumulation)  # one forward, one backward (DeepSpeed's TrainSchedule)
    block = _tokens(config) * size.hidden * layout.element  # the input of one layer
    layers = _layers(size, layout)
    if not flag(config, "checkpoint_activations"):
        return in_flight * layers * layer_activations(config, size)
    if flag(config, "checkpoint_in_cpu"):
        return 0
    kept = -(-layers // at_least(config, "checkpoint_num_layers", 1)) * block
    return in_flight * (kept // layout.tensor if flag(config, "partition_activations") else kept)


def _recomputed(config: Config, size: ModelSize, layout: _Layout) -> int:
    if not flag(config, "checkpoint_activations"):
        return 0
    layers = min(_layers(size, layout), at_least(config, "checkpoint_num_layers", 1))
    return layers * layer_activations(config, size)


def _logits(config: Config, size: ModelSize, layout: _Layout) -> int:
    """Logits, the fp32 copy that becomes softmax and then gradient, and the gradient in the training dtype."""
    per_logit = _FP32 if layout.element == _FP32 else 2 * layout.element + _FP32
    if flag(config, "fp16_lm_cross_entropy"):
        per_logit = layout.element
    columns = size.vocabulary.rows // layout.tensor
    inputs = 2 * size.hidden * layout.element  # of the final norm and of the head
    return _tokens(config) * (columns * per_logit + inputs)
