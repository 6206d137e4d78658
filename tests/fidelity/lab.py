# SPDX-License-Identifier: Apache-2.0
"""One config trained in several ways: by ``gaff run``, in one launch that resets in memory, and in plain segments."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml

from gaff.checkpoint.init_methods import Distribution
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.sources import DrawnValues
from gaff.data.indexed_dataset import write_dataset
from gaff.plan.config import Config, load_config
from gaff.supervisor.child import Child
from gaff.supervisor.ports import reserve_port
from gaff.trainers.contract import SegmentRequest, Trainer
from tests.fidelity.in_memory import Plan

ROOT = Path(__file__).parents[2]
SEED = 1234
ROWS = 512  # CharLevelTokenizer's vocabulary, padded

#: A small model that both trainers train, one segment after another.
MODEL_KEYS: dict[str, Any] = {
    "pipe_parallel_size": 1,
    "num_layers": 2,
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_attention_heads": 4,
    "seq_length": 16,
    "max_position_embeddings": 16,
    "no_weight_tying": True,
    "init_method": "small_init",
    "output_layer_init_method": "wang_init",
    "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": 1.0e-8}},
    "min_lr": 0.0001,
    "zero_optimization": {"stage": 1},
    "train_micro_batch_size_per_gpu": 4,
    "precision": "fp32",
    "lr_decay_style": "cosine",
    "warmup": 0.25,
    "log_interval": 1,
    "eval_iters": 0,
    "tokenizer_type": "CharLevelTokenizer",
}


def write_random_text(folder: Path) -> Path:
    """The prefix of 60 documents of 90 random tokens each."""
    random = np.random.default_rng(7)
    write_dataset(folder / "set", [random.integers(1, ROWS, 90) for _ in range(60)], np.dtype("<u2"))
    return folder / "set"


@dataclass(frozen=True)
class Lab:
    """A directory in which one config is trained.

    Attributes:
        root: the directory.
        trainer: launches what ``gaff run`` does not.
        keys: GPT-NeoX's keys and the ``gaff`` block.
        environment: of the process that launches, on top of what is there.
    """

    root: Path
    trainer: Trainer
    keys: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        path = self.root / "config.yml"
        path.write_text(yaml.safe_dump(dict(self.keys)))
        return path

    @property
    def config(self) -> Config:
        return load_config([self.config_file])

    @property
    def resets(self) -> list[int]:
        every, end = self.keys["gaff"]["reset_every"], self.keys["train_iters"]
        return list(range(every, end, every))

    def gaff_run(self) -> Path:
        """The checkpoints of a run by the supervisor: stop, edit, resume."""
        command = [sys.executable, "-m", "gaff", "run", "--config", str(self.config_file)]
        command += ["--run-dir", str(self.root / "gaff")]
        environment = {**os.environ, **self.environment, "NO_COLOR": "1"}
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.root / "gaff" / "checkpoints"

    def plan(self, **changes: Any) -> Plan:
        """The in-memory resets that ought to be the same as the run's."""
        width = self.keys["hidden_size"]
        small_init = Distribution("normal", (2 / (5 * width)) ** 0.5)
        values = {}
        for number, iteration in enumerate(self.resets, start=1):
            drawn = DrawnValues(small_init, SEED, number, INPUT_EMBEDDING, width)
            values[iteration] = self.root / f"reset-{number}.npy"
            np.save(values[iteration], drawn.values(0, ROWS * width).reshape(ROWS, width))
        return Plan(values=values, **changes)

    def launch(
        self, name: str, start: int, stop: int, *, in_place_of: tuple[str, str] = ("", ""), **environment: str
    ) -> Path:
        """One launch of the trainer; its checkpoints.

        Args:
            name: of the directories.
            start, stop: iterations.
            in_place_of: a word of the command line, and what stands there instead.
            environment: of this launch alone, on top of that.
        """
        folder, save = self.root / f"{name}-{stop}", self.root / name
        folder.mkdir()
        old, new = in_place_of
        with patch.dict(os.environ, {**self.environment, **environment}), reserve_port(name) as port:
            request = SegmentRequest(start, stop, save, folder, port.number, name)
            launch = self.trainer.prepare(self.config, request)
            launch = replace(launch, argv=tuple(new if word == old else word for word in launch.argv))
            with Child(launch, folder / "log", f"{self.root.name}-{name}") as child:  # leaves no process behind
                while child.poll() is None:
                    time.sleep(0.1)
        assert (save / f"global_step{stop}" / "configs").is_dir(), (folder / "log").read_text()[-5000:]
        return save

    def segments(self, name: str, stops: Sequence[int], **environment: str) -> Path:
        """Launches that resume from each other, with nothing done between them."""
        for start, stop in zip([0, *stops], stops, strict=False):
            save = self.launch(name, start, stop, **environment)
        return save
