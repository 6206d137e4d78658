# SPDX-License-Identifier: Apache-2.0
"""Checkpoints written and read as GPT-NeoX does: DeepSpeed's files, its client state, and ``configs/`` last of all."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed import comm

from gaff.trainers.bundled.engine import Engine
from gaff.trainers.bundled.log import say, say_on_rank_0
from gaff.trainers.bundled.settings import given

# GPT-NeoX keeps one more generator for tensor-parallel dropout, seeded apart from the rest by this much.
_TRACKER_OFFSET = 2718


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, as GPT-NeoX does on every rank."""
    say_on_rank_0(f"> setting random seeds to {seed} ...")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def checked_args(neox: Mapping[str, Any], padded_vocab_size: int) -> dict[str, Any]:
    """The arguments that GPT-NeoX stores in a checkpoint and compares on load."""
    return {
        "num_layers": neox["num_layers"],
        "hidden_size": neox["hidden_size"],
        "num_attention_heads": neox["num_attention_heads"],
        "max_position_embeddings": neox["max_position_embeddings"],
        "make_vocab_size_divisible_by": given(neox, "make_vocab_size_divisible_by", 128),
        "padded_vocab_size": padded_vocab_size,
        "tokenizer_type": neox["tokenizer_type"],
        "model_parallel_size": 1,
    }


def save(engine: Engine, save_dir: str, iteration: int, args: dict[str, Any], config: Path) -> None:
    """Write the tag ``global_step<iteration>``.

    ``configs/`` is written by rank 0 after a barrier of all ranks, so a tag that has it newer than its other files is
    whole.  ``latest`` proves less: DeepSpeed writes it when rank 0 alone is done.
    """
    tag = f"global_step{iteration}"
    tracker = torch.Generator().manual_seed(torch.initial_seed() + _TRACKER_OFFSET)
    state = {
        "iteration": iteration,
        "args": args,
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "cuda_rng_state": torch.get_rng_state(),
        "rng_tracker_states": {"model-parallel-rng": tracker.get_state()},
    }
    engine.deepspeed.save_checkpoint(save_dir, tag=tag, client_state=state)
    comm.barrier()
    if comm.get_rank() == 0:
        _write_config(Path(save_dir) / tag / "configs" / config.name, config.read_bytes())
    comm.barrier()


def _write_config(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load(engine: Engine, load_dir: str, iteration: int | None, args: dict[str, Any]) -> int:
    """Load a tag and return its iteration; 0 when none was asked for and ``latest`` names none.

    As in GPT-NeoX, a run without ``iteration`` starts from scratch when there is nothing to load; one with it fails.

    Raises:
        FileNotFoundError: the tag that ``iteration`` names is not there.
        ValueError: the checkpoint is of another model.
    """
    tag = None if iteration is None else f"global_step{iteration}"
    if tag is not None and not (Path(load_dir) / tag).is_dir():
        raise FileNotFoundError(f"Unable to load checkpoint for iteration {iteration}: no {Path(load_dir) / tag}")
    path, state = engine.deepspeed.load_checkpoint(load_dir, tag=tag)
    if path is None:
        if engine.replica == 0:
            say("Unable to load checkpoint.")
        return 0
    for name, theirs in state["args"].items():
        if args.get(name) != theirs:
            raise ValueError(f"{name} is {theirs} in the checkpoint but {args.get(name)} in the config")
    say_on_rank_0(" > validated currently set args with arguments in the checkpoint ...")
    random.setstate(state["random_rng_state"])
    np.random.set_state(state["np_rng_state"])
    torch.set_rng_state(state["torch_rng_state"])
    if engine.replica == 0:
        say(f"  successfully loaded {path}")
    return int(state["iteration"])
