# SPDX-License-Identifier: Apache-2.0
"""The GPT-NeoX keys of one segment: the user's, and those that make a trainer resume and stop where it is asked to.

Both trainers take the same keys, so both are told the same.  One merged config is needed because GPT-NeoX refuses a
key that stands in two files.
"""

from __future__ import annotations

from typing import Any

from gaff.plan.config import Config
from gaff.trainers.contract import SegmentRequest

# log_dir is truncated at every start; keep_last_n_checkpoints deletes tags that are still needed (and any directory
# with global_step in its path); the rest are the segment's to set.
_DROPPED = ("log_dir", "keep_last_n_checkpoints", "save", "load", "iteration", "exit_interval")


def segment_keys(config: Config, request: SegmentRequest, *, validates_pipelines: bool) -> dict[str, Any]:
    """All GPT-NeoX keys with which a trainer does one segment.

    Args:
        config: the user's config.
        request: where the segment starts and stops.
        validates_pipelines: whether the trainer can validate with ``pipe_parallel_size`` of 1 or more.  GPT-NeoX
            cannot (``TypeError: iteration over a 0-d tensor``, exit code 1), so it is told not to.
    """
    keys = {key: value for key, value in config.neox.items() if key not in _DROPPED}
    keys["save"] = str(request.save)
    if request.start > 0:
        keys["load"] = str(request.save)
        keys["iteration"] = request.start  # the exact tag, whatever latest says
    keys["exit_interval"] = request.stop  # fires at the first multiple of it, which is the stop itself
    saves = {*(config.neox.get("extra_save_iters") or ()), request.stop}
    if config.gaff.init.kind == "step0":
        saves.add(0)
    keys["extra_save_iters"] = sorted(saves)
    keys["master_port"] = request.master_port
    if not validates_pipelines and (config.neox.get("pipe_parallel_size") or 0) >= 1:
        keys["eval_iters"] = 0
    if keys.get("use_wandb") is None:
        keys["use_wandb"] = False  # GPT-NeoX turns it on by itself when an API key is lying around
    return keys
