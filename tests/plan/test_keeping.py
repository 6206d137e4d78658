# SPDX-License-Identifier: Apache-2.0
"""The `keep` key: what it takes, and what the plan says of the tags that it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.cli.plan import render_plan
from gaff.errors import Location, Problem
from gaff.plan.config import Config, load_config
from gaff.plan.plan import Plan, build_plan
from gaff.plan.settings import KeepSettings

Load = Callable[..., Config]
Problems = Callable[..., list[Problem]]

ALONE = "checkpoint_factor="  # the good config asks for each of its tags itself
LONG = ("train_iters=1000", "lr_decay_iters=1000", ALONE)  # 100, 200, … 1000, with resets in all but the last


# --- the key ---


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ("all", KeepSettings()),
        ("resets", KeepSettings(newest=1, resets=True)),
        ("3", KeepSettings(newest=3)),
        ("{}", KeepSettings()),
        ("{newest: 2}", KeepSettings(newest=2)),
        ("{every: 500}", KeepSettings(newest=1, every=500)),
        ("{resets: true}", KeepSettings(newest=1, resets=True)),
        ("{resets: false}", KeepSettings()),
        ("{newest: 2, every: 500, resets: true}", KeepSettings(newest=2, every=500, resets=True)),
    ],
)
def test_ways_to_write_it(load: Load, written: str, settings: KeepSettings) -> None:
    assert load(f"gaff.keep={written}").gaff.keep == settings


def test_without_it_all_stay(load: Load) -> None:
    assert load().gaff.keep == KeepSettings()


@pytest.mark.parametrize(
    ("line", "expected", "place"),
    [
        ("keep: 3 last", "must be all, resets, a number of newest, or a block", 3),
        ("keep: 0", "must be all, resets, a number of newest, or a block", 3),
        ("keep: -1", "a number of newest", 3),
        ("keep: 2.5", "a number of newest", 3),
        ("keep: true", "a number of newest", 3),
        ("keep:", "a number of newest", 3),
        ("keep: [1, 2]", "a number of newest", 3),
        ("keep: newest", "a number of newest", 3),
        ("keep:\n    newest: 0", "at least 1", 4),
        ("keep:\n    newest: 2\n    every: 0", "at least 1", 5),
        ("keep:\n    newest: 2\n    every: 1.5", "at least 1", 5),
        ("keep:\n    resets: 1", "true or false", 4),
    ],
)
def test_what_it_does_not_take(problems: Problems, line: str, expected: str, place: int) -> None:
    [problem] = problems("seed: 7", line)
    assert problem.id == "gaff-value"
    assert expected in problem.what
    assert problem.where == Location("run.yml", place)


def test_a_misspelt_key_is_no_key(problems: Problems) -> None:
    [problem] = problems("seed: 7", "keep:\n    newest: 2\n    evry: 1000")
    assert str(problem) == (
        "run.yml:5: `gaff.keep.evry` is not a key of the keep block; did you mean `every`? else remove it."
    )


@pytest.mark.parametrize("keep", ["resets", "{newest: 2, resets: true}"])
def test_tags_of_resets_cannot_be_kept_where_there_are_none(problems: Problems, keep: str) -> None:
    [problem] = problems("reset_every: 100", f"reset_every: never\n  keep: {keep}")
    assert (problem.id, problem.where) == ("reset-never", Location("run.yml", 3))


@pytest.mark.parametrize("keep", ["all", "2", "{every: 100}"])
def test_a_baseline_can_keep_otherwise(problems: Problems, keep: str) -> None:
    assert problems("reset_every: 100", f"reset_every: never\n  keep: {keep}") == []


# --- the plan ---


def planned(load: Load, *overrides: str) -> Plan:
    return build_plan(load(*LONG, *overrides))


@pytest.mark.parametrize(
    ("overrides", "stay", "most"),
    [
        ([], [*range(100, 1001, 100)], 10),
        (["gaff.keep=all"], [*range(100, 1001, 100)], 10),
        (["gaff.keep=1"], [1000], 2),
        (["gaff.keep=3"], [800, 900, 1000], 4),
        (["gaff.keep=30"], [*range(100, 1001, 100)], 10),
        (["gaff.keep={newest: 1, every: 300}"], [300, 600, 900, 1000], 4),
        (["gaff.keep={newest: 2, every: 400}"], [400, 800, 900, 1000], 4),
        (["gaff.keep={newest: 2, every: 300}"], [300, 600, 900, 1000], 5),
        (["gaff.keep=resets"], [*range(100, 1001, 100)], 10),
        (["gaff.keep=resets", "gaff.last_reset=700"], [*range(100, 701, 100), 1000], 8),
        (["gaff.keep=1", "gaff.init=step0"], [0, 1000], 3),
        (["gaff.keep=1", "checkpoint_factor=250"], [250, 500, 750, 1000], 5),
        (["gaff.keep=1", "extra_save_iters=[0, 7, 100]"], [0, 7, 100, 1000], 5),
        (["gaff.keep=1", "checkpoint_factor=10", "checkpoint_scale=log"], [1, 10, 100, 1000], 5),
    ],
)
def test_which_tags_stay_and_how_many_there_are_at_once(
    load: Load, overrides: list[str], stay: list[int], most: int
) -> None:
    plan = planned(load, *overrides)
    assert (list(plan.kept.tags), plan.kept.most) == (stay, most)
    assert plan.checkpoint_bytes is not None
    assert plan.most_disk_bytes == most * plan.checkpoint_bytes
    same = [override for override in overrides if "keep" not in override]
    assert plan.tags == planned(load, *same).tags, "what is written does not depend on what is kept"


def test_json_says_what_is_kept(load: Load) -> None:
    plan = planned(load, "gaff.keep={newest: 2, every: 400}")
    assert plan.checkpoint_bytes is not None
    whole = json.loads(json.dumps(plan.to_json()))
    assert whole["keep"] == {
        "newest": 2,
        "every": 400,
        "resets": False,
        "tags": [400, 800, 900, 1000],
        "most_tags": 4,
        "most_disk_bytes": 4 * plan.checkpoint_bytes,
    }
    assert (len(whole["tags"]), whole["disk_bytes"]) == (10, 10 * plan.checkpoint_bytes)
    assert planned(load, "hidden_size=x").to_json()["keep"]["most_disk_bytes"] is None


def kept_lines(plan: Plan) -> str:
    """The row about what is kept, in one line."""
    lines = render_plan(plan, unicode=True).splitlines()
    assert max(map(len, lines)) <= 100
    begin = next((i for i, line in enumerate(lines) if line.startswith("kept")), None)
    if begin is None:
        return ""
    end = next(i for i in range(begin + 1, len(lines)) if not lines[i].startswith(" "))
    return " ".join(" ".join(lines[begin:end]).split())


def test_text_says_what_is_kept(load: Load) -> None:
    assert kept_lines(planned(load)) == ""
    assert kept_lines(planned(load, "gaff.keep=3")).startswith(
        "kept the 3 newest: 3 tags in the end (800, 900, 1,000); at most 4 at once, "
    )
    assert kept_lines(planned(load, "gaff.keep=1", "hidden_size=x")) == (
        "kept the newest: 1 tag in the end (1,000); at most 2 at once"
    )
    many = kept_lines(planned(load, "gaff.keep={newest: 2, every: 200, resets: true}", "checkpoint_factor=50"))
    assert many.startswith(
        "kept the 2 newest, multiples of 200, reset points, what checkpoint_factor and extra_save_iters ask for: "
        "20 tags in the end (50, 100, …, 950, 1,000); at most 20 at once, "
    )


# --- warnings ---


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["gaff.keep=all"], []),
        (["gaff.keep=2"], []),
        (["gaff.keep=resets"], []),
        (["gaff.keep=1"], ["no-second-tag"]),
        (["gaff.keep=1", "gaff.init=step0"], ["no-second-tag"]),  # to begin anew is no second chance
        (["gaff.keep={newest: 1, every: 500}"], ["no-second-tag"]),  # until 500
        (["gaff.keep=1", "extra_save_iters=[50]"], []),
        (["gaff.keep=2", "checkpoint_factor=100"], ["keep-without-effect"]),
        (["gaff.keep=2", "checkpoint_factor=50"], ["keep-without-effect"]),
        (["gaff.keep=2", "checkpoint_factor=200"], []),
        (["gaff.keep=10", "checkpoint_factor=100"], []),
        (["gaff.keep={newest: 2, every: 150}"], []),
        (["gaff.keep={newest: 2, every: 3000}"], ["keep-every-none"]),
        (["gaff.keep=2", "gaff.save_forgotten=true"], ["forgotten-not-kept"]),
        (["gaff.keep=resets", "gaff.save_forgotten=true"], []),
        (["gaff.keep=2", "gaff.reset_every=never"], []),  # there are stops for a walltime as well
    ],
)
def test_what_a_person_should_know_before_tags_are_deleted(load: Load, overrides: list[str], told: list[str]) -> None:
    plan = planned(load, *overrides)
    assert [warning.id for warning in plan.warnings] == told
    assert all(str(warning.where).startswith("-o gaff.keep=") for warning in plan.warnings)


def test_the_shipped_configs_say_that_keep_alone_deletes_nothing() -> None:
    """They ask for Pythia's tags themselves; the remedy, with which it does, is in the sentence."""
    path = Path(__file__).parents[2] / "neox_configs" / "pythia-14m.yml"
    [warning] = [w for w in build_plan(load_config([path], ["gaff.keep=2"])).warnings if "keep" in w.id]
    assert warning.id == "keep-without-effect"
    plan = build_plan(load_config([path], ["gaff.keep=2", ALONE]))
    assert plan.kept.tags == (142_000, 143_000)
    assert not [w for w in plan.warnings if "keep" in w.id]
