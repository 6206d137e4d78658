# SPDX-License-Identifier: Apache-2.0
"""A run directory belongs to one run in one place, and `save` to one run."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gaff.errors import InputError
from gaff.plan.config import Config
from gaff.plan.settings import GaffSettings
from gaff.supervisor.ownership import SAVE_MARK
from gaff.supervisor.run_directory import check_root, open_run, run_directory


def config(save: Path | None = None) -> Config:
    neox = {"train_iters": 40, **({"save": str(save)} if save else {})}
    return Config(neox=neox, gaff=GaffSettings(reset_every=10))


def open_at(root: Path, save: Path | None = None) -> str:
    root.mkdir(exist_ok=True)
    return open_run(run_directory(root, config(save)), config(save), {})


def identity(root: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((root / "run.json").read_text())
    return found


def mark(save: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((save / SAVE_MARK).read_text())
    return found


def test_a_run_keeps_its_id(tmp_path: Path) -> None:
    first = open_at(tmp_path / "one")
    assert open_at(tmp_path / "one") == first
    assert identity(tmp_path / "one")["root"] == str(tmp_path / "one")
    assert mark(tmp_path / "one" / "checkpoints") == {"run_id": first, "run_directory": str(tmp_path / "one")}


def test_a_copy_beside_its_original_is_a_run_of_its_own(tmp_path: Path) -> None:
    original = open_at(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    copy = open_at(tmp_path / "two")
    assert copy != original
    assert open_at(tmp_path / "two") == copy
    assert mark(tmp_path / "two" / "checkpoints") == {"run_id": copy, "run_directory": str(tmp_path / "two")}
    assert open_at(tmp_path / "one") == original
    assert mark(tmp_path / "one" / "checkpoints")["run_id"] == original


def test_a_copy_that_was_killed_between_mark_and_identity_carries_on(tmp_path: Path) -> None:
    open_at(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    before = (tmp_path / "two" / "run.json").read_bytes()
    copy = open_at(tmp_path / "two")
    (tmp_path / "two" / "run.json").write_bytes(before)
    assert open_at(tmp_path / "two") == copy


def test_a_run_that_was_moved_stays_what_it_was(tmp_path: Path) -> None:
    run_id = open_at(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    assert open_at(tmp_path / "two") == run_id
    assert identity(tmp_path / "two")["root"] == str(tmp_path / "two")
    assert mark(tmp_path / "two" / "checkpoints")["run_directory"] == str(tmp_path / "two")


def test_a_moved_run_whose_place_was_taken_by_another_keeps_its_id(tmp_path: Path) -> None:
    run_id = open_at(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    open_at(tmp_path / "one")
    assert open_at(tmp_path / "two") == run_id


def test_one_directory_under_two_names_is_one_run(tmp_path: Path) -> None:
    run_id = open_at(tmp_path / "one")
    (tmp_path / "link").symlink_to("one")
    assert open_at(tmp_path / "link") == run_id
    assert open_at(tmp_path / "one") == run_id


def test_a_copy_may_not_write_into_the_originals_save(tmp_path: Path) -> None:
    save = tmp_path / "shared"
    open_at(tmp_path / "one", save)
    before = mark(save)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with pytest.raises(InputError, match=r"the checkpoints of another run, .*one; carry that run on"):
        open_at(tmp_path / "two", save)
    assert mark(save) == before


def test_a_save_inside_another_runs_directory_stays_that_runs(tmp_path: Path) -> None:
    save = tmp_path / "two" / "checkpoints"
    owner = open_at(tmp_path / "one", save)
    with pytest.raises(InputError, match="another run"):
        open_at(tmp_path / "two")
    assert mark(save)["run_id"] == owner


def test_a_start_that_was_killed_before_the_identity_is_carried_on(tmp_path: Path) -> None:
    run_id = open_at(tmp_path / "one")
    (tmp_path / "one" / "run.json").unlink()
    assert open_at(tmp_path / "one") == run_id


def test_of_many_runs_one_alone_gets_the_save(tmp_path: Path) -> None:
    for attempt in range(10):
        save = tmp_path / f"save{attempt}"

        def attempt_to_open(number: int, save: Path = save) -> bool:
            try:
                open_at(tmp_path / f"{save.name}-run{number}", save)
            except InputError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt_to_open, range(8))) == 1
        assert [p.name for p in save.iterdir()] == [SAVE_MARK]


def test_checkpoints_that_nobody_claimed_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "save" / "global_step10").mkdir(parents=True)
    with pytest.raises(InputError, match="that this run did not write"):
        open_at(tmp_path / "one", tmp_path / "save")
    assert [p.name for p in (tmp_path / "save").iterdir()] == ["global_step10"]


@pytest.mark.parametrize("content", ["{", "{}", "[]", "", '{"run_id": 5}', "\udcff", "[" * 100_000])
@pytest.mark.parametrize("name", ["run.json", f"checkpoints/{SAVE_MARK}"])
def test_a_damaged_file_is_one_sentence(content: str, name: str, tmp_path: Path) -> None:
    open_at(tmp_path / "one")
    path = tmp_path / "one" / name
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as caught:
        open_at(tmp_path / "one")
    assert str(caught.value).startswith(f"{path}: this file of GAFF is damaged: it does not say run_id")
    assert "\n" not in str(caught.value)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    open_at(tmp_path / "one")
    changed = Config(neox={"train_iters": 50}, gaff=GaffSettings(reset_every=10))
    with pytest.raises(InputError, match="began with train_iters = 40"):
        open_run(run_directory(tmp_path / "one", changed), changed, {})


def test_a_root_that_cannot_be_used_is_refused_and_a_good_one_is_not(tmp_path: Path) -> None:
    check_root(tmp_path / "new")
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "a*", tmp_path / "global_step1"):
        with pytest.raises(InputError, match=r"the run directory .* cannot be used: .*; name another with --run-dir"):
            check_root(bad)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
