# SPDX-License-Identifier: Apache-2.0
"""Which tags go and which stay, on directories of real checkpoints; and deletions that are killed at every effect."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.completeness import mark_complete, why_unfinished
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.reset import ResetRequest, plan_reset, reset
from gaff.checkpoint.tag_copy import copy_tag
from gaff.checkpoint.transaction import begin, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.plan.config import Config, load_config
from gaff.plan.plan import build_plan
from gaff.supervisor.progress import Progress, judge, set_aside, tags
from gaff.supervisor.retention import (
    DELETING,
    EXPECTED,
    WRITTEN,
    delete,
    expect_stop,
    finish_deletions,
    mark_expected,
    mark_written,
    pending_deletions,
    prune,
    tags_to_delete,
)
from tests.checkpoint.killing import killed_at
from tests.checkpoint.tags import everything
from tests.supervisor.fake_trainer import write_tag

REAL = "zero1-fp32-pp1-tp1-dp1"
MINE, LAST = "0123abcd", 60
CONFIG = """
train_iters: 60
optimizer: {type: Adam, params: {lr: 0.001}}
gaff: {reset_every: 10, trainer: bundled}
"""
STOPS = (10, 20, 30, 40, 50)


@pytest.fixture(scope="module")
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / REAL / "global_step5"


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    """``config(*overrides)``: a config of 60 iterations with k = 10."""

    def load(*overrides: str) -> Config:
        path = tmp_path / "run.yml"
        path.write_text(CONFIG)
        return load_config([path], overrides)

    return load


def write(save: Path, template: Path, iterations: Iterable[int], run_id: str | None = MINE) -> Path:
    """Whole tags, marked as the loop does; with no ``run_id`` as the trainer alone leaves them."""
    for iteration in iterations:
        write_tag(save, template, iteration)
        if run_id:
            mark_complete(save / f"global_step{iteration}")
            mark_written(save / f"global_step{iteration}", run_id)
    return save


def name(save: Path, iteration: int) -> Path:
    return save / f"global_step{iteration}"


# --- the choice ---


@pytest.mark.parametrize(
    ("overrides", "newest", "stay"),
    [
        (["gaff.keep=all"], 50, [10, 20, 30, 40, 50]),
        ([], 50, [10, 20, 30, 40, 50]),
        (["gaff.keep=1"], 50, [50]),
        (["gaff.keep=2"], 50, [40, 50]),
        (["gaff.keep=9"], 50, [10, 20, 30, 40, 50]),
        (["gaff.keep=2"], 30, [20, 30, 40, 50]),  # what lies beyond is another's to judge
        (["gaff.keep={every: 20}"], 50, [20, 40, 50]),
        (["gaff.keep={newest: 2, every: 30}"], 50, [30, 40, 50]),
        (["gaff.keep=resets"], 50, [20, 40, 50]),
        (["gaff.keep={newest: 1, every: 30, resets: true}"], 50, [20, 30, 40, 50]),
        (["gaff.keep=1", "checkpoint_factor=20"], 50, [20, 40, 50]),
        (["gaff.keep=1", "checkpoint_factor=10"], 50, [10, 20, 30, 40, 50]),
        (["gaff.keep=1", "checkpoint_factor=10", "checkpoint_scale=log"], 50, [10, 50]),
        (["gaff.keep=1", "extra_save_iters=[30, 31]"], 50, [30, 50]),
        (["gaff.keep=1", "train_iters=20"], 50, [20, 50]),  # the last one, whatever lies beyond it
    ],
)
def test_what_stays(
    tmp_path: Path,
    template: Path,
    config: Callable[..., Config],
    overrides: list[str],
    newest: int,
    stay: list[int],
) -> None:
    save = write(tmp_path / "save", template, STOPS)
    for iteration in (20, 40):
        reset(name(save, iteration), ResetRequest(iteration // 10, 1))
    last = 20 if "train_iters=20" in overrides else LAST
    chosen = tags_to_delete(save, config(*overrides), MINE, newest, last)
    assert sorted({*STOPS} - {*chosen}) == stay
    assert prune(save, config(*overrides), MINE, newest, last).deleted == chosen
    assert tags(save) == stay
    assert not (save / DELETING).exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["gaff.keep=2"],
        ["gaff.keep=resets", "gaff.last_reset=30"],
        ["gaff.keep={newest: 2, every: 30}", "extra_save_iters=[0, 10, 15]"],
        ["gaff.keep=1", "checkpoint_factor=20", "gaff.init=step0"],
    ],
)
def test_an_undisturbed_run_keeps_what_its_plan_says(
    tmp_path: Path, template: Path, config: Callable[..., Config], overrides: list[str]
) -> None:
    plan, save, most = build_plan(config(*overrides)), tmp_path / "save", 0
    resets = {made.iteration: made.number for made in plan.resets}
    for iteration in plan.tags:
        is_stop = iteration in {segment.stop for segment in plan.segments}
        write(save, template, [iteration], run_id=MINE if is_stop else None)
        most = max(most, len(tags(save)))
        if iteration in resets:
            reset(name(save, iteration), ResetRequest(resets[iteration], 1))
        if is_stop:
            assert prune(save, config(*overrides), MINE, iteration, LAST).left == {}
    assert (tuple(tags(save)), most) == (plan.kept.tags, plan.kept.most)


def test_only_what_this_run_had_written_goes(tmp_path: Path, template: Path, config: Callable[..., Config]) -> None:
    save = write(tmp_path / "save", template, STOPS)
    write(save, template, [0, 5], run_id=None)  # what `init: step0` and the trainer's own keys left
    write(save, template, [6], run_id="another")
    shutil.copytree(name(save, 10), name(save, 11))  # a copy by hand carries the proof of the original
    shutil.copytree(name(save, 10), save / "global_step10-good")
    (name(save, 20) / "gaff" / WRITTEN).write_text('{"run_id": "0123')
    (name(save, 30) / "gaff" / WRITTEN).write_text("[]")
    set_aside(save, 40)
    done = prune(save, config("gaff.keep=1"), MINE, 50, LAST)
    assert (done.deleted, done.left) == ([10], {})
    assert tags(save) == [0, 5, 6, 11, 20, 30, 50]
    assert {path.name for path in save.iterdir() if path.is_dir()} >= {"global_step10-good", "set-aside"}
    assert why_unfinished(save / "set-aside" / "iteration40-1", 40) is None


def test_a_tag_that_is_not_marked_is_the_one_to_resume_from_all_the_same(
    tmp_path: Path, template: Path, config: Callable[..., Config]
) -> None:
    """The trainer died on its way, after a tag that the config's own keys ask for."""
    save = write(write(tmp_path / "save", template, (10, 20, 30)), template, [35], run_id=None)
    assert prune(save, config("gaff.keep=1"), MINE, 35, LAST).deleted == [10, 20]
    assert tags(save) == [30, 35]


