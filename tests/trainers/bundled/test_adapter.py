# SPDX-License-Identifier: Apache-2.0
"""A segment's config tells the trainer exactly where to start and stop, and nothing of the run is lost in it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.settings import GaffSettings, InitSpec
from gaff.trainers.bundled.adapter import BundledTrainer
from gaff.trainers.contract import SegmentRequest
from gaff.trainers.segment_config import segment_keys

NEOX: dict[str, Any] = {
    "train_iters": 400,
    "pipe_parallel_size": 1,
    "extra_save_iters": [50, 100],
    "eval_iters": 10,
    "optimizer": {"type": "Adam", "params": {"lr": 0.001, "eps": 1e-8}},
    "save": "/elsewhere",
    "load": "/elsewhere",
    "exit_interval": 7,
    "log_dir": "/logs",
    "keep_last_n_checkpoints": 2,
}


def config(init: InitSpec | None = None, **changes: Any) -> Config:
    return Config(neox={**NEOX, **changes}, gaff=GaffSettings(reset_every=100, init=init or InitSpec()))


def request(tmp_path: Path, start: int = 100, stop: int = 200) -> SegmentRequest:
    return SegmentRequest(
        start=start, stop=stop, save=tmp_path / "ckpt", directory=tmp_path / "segment 2", master_port=29999, run_id="r1"
    )


def test_a_segment_resumes_from_its_tag_and_stops_by_itself(tmp_path: Path) -> None:
    keys = segment_keys(config(), request(tmp_path), validates_pipelines=True)
    assert keys["load"] == keys["save"] == str(tmp_path / "ckpt")
    assert (keys["iteration"], keys["exit_interval"], keys["master_port"]) == (100, 200, 29999)
    assert keys["extra_save_iters"] == [50, 100, 200]
    assert keys["use_wandb"] is False
    assert not {"log_dir", "keep_last_n_checkpoints"} & set(keys)
    assert keys["optimizer"] == NEOX["optimizer"]


def test_the_first_segment_loads_nothing(tmp_path: Path) -> None:
    keys = segment_keys(config(), request(tmp_path, 0, 100), validates_pipelines=True)
    assert not {"load", "iteration"} & set(keys)


def test_step0_values_need_the_untrained_checkpoint(tmp_path: Path) -> None:
    keys = segment_keys(config(InitSpec("step0")), request(tmp_path), validates_pipelines=True)
    assert keys["extra_save_iters"] == [0, 50, 100, 200]


@pytest.mark.parametrize(("pipe", "capable", "expected"), [(1, False, 0), (0, False, 10), (1, True, 10)])
def test_a_trainer_that_cannot_validate_pipelines_is_told_not_to(
    tmp_path: Path, pipe: int, capable: bool, expected: int
) -> None:
    keys = segment_keys(config(pipe_parallel_size=pipe), request(tmp_path), validates_pipelines=capable)
    assert keys["eval_iters"] == expected


def test_the_users_config_is_not_changed(tmp_path: Path) -> None:
    whole = config()
    segment_keys(whole, request(tmp_path), validates_pipelines=False)
    assert whole.neox == NEOX


def test_prepare_writes_what_the_launch_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch = BundledTrainer().prepare(config(), request(tmp_path))
    path = Path(launch.argv[-1])
    assert launch.cwd == path.parent == tmp_path / "segment 2"
    written = yaml.safe_load(path.read_text())
    assert written == segment_keys(config(), request(tmp_path), validates_pipelines=True)
    assert written["optimizer"]["params"]["eps"] == 1e-8  # a number, not YAML 1.1's string
    assert launch.env["OMP_NUM_THREADS"] == "1"


def test_missing_packages_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else "found")
    problems = [p for p in BundledTrainer().check(config()) if p.id == "missing-package"]
    assert [str(p) for p in problems] == [
        "the bundled trainer needs the Python package deepspeed; pip install 'gaff[bundled]'."
    ]


def test_more_ranks_than_the_machine_can_bear_are_refused_with_the_numbers() -> None:
    asked = config(
        **dict.fromkeys(("hidden_size", "seq_length", "max_position_embeddings"), 32),
        num_layers=2,
        num_attention_heads=4,
        train_micro_batch_size_per_gpu=2,
        tokenizer_type="CharLevelTokenizer",
        data_path="/data/set",
    )

    def crowded(ranks: int) -> list[Problem]:
        problems = BundledTrainer().check(replace(asked, neox={**asked.neox, "global_num_gpus": ranks}))
        return [p for p in problems if p.id != "missing-package"]

    assert crowded(8) == []
    [problem] = crowded(100_000)
    assert problem.id == "too-many-ranks"
    assert "100,000 processes" in problem.what
    assert "processor cores" in problem.what
