# SPDX-License-Identifier: Apache-2.0
"""Resized checkpoints in real DeepSpeed: they load, the loss on old text is what it was, and training goes on."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.surgery.resize import ResizeRequest, resize
from gaff.data.indexed_dataset import write_dataset
from gaff.plan.gaff_values import parse_init

pytest.importorskip("deepspeed")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

OLD, LARGER, SMALLER = 300, 401, 279  # tokens
STOP, END = 3, 5  # iterations

# Odd sizes, so that partitions need padding: rows in multiples of 5, 3 layers, 21 wide.
BASE: dict[str, Any] = {
    "pipe_parallel_size": 1,
    "global_num_gpus": 2,
    "num_layers": 3,
    "hidden_size": 21,
    "intermediate_size": 15,
    "num_attention_heads": 3,
    "seq_length": 16,
    "max_position_embeddings": 16,
    "pos_emb": "learned",
    "no_weight_tying": True,
    "init_method": "small_init",
    "output_layer_init_method": "wang_init",
    "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": 1e-8}},
    "min_lr": 0.0001,
    "train_micro_batch_size_per_gpu": 2,
    "precision": "fp32",
    "train_iters": 100,
    "lr_decay_style": "cosine",
    "warmup": 0.01,
    "log_interval": 1,
    "eval_iters": 0,
    "tokenizer_type": "HFTokenizer",
    "make_vocab_size_divisible_by": 5,
}
ZERO1 = {"zero_optimization": {"stage": 1}}
ZERO0 = {"zero_optimization": {"stage": 0}}
ZERO2 = {"zero_optimization": {"stage": 2, "round_robin_gradients": True}, "pipe_parallel_size": 0}
BF16 = {**ZERO1, "precision": "bfloat16", "data_types": {"grad_accum_dtype": "fp32"}}
TIED = {**ZERO1, "pipe_parallel_size": 2, "no_weight_tying": False, "gradient_accumulation_steps": 2}


@dataclass(frozen=True)
class Lab:
    """A directory with data of the old tokens, in which runs are made."""

    root: Path

    def tokenizer(self, tokens: int) -> str:
        words = {"<|endoftext|>": 0, "<|padding|>": 1, **{f"t{n}": n for n in range(2, tokens)}}
        path = self.root / f"tokenizer-{tokens}.json"
        tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<|padding|>")).save(str(path))
        return str(path)

    def train(self, save: Path, tokens: int, stop: int, keys: dict[str, Any], load: Path | None = None) -> list[float]:
        """Train up to iteration ``stop``, from ``load`` at iteration ``STOP`` or from scratch; returns the losses."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = self.root / f"{save.name}.yml"
        asked = {"save": str(save), "exit_interval": stop, "extra_save_iters": [stop], "master_port": port}
        if load is not None:
            asked |= {"load": str(load), "iteration": STOP}
        data = {"data_path": str(self.root / "set"), "vocab_file": self.tokenizer(tokens)}
        config.write_text(yaml.safe_dump({**BASE, **keys, **data, **asked}))
        done = subprocess.run(
            [sys.executable, "-u", "-m", "gaff.trainers.bundled", str(config)],
            cwd=self.root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return [float(loss) for loss in re.findall(r"lm_loss: (\S+)", done.stdout)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("resize")
    random = np.random.default_rng(7)
    write_dataset(root / "set", [random.integers(2, SMALLER, 90) for _ in range(60)], np.dtype("<u2"))
    return Lab(root)


def described(path: Path) -> dict[str, object]:
    """Keys, shapes, places in storages, fragments and paddings of a file, without any value that training changes."""
    import torch

    def walk(value: Any, where: str) -> Iterator[tuple[str, object]]:
        if torch.is_tensor(value):
            # Without the pipeline, weights are views of a flat group, and the few bytes of padding behind it stay.
            storage = None if where.startswith("/module/") else value.untyped_storage().nbytes()
            yield where, (value.shape, value.dtype, value.stride(), value.storage_offset(), storage)
        elif isinstance(value, dict):
            yield f"{where}/", tuple(value)
            for key, item in value.items():
                yield from walk(item, f"{where}/{key}")
        elif isinstance(value, list | tuple) and "rng_state" not in where:
            for number, item in enumerate(value):
                yield from walk(item, f"{where}/{number}")
        elif any(word in where for word in ("padding", "padded", "param_shapes", "partition_count")):
            yield where, value
        elif type(value).__name__ == "fragment_address":
            yield where, (value.numel, value.start)
        else:
            yield where, type(value)

    return dict(walk(torch.load(path, weights_only=False), ""))


@pytest.mark.parametrize(
    ("name", "keys", "tokens"),
    [
        ("zero1", ZERO1, LARGER),
        pytest.param("zero1", ZERO1, SMALLER, marks=pytest.mark.exhaustive),
        pytest.param("zero0", ZERO0, LARGER, marks=pytest.mark.exhaustive),
        pytest.param("zero2-nopipe", ZERO2, SMALLER, marks=pytest.mark.exhaustive),
        pytest.param("bf16", BF16, LARGER, marks=pytest.mark.exhaustive),
        pytest.param("tied-pp2", TIED, LARGER, marks=pytest.mark.exhaustive),
    ],
)
def test_resized_files_are_those_that_deepspeed_writes_itself(
    lab: Lab, name: str, keys: dict[str, Any], tokens: int
) -> None:
    """It loads them with another tokenizer, trains on, and what it saves then is laid out in the same way."""
    first, later = lab.root / name, lab.root / f"{name}-{tokens}-later"
    if not first.exists():
        lab.train(first, OLD, STOP, keys)
    resized = shutil.copytree(first, lab.root / f"{name}-{tokens}")
    resize(resized / f"global_step{STOP}", ResizeRequest(vocab=tokens, output_rows="init"))
    losses = lab.train(later, tokens, END, keys, load=resized)
    assert len(losses) == END - STOP
    assert np.isfinite(losses).all()
    for path in (later / f"global_step{END}").glob("*.pt"):
        assert described(resized / f"global_step{STOP}" / path.name) == described(path), path.name


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        pytest.param(name, keys, marks=pytest.mark.exhaustive)
        for name, keys in (("quiet-zero1", ZERO1), ("quiet-zero0", ZERO0))
    ],
)
def test_quiet_rows_leave_the_loss_on_old_text_as_it_was(lab: Lab, name: str, keys: dict[str, Any]) -> None:
    first = lab.root / name
    lab.train(first, OLD, STOP, keys)
    moved = ResetRequest(number=1, seed=3, init=parse_init("normal:0.5"), parameters=("6.norm.bias",))
    reset(first / f"global_step{STOP}", moved)  # as if training had moved it
    quiet, drawn = (shutil.copytree(first, lab.root / f"{name}-{rows}") for rows in ("quiet", "init"))
    resize(quiet / f"global_step{STOP}", ResizeRequest(vocab=LARGER))
    resize(drawn / f"global_step{STOP}", ResizeRequest(vocab=LARGER, output_rows="init"))
    before = lab.train(lab.root / f"{name}-a", OLD, END, keys, load=first)
    after = lab.train(lab.root / f"{name}-b", LARGER, END, keys, load=quiet)
    raised = lab.train(lab.root / f"{name}-c", LARGER, END, keys, load=drawn)
    assert after[0] == pytest.approx(before[0], abs=1e-5)
    assert raised[0] > before[0] + 0.1