def test_a_tag_whose_history_cannot_be_read_may_be_a_reset_point(
    tmp_path: Path, template: Path, config: Callable[..., Config]
) -> None:
    save = write(tmp_path / "save", template, STOPS)
    record = reset(name(save, 20), ResetRequest(2, 1)).record.path
    record.write_text("{")
    assert tags_to_delete(save, config("gaff.keep=resets"), MINE, 50, LAST) == [10, 30, 40]
    done = prune(save, config("gaff.keep=1"), MINE, 50, LAST)
    assert done.deleted == [10, 30, 40]
    assert "cannot be read" in done.left[20]


# --- what stays though it is due ---


def wrote_anew(tag: Path, template: Path) -> None:
    shutil.copyfile(template / "mp_rank_00_model_states.pt", tag / "mp_rank_00_model_states.pt")


def removed_a_file(tag: Path, template: Path) -> None:
    (tag / "mp_rank_00_model_states.pt").unlink()


def cut_off_a_file(tag: Path, template: Path) -> None:
    os.truncate(tag / "mp_rank_00_model_states.pt", 100)


def left_a_note(tag: Path, template: Path) -> None:
    (tag / "notes.txt").write_text("the best one so far")


def made_a_link(tag: Path, template: Path) -> None:
    tag.rename(tag.parent / "elsewhere")
    tag.symlink_to("elsewhere")


def moved_the_records(tag: Path, template: Path) -> None:
    (tag / "gaff").rename(tag.parent / "records")
    (tag / "gaff").symlink_to(tag.parent / "records")


def protected(tag: Path, template: Path) -> None:
    tag.chmod(stat.S_IMODE(tag.stat().st_mode) & ~0o222)


