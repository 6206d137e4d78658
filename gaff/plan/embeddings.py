# SPDX-License-Identifier: Apache-2.0
"""How much of a model is embeddings, beside models of the literature, and the warning that goes with a high share.

Active forgetting teaches the body of a model to work with embeddings that are learned anew.  Where most of the
parameters are embeddings there is little body to teach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.model import ModelSize, model_size

#: Input and output embedding as a fraction of the model, counted once where tied: V·d and the published total of
#: Biderman et al. (arXiv 2304.01373), Liu et al. (arXiv 1907.11692) and Brown et al. (arXiv 2005.14165).
COMPARED: Mapping[str, float] = {
    "Pythia-70M": 2 * 50_304 * 512 / 70_426_624,
    "RoBERTa-base": 50_265 * 768 / 124_645_632,
    "GPT-3": 50_257 * 12_288 / 175e9,
}
#: From here on a plan warns: at least half of the parameters are embeddings.
HIGH_SHARE = 0.5
_TOY = 5_000_000  # parameters; smaller models are made to try things out, as a rehearsal does, and say nothing

#: (name, layers, hidden size) of Pythia's models (Biderman et al., arXiv 2304.01373, table 1).
_PYTHIA = (
    ("160M", 12, 768),
    ("410M", 24, 1024),
    ("1B", 16, 2048),
    ("1.4B", 24, 2048),
    ("2.8B", 32, 2560),
    ("6.9B", 32, 4096),
    ("12B", 36, 5120),
)


def check_share(config: Config) -> Iterator[Problem]:
    """A warning where resets meet a model of which at least ``HIGH_SHARE`` is embeddings; toys are left alone."""
    model = None if config.gaff.reset_every is None else model_size(config)
    if not isinstance(model, ModelSize) or model.total < _TOY or model.embedding_share < HIGH_SHARE:
        return
    where = "input and output together" if not model.tied else "input and output are one"
    what = (
        f"{model.embedding_share:.1%} of this model is embeddings ({where}): only {model.non_embedding:,} of its"
        f" parameters are the body, which is what learns from forgetting; a reset of the input embedding forgets"
        f" {model.share:.1%} of the model"
    )
    yield config.problem("embedding-share", "hidden_size", what, _remedy(model))


def _remedy(model: ModelSize) -> str:
    for name, layers, hidden in _PYTHIA:
        share = _share_of(layers, hidden, model)
        if share < min(HIGH_SHARE, model.embedding_share):
            shape = f"Pythia-{name}'s shape ({layers} layers of {hidden:,})"
            return f"take a larger model where you can: with this vocabulary {shape} has {share:.1%}"
    return "take a smaller vocabulary, or a larger model"


def _share_of(layers: int, hidden: int, model: ModelSize) -> float:
    """Of a GPT-NeoX model in Pythia's style: V·d for each embedding, L(12d² + 13d) + 2d for the body."""
    embeddings = model.vocabulary.rows * hidden * (1 if model.tied else 2)
    return embeddings / (embeddings + layers * (12 * hidden**2 + 13 * hidden) + 2 * hidden)
