# SPDX-License-Identifier: Apache-2.0
"""Resets that are killed: at every durable effect, before it and in the middle of a write, then done again."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint import transaction
from gaff.checkpoint.completeness import why_unfinished
from gaff.checkpoint.layout import MASTER, read_layout
from gaff.checkpoint.surgery import ResetRequest, finish_interrupted, reset
from gaff.checkpoint.tag_copy import copy_tag
from gaff.checkpoint.transaction import FOLDER, INTENT, begun_operation, records, valid_records
from gaff.checkpoint.values import CopyReader, save_matrix
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError, InputError
from gaff.files import exclusive_lock
from gaff.plan.settings import InitSpec

GetTag = Callable[[str], Path]
KILLED = 77
EFFECTS = ("fsync", "replace", "unlink")


def reset_killed_at(effect: int, tag: Path, request: ResetRequest) -> bool:
    """Run the reset in a child process that dies just before its ``effect``-th effect.  True when it was killed.

    Effects are calls of os.fsync, os.replace and os.unlink, and every chunk of new bytes; of the chunk at which it
    dies, half is written first.
    """
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, KILLED)
        return code == KILLED
    left = effect
    file_written: list[Any] = []

    def count() -> None:
        nonlocal left
        if left == 0:
            for file in file_written:
                if not file.closed:
                    file.flush()
            os._exit(KILLED)
        left -= 1

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            return real(*arguments, **options)

        return call

    try:
        for name in EFFECTS:
            setattr(os, name, counted(getattr(os, name)))
        real_bytes, real_open = transaction.new_bytes, open

        def halves(*arguments: Any) -> Iterator[bytes]:
            for chunk in real_bytes(*arguments):
                half = len(chunk) // 2
                yield chunk[:half]
                count()
                yield chunk[half:]

        def remembered(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = real_open(path, mode, *arguments, **options)
            if mode == "r+b":
                file_written.append(file)
            return file

        transaction.new_bytes = halves  # type: ignore[assignment]
        transaction.open = remembered  # type: ignore[attr-defined]
        reset(tag, request)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def half_done(tag: Path, request: ResetRequest) -> None:
    """Leave the tag with a reset begun, and some of its files patched."""
    untouched = tag.with_name("untouched")
    shutil.copytree(tag, untouched)
    effect = 0
    while begun_operation(tag) is None or contents(tag) == contents(untouched):
        shutil.rmtree(tag)
        shutil.copytree(untouched, tag)
        assert reset_killed_at(effect, tag, request)
        effect += 1
    shutil.rmtree(untouched)


def contents(tag: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in tag.glob("*.pt")}


@pytest.mark.parametrize(
    ("name", "init"),
    [("zero1-fp32-tied-tp2-pp2", InitSpec("matched")), ("zero1-bf16-tp2-dp2", InitSpec())],
    ids=["tied", "bf16"],
)
def test_killed_at_any_effect_and_done_again_it_is_as_if_undisturbed(
    name: str, init: InitSpec, checkpoint: GetTag, tmp_path: Path
) -> None:
    request = ResetRequest(1, 1234, init)
    original = checkpoint(name)
    undisturbed = tmp_path / "undisturbed" / "global_step5"
    shutil.copytree(original, undisturbed)
    reset(undisturbed, request)
    expected = contents(undisturbed)
    effect = 0
    while True:
        tag = tmp_path / f"killed-{effect}" / "global_step5"
        shutil.copytree(original, tag)
        killed = reset_killed_at(effect, tag, request)
        assert why_unfinished(tag, 5) is None, "a half-operated tag is still the newest one, to be finished"
        reset(tag, request)
        assert contents(tag) == expected, effect
        assert verify_tag(tag) == []
        assert [r.operation.reset for r in valid_records(tag)] == [1]
        assert not list(tag.rglob("*.gaff-tmp"))
        shutil.rmtree(tag.parent)
        if not killed:
            break
        effect += 1
    assert effect > 20, "the kill points were reached"


def test_killed_again_and_again_it_ends_all_the_same(checkpoint: GetTag, tmp_path: Path) -> None:
    request = ResetRequest(1, 1234)
    undisturbed = tmp_path / "undisturbed" / "global_step5"
    shutil.copytree(checkpoint("zero1-fp32-tp2-pp2-dp2"), undisturbed)
    reset(undisturbed, request)
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    effect = 3
    while reset_killed_at(effect, tag, request):
        effect += 2
    assert contents(tag) == contents(undisturbed)
    assert verify_tag(tag) == []


def test_another_reset_first_finishes_the_one_that_was_begun(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    half_done(tag, ResetRequest(1, 1234))
    assert [f.id for f in verify_tag(tag)] == ["half-done-reset"]
    reset(tag, ResetRequest(2, 1234))
    assert [r.operation.reset for r in valid_records(tag)] == [1, 2]
    assert verify_tag(tag) == []


def test_a_hard_linked_file_survives_a_kill_in_the_middle(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    for path in tag.glob("*.pt"):
        os.link(path, tmp_path / path.name)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")}
    effect = 2
    while reset_killed_at(effect, tag, ResetRequest(1, 1)):
        assert {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")} == before
        effect += 3
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")} == before
    assert verify_tag(tag) == []


def test_records_of_a_tag_that_was_written_anew_do_not_hold(checkpoint: GetTag, unpacked_checkpoints: Path) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    reset(tag, ResetRequest(1, 1234))
    for path in (unpacked_checkpoints / "zero1-fp32-tp2-pp2-dp2" / "global_step5").glob("*.pt"):
        shutil.copy(path, tag / path.name)  # as the trainer does when it trains over a tag
    assert len(records(tag)) == 1
    assert valid_records(tag) == []
    assert not reset(tag, ResetRequest(1, 1234)).already_done
    assert len(valid_records(tag)) == 1


@pytest.mark.parametrize("init", ["step0", "file"])
def test_given_values_are_kept_in_the_tag_until_the_reset_is_done(
    init: str, checkpoint: GetTag, tmp_path: Path
) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    step0 = checkpoint("zero1-fp32-pp1-tp1-dp1").rename(tag.parent / "global_step0")
    spec = InitSpec("step0")
    expected = CopyReader(read_layout(step0)).values(MASTER, 0, 12288)
    if init == "file":
        spec = InitSpec("file", path=str(tmp_path / "given.safetensors"))
        save_matrix(tmp_path / "given.safetensors", "anything", expected.reshape(512, 24), {})
    half_done(tag, ResetRequest(1, 1, spec))
    shutil.rmtree(step0)  # where they came from is gone
    (tmp_path / "given.safetensors").unlink(missing_ok=True)
    assert finish_interrupted(tag) is not None
    assert (CopyReader(read_layout(tag)).values(MASTER, 0, 12288) == expected).all()
    assert verify_tag(tag) == []
    assert not (tag / FOLDER / "new-values.safetensors").exists()


def test_an_intent_of_another_state_of_the_tag_is_not_replayed(checkpoint: GetTag, unpacked_checkpoints: Path) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    half_done(tag, ResetRequest(1, 1234))
    for path in (unpacked_checkpoints / "zero1-fp16-tp2-dp2" / "global_step5").glob("mp_rank_0[01]*.pt"):
        shutil.copy(path, tag / path.name)  # the trainer wrote over it
    before = contents(tag)
    with pytest.raises(CheckpointError, match="belongs to an earlier state"):
        reset(tag, ResetRequest(1, 1234))
    assert contents(tag) == before


def test_two_operations_at_once_are_refused(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    descriptor = os.open(tag, os.O_RDONLY)
    try:
        with exclusive_lock(descriptor), pytest.raises(InputError, match="another process is operating"):
            reset(tag, ResetRequest(1, 1))
    finally:
        os.close(descriptor)
    assert not reset(tag, ResetRequest(1, 1)).already_done


def test_a_file_behind_a_symbolic_link_is_replaced_not_patched(checkpoint: GetTag, tmp_path: Path) -> None:
    """As in the caches of Hugging Face and datalad."""
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    path = tag / "layer_00-model_00-model_states.pt"
    elsewhere = path.rename(tmp_path / "blob")
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    reset(copy_tag(tag, tmp_path / "twin"), ResetRequest(1, 1))
    assert elsewhere.read_bytes() == before
    reset(tag, ResetRequest(1, 1))
    assert elsewhere.read_bytes() == before
    assert verify_tag(tag) == verify_tag(tmp_path / "twin" / "global_step5") == []


def test_values_that_the_model_cannot_hold_are_refused_before_a_byte_is_written(checkpoint: GetTag) -> None:
    for name, scale in (("zero1-fp16-tp2-dp2", 1e5), ("zero1-bf16-tp2-dp2", 1e38)):
        tag = checkpoint(name)
        before = {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()}
        with pytest.raises(InputError, match="not finite"):
            reset(tag, ResetRequest(1, 1, InitSpec("normal", scale)))
        assert {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()} == before


def test_an_unfinished_tag_is_not_operated_on(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    shutil.rmtree(tag / "configs")
    with pytest.raises(CheckpointError, match="has no configs/"):
        reset(tag, ResetRequest(1, 1, InitSpec("normal", 0.02)))


def test_a_damaged_intent_is_said_not_guessed(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    (tag / FOLDER).mkdir()
    (tag / FOLDER / INTENT).write_text("{")
    with pytest.raises(CheckpointError, match=r"intent\.json.*cannot be read"):
        finish_interrupted(tag)
