# SPDX-License-Identifier: Apache-2.0
"""The model: GPT-NeoX's flat list of layers with its parameter names.

0 embedding, 1 a function, 2 … L+1 transformer layers, L+2 a function, L+3 final norm, L+4 head.  The functions do
nothing here (GPT-NeoX transposes there); they keep the numbers in file names the same, and their names keep the
pipeline cut at the same places, since GPT-NeoX balances what matches ``transformer``.  Tied embeddings share the module
``embed``; the head is then a function of its weight.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from typing import Any

import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import nn
from torch.nn import functional

from gaff.trainers.bundled.initialisers import generator_for, initialiser
from gaff.trainers.bundled.settings import Layout, ModelSettings


class Embedding(nn.Module):
    """Token embedding, and learned positions where the config asks for them."""

    def __init__(self, model: ModelSettings, vocab_size: int, positions: bool) -> None:
        super().__init__()
        generator, init = generator_for(model, 0), initialiser(model.init_method, model)
        self.word_embeddings = nn.Embedding(vocab_size, model.hidden_size)
        init(self.word_embeddings.weight.data, generator)
        self.has_positions = positions
        if positions:
            self.position_embeddings = nn.Embedding(model.max_position_embeddings, model.hidden_size)
            init(self.position_embeddings.weight.data, generator)

    @property
    def word_embeddings_weight(self) -> torch.Tensor:
        """What DeepSpeed ties between the first and the last stage."""
        return self.word_embeddings.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.word_embeddings(tokens)
        if self.has_positions:
            hidden = hidden + self.position_embeddings.weight[: tokens.shape[1]]
        return hidden


class Attention(nn.Module):
    """Causal self-attention; query, key and value of one head lie together, as in GPT-NeoX."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        self.heads = model.num_attention_heads
        self.head_size = model.hidden_size // self.heads
        self.rotary_size = int(self.head_size * model.rotary_pct) if model.pos_emb == "rotary" else 0
        self.query_key_value = nn.Linear(model.hidden_size, 3 * model.hidden_size)
        self.dense = nn.Linear(model.hidden_size, model.hidden_size)
        if self.rotary_size:
            # Plain attributes, not buffers: nothing of them is in GPT-NeoX's checkpoints either.
            steps = torch.arange(0, self.rotary_size, 2).float() / self.rotary_size
            angles = torch.outer(torch.arange(model.seq_length).float(), model.rotary_emb_base**-steps)
            angles = torch.cat((angles, angles), dim=-1)
            self.cos, self.sin = angles.cos(), angles.sin()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        mixed = self.query_key_value(hidden).view(batch, length, self.heads, 3 * self.head_size)
        query, key, value = (part.transpose(1, 2) for part in mixed.chunk(3, dim=-1))
        if self.rotary_size:
            query, key = self._rotate(query), self._rotate(key)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: torch.Tensor = self.dense(mixed.transpose(1, 2).reshape(batch, length, width))
        return output

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        turned, rest = x[..., : self.rotary_size], x[..., self.rotary_size :]
        length = x.shape[-2]
        first, second = turned.chunk(2, dim=-1)
        swapped = torch.cat((-second, first), dim=-1)
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        return torch.cat((turned * cos + swapped * sin, rest), dim=-1)


class Mlp(nn.Module):
    """Two linear maps with GELU between them."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        self.linear1 = nn.Linear(model.hidden_size, model.intermediate_size)
        self.linear2 = nn.Linear(model.intermediate_size, model.hidden_size)
        self.approximate = "tanh" if model.gelu_tanh else "none"

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        inner = functional.gelu(self.linear1(hidden), approximate=self.approximate)
        output: torch.Tensor = self.linear2(inner)
        return output


class TransformerLayer(nn.Module):
    """Attention and MLP, after each other or side by side (``gpt_j_residual``)."""

    def __init__(self, model: ModelSettings, layer: int) -> None:
        super().__init__()
        self.parallel = model.gpt_j_residual
        self.input_layernorm = nn.LayerNorm(model.hidden_size, eps=model.layernorm_epsilon)
        self.attention = Attention(model)
        self.post_attention_layernorm = nn.LayerNorm(model.hidden_size, eps=model.layernorm_epsilon)
        self.mlp = Mlp(model)
        generator = generator_for(model, layer)
        inner = initialiser(model.init_method, model)
        output = initialiser(model.output_layer_init_method, model)
        for linear, init in (
            (self.attention.query_key_value, inner),
            (self.attention.dense, output),
            (self.mlp.linear1, inner),
            (self.mlp.linear2, output),
        ):
            init(linear.weight.data, generator)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = hidden + self.attention(self.input_layernorm(hidden))
        beside = hidden if self.parallel else attended
        return attended + self.mlp(self.post_attention_layernorm(beside))


class FinalNorm(nn.Module):
    """The norm before the head."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model.hidden_size, eps=model.layernorm_epsilon)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.norm(hidden)
        return output


