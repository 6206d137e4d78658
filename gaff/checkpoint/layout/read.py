# SPDX-License-Identifier: Apache-2.0
"""Read one tag of any layout.

Handled, all seen in real GPT-NeoX checkpoints (commit ea7aefd8, DeepSpeed 0.16.5 and 0.19.8): the pipeline engine with
ZeRO 0 and 1, no pipeline with ZeRO 0 to 3, fp32, fp16 and bf16, any TP, PP and DP, tied and untied embeddings.
"""

from __future__ import annotations

from pathlib import Path

from gaff.checkpoint.layout.draft import Draft
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.shards import read_shards
from gaff.checkpoint.layout.unsharded import read_unsharded
from gaff.checkpoint.layout.weights import read_weights
from gaff.checkpoint.layout.zero3 import read_zero3
from gaff.checkpoint.tag import ZERO3_MODEL_FILE, TagFiles, understood


def read_layout(tag: Path) -> Layout:
    """Understand one tag.

    Raises:
        CheckpointError: incomplete or damaged, or a layout that GAFF does not handle, by name.
    """
    files = TagFiles(tag)
    if not files.names:
        raise files.error("incomplete-tag", "holds no .pt files", "use a complete tag")
    strangers = files.strangers()
    if strangers:
        what = f"holds {strangers[0]}, a file that this version does not understand (mixture of experts?)"
        raise files.error("unsupported-layout", what, "use a checkpoint of a dense model")
    with understood(tag):
        missing = files.missing()
        if missing:
            what = f"lacks {len(missing)} of its files, {missing[0]} first"
            raise files.error("incomplete-tag", what, "use an earlier tag")
        draft = Draft(files)
        if files.has(ZERO3_MODEL_FILE):
            read_zero3(draft)
        else:
            read_weights(draft)
            if files.sharded_optimizer:
                read_shards(draft)
            else:
                read_unsharded(draft)
        return draft.layout()
