# SPDX-License-Identifier: Apache-2.0
"""A small config without a fault, its data files, and ways to write it with one fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.errors import InputError, Problem
from gaff.plan.checks import check, warnings
from gaff.plan.config import Config, load_config

# Line numbers are part of the tests: a new line goes to the end.
GOOD = """\
gaff:
  reset_every: 100
  seed: 7
train_iters: 400
checkpoint_factor: 100
log_interval: 10
num_layers: 2
hidden_size: 64
num_attention_heads: 4
seq_length: 32
max_position_embeddings: 32
pos_emb: rotary
no_weight_tying: true
init_method: small_init
train_micro_batch_size_per_gpu: 2
global_num_gpus: 2
data_path: data/text_document
tokenizer_type: CharLevelTokenizer
pipe_parallel_size: 1
zero_optimization: {stage: 1}
optimizer:
  type: Adam
  params:
    lr: 0.001
    betas: [0.9, 0.95]
    eps: 1.0e-8
min_lr: 0.0001
lr_decay_style: cosine
lr_decay_iters: 400
gradient_clipping: 0.5
eval_iters: 0
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory GAFF is started in, with the data that the good config names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for suffix in (".bin", ".idx"):
        (tmp_path / "data" / f"text_document{suffix}").write_bytes(b"")
    return tmp_path


@pytest.fixture
def write(project: Path) -> Callable[..., Path]:
    """``write(old, new)`` writes run.yml, the good config with one piece of text replaced; its relative path."""

    def write(old: str = "", new: str = "", *, name: str = "run.yml", text: str = GOOD) -> Path:
        assert old in text
        (project / name).write_text(text.replace(old, new, 1) if old else text + new, encoding="utf-8")
        return Path(name)

    return write


@pytest.fixture
def load(write: Callable[..., Path]) -> Callable[..., Config]:
    """``load(*overrides)`` loads the good config with overrides."""

    def load(*overrides: str) -> Config:
        return load_config([write()], overrides)

    return load


@pytest.fixture
def problems(write: Callable[..., Path]) -> Callable[..., list[Problem]]:
    """``problems(old, new)``: all that is wrong with the good config after that replacement, on loading or checking."""

    def problems(old: str = "", new: str = "") -> list[Problem]:
        path = write(old, new)
        try:
            return check(load_config([path]))
        except InputError as error:
            return list(error.problems)

    return problems


@pytest.fixture
def warned(write: Callable[..., Path]) -> Callable[..., list[Problem]]:
    """``warned(old, new)``: the warnings of the good config after that replacement."""

    def warned(old: str = "", new: str = "") -> list[Problem]:
        return warnings(load_config([write(old, new)]))

    return warned