def began_a_reset(tag: Path, template: Path) -> None:
    begin(tag, plan_reset(read_layout(tag), ResetRequest(9, 1)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (wrote_anew, "is not as the trainer wrote it"),
        (removed_a_file, "has other files"),
        (cut_off_a_file, "is left alone"),
        (left_a_note, "holds notes.txt, which neither"),
        (made_a_link, "symbolic link"),
        (moved_the_records, "symbolic link"),
        (protected, "is write-protected"),
        (began_a_reset, "is half operated on"),
    ],
)
def test_what_somebody_changed_is_left_as_it_is(
    tmp_path: Path,
    template: Path,
    config: Callable[..., Config],
    change: Callable[[Path, Path], None],
    why: str,
) -> None:
    save = write(tmp_path / "save", template, STOPS)
    change(name(save, 20), template)
    before = everything(name(save, 20).resolve())
    done = prune(save, config("gaff.keep=1"), MINE, 50, LAST)
    assert (done.deleted, [*done.left]) in (([10, 30, 40], [20]), ([10, 30, 40], []))  # a link is not even looked at
    assert all(why in said for said in done.left.values())
    assert why in (delete(save, 20) or "")
    assert everything(name(save, 20).resolve()) == before
    assert not (save / DELETING).exists()


def test_what_surgery_changed_is_still_what_gaff_wrote(
    tmp_path: Path, template: Path, config: Callable[..., Config]
) -> None:
    save = write(tmp_path / "save", template, (10, 20))
    reset(name(save, 10), ResetRequest(1, 1, save_forgotten=True))
    done = prune(save, config("gaff.keep=1"), MINE, 20, LAST)
    assert (done.deleted, done.left) == ([10], {})


def test_a_tag_that_somebody_operates_on_is_left_for_later(
    tmp_path: Path, template: Path, config: Callable[..., Config]
) -> None:
    save = write(tmp_path / "save", template, STOPS)
    hold = "import fcntl,os,sys; d=os.open(sys.argv[1],0); fcntl.flock(d,2); print('held',flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(name(save, 20))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        done = prune(save, config("gaff.keep=1"), MINE, 50, LAST)
        assert done.deleted == [10, 30, 40]
        assert done.left == {20: "is left alone: another process is operating on this checkpoint"}
        other.communicate()
    assert prune(save, config("gaff.keep=1"), MINE, 50, LAST).deleted == [20]


@pytest.mark.parametrize("change", [removed_a_file, cut_off_a_file, began_a_reset])
def test_nothing_goes_while_the_newest_tag_is_not_sound(
    tmp_path: Path, template: Path, config: Callable[..., Config], change: Callable[[Path, Path], None]
) -> None:
    save = write(tmp_path / "save", template, STOPS)
    change(name(save, 50), template)
    done = prune(save, config("gaff.keep=1"), MINE, 50, LAST)
    assert (done.deleted, done.left) == ([], {})
    assert tags(save) == [*STOPS]


def test_pruning_can_be_ended_early_and_carried_on(
    tmp_path: Path, template: Path, config: Callable[..., Config]
) -> None:
    save = write(tmp_path / "save", template, STOPS)
    asked = iter([False, False, True])
    assert prune(save, config("gaff.keep=1"), MINE, 50, LAST, enough=lambda: next(asked)).deleted == [10, 20]
    assert prune(save, config("gaff.keep=1"), MINE, 50, LAST).deleted == [30, 40]


# --- the proof ---


def test_the_proof_disturbs_nobody(tmp_path: Path, template: Path) -> None:
    save = write(tmp_path / "save", template, [10], run_id=None)
    tag = name(save, 10)
    assert judge(save) == Progress(10, {})
    complete = (tag / "gaff" / "complete.json").read_bytes()
    mark_written(tag, MINE)
    assert (tag / "gaff" / "complete.json").read_bytes() == complete
    assert (verify_tag(tag), judge(save)) == ([], Progress(10, {}))
    reset(tag, ResetRequest(1, 1))
    assert (verify_tag(tag), judge(save)) == ([], Progress(10, {}))
    assert [record.operation.kind for record in valid_records(tag)] == ["reset"]
    mark_written(tag, MINE)  # again, after the reset
    assert (verify_tag(tag), judge(save)) == ([], Progress(10, {}))


