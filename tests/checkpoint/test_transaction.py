# SPDX-License-Identifier: Apache-2.0
"""Operations that are killed at every durable effect, before it and in the middle of a write, then done again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gaff.checkpoint.completeness import why_unfinished
from gaff.checkpoint.inspect import inspect_tag
from gaff.checkpoint.surgery.learning_rate import RestartRequest, restart_lr
from gaff.checkpoint.surgery.perform import finish_interrupted
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.surgery.resize import ResizeRequest, resize
from gaff.checkpoint.transaction import FOLDER, INTENT, NEW_VALUES, STAGED, begun_operation, records, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError
from gaff.plan.settings import InitSpec
from tests.checkpoint.killing import killed_at
from tests.checkpoint.tags import contents, flip, values

GetTag = Callable[[str], Path]
SMALL = "zero1-fp32-pp1-tp1-dp1"
REQUEST = ResetRequest(1, 1234)
_BEGAN = re.compile(rb'"began": "[^"]*"')


def made(folder: Path) -> dict[str, Any]:
    """What stands in ``gaff/`` but for times; names of files and, of JSON files, what they say."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*")):
        found[path.name] = path.read_bytes() if path.is_file() else None
        if path.suffix == ".json":
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "began"}
    return found


def said_by_inspect(tag: Path) -> bool:
    """Whether ``inspect`` says half done: in its page, or as the reason why it can give none (files of two sizes)."""
    try:
        return bool(inspect_tag(tag)["half_done"])
    except CheckpointError as error:
        if [problem.id for problem in error.problems] != ["half-done"]:
            raise
        return True


class Enumeration:
    """One operation on one checkpoint, killed at each of its effects.

    ``restore`` puts an untouched copy in the tag's place (the path stays, since it stands in records).
    """

    def __init__(self, original: Path, work: Callable[[Path], object], scratch: Path, *, linked: bool = False) -> None:
        self.original = original
        self.linked = linked
        self.tag = scratch / original.parent.name / original.name
        self.work = work
        self.old = contents(original)
        self.restore()
        work(self.tag)
        self.new, self.made = contents(self.tag), made(self.tag / FOLDER)
        assert self.new != self.old

    def restore(self) -> Path:
        shutil.rmtree(self.tag.parent, ignore_errors=True)
        shutil.copytree(self.original, self.tag, copy_function=os.link if self.linked else shutil.copy2)
        return self.tag

    def check_death(self) -> bool:
        """What is left of a kill is the old state, the new one, or said to be half done.  Whether it is the last."""
        now = contents(self.tag)
        faults = [fault.id for fault in verify_tag(self.tag)]
        begun = begun_operation(self.tag) is not None
        assert faults == (["half-done"] if begun else [])
        assert begun or now in (self.old, self.new)
        assert said_by_inspect(self.tag) == begun
        assert why_unfinished(self.tag, 5) is None, "a half-operated tag is still the newest one, to be finished"
        return begun

    def check_done(self, what: object) -> None:
        assert contents(self.tag) == self.new, what
        assert made(self.tag / FOLDER) == self.made, what
        assert not list(self.tag.rglob("*.gaff-tmp")), what
        assert verify_tag(self.tag) == []

    def state(self) -> str:
        """What a kill left on disk, as far as what comes after depends on it.

        Times do not count; nor does the content of what was prepared and never announced, which is removed unread.
        """
        announced = (self.tag / FOLDER / INTENT).exists()
        found = hashlib.sha256()
        for path in sorted(self.tag.rglob("*")):
            prepared = path.name.endswith(".gaff-tmp") or path.name == NEW_VALUES or path.parent.name == STAGED
            data = path.read_bytes() if path.is_file() and (announced or not prepared) else b""
            links = path.lstat().st_nlink if path.suffix == ".pt" else 0
            for part in (path.name.encode(), str(links).encode(), _BEGAN.sub(b"", data)):
                found.update(part + b"\0")
        return found.hexdigest()

    def run(self) -> int:
        """Kill at every effect; do it again; put back what the kill left and finish it.  Returns how many effects.

        A kill that leaves what an earlier one left (a flush leaves no trace) has been seen to.
        """
        seen: set[str] = set()
        for effect in count():
            self.restore()
            if not killed_at(effect, lambda: self.work(self.tag)):
                self.check_done("undisturbed")
                return effect
            state = self.state()
            if state in seen:
                continue
            seen.add(state)
            begun = self.check_death()
            half = {p: p.read_bytes() for p in self.tag.rglob("*") if p.is_file()}
            self.work(self.tag)
            self.check_done(effect)
            self._put_back(half)
            finished = finish_interrupted(self.tag)
            assert (finished is not None) == begun
            if begun:
                self.check_done(("finish", effect))
            else:
                assert contents(self.tag) in (self.old, self.new)
                assert verify_tag(self.tag) == []
            if self.linked:
                assert contents(self.original) == self.old, "another checkpoint shares these files"
        raise AssertionError("never done")

    def _put_back(self, half: dict[Path, bytes]) -> None:
        """The tag as the kill left it."""
        self.restore()
        shutil.rmtree(self.tag / FOLDER, ignore_errors=True)
        for path, data in half.items():
            if path.suffix == ".pt" and self.old.get(path.name) == data:
                continue  # with its links
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(data)


