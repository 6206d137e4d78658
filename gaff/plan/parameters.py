# SPDX-License-Identifier: Apache-2.0
"""The parameters of a GPT-NeoX model by name, from its config alone, and which of them ``gaff: parameters`` means.

Names are ``LAYER.NAME`` as in checkpoints: layer 0 is the embedding, 2 to L+1 the transformer layers, L+3 the final
norm, L+4 the head of untied models; 1 and L+2 are functions (``megatron/model/gpt2_model.py``, ``init_specs``).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gaff.plan.config import Config
from gaff.plan.model import ModelSize, mlp_widths
from gaff.plan.settings import NICKNAMES
from gaff.plan.typed import at_least, flag, integer, items, word

INPUT_EMBEDDING = "0.word_embeddings.weight"
POSITION_EMBEDDING = "0.position_embeddings.weight"
FIRST_LAYER = 2
_MOST_LAYERS = 10_000  # more are a slip of the pen, and would only fill the memory

#: Nicknames as shell patterns of names.
_PATTERNS = {
    "input_embedding": INPUT_EMBEDDING,
    "output_embedding": "*.final_linear.weight",
    "position_embedding": POSITION_EMBEDDING,
}

#: Names of the parameters of one norm.
_NORM_PARTS: Mapping[str, tuple[str, ...]] = {
    "layernorm": ("weight", "bias"),
    "te_layernorm": ("weight", "bias"),
    "rmsnorm": ("scale",),
    "te_rmsnorm": ("weight",),
    "scalenorm": ("g",),
    "non_parametric_layernorm": (),
}
_OTHER_LAYERS = ("gmlp", "amlp", "mamba", "rwkv")
_OTHER_MODULES = ("te_mha", "te_fp8_mha", "te_layernorm_mlp")


@dataclass(frozen=True)
class Selection:
    """What a reset forgets.

    Attributes:
        chosen: as the config says it.
        names: of the parameters, in the model's order; None when they are not known from the config.
        count: elements of all of them, None when they cannot be counted.
        share: the same as a fraction of the model.
    """

    chosen: tuple[str, ...]
    names: tuple[str, ...] | None
    count: int | None
    share: float | None

    def __str__(self) -> str:
        said = ", ".join(item.replace("_", " ") if item in NICKNAMES else item for item in self.chosen)
        if self.names is None or self.count is None or self.share is None:
            return said
        tensors = f"{len(self.names):,} tensors, " if len(self.names) > 1 else ""
        return f"{said} ({tensors}{self.count:,} parameters, {self.share:.1%} of the model)"

    def to_json(self) -> dict[str, Any]:
        names = None if self.names is None else list(self.names)
        return {"chosen": list(self.chosen), "names": names, "count": self.count, "share": self.share}


def selection(config: Config, model: ModelSize | None) -> Selection:
    """What the config's resets forget; without ``model`` it is not counted."""
    chosen = config.gaff.parameters
    sizes = parameter_sizes(config, model.vocabulary.rows if model else 0)
    names = None if sizes is None else select(chosen, sizes)
    if model is None or sizes is None or names is None:
        return Selection(chosen, names, None, None)
    count = sum(sizes[name] for name in names)
    return Selection(chosen, names, count, count / model.total)


def select(chosen: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` that nicknames or shell patterns mean, in their order."""
    patterns = [_PATTERNS.get(item, item) for item in chosen]
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def unusual_keys(config: Config) -> list[str]:
    """Keys that give the model parts whose parameter names are not known here; none for the usual transformer."""
    attention = str(items(config, "attention_config"))
    found = {
        "attention_config": any(f"'{kind}'" in attention for kind in _OTHER_LAYERS),
        "moe_num_experts": (integer(config, "moe_num_experts") or 1) > 1,
        "pos_emb": word(config, "pos_emb") == "rpe",
        "soft_prompt_tuning": config.get("soft_prompt_tuning") is not None,
        **{key: flag(config, key) for key in _OTHER_MODULES},
    }
    return [key for key, unusual in found.items() if unusual]


def parameter_sizes(config: Config, rows: int) -> dict[str, int] | None:
    """Elements of every parameter by name, in the model's order.

    Args:
        config: the run's.
        rows: of the padded vocabulary; 0 when only names are wanted.

    Returns:
        None when the names are not known: unusual parts (:func:`unusual_keys`), or no usable shape of the model.
    """
    hidden, layers, heads = (integer(config, key) for key in ("hidden_size", "num_layers", "num_attention_heads"))
    if not hidden or not layers or not heads or min(hidden, layers, heads) < 1 or layers > _MOST_LAYERS:
        return None
    if unusual_keys(config) or word(config, "norm") not in _NORM_PARTS:
        return None
    sizes = {INPUT_EMBEDDING: rows * hidden}
    if word(config, "pos_emb") == "learned":
        sizes[POSITION_EMBEDDING] = at_least(config, "max_position_embeddings", 0) * hidden
    layer = dict(_transformer_layer(config, hidden, heads))
    for number in range(FIRST_LAYER, layers + FIRST_LAYER):
        sizes.update({f"{number}.{name}": size for name, size in layer.items()})
    sizes.update(_norm(config, f"{layers + 3}.norm", hidden))
    if flag(config, "no_weight_tying"):
        sizes[f"{layers + 4}.final_linear.weight"] = rows * hidden
    return sizes


def _norm(config: Config, name: str, width: int) -> Iterator[tuple[str, int]]:
    kind = word(config, "norm")
    fused = kind == "rmsnorm" and flag(config, "rmsnorm_fusion")  # apex calls its scale weight
    for part in ("weight",) if fused else _NORM_PARTS[kind]:
        yield f"{name}.{part}", 1 if part == "g" else width


def _transformer_layer(config: Config, hidden: int, heads: int) -> Iterator[tuple[str, int]]:
    """As ``megatron/model/transformer.py`` builds it (``ParallelTransformerLayer``)."""
    kv_heads = integer(config, "num_kv_heads") or heads
    qkv = hidden + 2 * kv_heads * (hidden // heads)
    outer, inner = mlp_widths(config, hidden)
    attention_bias, mlp_bias = flag(config, "use_bias_in_attn_linear"), flag(config, "use_bias_in_mlp")
    yield from _norm(config, "input_layernorm", hidden)
    yield from _linear("attention.query_key_value", hidden, qkv, attention_bias)
    if flag(config, "use_qk_layernorm"):
        yield from _norm(config, "attention.qk_layernorm", hidden)
    yield from _linear("attention.dense", hidden, hidden, attention_bias)
    yield from _norm(config, "post_attention_layernorm", hidden)
    yield from _linear("mlp.linear1", hidden, outer, mlp_bias)
    yield from _linear("mlp.linear2", inner, hidden, mlp_bias)


def _linear(name: str, inputs: int, outputs: int, bias: bool) -> Iterator[tuple[str, int]]:
    yield f"{name}.weight", inputs * outputs
    if bias:
        yield f"{name}.bias", outputs
