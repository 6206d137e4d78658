# SPDX-License-Identifier: Apache-2.0
"""Parameters as GPT-NeoX names and splits them, and the places in a tag where parts of one are stored.

One canonical name for all layouts, ``LAYER.NAME`` as in the pipeline's optimizer shards: ``0.word_embeddings.weight``,
``2.attention.dense.bias``.  Checkpoints without the pipeline put ``sequential.`` before it, and tied embeddings are
``tied_modules.embed.…`` where the pipeline ties them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from gaff.errors import InputError, Problem

MODEL, MASTER = "model", "master"

INPUT_EMBEDDING = "0.word_embeddings.weight"
POSITION_EMBEDDING = "0.position_embeddings.weight"
_OUTPUT_EMBEDDING = re.compile(r"\d+\.final_linear\.weight")

_TIED = re.compile(r"(?:sequential\.)?tied_modules\.embed\.")

# How Megatron's tensor parallelism splits a weight: column parallel layers and vocabularies by rows (dimension 0), row
# parallel layers by columns (dimension 1), all else is on every rank (megatron/model/transformer.py, mpu/layers.py).
_BY_ROWS = ("word_embeddings.weight", "final_linear.weight", "query_key_value.weight", "query_key_value.bias",
            "qk_layernorm.weight", "qk_layernorm.bias",  # of each rank's own heads
            "mlp.linear1.weight", "mlp.linear1.bias", "mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h.bias",
            )  # fmt: skip
_BY_COLUMNS = ("attention.dense.weight", "mlp.linear2.weight", "mlp.dense_4h_to_h.weight")
_WHOLE = ("norm.weight", "norm.bias", "norm.scale", "norm.offset", "norm.g", "attention.dense.bias", "mlp.linear2.bias",
          "mlp.dense_4h_to_h.bias", "position_embeddings.weight")  # fmt: skip


def canonical_name(name: str) -> str:
    """The canonical name of a parameter that some file calls ``name``."""
    return _TIED.sub("0.", name).removeprefix("sequential.")


def is_output_embedding(name: str) -> bool:
    """Whether a canonical name is that of an untied output embedding (the head)."""
    return _OUTPUT_EMBEDDING.fullmatch(name) is not None


def is_vocabulary(name: str) -> bool:
    """Whether a parameter has one row per token of the vocabulary."""
    return name == INPUT_EMBEDDING or is_output_embedding(name)


def split_dimension(name: str, tensor: int) -> int | None:
    """The dimension along which ``tensor`` ranks share a parameter; None when each has all of it.

    Raises:
        InputError: it is not known how GPT-NeoX splits a parameter of that name.
    """
    if tensor == 1:
        return None
    if name.endswith(_BY_ROWS):
        return 0
    if name.endswith(_WHOLE):
        return None
    if name.endswith(_BY_COLUMNS):
        return 1
    what = f"it is not known how {tensor} tensor ranks share the parameter {name}"
    raise InputError(Problem("unknown-parameter", what, "leave this parameter out"))


@dataclass(frozen=True)
class Parameter:
    """A parameter of the whole model.

    Attributes:
        name: canonical.
        shape: over all tensor ranks.
        split: dimension along which the tensor ranks share it; None when each has all of it.
        tensor: number of tensor ranks.
    """

    name: str
    shape: tuple[int, ...]
    split: int | None
    tensor: int

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def rows(self) -> int:
        """What resets count in: the first dimension.  Each element of a vector is a row."""
        return self.shape[0] if self.shape else 1

    @property
    def width(self) -> int:
        """Elements per row."""
        return self.numel // self.rows if self.rows else 0

    @property
    def block_numel(self) -> int:
        """Elements that one tensor rank has."""
        return self.numel if self.split is None else self.numel // self.tensor

    @property
    def block_width(self) -> int:
        """Elements of a row that one tensor rank has."""
        return self.width // self.tensor if self.split == 1 else self.width

    def first_row(self, tensor_rank: int) -> int:
        """The first row of a tensor rank's block."""
        return tensor_rank * (self.rows // self.tensor) if self.split == 0 else 0

    def first_column(self, tensor_rank: int) -> int:
        """The first column of a tensor rank's block."""
        return tensor_rank * self.block_width if self.split == 1 else 0


@dataclass(frozen=True)
class Copy:
    """One contiguous byte range that holds part of a parameter.

    Attributes:
        parameter: canonical name.
        kind: ``model``, ``master``, or the optimizer's name of a state (``exp_avg``, ``momentum_buffer``, …).
        file: name within the tag.
        record: the record of that file.
        dtype: torch's name.
        offset: first byte, counted in the record.
        start: the first element's flat index in the tensor rank's block.
        numel: elements.
        stage, tensor_rank, data_rank: whose it is; data rank 0 for what all data ranks share.
        item_size: bytes per element.
    """

    parameter: str
    kind: str
    file: str
    record: str
    dtype: str
    offset: int
    start: int
    numel: int
    stage: int
    tensor_rank: int
    data_rank: int
    item_size: int

    @property
    def stop(self) -> int:
        return self.start + self.numel

    @property
    def length(self) -> int:
        """Bytes."""
        return self.numel * self.item_size

    @property
    def is_state(self) -> bool:
        """Whether this is the optimizer's memory (a moment), not a weight."""
        return self.kind not in (MODEL, MASTER)


@dataclass(frozen=True)
class Scalar:
    """A number that the optimizer keeps for several parameters at once, such as Adam's step count."""

    name: str
    value: float
    file: str
    group: int
