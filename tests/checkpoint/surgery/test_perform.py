# SPDX-License-Identifier: Apache-2.0
"""What stands in the way of an operation: others at work, files that are shared, read-only or no files, full disks."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gaff.checkpoint.operation import Operation
from gaff.checkpoint.surgery import perform
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.tag_copy import copy_tag
from gaff.checkpoint.transaction import FOLDER, begun_operation
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError, GaffError, InputError
from gaff.files import exclusive_lock
from gaff.plan.settings import InitSpec
from tests.checkpoint.tags import contents, everything, values

GetTag = Callable[[str], Path]
SMALL = "zero1-fp32-pp1-tp1-dp1"
REQUEST = ResetRequest(1, 1234)
EMBEDDING_FILE = "layer_00-model_00-model_states.pt"


def in_child(work: Callable[[], object]) -> int:
    """The exit code of ``work`` in a process of its own: 0, or 1 when it raised what a user is told, else 99."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except GaffError:
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    os._exit(0)


# --- alone ---


def test_two_operations_at_once_are_refused(checkpoint: GetTag) -> None:
    tag = checkpoint(SMALL)
    descriptor = os.open(tag, os.O_RDONLY)
    try:
        with exclusive_lock(descriptor), pytest.raises(InputError, match="another process is operating"):
            reset(tag, REQUEST)
    finally:
        os.close(descriptor)
    assert not reset(tag, REQUEST).already_done


def test_of_two_surgeons_at_once_one_is_sent_away_and_the_tag_is_sound(checkpoint: GetTag) -> None:
    """Two processes start together, with different resets; whatever the order, no bytes are mixed."""
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    command = [sys.executable, "-m", "gaff", "surgery", "reset", str(tag), "--in-place", "--number"]
    both = [subprocess.Popen([*command, number], stderr=subprocess.PIPE, text=True) for number in "12"]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in both]
    assert all(code == 0 or (code == 2 and "another process is operating" in said) for said, code in ends), ends
    assert any(code == 0 for _, code in ends)
    assert verify_tag(tag) == []


# --- files that others share ---