def test_a_copy_that_shares_its_files_outlives_the_tag(tmp_path: Path, template: Path) -> None:
    save = write(tmp_path / "save", template, [10])
    copied = copy_tag(name(save, 10), tmp_path / "mine")
    assert (copied / "layer_00-model_00-model_states.pt").stat().st_nlink == 2
    before = everything(copied)
    assert delete(save, 10) is None
    assert everything(copied) == before
    assert verify_tag(copied) == []


def test_links_in_a_tag_are_not_followed(tmp_path: Path, template: Path) -> None:
    save = write(tmp_path / "save", template, [10])
    tag, outside = name(save, 10), tmp_path / "outside"
    outside.mkdir()
    file = tag / "layer_00-model_00-model_states.pt"
    shutil.move(file, outside / "weights")
    file.symlink_to(outside / "weights")
    shutil.move(tag / "configs", outside / "configs")
    (tag / "configs").symlink_to(outside / "configs")
    before = everything(outside)
    assert len(before) == 2
    assert delete(save, 10) is None
    assert everything(outside) == before


def test_only_the_tag_that_the_last_launch_was_to_stop_at_is_marked(tmp_path: Path, template: Path) -> None:
    save = write(tmp_path / "save", template, [10, 20], run_id=None)
    marks = [name(save, i) / "gaff" / WRITTEN for i in (10, 20)]
    assert not mark_expected(save, MINE, 20)  # never launched
    expect_stop(save, MINE, 20)
    assert not mark_expected(save, MINE, 10)
    assert not mark_expected(save, "another", 20)
    assert [mark.exists() for mark in marks] == [False, False]
    assert mark_expected(save, MINE, 20)
    assert [mark.exists() for mark in marks] == [False, True]
    assert not (save / EXPECTED).exists()
    assert not mark_expected(save, MINE, 20)  # what is put in its place later is not marked


# --- killed ---


def state(save: Path) -> dict[Path, bytes]:
    """All that is in a save directory, by name in it."""
    return {path.relative_to(save): content for path, content in everything(save).items()}


def folders(save: Path) -> set[str]:
    return {path.name for path in save.iterdir() if path.is_dir()}


@pytest.fixture
def of_three(tmp_path: Path, template: Path) -> Iterator[Callable[[], Path]]:
    """``of_three()`` gives a fresh directory of three marked tags, the middle one of them reset."""
    whole = write(tmp_path / "whole", template, (10, 20, 30))
    reset(name(whole, 20), ResetRequest(2, 1, save_forgotten=True))

    def fresh() -> Path:
        save = tmp_path / "save"
        shutil.rmtree(save, ignore_errors=True)
        shutil.copytree(whole, save)
        return save

    yield fresh
    assert tags(whole) == [10, 20, 30]


def test_killed_anywhere_in_a_deletion_nothing_else_is_lost(
    of_three: Callable[[], Path], config: Callable[..., Config]
) -> None:
    keep = config("gaff.keep=1")
    kept = {path: content for path, content in state(of_three()).items() if path.parts[0] not in STARTS}
    kills, half = 0, 0
    for effect in count():
        save = of_three()
        whole = state(save)
        if not killed_at(effect, lambda at=save: prune(at, keep, MINE, 30, LAST)):
            break
        kills += 1
        now = state(save)
        assert {path: content for path, content in now.items() if path.parts[0] not in (*STARTS, DELETING)} == kept
        assert judge(save) == Progress(30, {})
        for iteration in (10, 20):  # a tag is there as it was, or is no tag any more
            own = [path for path in whole if path.parts[0] == f"global_step{iteration}"]
            assert all(now.get(path) == whole[path] for path in own) or not name(save, iteration).exists()
        half += bool(pending_deletions(save))
        finished = finish_deletions(save)
        assert (pending_deletions(save), finished.left) == ([], {})
        rest = prune(save, keep, MINE, 30, LAST)
        assert rest.left == {}
        assert state(save) == kept
        assert folders(save) == {"global_step30"}
    assert kills > half > 20
    assert folders(save) == {"global_step30"}


STARTS = ("global_step10", "global_step20")


