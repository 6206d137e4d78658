# SPDX-License-Identifier: Apache-2.0
"""Live runs on real DeepSpeed: exact resume, GPT-NeoX's files and lines, and no process left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from gaff.data.indexed_dataset import write_dataset

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# The shape of the checkpoints in tests/fixtures/neox-checkpoints (zero1-fp32-learnedpos-dp2), so that they compare.
BASE: dict[str, Any] = {
    "pipe_parallel_size": 1,
    "global_num_gpus": 2,
    "num_layers": 2,
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_attention_heads": 4,
    "seq_length": 16,
    "max_position_embeddings": 16,
    "pos_emb": "learned",
    "no_weight_tying": True,
    "gpt_j_residual": True,
    "init_method": "small_init",
    "output_layer_init_method": "wang_init",
    "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": 1e-8}},
    "min_lr": 0.0001,
    "zero_optimization": {"stage": 1, "reduce_bucket_size": 500000000, "allgather_bucket_size": 500000000},
    "train_micro_batch_size_per_gpu": 2,
    "precision": "fp32",
    "train_iters": 15,
    "lr_decay_style": "cosine",
    "warmup": 0.1,
    "log_interval": 5,
    "eval_interval": 10,
    "eval_iters": 2,
    "split": "8,1,1",
    "steps_per_print": 1000,
    "tokenizer_type": "CharLevelTokenizer",
}


def start(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "gaff.trainers.bundled", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=config.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@dataclass(frozen=True)
class Lab:
    """A directory with data, in which configs are written and run."""

    root: Path

    def config(self, name: str, **keys: Any) -> Path:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        path = self.root / f"{name}.yml"
        path.write_text(yaml.safe_dump({**BASE, "data_path": str(self.root / "set"), "master_port": port, **keys}))
        return path

    def run(self, name: str, **keys: Any) -> tuple[int, str]:
        process = start(self.config(name, **keys))
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def segments(self, name: str, stops: list[int], **keys: Any) -> tuple[Path, str]:
        """Train up to each stop in a launch of its own; the checkpoints and all output."""
        save, lines, before = self.root / name, [], 0
        for stop in stops:
            resume = {"load": str(save), "iteration": before} if before else {}
            asked = {"save": str(save), "exit_interval": stop, "extra_save_iters": [0, 5, 10, 15], **resume, **keys}
            code, output = self.run(f"{name}-{stop}", **asked)
            assert code == 0, output[-3000:]
            lines.append(output)
            before = stop
        return save, "".join(lines)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("bundled")
    random = np.random.default_rng(7)
    write_dataset(root / "set", [random.integers(1, 512, 90) for _ in range(60)], np.dtype("<u2"))
    return Lab(root)


@pytest.fixture(scope="module")
def undisturbed(lab: Lab) -> tuple[Path, str]:
    return lab.segments("undisturbed", [15])


@pytest.fixture(scope="module")
def resumed(lab: Lab) -> tuple[Path, str]:
    return lab.segments("resumed", [5, 10, 15])


def contents(path: Path) -> dict[str, Any]:
    import torch

    return dict(_flat(torch.load(path, weights_only=False, map_location="cpu"), ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}/{key}")
    elif isinstance(value, list | tuple) and "rng_state" not in path:
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}/{number}")
    else:
        yield path, value


def differing(one: Path, other: Path) -> list[str]:
    """Every tensor and number of two tags that is not the same, bit for bit."""
    import torch

    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    found = []
    for path in sorted(one.glob("*.pt")):
        left, right = contents(path), contents(other / path.name)
        assert left.keys() == right.keys()
        for key, value in left.items():
            if torch.is_tensor(value):
                if not torch.equal(value, right[key]):
                    found.append(f"{path.name} {key}")
            elif isinstance(value, int | float | str) and value != right[key]:
                found.append(f"{path.name} {key}")
    return found


def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(
    undisturbed: tuple[Path, str], resumed: tuple[Path, str]
) -> None:
    assert differing(undisturbed[0] / "global_step15", resumed[0] / "global_step15") == []


def test_training_changes_weights_and_lowers_the_loss(undisturbed: tuple[Path, str]) -> None:
    assert differing(undisturbed[0] / "global_step10", undisturbed[0] / "global_step15") != []
    losses = [float(loss) for loss in re.findall(r"lm_loss: (\S+)", undisturbed[1])]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("real", "changes"),
    [
        ("zero1-fp32-learnedpos-dp2", {}),
        ("zero2-fp32-nopipe-dp2", {"pipe_parallel_size": 0, "pos_emb": "rotary", "zero_optimization": {"stage": 2}}),
    ],
)
def test_files_are_those_of_gpt_neox(lab: Lab, unpacked_checkpoints: Path, real: str, changes: dict[str, Any]) -> None:
    """Names, keys, shapes, dtypes and place in the storage; torch's AdamW keeps other settings than FusedAdam."""
    import torch

    save, _ = lab.segments(real, [5], **changes)
    theirs, ours = unpacked_checkpoints / real / "global_step5", save / "global_step5"
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())

    def shape_of(path: Path) -> dict[str, object]:
        kept = {}
        for key, value in contents(path).items():
            if "/param_groups/" in key or "/ds_config/" in key or key.endswith("/step"):
                continue
            tensor = torch.is_tensor(value)
            kept[key] = (tuple(value.shape), value.dtype, value.storage_offset()) if tensor else type(value)
        return kept

    for path in theirs.glob("*.pt"):
        assert shape_of(ours / path.name) == shape_of(path), path.name
    state = contents(ours / "mp_rank_00_model_states.pt")
    assert (state["/iteration"], state["/global_steps"], state["/lr_scheduler/num_iters"]) == (5, 5, 5)


