# SPDX-License-Identifier: Apache-2.0
"""The weights that the model is loaded from: layer files with the pipeline engine, else ``module`` of each model file.

Pipeline (``runtime/pipe/module.py``): ``layer_NN-model_TT``, one per layer and tensor rank, keys without the layer.
Without (``runtime/engine.py``): ``mp_rank_TT``, key ``module``, all parameters of a group as views of one storage.
"""

from __future__ import annotations

from collections.abc import Iterator

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.draft import Draft, Rank
from gaff.checkpoint.layout.parameter import MODEL, canonical_name
from gaff.checkpoint.tag import LAYER_FILE, MODEL_FILE
from gaff.checkpoint.unpickle import TensorRef

_BUFFERS = (".inv_freq", ".masked_bias", ".attention.bias", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")


def read_weights(draft: Draft) -> None:
    """Note every model copy."""
    for archive, name, tensor, rank in _entries(draft):
        if name.endswith(_BUFFERS):
            continue
        draft.shape(name, tensor.shape)
        draft.add(name, MODEL, archive, tensor, rank)


def _entries(draft: Draft) -> Iterator[tuple[Archive, str, TensorRef, Rank]]:
    if draft.topology.pipeline:
        for file in draft.files.names:
            match = LAYER_FILE.fullmatch(file)
            if match:
                archive = draft.files.archive(file)
                yield from _of_module(archive, archive.root, f"{int(match[1])}.", int(match[2]))
    else:
        for file in draft.files.names:
            match = MODEL_FILE.fullmatch(file)
            if match:
                archive = draft.files.archive(file)
                yield from _of_module(archive, archive.root["module"], "", int(match[1]))


def _of_module(
    archive: Archive, module: object, prefix: str, tensor_rank: int
) -> Iterator[tuple[Archive, str, TensorRef, Rank]]:
    if not isinstance(module, dict):
        raise TypeError(f"{archive.path.name} holds no weights")
    for name, tensor in module.items():
        if isinstance(tensor, TensorRef):
            yield archive, canonical_name(prefix + name), tensor, (0, tensor_rank, 0)
