# SPDX-License-Identifier: Apache-2.0
"""Rules: keys and variables of the launch that do less than they seem to (contract sections 1.3 to 1.5 and 8)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.typed import integer, text, word

_DEFAULT_HOSTFILE = "/job/hostfile"  # DeepSpeed's, where neither key nor DLTS_HOSTFILE names one


def check_launch(config: Config) -> Iterator[Problem]:
    """Warnings about GPUs, ports and dashboards, for runs of GPT-NeoX."""
    if config.gaff.trainer == "bundled":
        return
    yield from _gpus(config)
    yield from _port(config)
    yield from _wandb(config)


def _gpus(config: Config) -> Iterator[Problem]:
    count = integer(config, "num_gpus")
    if count is None or count < 1 or config.get("global_num_gpus") is not None or _has_hostfile(config):
        return
    what = (
        f"`num_gpus: {count}` without a hostfile is obeyed by the launcher alone: GPT-NeoX reckons its batch with every"
        " GPU that it sees"
    )
    remedy = f"remove it and show just {count} GPUs in CUDA_VISIBLE_DEVICES, or add global_num_gpus: {count}"
    yield config.problem("num-gpus-half-ignored", "num_gpus", what, remedy)


def _has_hostfile(config: Config) -> bool:
    named = text(config, "hostfile") or os.environ.get("DLTS_HOSTFILE")
    return bool(named) or os.path.isfile(_DEFAULT_HOSTFILE)


def _port(config: Config) -> Iterator[Problem]:
    wished = dict(config.gaff.environment).get("MASTER_PORT", os.environ.get("MASTER_PORT"))
    if wished and word(config, "launcher") != "slurm":  # there the ranks see the variable
        what = (
            f"MASTER_PORT ({wished}) in the environment has no effect: GPT-NeoX takes its port from a key, set by GAFF"
        )
        remedy = "write it as `master_port` to have that port while it is free"
        yield config.problem("master-port-variable", "master_port", what, remedy)


def _wandb(config: Config) -> Iterator[Problem]:
    given = [key for key in ("wandb_project", "wandb_group", "wandb_team", "wandb_run_name") if config.get(key)]
    if given and config.get("use_wandb") is None:
        what = f"`{given[0]}` is given but `use_wandb` is not, so GAFF writes false"
        yield config.problem("wandb-off", given[0], what, "add use_wandb: true, or remove the key")
