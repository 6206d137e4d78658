# SPDX-License-Identifier: Apache-2.0
"""The `watch` key of the gaff block: what it takes, what it refuses and where, what it is when nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaff.errors import Location, Problem
from gaff.plan.config import Config, load_config
from gaff.plan.settings import WatchSettings

Write = Callable[..., Path]
Load = Callable[..., Config]
Problems = Callable[..., list[Problem]]

OTHERS: dict[str, Any] = {
    "silence_minutes": 0.5,
    "on_silence": "stop",
    "slow_factor": 3,
    "slow_minutes": 1.5,
    "on_slow": "restart",
    "nan_lines": 2,
    "on_nan": "warn",
    "skipped_in_a_row": 41,
    "on_skipped": "restart",
    "on_loss_scale": "stop",
    "high_loss_factor": 2.5,
    "on_high_loss": "stop",
    "on_late_checkpoint": "restart",
    "disk_factor": 2,
    "restarts": 0,
    "same_iteration": 1,
    "backoff_seconds": 0,
    "grace_seconds": 0,
    "warning_seconds": 60,
}
THRESHOLDS = ("silence_minutes", "slow_factor", "nan_lines", "skipped_in_a_row", "high_loss_factor", "disk_factor")
POLICIES = [key for key in OTHERS if key.startswith("on_")]


def test_without_the_key_all_watchdogs_have_their_defaults(load: Load) -> None:
    assert load().gaff.watch == WatchSettings()


def test_every_key_takes_a_value_that_is_not_its_default_and_comes_back_from_yaml(write: Write, project: Path) -> None:
    assert OTHERS.keys() == {item.name for item in fields(WatchSettings)}
    text = yaml.safe_dump({"gaff": {"watch": OTHERS}})
    config = load_config([write(), write(name="watch.yml", text=text)])
    watch = config.gaff.watch
    assert {item.name: getattr(watch, item.name) for item in fields(watch)} == OTHERS
    assert all(getattr(watch, key) != getattr(WatchSettings(), key) for key in OTHERS)
    (project / "again.yml").write_text(config.to_yaml())
    assert load_config([Path("again.yml")]).gaff.watch == watch


@pytest.mark.parametrize("key", THRESHOLDS)
def test_a_threshold_may_be_never_and_stays_so(load: Load, project: Path, key: str) -> None:
    config = load(f"gaff.watch={{{key}: never}}")
    assert getattr(config.gaff.watch, key) is None
    (project / "again.yml").write_text(config.to_yaml())
    assert getattr(load_config([Path("again.yml")]).gaff.watch, key) is None


@pytest.mark.parametrize("key", sorted(OTHERS.keys() - set(THRESHOLDS)))
def test_other_keys_may_not_be_never(problems: Problems, key: str) -> None:
    [problem] = problems("seed: 7", f"watch:\n    {key}: never")
    assert problem.where == Location("run.yml", 4)
    assert f"`gaff.watch.{key}` must be " in problem.what


@pytest.mark.parametrize("key", POLICIES)
def test_a_policy_is_one_of_three(problems: Problems, key: str) -> None:
    [problem] = problems("seed: 7", f"watch:\n    {key}: kill")
    assert f"`gaff.watch.{key}` must be `warn` or `restart` or `stop`, not the text `kill`" in problem.what


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("silence_minutes: 0", "a number of minutes above 0, or `never`, not the number `0`"),
        ("silence_minutes: .inf", "a number of minutes above 0, or `never`"),
        ("slow_factor: 1", "a number above 1, or `never`, not the number `1`"),
        ("slow_factor: true", "a number above 1, or `never`, not the true/false value `true`"),
        ("slow_minutes: -1", "a number of minutes above 0, not the number `-1`"),
        ("nan_lines: 0", "an integer of at least 1, or `never`, not the number `0`"),
        ("nan_lines: 2.5", "an integer of at least 1, or `never`, not the number `2.5`"),
        ("skipped_in_a_row: many", "an integer of at least 1, or `never`, not the text `many`"),
        ("high_loss_factor: 0.5", "a number above 1, or `never`, not the number `0.5`"),
        ("disk_factor: 0", "a number of checkpoint sizes above 0, or `never`, not the number `0`"),
        ("restarts: -1", "an integer of at least 0, not the number `-1`"),
        ("same_iteration: 0", "an integer of at least 1, not the number `0`"),
        ("backoff_seconds: -1", "a number of seconds from 0 on, not the number `-1`"),
        ("grace_seconds: soon", "a number of seconds from 0 on, not the text `soon`"),
    ],
)
def test_a_wrong_value_is_refused_where_it_stands(problems: Problems, value: str, expected: str) -> None:
    [problem] = problems("seed: 7", f"watch:\n    on_slow: stop\n    {value}")
    assert (problem.id, problem.where) == ("gaff-value", Location("run.yml", 5))
    assert expected in problem.what


def test_a_wrong_value_gets_an_example_of_that_very_key(problems: Problems) -> None:
    [problem] = problems("seed: 7", "watch: {restarts: often}")
    assert problem.remedy == "write `watch: {restarts: 10}`, for example"
    [problem] = problems("seed: 7", "watch: {grace-seconds: soon}")
    assert problem.remedy == "write `watch: {grace_seconds: 20}`, for example"


def test_a_misspelt_key_gets_the_one_that_was_meant(problems: Problems) -> None:
    [problem] = problems("seed: 7", "watch:\n    on_slow: warn\n    on_sloth: warn")
    assert problem.what == "`gaff.watch.on_sloth` is not a key of the watch block"
    assert problem.remedy == "did you mean `on_slow`? else remove it"
    assert problem.where == Location("run.yml", 5)


def test_keys_may_be_written_with_hyphens(load: Load) -> None:
    assert load("gaff.watch={nan-lines: 7}").gaff.watch.nan_lines == 7


@pytest.mark.parametrize("value", ["5", "warn", "[on_slow]"])
def test_the_block_must_be_one(problems: Problems, value: str) -> None:
    [problem] = problems("seed: 7", f"watch: {value}")
    assert "`gaff.watch` must be a block with the keys silence_minutes, " in problem.what