def test_step_0_has_no_moments(undisturbed: tuple[Path, str]) -> None:
    state = contents(undisturbed[0] / "global_step0" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert not [key for key in state if "/base_optimizer_state/state/" in key]


def test_configs_are_written_last_and_verbatim(lab: Lab, resumed: tuple[Path, str]) -> None:
    for tag in resumed[0].glob("global_step*"):
        newest = max(path.stat().st_mtime_ns for path in tag.glob("*.pt"))
        (config,) = (tag / "configs").iterdir()
        assert config.stat().st_mtime_ns >= newest
        assert config.read_text() == (lab.root / config.name).read_text()


def test_output_says_what_gpt_neox_says(resumed: tuple[Path, str]) -> None:
    save, output = resumed
    lines = output.splitlines()
    iteration = re.compile(
        r"^ samples/sec: \d+\.\d{3} \| iteration {7,}(\d+)/ {6}15 \| elapsed time per iteration \(ms\): \d+\.\d \| "
        r"learning rate: \d\.\d{3}E-\d\d \| approx flops per GPU: \d+\.\d[KMGT]?(FLOPS)? \| "
        r"lm_loss: \d\.\d{6}E[+-]\d\d \| "
        r"number of skipped iterations:   0 \| number of nan iterations:   0 \|$"
    )
    assert [int(m[1]) for m in map(iteration.match, lines) if m] == [5, 10, 15]
    assert [line for line in lines if line.startswith("Loading checkpoint")] == [
        "Loading checkpoint and starting from iteration 5",
        "Loading checkpoint and starting from iteration 10",
    ]
    assert f"  successfully loaded {save}/global_step10/mp_rank_00_model_states.pt" in lines
    assert [line.rpartition(" | ")[2] for line in lines if line.startswith("rank: 0 | time:")] == [
        f"exiting the program at iteration {n}" for n in (5, 10, 15)
    ]
    assert any(line.startswith(" validation results at iteration 10 | lm_loss value: ") for line in lines)
    assert any("Checkpoint global_step15 is ready now!" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param(
            "pp2-tied",
            {"pipe_parallel_size": 2, "no_weight_tying": False, "gradient_accumulation_steps": 2},
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            "bf16",
            {"precision": "bfloat16", "data_types": {"grad_accum_dtype": "fp32"}},
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_other_layouts_resume_exactly_too(lab: Lab, name: str, changes: dict[str, Any]) -> None:
    whole, _ = lab.segments(f"{name}-whole", [10], **changes)
    parts, _ = lab.segments(f"{name}-parts", [5, 10], **changes)
    assert differing(whole / "global_step10", parts / "global_step10") == []
    if name == "pp2-tied":
        stages = [contents(parts / "global_step10" / f"zero_pp_rank_0_mp_rank_0{s}_optim_states.pt") for s in (0, 1)]
        first, last = (s["/optimizer_state_dict/single_partition_of_fp32_groups/0"][: 512 * 24] for s in stages)
        assert bool((first == last).all())
    else:
        assert (parts / "global_step10" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").is_file()


def test_the_natural_end_saves_and_validates(lab: Lab) -> None:
    save = lab.root / "natural"
    code, output = lab.run("natural", save=str(save), checkpoint_factor=1000, train_iters=3)
    assert code == 0
    assert (save / "global_step3" / "configs" / "natural.yml").is_file()
    assert " validation results at the end of training for val data | " in output
    assert " test results at the end of training for test data | " in output


def test_a_missing_tag_fails_and_a_missing_latest_starts_from_scratch(lab: Lab) -> None:
    code, output = lab.run("no-tag", load=str(lab.root / "none"), iteration=5, train_iters=1)
    assert code == 1
    assert re.search(r"^\[rank0\]: FileNotFoundError: Unable to load checkpoint", output, re.M)
    code, output = lab.run("no-latest", load=str(lab.root / "none"), train_iters=1)
    assert code == 0
    assert "Unable to load checkpoint." in output.splitlines()
    assert "Loading checkpoint and starting from iteration 0" in output.splitlines()


def test_a_refused_config_is_one_sentence_and_exit_code_2(lab: Lab) -> None:
    code, output = lab.run("refused", hidden_dropout=0.1)
    assert code == 2
    assert output.count("\n") == 1
    assert "refused.yml: the bundled trainer does not do hidden_dropout: 0.1; set it to 0" in output


@pytest.fixture
def training(lab: Lab) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A run in the middle of training, and its ranks."""
    process = start(lab.config("long", train_iters=1_000_000, log_interval=1, eval_iters=0))
    assert process.stdout is not None
    for line in process.stdout:
        if "| iteration" in line:
            break
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    yield process, ranks
    process.kill()
    process.stdout.close()
    for rank in ranks:
        if rank.is_running():
            rank.kill()


def ended(processes: list[psutil.Process], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 128 + 15), (signal.SIGINT, 128 + 2)]
)
def test_no_rank_outlives_the_launcher(training: Any, number: signal.Signals, code: int) -> None:
    process, ranks = training
    process.send_signal(number)
    assert ended(ranks)
    process.stdout.close()
    assert process.wait(10) == code


def test_a_killed_rank_ends_the_others_and_gives_the_exit_code(training: Any) -> None:
    process, ranks = training
    ranks[1].kill()
    assert ended(ranks)
    process.stdout.close()
    assert process.wait(10) == 128 + 9
