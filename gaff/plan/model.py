# SPDX-License-Identifier: Apache-2.0
"""How many parameters a GPT-NeoX model has, part by part, from its config alone.

Counted as ``megatron/model`` builds them at commit ea7aefd8 and checked against checkpoints that it wrote.  Pythia:
2·V·d + L(12d² + 13d) + 2d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gaff.plan.config import Config
from gaff.plan.tokenizer import Vocabulary, vocabulary
from gaff.plan.typed import at_least, flag, integer, items, number, pipeline, tensor_parallel, word, zero_stage

#: Parameters of one normalisation layer of width d: (factor of d, constant).
_NORM_SIZES: Mapping[str, tuple[int, int]] = {
    "layernorm": (2, 0),
    "te_layernorm": (2, 0),
    "rmsnorm": (1, 0),
    "te_rmsnorm": (1, 0),
    "scalenorm": (0, 1),
    "non_parametric_layernorm": (0, 0),
}
_GATED = ("geglu", "reglu", "swiglu", "bilinear", "glu")
_OTHER_LAYERS = ("gmlp", "amlp", "mamba", "rwkv")


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model.

    Attributes:
        vocabulary: tokens and rows of the embedding.
        hidden: width of the model.
        layers: number of transformer layers.
        input_embedding: V x d.
        output_embedding: V x d, 0 when tied to the input embedding.
        position_embedding: learned positions, else 0.
        per_layer: one transformer layer.
        final_norm: the norm before the head.
        replicated: of these, how many every tensor-parallel rank holds in full.
        tied: whether input and output embedding are one.
    """

    vocabulary: Vocabulary
    hidden: int
    layers: int
    input_embedding: int
    output_embedding: int
    position_embedding: int
    per_layer: int
    final_norm: int
    replicated: int
    tied: bool

    @property
    def total(self) -> int:
        embeddings = self.input_embedding + self.output_embedding + self.position_embedding
        return embeddings + self.layers * self.per_layer + self.final_norm

    @property
    def share(self) -> float:
        """What a reset of the input embedding forgets, as a fraction of the model."""
        return self.input_embedding / self.total

    @property
    def embedding_share(self) -> float:
        """Input and output embedding as a fraction of the model: what papers call the embeddings' share."""
        return (self.input_embedding + self.output_embedding) / self.total

    @property
    def non_embedding(self) -> int:
        """All but input, output and position embedding, as scaling laws count a model's size."""
        return self.layers * self.per_layer + self.final_norm


def model_size(config: Config) -> ModelSize | str:
    """The parameters, or a sentence why they cannot be counted."""
    hidden, layers, heads = (integer(config, key) for key in ("hidden_size", "num_layers", "num_attention_heads"))
    if not hidden or not layers or not heads or min(hidden, layers, heads) < 1:
        return "hidden_size, num_layers or num_attention_heads is missing"
    reason = _uncountable(config)
    if reason:
        return reason
    words = vocabulary(config)
    if words is None:
        return "the tokenizer file is not here, so the vocabulary is not known"
    norm = _norm(config, hidden)
    layer, layer_replicated = _layer(config, hidden, heads, norm)
    tied = not flag(config, "no_weight_tying")
    positions = 0
    if word(config, "pos_emb") == "learned":
        positions = at_least(config, "max_position_embeddings", 0) * hidden
    return ModelSize(
        vocabulary=words,
        hidden=hidden,
        layers=layers,
        input_embedding=words.rows * hidden,
        output_embedding=0 if tied else words.rows * hidden,
        position_embedding=positions,
        per_layer=layer,
        final_norm=norm,
        replicated=positions + layers * layer_replicated + norm,
        tied=tied,
    )


def _uncountable(config: Config) -> str | None:
    attention = str(items(config, "attention_config"))
    for kind in _OTHER_LAYERS:
        if f"'{kind}'" in attention:
            return f"layers of type {kind} are not counted"
    if (integer(config, "moe_num_experts") or 1) > 1:
        return "mixtures of experts are not counted"
    if word(config, "pos_emb") == "rpe":
        return "pos_emb rpe is not counted"
    if config.get("soft_prompt_tuning") is not None:
        return "soft prompts are not counted"
    if word(config, "norm") not in _NORM_SIZES:
        return "the norm is not known"
    return None


def _norm(config: Config, width: int) -> int:
    factor, constant = _NORM_SIZES[word(config, "norm")]
    return factor * width + constant


def _layer(config: Config, hidden: int, heads: int, norm: int) -> tuple[int, int]:
    """(parameters of one transformer layer, those of them that every tensor-parallel rank holds in full)."""
    kv_heads = integer(config, "num_kv_heads") or heads
    qkv = hidden + 2 * kv_heads * (hidden // heads)
    attention = hidden * qkv + hidden * hidden
    replicated = 2 * norm
    if flag(config, "use_bias_in_attn_linear"):
        attention += qkv + hidden
        replicated += hidden
    if flag(config, "use_qk_layernorm"):
        attention += norm
    outer, inner = mlp_widths(config, hidden)
    mlp = hidden * outer + inner * hidden
    if flag(config, "use_bias_in_mlp"):
        mlp += outer + hidden
        replicated += hidden
    return 2 * norm + attention + mlp, replicated


def mlp_widths(config: Config, hidden: int) -> tuple[int, int]:
    """Outputs of the first and inputs of the second MLP matrix.

    A gated activation halves its input and scales the width by 2/3, which keeps the parameters about equal.
    """
    width = integer(config, "intermediate_size")
    if not width:
        factor = number(config, "expansion_factor")
        width = int(factor * hidden) if factor else 4 * hidden
    outer, inner = width, width
    if word(config, "activation") in _GATED:
        outer = int(width * 2 / 3)
        inner = outer // 2
    multiple = at_least(config, "mlp_multiple_of", 1)
    return _round_up(outer, 2 * multiple), _round_up(inner, multiple)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def stored_parameters(config: Config, size: ModelSize) -> int:
    """Parameters as they lie in checkpoint files: replicated ones once per tensor-parallel rank."""
    return size.total + size.replicated * (tensor_parallel(config) - 1)


def printed_parameters(config: Config, size: ModelSize) -> int | None:
    """What GPT-NeoX prints as ``> total params`` when it has built the model; None with ZeRO 3, where it prints 0.

    It adds up what each tensor-parallel rank and each pipeline stage holds (``megatron/utils.py``,
    ``get_total_params``).  So replicated parameters count once per rank, and with tied embeddings and several stages
    the last stage's copy of the embedding layer counts again, learned positions with it.
    """
    if zero_stage(config) == 3:
        return None
    stored = stored_parameters(config, size)
    if size.tied and pipeline(config) > 1:
        stored += size.input_embedding + size.position_embedding * tensor_parallel(config)
    return stored