@pytest.mark.parametrize("name", ["zero1-fp32-tp2-pp2-dp2", "zero3-fp32-nopipe-dp2", "zero0-fp32-dp2"])
def test_a_copy_shares_what_is_untouched_and_the_original_stays(name: str, checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(name)
    before = everything(tag)
    twin = copy_tag(tag, tmp_path / "elsewhere")
    touched = reset(twin, REQUEST).operation.touched
    assert everything(tag) == before
    assert verify_tag(tag) == verify_tag(twin) == []
    for path in tag.glob("*.pt"):
        assert os.path.samefile(path, twin / path.name) == (path.name not in touched), path.name
    with pytest.raises(InputError, match="already there"):
        copy_tag(tag, tmp_path / "elsewhere")


def test_a_hard_linked_file_is_replaced_not_patched(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(SMALL)
    path = tag / EMBEDDING_FILE
    os.chmod(path, 0o640)
    os.link(path, tmp_path / "other-checkpoint.pt")
    before, times = path.read_bytes(), path.stat()
    reset(tag, REQUEST)
    assert (tmp_path / "other-checkpoint.pt").read_bytes() == before
    assert (tmp_path / "other-checkpoint.pt").stat().st_mtime_ns == times.st_mtime_ns
    assert path.read_bytes() != before
    assert path.stat().st_mode == times.st_mode
    assert verify_tag(tag) == []


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_behind_a_symbolic_link_is_replaced_not_patched(
    absolute: bool, checkpoint: GetTag, tmp_path: Path
) -> None:
    """As in the caches of Hugging Face and datalad."""
    tag = checkpoint(SMALL)
    blobs = {}
    for path in sorted(tag.glob("*.pt")):
        blob = path.rename(tmp_path / f"blob-{path.name}")
        path.symlink_to(blob if absolute else os.path.relpath(blob, tag))
        blobs[blob] = blob.read_bytes()
    reset(copy_tag(tag, tmp_path / "twin"), REQUEST)
    assert {blob: blob.read_bytes() for blob in blobs} == blobs
    touched = reset(tag, REQUEST).operation.touched
    assert {blob: blob.read_bytes() for blob in blobs} == blobs
    assert {p.name for p in tag.glob("*.pt") if not p.is_symlink()} == touched
    assert verify_tag(tag) == verify_tag(tmp_path / "twin" / "global_step5") == []


def test_a_tag_that_is_itself_a_symbolic_link_is_operated_on(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(SMALL)
    (tmp_path / "link").symlink_to(tag)
    reset(tmp_path / "link", REQUEST)
    assert verify_tag(tag) == []
    assert (tag / FOLDER).is_dir()


# --- what is no plain file, or may not be written ---


@pytest.mark.parametrize("what", ["directory", "fifo", "dangling"])
@pytest.mark.parametrize("file", [EMBEDDING_FILE, "zero_pp_rank_0_mp_rank_00_optim_states.pt"])
def test_something_else_under_a_files_name_is_refused_at_once(file: str, what: str, checkpoint: GetTag) -> None:
    tag = checkpoint(SMALL)
    (tag / file).unlink()
    if what == "directory":
        (tag / file).mkdir()
    elif what == "fifo":
        os.mkfifo(tag / file)  # opening it would wait for ever
    else:
        (tag / file).symlink_to("nowhere")
    before = sorted(tag.rglob("*"))
    with pytest.raises(CheckpointError, match=re.escape(file)):
        reset(tag, REQUEST)
    assert perform.finish_interrupted(tag) is None
    assert [Path(str(p.where)).name for p in verify_tag(tag)] == [file]
    assert sorted(tag.rglob("*")) == before


@pytest.mark.parametrize("closed", [EMBEDDING_FILE, "zero_pp_rank_0_mp_rank_00_optim_states.pt", "."])
def test_what_may_not_be_written_is_said_before_anything_is(
    closed: str, checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everything, so what the system would say to others is put in its mouth."""
    tag = checkpoint(SMALL)
    before = everything(tag)
    real = os.access

    def access(path: Path, mode: int) -> bool:
        return real(path, mode) and not (mode == os.W_OK and Path(path) == tag / closed)

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(CheckpointError, match=r"cannot be written to; make it writable, or use --output"):
        reset(tag, REQUEST)
    assert everything(tag) == before


# --- disks ---


def given_values(path: Path) -> InitSpec:
    save_file({"any": np.full((512, 24), 0.25, np.float32)}, path)
    return InitSpec("file", path=str(path))


def test_values_for_which_there_is_no_room_are_refused_beforehand(
    checkpoint: GetTag, tmp_path: Path, tiny_disk: Path
) -> None:
    tag = tiny_disk / "global_step5"
    shutil.copytree(checkpoint(SMALL), tag)
    init = given_values(tmp_path / "given.safetensors")
    before = everything(tag)
    with pytest.raises(CheckpointError, match=r"no room for the 49,152 bytes"):
        reset(tag, ResetRequest(1, 1, init))
    assert everything(tag) == before
    reset(tag, ResetRequest(1, 1))  # which needs next to none
    assert verify_tag(tag) == []


def fill(disk: Path) -> None:
    """Leave no room at all."""
    with open(disk / "rest", "wb", buffering=0) as file:
        room = 1
        while room:
            try:
                room = file.write(bytes(4096))
            except OSError:
                room = 0
    assert shutil.disk_usage(disk).free < 4096


def test_a_disk_that_is_full_to_the_last_byte_is_said_and_leaves_the_tag_as_it_was(
    checkpoint: GetTag, tiny_disk: Path
) -> None:
    tag = tiny_disk / "global_step5"
    shutil.copytree(checkpoint(SMALL), tag)
    fill(tiny_disk)
    before = contents(tag)
    with pytest.raises(CheckpointError, match="the disk is full; free some space"):
        reset(tag, REQUEST)
    assert contents(tag) == before
    assert begun_operation(tag) is None
    assert verify_tag(tag) == []
    (tiny_disk / "rest").unlink()
    reset(tag, REQUEST)
    assert verify_tag(tag) == []


@pytest.mark.parametrize("limit", [0, 1000, 20_000, 49_000, 100_000])
def test_files_that_may_not_grow_leave_a_tag_that_can_be_finished(
    limit: int, checkpoint: GetTag, tmp_path: Path
) -> None:
    """A quota, by way of RLIMIT_FSIZE; files shared with another tag, so that each must be written anew."""
    tag = checkpoint(SMALL)
    old = values(tag)
    init = given_values(tmp_path / "given.safetensors")
    for path in tag.glob("*.pt"):
        os.link(path, tmp_path / path.name)
    shared = {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")}

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        reset(tag, ResetRequest(1, 1, init))

    assert in_child(limited) == 1
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")} == shared
    begun = begun_operation(tag) is not None
    assert [f.id for f in verify_tag(tag)] == (["half-done"] if begun else [])
    assert begun or np.array_equal(values(tag), old)
    assert begun or not list(tag.rglob("*.gaff-tmp"))
    reset(tag, ResetRequest(1, 1, init))
    assert (values(tag) == 0.25).all()
    assert verify_tag(tag) == []
    assert not list(tag.rglob("*.gaff-tmp"))


def test_a_tag_whose_copies_cannot_be_written_says_what_happened(
    checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = checkpoint(SMALL)

    def broken(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(perform, "apply", broken)
        with pytest.raises(CheckpointError, match=r"Input/output error.*finish it with `gaff surgery finish`"):
            reset(tag, REQUEST)
    assert [f.id for f in verify_tag(tag)] == ["half-done"]
    assert perform.finish_interrupted(tag) is not None
    assert perform.finish_interrupted(tag) is None
    assert verify_tag(tag) == []


def test_bytes_that_did_not_reach_the_disk_are_not_recorded(
    checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CRCs on disk are not those that were written: the operation stays begun, and is done again."""
    tag = checkpoint(SMALL)
    real = perform.apply

    def lost(place: Path, operation: object) -> object:
        outcome = real(place, operation)  # type: ignore[arg-type]
        shutil.copy(saved, place / EMBEDDING_FILE)
        return outcome

    saved = shutil.copy(tag / EMBEDDING_FILE, tag.parent / "saved")
    with monkeypatch.context() as patch:
        patch.setattr(perform, "apply", lost)
        with pytest.raises(CheckpointError, match="does not hold what was written to it; check the disk"):
            reset(tag, REQUEST)
    assert [f.id for f in verify_tag(tag)] == ["half-done"]
    reset(tag, REQUEST)
    assert verify_tag(tag) == []


def test_an_interrupt_right_after_the_announcement_keeps_what_was_prepared(
    checkpoint: GetTag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent is on disk: from here on the operation will be finished, with the values that were stored for it."""
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    given = tmp_path / "given.safetensors"
    save_file({"any": np.full((512, 24), 0.25, np.float32)}, given)

    def interrupted(tag: Path, operation: Operation) -> None:
        announce(tag, operation)
        raise KeyboardInterrupt

    announce = perform.begin
    monkeypatch.setattr(perform, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reset(tag, ResetRequest(1, 1, InitSpec("file", path=str(given))))
    given.unlink()
    assert perform.finish_interrupted(tag) is not None
    assert verify_tag(tag) == []
    assert (values(tag) == 0.25).all()
