# SPDX-License-Identifier: Apache-2.0
"""Resets on unmodified GPT-NeoX in one layout after another: it resumes where, and with the rate, that was asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaff.checkpoint.verify import verify_tag
from gaff.plan.config import load_config
from gaff.plan.learning_rate import learning_rate
from gaff.plan.plan import build_plan
from gaff.trainers.contract import ResumedAt
from tests.live import journal
from tests.trainers.neox.live import MARKS, corpus, train

pytestmark = MARKS

_BF16 = ("precision=bfloat16", "data_types={grad_accum_dtype: fp32}")
_FP16 = ("precision=fp16", "fp16={enabled: true, loss_scale: 0, initial_scale_power: 8, loss_scale_window: 1000}")
_PLAIN = ("pipe_parallel_size=0",)
_RESTART = ("gaff.lr_schedule=restart", "lr_decay_iters=null", "warmup=0.4")  # GAFF adds lr_decay_iters: 5
LAYOUTS = {
    "TP 2 x DP 2, restarts": ("model_parallel_size=2", "global_num_gpus=4", *_RESTART),
    "TP 2 x PP 2, tied": (
        "model_parallel_size=2",
        "pipe_parallel_size=2",
        "global_num_gpus=4",
        "no_weight_tying=false",
    ),
    "ZeRO 1, bf16, DP 2": _BF16,
    "ZeRO 1, fp16, DP 2": _FP16,
    "ZeRO 2, no pipeline": (*_PLAIN, "zero_optimization={stage: 2}"),
    "ZeRO 3, no pipeline, restarts": (*_PLAIN, "zero_optimization={stage: 3}", *_RESTART),
    "ZeRO 0, linear, restarts": ("zero_optimization={stage: 0}", "lr_decay_style=linear", *_RESTART),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_resets(tmp_path: Path, data: Path, layout: str) -> None:
    done = train(tmp_path, data, LAYOUTS[layout], train_iters=20, reset_every=5)
    assert done.code == 0, done.told()
    assert [(e["reset"], e["iteration"]) for e in journal(done.root, "reset_done")] == [(1, 5), (2, 10), (3, 15)]
    assert [verify_tag(done.tag(iteration)) for iteration in (5, 10, 15, 20)] == [[], [], [], []]
    assert [e.iteration for e in done.events() if isinstance(e, ResumedAt)] == [5, 10, 15], "as GPT-NeoX says"
    config = load_config([done.root / "config.yml"])
    planned = learning_rate(config, build_plan(config).segments)
    rates = {line.iteration: line.learning_rate for line in done.logged() if line.skipped == 0}
    assert list(rates) == list(range(1, 21))
    assert rates == {i: pytest.approx(planned.logged(i), rel=1e-3) for i in rates}  # four digits are printed
    if "restarts" in layout:
        assert [planned.logged(i) for i in (1, 5, 6, 7)] == pytest.approx([0.001, 0.0002, 0.001, 0.002])