class Head(nn.Module):
    """The output embedding of an untied model; no bias."""

    def __init__(self, model: ModelSettings, vocab_size: int) -> None:
        super().__init__()
        self.final_linear = nn.Linear(model.hidden_size, vocab_size, bias=False)
        generator = generator_for(model, model.num_layers + 4)
        initialiser(model.init_method, model)(self.final_linear.weight.data, generator)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.final_linear(hidden)
        return logits


class Function(nn.Module):
    """A function in a place of the flat list where the plain engine wants a module.  It has no parameters."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = function

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._function(hidden)
        return output


class SequentialModel(nn.Module):
    """The same layers for the plain engine (``pipe_parallel_size: 0``), named ``sequential.N.…``."""

    def __init__(self, specs: list[Any]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for spec in specs:
            if isinstance(spec, TiedLayerSpec) and spec.forward_fn is not None:
                embedding, head = layers[0], spec.forward_fn
                layers.append(Function(lambda hidden, embedding=embedding, head=head: head(embedding, hidden)))
            elif isinstance(spec, LayerSpec):
                layers.append(spec.build())
            else:
                layers.append(Function(spec))
        self.sequential = nn.Sequential(*layers)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self.sequential(tokens), labels)


def pre_transformer_block(hidden: torch.Tensor) -> torch.Tensor:
    """Layer 1."""
    return hidden


def post_transformer_block(hidden: torch.Tensor) -> torch.Tensor:
    """Layer L+2."""
    return hidden


def tied_logits(embedding: Embedding, hidden: torch.Tensor) -> torch.Tensor:
    """The head of a tied model."""
    return functional.linear(hidden, embedding.word_embeddings_weight)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss per token, computed in fp32."""
    return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def layer_specs(model: ModelSettings, vocab_size: int) -> list[Any]:
    """The flat list of layers."""
    positions = model.pos_emb == "learned"
    tied = not model.no_weight_tying
    attr = {"tied_weight_attr": "word_embeddings_weight"}
    if tied:
        first = TiedLayerSpec("embed", Embedding, model, vocab_size, positions, **attr)
        # The last stage's own copy needs no positions: there they would only be weights that never get a gradient.
        last = TiedLayerSpec("embed", Embedding, model, vocab_size, False, forward_fn=tied_logits, **attr)
    else:
        first, last = LayerSpec(Embedding, model, vocab_size, positions), LayerSpec(Head, model, vocab_size)
    layers = [LayerSpec(TransformerLayer, model, 2 + number) for number in range(model.num_layers)]
    return [first, pre_transformer_block, *layers, post_transformer_block, LayerSpec(FinalNorm, model), last]


def build_model(model: ModelSettings, vocab_size: int, layout: Layout, partition: str) -> nn.Module:
    """The part of the model that this rank holds; needs torch.distributed to be up."""
    specs = layer_specs(model, vocab_size)
    if not layout.pipe:
        return SequentialModel(specs)
    topology = PipeModelDataParallelTopology(num_pp=layout.pipe, num_mp=1, num_dp=layout.data)
    pipeline: nn.Module = PipelineModule(
        layers=specs, loss_fn=cross_entropy, topology=topology, partition_method=partition
    )
    return pipeline


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups as GPT-NeoX's: weights decay, norms and biases do not; one group when nothing decays."""
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            plain = isinstance(module, nn.LayerNorm) or name == "bias" or weight_decay == 0.0
            (undecayed if plain else decayed).append(parameter)
    rest = {"params": undecayed, "weight_decay": 0.0, "name": "no_weight_decay_params"}
    if weight_decay == 0.0:
        return [rest]
    return [{"params": decayed, "name": "weight_decay_params"}, rest]
