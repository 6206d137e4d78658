# SPDX-License-Identifier: Apache-2.0
"""The list of what GAFF adds or changes is the difference between the user's keys and a segment's, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.plan.changes import changes
from gaff.plan.config import Config
from gaff.plan.plan import build_plan
from gaff.trainers.contract import SegmentRequest
from gaff.trainers.segment_config import segment_keys

Load = Callable[..., Config]
SAVE = Path("/runs/x/checkpoints")

USERS = [
    [],
    ["eval_iters=10"],
    ["eval_iters=10", "pipe_parallel_size=0"],
    ["gaff.lr_schedule=restart", "lr_decay_iters="],
    ["gaff.lr_schedule=restart"],
    ["gaff.init=step0", "extra_save_iters=[0,7,400]"],
    ["log_dir=logs", "keep_last_n_checkpoints=3", "exit_interval=5", "iteration=9", "save=elsewhere", "load=elsewhere"],
    ["use_wandb=true", "master_port=29512"],
    ["use_wandb=", "log_dir=", "load=", "extra_save_iters="],
    ["gaff.device=cpu", "distributed_backend=nccl"],
    ["data_impl=infer"],
    ["data_impl=cached"],
    [f"save={SAVE}", f"load={SAVE}", "master_port=29511", "exit_interval=200", "extra_save_iters=[200]"],
]


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """key -> (before, after) wherever they differ; a null is an absent key, as it is to GPT-NeoX."""
    keys = {*before, *after}
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


@pytest.mark.parametrize("overrides", USERS, ids=lambda overrides: " ".join(overrides) or "good")
@pytest.mark.parametrize("start", [0, 100])
@pytest.mark.parametrize("validates", [False, True])
def test_the_list_is_the_difference_both_ways(load: Load, overrides: list[str], start: int, validates: bool) -> None:
    config = load(*overrides)
    request = SegmentRequest(start, 200, SAVE, Path("/runs/x/segment"), 29511, "id")
    written = segment_keys(config, request, validates_pipelines=validates)
    listed = changes(config, start=start, stop=200, save=str(SAVE), master_port=29511, validates_pipelines=validates)
    assert {c.key: (c.given, c.written) for c in listed} == difference(dict(config.neox), written)
    assert len({c.key for c in listed}) == len(listed)
    assert all(c.why and not c.why.endswith(".") for c in listed)


@pytest.mark.parametrize("overrides", USERS, ids=lambda overrides: " ".join(overrides) or "good")
def test_the_plan_shows_the_same_keys_and_the_values_that_are_known_beforehand(
    load: Load, overrides: list[str]
) -> None:
    config = load(*overrides)
    plan = build_plan(config)
    shown = {change.key: change for change in plan.changes}
    segments = [plan.segments[0], plan.segments[1], plan.segments[-1]]
    keys = set()
    for place, segment in enumerate(segments):
        request = SegmentRequest(segment.start, segment.stop, SAVE, Path("/runs/x/segment"), 29511, "id")
        for key, (before, after) in difference(
            dict(config.neox), segment_keys(config, request, validates_pipelines=False)
        ).items():
            keys.add(key)
            if key not in ("save", "load", "master_port"):
                assert (shown[key].given, shown[key].written[place]) == (before, after), key
    assert keys - {"save", "load", "master_port"} == set(shown) - {"save", "load", "master_port"}


def test_what_every_run_is_told(load: Load) -> None:
    found = {change.key: change.written for change in build_plan(load()).changes}
    save = "<run directory>/checkpoints"
    assert found == {
        "save": (save, save, save),
        "exit_interval": (100, 200, 400),
        "extra_save_iters": ([100], [200], [400]),
        "master_port": ("a free port",) * 3,
        "use_wandb": (False,) * 3,
        "load": (None, save, save),
        "iteration": (None, 100, 300),
        "data_impl": ("mmap",) * 3,
    }


def test_a_save_of_the_users_own_is_where_the_run_saves(load: Load, project: Path) -> None:
    found = {change.key: change.written for change in build_plan(load("save=mine")).changes}
    assert "save" not in found
    assert found["load"][-1] == str(project / "mine")


@pytest.mark.parametrize(("trainer", "shown"), [("neox", True), ("auto", True), ("bundled", False)])
def test_the_bundled_trainer_keeps_its_validation_in_pipelines(load: Load, trainer: str, shown: bool) -> None:
    plan = build_plan(load(f"gaff.trainer={trainer}", "eval_iters=10"))
    assert ("eval_iters" in {change.key for change in plan.changes}) == shown
    assert ("validation-off" in {warning.id for warning in plan.warnings}) == shown


def test_what_a_launcher_needs_is_shown_and_written(load: Load) -> None:
    needs = {"deepspeed_slurm": True, "hostfile": "/hosts", "launcher": "slurm"}
    config = load("launcher=slurm")
    request = SegmentRequest(0, 100, SAVE, Path("/runs/x/segment"), 29511, "id")
    written = segment_keys(config, request, validates_pipelines=False, launcher=needs)
    shown = {change.key: change.written[0] for change in build_plan(config, needs).changes}
    assert needs.items() <= written.items()
    assert {key: shown.get(key) for key in needs} == {"deepspeed_slurm": True, "hostfile": "/hosts", "launcher": None}


def test_a_baseline_has_one_segment_and_nothing_to_resume_from(load: Load) -> None:
    found = {change.key: change.written for change in build_plan(load("gaff.reset_every=never")).changes}
    assert found["exit_interval"] == (400,)
    assert not {"load", "iteration"} & set(found)


def test_json(load: Load) -> None:
    whole = json.loads(json.dumps(build_plan(load("eval_iters=10")).to_json()))
    [change] = [change for change in whole["changes"] if change["key"] == "eval_iters"]
    assert change == {
        "key": "eval_iters",
        "given": 10,
        "written": [0, 0, 0],
        "why": "validation crashes GPT-NeoX when pipe_parallel_size is 1 or more",
    }


@pytest.mark.parametrize(("given", "written"), [("infer", "mmap"), ("", "mmap"), ("mmap", None), ("cached", None)])
def test_a_data_format_that_gpt_neox_finds_and_fails_on_is_named(load: Load, given: str, written: str | None) -> None:
    shown = build_plan(load(f"data_impl={given}")).changes
    assert next((change.written[0] for change in shown if change.key == "data_impl"), None) == written
