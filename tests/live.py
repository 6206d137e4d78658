# SPDX-License-Identifier: Apache-2.0
"""What tests of live runs share: a tiny config on real text, and looking into what a run left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

CONFIG = """
pipe_parallel_size: 1
model_parallel_size: 1
global_num_gpus: 2
num_layers: 2
hidden_size: 32
num_attention_heads: 4
seq_length: 32
max_position_embeddings: 32
pos_emb: rotary
rotary_pct: 0.25
no_weight_tying: true
gpt_j_residual: true
init_method: small_init
output_layer_init_method: wang_init
optimizer: {type: Adam, params: {lr: 0.002, betas: [0.9, 0.95], eps: 1.0e-8}}
min_lr: 0.0002
zero_optimization: {stage: 1}
train_micro_batch_size_per_gpu: 4
data_impl: mmap
weight_decay: 0.1
hidden_dropout: 0
attention_dropout: 0
precision: fp32
lr_decay_style: cosine
warmup: 0.01
distributed_backend: gloo
eval_iters: 0
log_interval: 1
tokenizer_type: CharLevelTokenizer
data_path: DATA
train_iters: TRAIN_ITERS
lr_decay_iters: TRAIN_ITERS
gaff:
  reset_every: RESET_EVERY
  trainer: bundled
"""


def write_config(path: Path, data: Path, *, train_iters: int, reset_every: int) -> Path:
    text = CONFIG.replace("DATA", str(data)).replace("TRAIN_ITERS", str(train_iters))
    path.write_text(text.replace("RESET_EVERY", str(reset_every)))
    return path


def gaff(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The command line, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "gaff", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_sigint,
        **options,
    )


def listen_to_sigint() -> None:
    """A shell starts background jobs, and so perhaps this test run, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], timeout: float = 280) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


def journal(root: Path, event: str) -> list[dict[str, Any]]:
    lines = (root / "journal.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def log_text(root: Path) -> str:
    return "".join(p.read_text() for p in sorted(root.glob("segments/*/attempt-*.log")))


def tensors(tag: Path) -> dict[str, Any]:
    """Every tensor and number of a tag by file and path, with torch."""
    import torch

    found: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value.detach().clone()
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}/{key}", item)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                walk(f"{name}/{number}", item)
        elif isinstance(value, int | float):
            found[name] = torch.tensor(value)

    for path in sorted(tag.glob("*.pt")):
        walk(path.name, torch.load(path, weights_only=False))
    return found


def different(one: Path, other: Path) -> list[str]:
    """Names of what differs between two tags, bit for bit."""
    import torch

    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    return [n for n in left if not torch.equal(left[n], right[n])]