def test_a_reset_in_place_can_be_killed_anywhere(checkpoint: GetTag, tmp_path: Path) -> None:
    effects = Enumeration(checkpoint(SMALL), lambda tag: reset(tag, REQUEST), tmp_path / "kill").run()
    assert effects > 50, "the kill points were reached"


@pytest.mark.exhaustive
def test_a_reset_with_stored_values_can_be_killed_anywhere(checkpoint: GetTag, tmp_path: Path) -> None:
    given = tmp_path / "given.safetensors"
    save_file({"any": np.arange(12288, dtype=np.float32).reshape(512, 24)}, given)
    request = ResetRequest(1, 1, InitSpec("file", path=str(given)), save_forgotten=True)
    effects = Enumeration(checkpoint(SMALL), lambda tag: reset(tag, request), tmp_path / "kill").run()
    assert effects > 60


@pytest.mark.exhaustive
def test_a_reset_of_hard_linked_files_can_be_killed_anywhere(checkpoint: GetTag, tmp_path: Path) -> None:
    killing = Enumeration(checkpoint(SMALL), lambda tag: reset(tag, REQUEST), tmp_path / "kill", linked=True)
    assert killing.run() > 60


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("zero1-fp32-tied-tp2-pp2", ResetRequest(1, 1, InitSpec("matched"))),
        ("zero1-bf16-tp2-dp2", ResetRequest(1, 1, fraction=0.01, save_forgotten=True)),
        ("zero3-fp32-nopipe-dp2", ResetRequest(1, 1, parameters=("*embedd*", "output_embedding"), moments="keep")),
        ("zero2-fp32-nopipe-dp2", ResetRequest(1, 1, parameters=("input_embedding", "*.norm.weight"))),
        ("zero0-fp32-dp2", ResetRequest(1, 1)),
    ],
    ids=["tied", "fraction", "zero3", "nopipe", "zero0"],
)
def test_resets_of_other_layouts_can_be_killed_anywhere(
    name: str, request_: ResetRequest, checkpoint: GetTag, tmp_path: Path
) -> None:
    assert Enumeration(checkpoint(name), lambda tag: reset(tag, request_), tmp_path / "kill").run() > 40


@pytest.mark.exhaustive
def test_a_restarted_schedule_can_be_killed_anywhere(checkpoint: GetTag, tmp_path: Path) -> None:
    """Numbers inside pickles: bytes are patched, or a file is staged and takes the old one's place."""
    tag = checkpoint(SMALL)
    for request in (RestartRequest(0), RestartRequest(3, lr=0.5)):
        killing = Enumeration(tag, lambda tag, request=request: restart_lr(tag, request), tmp_path / "kill")
        assert killing.run() > 30


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_a_resize_can_be_killed_anywhere(checkpoint: GetTag, tmp_path: Path) -> None:
    request = ResizeRequest(vocab=1000, output_rows="init")
    assert Enumeration(checkpoint(SMALL), lambda tag: resize(tag, request), tmp_path / "kill").run() > 60


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)  # minutes on one free core, more where others work beside it
@pytest.mark.parametrize("name", ["zero3-fp32-nopipe-dp2", "zero1-fp32-tied-tp2-pp2"])
def test_a_resize_of_other_layouts_can_be_killed_anywhere(name: str, checkpoint: GetTag, tmp_path: Path) -> None:
    request = ResizeRequest(vocab=200, output_rows="init")
    assert Enumeration(checkpoint(name), lambda tag: resize(tag, request), tmp_path / "kill").run() > 60


