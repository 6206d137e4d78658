# SPDX-License-Identifier: Apache-2.0
"""On unmodified GPT-NeoX, on the CPU: what GAFF does to its training is exactly what GAFF says.

The reference is GPT-NeoX's own loop in one launch that resets in memory (``hook/sitecustomize.py``).  Needs
GPT_NEOX_DIR and GPT_NEOX_PYTHON (or what ``gaff neox install --cpu`` made); a launch takes 15 to 40 seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.plan.config import load_config
from gaff.trainers.select import select_trainer
from tests.fidelity.in_memory import MASTER
from tests.fidelity.lab import MODEL_KEYS, Lab, write_random_text
from tests.live import different, tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.neox,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not os.environ.get("GPT_NEOX_DIR"), reason="GPT_NEOX_DIR is not set: there is no GPT-NeoX"),
]

END, EVERY = 6, 2
HOOK = Path(__file__).parent / "hook"
BASE: dict[str, Any] = {
    **MODEL_KEYS,
    "pos_emb": "rotary",
    "gpt_j_residual": True,
    "output_layer_parallelism": "column",
    "bias_gelu_fusion": False,
    "num_workers": 0,
    "hidden_dropout": 0,
    "attention_dropout": 0,
    "train_iters": END,
    "extra_save_iters": [2, 4],
    "gaff": {"reset_every": EVERY, "trainer": "neox", "device": "cpu-beside-gpus"},
}
# Tied on two replicas, the embedding reaches over the boundary between their partitions.
SETTINGS: dict[str, dict[str, Any]] = {
    "one-rank": {},
    "dp2-restart": {"global_num_gpus": 2, "no_weight_tying": False, "lr_schedule": "restart"},
    "twenty": {"train_iters": 20},
    "dropout": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
}

NewLab = Callable[..., Lab]


@pytest.fixture(scope="module")
def new_lab(tmp_path_factory: pytest.TempPathFactory) -> NewLab:
    data = write_random_text(tmp_path_factory.mktemp("data"))

    def new(name: str, adam: str = "torch") -> Lab:
        root = tmp_path_factory.mktemp(name)
        keys = {**BASE, "data_path": str(data), **SETTINGS[name]}
        keys["gaff"] = {**BASE["gaff"], "lr_schedule": keys.pop("lr_schedule", "continue")}
        (root / "select.yml").write_text(yaml.safe_dump(keys))
        trainer = select_trainer(load_config([root / "select.yml"]))
        return Lab(root, trainer, keys, {"GAFF_CPU_SHIM_ADAM": adam, "PYTHONPATH": str(HOOK)})

    return new


@pytest.fixture(scope="module")
def lab(new_lab: NewLab) -> Callable[[str], Lab]:
    made: dict[str, Lab] = {}

    def get(name: str) -> Lab:
        if name not in made:
            made[name] = new_lab(name)
        return made[name]

    return get


def in_loop(lab: Lab, name: str, **changes: Any) -> Path:
    """The checkpoints of the reference."""
    return lab.launch(name, 0, END, **lab.plan(**changes).write(lab.root / f"{name}.json"))


def losses(lab: Lab, name: str, stops: list[int]) -> dict[int, float]:
    text = "".join((lab.root / f"{name}-{stop}" / "log").read_text() for stop in stops)
    return {int(i): float(x) for i, x in re.findall(r"\| iteration +(\d+)/.*? lm_loss: (\S+) \|", text)}


@pytest.mark.parametrize(("name", "shards"), [("one-rank", 1), ("dp2-restart", 2)])
def test_stop_edit_resume_is_resetting_in_memory(name: str, shards: int, lab: Callable[[str], Lab]) -> None:
    here = lab(name)
    ours = here.gaff_run()
    reference = in_loop(here, "in-loop", restarts_schedule=here.config.gaff.lr_schedule == "restart")
    for iteration in (*here.resets, END):
        assert different(ours / f"global_step{iteration}", reference / f"global_step{iteration}") == []
    copies = read_layout(ours / f"global_step{END}").copies[INPUT_EMBEDDING]
    assert len({copy.file for copy in copies if copy.kind == MASTER}) == shards


@pytest.mark.parametrize("name", ["one-rank", "dp2-restart"])
def test_segments_without_resets_are_one_piece(name: str, lab: Callable[[str], Lab]) -> None:
    here = lab(name)
    whole, parts = here.segments("whole", [END]), here.segments("parts", [4, END])
    assert different(whole / f"global_step{END}", parts / f"global_step{END}") == []


def test_a_reference_that_forgets_the_master_is_told_apart(lab: Callable[[str], Lab]) -> None:
    here = lab("one-rank")
    forgetful = in_loop(here, "forgetful", forgets=(MASTER,))
    reference = here.root / "in-loop"
    if not reference.is_dir():
        in_loop(here, "in-loop")
    assert different(reference / f"global_step{END}", forgetful / f"global_step{END}")


def test_dropout_goes_on_as_if_nothing_had_stopped(lab: Callable[[str], Lab]) -> None:
    here = lab("dropout")
    whole, parts = here.segments("whole", [END]), here.segments("parts", [4, END])
    assert different(whole / f"global_step{END}", parts / f"global_step{END}") == []


def test_with_deepspeeds_cpu_kernel_segments_differ_in_the_last_digits_alone(new_lab: NewLab) -> None:
    """It multiplies the powers of beta up step by step, and works them out anew after a resume.

    In float32 the two ways to 0.95^10 and to most higher powers differ, so the cut is made at 9.
    """
    here = new_lab("twenty", adam="deepspeed")
    whole, parts = here.segments("whole", [20]), here.segments("parts", [9, 20])
    one, other = losses(here, "whole", [20]), losses(here, "parts", [9, 20])
    assert sorted(one) == sorted(other) == list(range(1, 21))
    assert list(one.values()) == pytest.approx(list(other.values()), rel=2e-6)
    left, right = tensors(whole / "global_step20"), tensors(parts / "global_step20")
    for key, value in left.items():
        # The true gradient of the key part of this bias is zero, and Adam blows its noise up.
        if key.startswith("layer_") and not key.endswith("query_key_value.bias"):
            assert float((value - right[key]).abs().max()) < 1e-6, key
