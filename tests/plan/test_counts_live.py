# SPDX-License-Identifier: Apache-2.0
"""The parameters that the plan counts are those that unmodified GPT-NeoX prints for the same config."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import pytest

from gaff.plan.config import Config, load_config
from gaff.plan.model import ModelSize, model_size, printed_parameters
from gaff.supervisor.child import Child, end_leftovers
from gaff.trainers.contract import SegmentRequest
from gaff.trainers.select import select_trainer
from tests.trainers.neox.live import MARKS, corpus

pytestmark = MARKS

CONFIGS = Path(__file__).parents[2] / "neox_configs"
#: On the CPU in little memory: no half precision beside a master copy, no kernels of a GPU, short sequences.
_HERE = (
    *("gaff.trainer=neox", "gaff.device=cpu-beside-gpus", "attention_config=null", "num_workers=0"),
    *("scaled_upper_triang_masked_softmax_fusion=false", "bias_gelu_fusion=false", "global_num_gpus=1"),
    *("fp16=null", "precision=fp32", "data_types=null", "fp32_allreduce=null", "zero_optimization={stage: 0}"),
    *("seq_length=32", "max_position_embeddings=32", "train_micro_batch_size_per_gpu=1", "distributed_backend=gloo"),
    "gradient_accumulation_steps=1",
)
_PRINTED = re.compile(r"^ > total params: ([\d,]+)", re.MULTILINE)
_WAIT_S = 900


def tokenizer_of(tokens: int, path: Path) -> Path:
    """A tokenizer file with so many tokens, for a machine that has not Pythia's own."""
    special = ["<|endoftext|>", "<|padding|>"]
    words = [*special, *(f"t{i}" for i in range(tokens - len(special)))]
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": special[0]}
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    return path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def printed_by_neox(config: Config, folder: Path) -> int:
    """The total that GPT-NeoX prints once it has built the model; it is ended there."""
    run_id, log = f"count-{folder.name}", folder / "log"
    launch = select_trainer(config).prepare(config, SegmentRequest(0, 1, folder / "save", folder, free_port(), run_id))
    deadline = time.monotonic() + _WAIT_S
    try:
        with Child(launch, log, run_id) as child:
            while not (found := _PRINTED.search(log.read_text(errors="replace"))):
                assert child.poll() is None, log.read_text(errors="replace")[-3000:]
                assert time.monotonic() < deadline
                child.wait(0.5)
            child.kill()
    finally:
        end_leftovers(run_id)
    return int(found[1].replace(",", ""))


def config_of(name: str, folder: Path, *overrides: str) -> Config:
    data, tokenizer = corpus(folder / "data"), tokenizer_of(50_277, folder / "tokenizer.json")
    return load_config([CONFIGS / f"{name}.yml"], [*_HERE, f"data_path={data}", f"vocab_file={tokenizer}", *overrides])


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("pythia-70m", ()),
        ("pythia-14m", ("no_weight_tying=false", "pos_emb=learned", "pipe_parallel_size=2", "global_num_gpus=2")),
    ],
    ids=["pythia-70m", "tied and learned positions, PP 2"],
)
def test_the_plan_counts_what_gpt_neox_prints(tmp_path: Path, name: str, overrides: tuple[str, ...]) -> None:
    config = config_of(name, tmp_path, *overrides)
    size = model_size(config)
    assert isinstance(size, ModelSize)
    assert printed_parameters(config, size) == printed_by_neox(config, tmp_path)
