# SPDX-License-Identifier: Apache-2.0
"""On the bundled trainer: stop, edit and resume is the same training as resetting in memory, bit for bit.

The reference is the same trainer in one launch that never stops and resets by itself (``in_memory.py``).  Compared is
everything in the tags: weights, masters, moments, step counts, learning rates, random states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.trainers.bundled.adapter import BundledTrainer
from tests.fidelity.in_memory import FIRST_MOMENT, MASTER, MODEL, SECOND_MOMENT
from tests.fidelity.lab import MODEL_KEYS, ROOT, Lab, write_random_text
from tests.live import different

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

END, EVERY = 9, 3
BASE: dict[str, Any] = {
    **MODEL_KEYS,
    "global_num_gpus": 1,
    "pos_emb": "learned",
    "train_iters": END,
    "extra_save_iters": [3, 6],
    "gaff": {"reset_every": EVERY, "trainer": "bundled"},
}
# None takes a key away.  Tied on two replicas, the embedding reaches over the boundary between their partitions.
LAYOUTS: dict[str, dict[str, Any]] = {
    "one-rank": {},
    "dp2": {"global_num_gpus": 2, "no_weight_tying": False},
    "pp2-tied": {
        "global_num_gpus": 2, "pipe_parallel_size": 2, "no_weight_tying": False, "gradient_accumulation_steps": 2,
    },
    "bf16-dp2": {
        "global_num_gpus": 2, "no_weight_tying": False, "precision": "bfloat16",
        "data_types": {"grad_accum_dtype": "fp32"},
    },
    "bf16-zero1": {"precision": "bfloat16"},
    "zero0": {"zero_optimization": None},
    "restart-dp2": {"global_num_gpus": 2, "pos_emb": "rotary", "gaff": {"lr_schedule": "restart"}},
    "zero2-no-pipe": {"global_num_gpus": 2, "pipe_parallel_size": 0, "zero_optimization": {"stage": 2}},
}  # fmt: skip

# Where two files hold a part of the embedding's master, or a master each.
SPREAD = ("dp2", "pp2-tied", "bf16-dp2")
# Each takes some ten launches; the others are run with -m exhaustive, as CI does.
QUICK = ("pp2-tied",)
NewLab = Callable[[str], Lab]


def _with_marks(layouts: Iterable[str]) -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in layouts]


@pytest.fixture(scope="module")
def new_lab(tmp_path_factory: pytest.TempPathFactory) -> NewLab:
    data = write_random_text(tmp_path_factory.mktemp("data"))

    def new(name: str) -> Lab:
        keys = {**BASE, "data_path": str(data), **LAYOUTS[name]}
        keys["gaff"] = {**BASE["gaff"], **LAYOUTS[name].get("gaff", {})}
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return Lab(tmp_path_factory.mktemp(name), BundledTrainer(), keys, environment)

    return new


def in_loop(lab: Lab, name: str, **changes: Any) -> Path:
    """The checkpoints of the reference."""
    environment = lab.plan(**changes).write(lab.root / f"{name}.json")
    ours = ("gaff.trainers.bundled", "tests.fidelity.in_loop_bundled")
    return lab.launch(name, 0, END, in_place_of=ours, **environment)


@pytest.mark.parametrize("layout", _with_marks(LAYOUTS))
def test_stop_edit_resume_is_resetting_in_memory(layout: str, new_lab: NewLab) -> None:
    lab = new_lab(layout)
    ours = lab.gaff_run()
    reference = in_loop(lab, "in-loop", restarts_schedule=lab.config.gaff.lr_schedule == "restart")
    for iteration in (*lab.resets, END):
        assert different(ours / f"global_step{iteration}", reference / f"global_step{iteration}") == []
    copies = read_layout(ours / f"global_step{END}").copies[INPUT_EMBEDDING]
    assert (len({copy.file for copy in copies if copy.kind == MASTER}) == 2) == (layout in SPREAD)


@pytest.mark.parametrize(
    ("layout", "mistakes"),
    [
        ("one-rank", [{"forgets": (MASTER,)}]),
        pytest.param("pp2-tied", [{"only_first_stage": True}], marks=pytest.mark.exhaustive),
        pytest.param(
            "one-rank",
            [{"forgets": (kind,)} for kind in (MODEL, FIRST_MOMENT, SECOND_MOMENT)],
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_every_copy_that_is_forgotten_shows(layout: str, mistakes: list[dict[str, Any]], new_lab: NewLab) -> None:
    """A reference that does less than the reset ends elsewhere, so the comparison above can fail."""
    lab = new_lab(layout)
    whole = in_loop(lab, "whole")
    for number, mistake in enumerate(mistakes):
        forgetful = in_loop(lab, f"forgetful-{number}", **mistake)
        assert different(whole / f"global_step{END}", forgetful / f"global_step{END}"), mistake


# The other layouts: tests/trainers/bundled/test_live.py.
@pytest.mark.parametrize("layout", _with_marks(["zero0", "zero2-no-pipe"]))
def test_segments_without_resets_are_one_piece(layout: str, new_lab: NewLab) -> None:
    lab = new_lab(layout)
    whole, parts = lab.segments("whole", [END]), lab.segments("parts", [4, END])
    assert different(whole / f"global_step{END}", parts / f"global_step{END}") == []
