# SPDX-License-Identifier: Apache-2.0
"""What differs between configs, and which runs belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gaff.report.compare.configs import DEFAULT, NOT_GIVEN, UNKNOWN, differences, settings
from gaff.report.compare.runs import ComparedRun, read_runs
from tests.report.compare.compared_runs import write_run


def runs(tmp_path: Path, *given: dict[str, Any]) -> list[ComparedRun]:
    return read_runs([write_run(tmp_path / f"r{place}", **one) for place, one in enumerate(given)])


def test_only_keys_that_differ_are_told_ours_first(tmp_path: Path) -> None:
    adam = {"optimizer": {"type": "Adam", "params": {"lr": 1.0e-3, "betas": [0.9, 0.98]}}, "save": "/elsewhere"}
    found = differences(runs(tmp_path, {"k": None}, {"k": 50, "config": adam}))
    assert found == {"gaff.reset_every": ["never", "50"], "optimizer.params.betas": ["[0.9, 0.95]", "[0.9, 0.98]"]}
    assert next(iter(found)) == "gaff.reset_every"


def test_a_key_that_is_missing_is_told_as_such(tmp_path: Path) -> None:
    one = {"k": 50, "config": {"hidden_dropout": 0.1, "warmup": None, "gaff": {"moments": "keep"}}}
    found = differences(runs(tmp_path, {"k": 50}, one))
    assert found == {"gaff.moments": [DEFAULT, "keep"], "hidden_dropout": [NOT_GIVEN, "0.1"]}


def test_numbers_that_say_the_same_do_not_differ(tmp_path: Path) -> None:
    pair = ({"k": 50, "config": {"weight_decay": value}} for value in (0, 0.0))
    assert differences(runs(tmp_path, *pair)) == {}


def test_secrets_are_hidden(tmp_path: Path) -> None:
    found = differences(runs(tmp_path, {"k": 50}, {"k": 50, "config": {"wandb_api_key": "abc123"}}))
    assert found == {"wandb_api_key": [NOT_GIVEN, "(hidden)"]}


def test_what_lies_inside_the_run_directories_is_the_same(tmp_path: Path) -> None:
    pair = [{"k": 50, "config": {"data_path": str(tmp_path / f"r{n}" / "data" / "text")}} for n in (0, 1)]
    assert differences(runs(tmp_path, *pair)) == {}
    assert len(settings(runs(tmp_path / "again", *pair))) == 2  # there it lies outside


def test_a_config_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    given = [write_run(tmp_path / name, k=k) for name, k in (("a", 50), ("b", 100), ("c", 50))]
    (given[2] / "config.yml").write_text("gaff: [")
    found = read_runs(given)
    assert differences(found) == {"gaff.reset_every": ["50", "100", UNKNOWN]}
    assert [run.reset_every for run in found] == [50, 100, 50]  # its resets tell
    assert [setting.runs for setting in settings(found)] == [(0,), (1,), (2,)]


def test_runs_that_differ_in_seeds_alone_are_one_setting(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"k": 50, "seed": 1},
        {"k": 100, "seed": 1},
        {"k": 50, "seed": 2, "config": {"gaff": {"seed": 2}, "save": "/elsewhere"}},
        {"k": 50, "seed": 3, "iterations": 300, "planned": 400},
    ]
    found = settings(runs(tmp_path, *given))
    assert [setting.runs for setting in found] == [(0, 2), (1,), (3,)]  # the last stands elsewhere


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["k50-s1", "k50-s2", "k100"], ["k50", "k100"]),
        (["k50-s1", "k50-s2", "k50"], ["k50-s1", "k50"]),  # the name is taken
    ],
)
def test_a_setting_has_a_name_of_its_own(names: list[str], expected: list[str], tmp_path: Path) -> None:
    ks = (50, 50, 100)
    made = [write_run(tmp_path / name, k=k, seed=n) for n, (name, k) in enumerate(zip(names, ks, strict=True))]
    assert [setting.name for setting in settings(read_runs(made))] == expected