def test_killed_anywhere_in_finishing_a_deletion(of_three: Callable[[], Path]) -> None:
    def begun() -> Path:
        save = of_three()
        (save / DELETING).mkdir()
        name(save, 10).rename(save / DELETING / "iteration10")
        return save

    for effect in count():
        save = begun()
        assert pending_deletions(save) == [10]
        if not killed_at(effect, lambda at=save: finish_deletions(at)):
            break
        if pending_deletions(save):
            assert finish_deletions(save).deleted == [10]
        assert pending_deletions(save) == []
        assert tags(save) == [20, 30]
    assert effect > 10
    assert folders(save) == {"global_step20", "global_step30"}


def test_killed_anywhere_in_marking_the_tag_is_marked_at_the_next_start(
    tmp_path: Path, template: Path, config: Callable[..., Config]
) -> None:
    whole = write(write(tmp_path / "whole", template, [10]), template, [20], run_id=None)
    expect_stop(whole, MINE, 20)
    for effect in count():
        save = tmp_path / f"save{effect}"
        shutil.copytree(whole, save)
        killed = killed_at(effect, lambda at=save: mark_expected(at, MINE, 20))
        assert judge(save) == Progress(20, {})
        mark_expected(save, MINE, 20)
        assert not (save / EXPECTED).exists()
        proof = json.loads((name(save, 20) / "gaff" / WRITTEN).read_text())
        assert (proof["run_id"], proof["iteration"]) == (MINE, 20)
        assert delete(save, 20) is None
        if not killed:
            break
    assert effect > 5


# --- a deletion that cannot be done ---


def test_a_foreign_file_among_what_is_deleted_stays(
    tmp_path: Path, template: Path, config: Callable[..., Config]
) -> None:
    save = write(tmp_path / "save", template, STOPS)
    foreign = save / DELETING / "iteration20" / "thesis.tex"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    assert pending_deletions(save) == [20]
    assert [*finish_deletions(save).left] == [20]
    done = prune(save, config("gaff.keep=1"), MINE, 50, LAST)
    assert done.deleted == [10, 30, 40]
    assert done.left == {20: "cannot be deleted (Directory not empty)"}
    assert foreign.read_text() == "mine"
    assert why_unfinished(name(save, 20), 20) is None


@pytest.mark.parametrize("make", [lambda path: path.write_text(""), lambda path: path.symlink_to("/")])
def test_where_nothing_can_be_moved_to_everything_stays(
    tmp_path: Path, template: Path, config: Callable[..., Config], make: Callable[[Path], Any]
) -> None:
    save = write(tmp_path / "save", template, STOPS)
    make(save / DELETING)
    done = prune(save, config("gaff.keep=1"), MINE, 50, LAST)
    assert (done.deleted, [*done.left]) == ([], [10, 20, 30, 40])
    assert (tags(save), pending_deletions(save)) == ([*STOPS], [])
    assert all("cannot be deleted (" in why for why in done.left.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="takes away rights that only root has and can give back")
def test_what_may_not_be_removed_is_told_and_removed_later(template: Path, config: Callable[..., Config]) -> None:
    nobody, keep = 65534, config("gaff.keep=1")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        save = write(Path(folder) / "save", template, (10, 20, 30))
        for path in (save, *save.rglob("*")):
            os.chown(path, nobody, nobody)
        os.chown(name(save, 10) / "configs", 0, 0)
        os.chown(name(save, 20), 0, 0)
        os.seteuid(nobody)
        try:
            done = prune(save, keep, MINE, 30, LAST)
        finally:
            os.seteuid(0)
        assert done.deleted == []
        assert done.left == {
            10: "is partly deleted, and what is left in deleting/iteration10 cannot be deleted (Permission denied)",
            20: "cannot be deleted (Permission denied)",
        }
        assert (tags(save), pending_deletions(save)) == ([20, 30], [10])
        assert finish_deletions(save).deleted == [10]
        assert prune(save, keep, MINE, 30, LAST).deleted == [20]


def test_a_full_disk_gets_room_again(tiny_disk: Path, template: Path, config: Callable[..., Config]) -> None:
    save = write(tiny_disk, template, (10, 20))
    free = shutil.disk_usage(save).free
    with open(save / "full", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(save).free == 0
    assert prune(save, config("gaff.keep=1"), MINE, 20, LAST).deleted == [10]
    assert shutil.disk_usage(save).free > free / 10