def test_killed_again_and_again_it_ends_all_the_same(checkpoint: GetTag, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed" / "global_step5"
    shutil.copytree(checkpoint("zero1-fp32-tp2-pp2-dp2"), undisturbed)
    reset(undisturbed, REQUEST)
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    effect = 3
    while killed_at(effect, lambda: reset(tag, REQUEST), threads=True):
        effect += 7
    assert contents(tag) == contents(undisturbed)
    assert verify_tag(tag) == []


def half_done(tag: Path, request: ResetRequest) -> None:
    """Leave the tag with a reset begun, and some of its files patched."""
    untouched = tag.with_name("untouched")
    shutil.copytree(tag, untouched)
    before = contents(untouched)
    effect = 0
    while begun_operation(tag) is None or contents(tag) == before:
        shutil.rmtree(tag)
        shutil.copytree(untouched, tag)
        assert killed_at(effect, lambda: reset(tag, request))
        effect += 5
    shutil.rmtree(untouched)


def test_another_reset_first_finishes_the_one_that_was_begun(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    half_done(tag, REQUEST)
    assert [f.id for f in verify_tag(tag)] == ["half-done"]
    reset(tag, ResetRequest(2, 1234))
    assert [r.operation.about["reset"] for r in valid_records(tag)] == [1, 2]
    assert verify_tag(tag) == []


def test_records_of_a_tag_that_was_written_anew_do_not_hold(checkpoint: GetTag, unpacked_checkpoints: Path) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    reset(tag, REQUEST)
    for path in (unpacked_checkpoints / "zero1-fp32-tp2-pp2-dp2" / "global_step5").glob("*.pt"):
        shutil.copy(path, tag / path.name)  # as the trainer does when it trains over a tag
    assert len(records(tag)) == 1
    assert valid_records(tag) == []
    assert not reset(tag, REQUEST).already_done
    assert len(valid_records(tag)) == 1


@pytest.mark.parametrize("init", ["step0", "file"])
def test_given_values_are_kept_in_the_tag_until_the_reset_is_done(
    init: str, checkpoint: GetTag, tmp_path: Path
) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    step0 = checkpoint(SMALL).rename(tag.parent / "global_step0")
    spec, expected = InitSpec("step0"), values(step0)
    if init == "file":
        spec = InitSpec("file", path=str(tmp_path / "given.safetensors"))
        save_file({"anything": expected}, tmp_path / "given.safetensors")
    half_done(tag, ResetRequest(1, 1, spec))
    shutil.rmtree(step0)  # where they came from is gone
    (tmp_path / "given.safetensors").unlink(missing_ok=True)
    assert finish_interrupted(tag) is not None
    assert np.array_equal(values(tag), expected)
    assert verify_tag(tag) == []
    assert not (tag / FOLDER / "new-values.safetensors").exists()


def test_stored_values_that_are_gone_are_said_and_nothing_is_written(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    save_file({"anything": values(tag)[::-1].copy()}, tmp_path / "given.safetensors")
    half_done(tag, ResetRequest(1, 1, InitSpec("file", path=str(tmp_path / "given.safetensors"))))
    (tag / FOLDER / "new-values.safetensors").unlink()
    before = contents(tag)
    with pytest.raises(CheckpointError, match="the new values of the reset that was begun here are gone"):
        finish_interrupted(tag)
    assert contents(tag) == before
    assert [f.id for f in verify_tag(tag)] == ["half-done"]


@pytest.mark.parametrize("touched", [False, True], ids=["untouched file", "touched file"])
def test_an_intent_of_another_state_of_the_tag_is_not_replayed(
    touched: bool, checkpoint: GetTag, unpacked_checkpoints: Path
) -> None:
    """The trainer wrote over the tag: over a file that the reset leaves alone, or beside what it changes in one."""
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    half_done(tag, REQUEST)
    if touched:
        flip(tag / "zero_pp_rank_0_mp_rank_00_optim_states.pt", "data.pkl", 2)
    else:
        for path in (unpacked_checkpoints / "zero1-fp16-tp2-dp2" / "global_step5").glob("mp_rank_0[01]*.pt"):
            shutil.copy(path, tag / path.name)
    before = contents(tag)
    with pytest.raises(CheckpointError, match="belongs to an earlier state"):
        reset(tag, REQUEST)
    assert contents(tag) == before


def test_a_damaged_intent_is_said_not_guessed(checkpoint: GetTag) -> None:
    tag = checkpoint(SMALL)
    (tag / FOLDER).mkdir()
    for text in ("{", "[]", "{}", '{"schema": "gaff.operation/2"}', "\x00"):
        (tag / FOLDER / INTENT).write_text(text)
        with pytest.raises(CheckpointError, match=r"intent\.json.*cannot be read"):
            finish_interrupted(tag)
        assert [f.id for f in verify_tag(tag)] == ["damaged-record"]


def test_on_a_read_only_file_system_it_is_said_of_the_checkpoint(checkpoint: GetTag, tiny_disk: Path) -> None:
    tag = tiny_disk / "global_step5"
    shutil.copytree(checkpoint(SMALL), tag)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(CheckpointError, match="cannot be written to"):
        reset(tag, REQUEST)
    assert finish_interrupted(tag) is None
    assert verify_tag(tag) == []
