# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed takes any file of a tag that ends in ``model_states.pt`` for one more shard: surgery never leaves one."""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path

from gaff.checkpoint.surgery.reset import ResetRequest, reset
from tests.checkpoint.killing import killed_at


def shards(tag: Path) -> set[str]:
    """What DeepSpeed would find (``glob`` in the tag's own directory)."""
    return {path.name for path in tag.glob("*_states.pt")}


def test_wherever_a_reset_is_killed_the_tag_has_the_shards_it_had(unpacked_checkpoints: Path, tmp_path: Path) -> None:
    template = unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5"
    request = ResetRequest(number=1, seed=1, save_forgotten=True)
    expected = shards(template)
    for effect in count(0, 3):
        tag = tmp_path / str(effect) / template.name
        shutil.copytree(template, tag)
        for path in tag.glob("*.pt"):  # linked files are replaced by patched copies, which need names
            os.link(path, tag.parent / path.name)
        killed = killed_at(effect, lambda tag=tag: reset(tag, request))
        assert shards(tag) == expected, effect
        shutil.rmtree(tag.parent)
        if not killed:
            break
    assert effect > 10
