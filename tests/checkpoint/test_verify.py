# SPDX-License-Identifier: Apache-2.0
"""Faults planted in real checkpoints of several layouts: each is found, named by its file, and told in one line."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER, MODEL, Copy
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.verify import verify_tag
from tests.checkpoint.planting import (
    become_another_run,
    change,
    copies_of,
    count_from,
    flip,
    flip_copy,
    poke,
    set_numbers,
)
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]

PIPELINE = "zero1-fp32-tp2-pp2-dp2"
TIED = "zero1-fp32-tied-tp2-pp2"
ZERO0, ZERO2, ZERO3 = "zero0-fp32-dp2", "zero2-fp32-nopipe-dp2", "zero3-fp32-nopipe-dp2"
LAYOUTS = [PIPELINE, TIED, ZERO0, ZERO2, ZERO3, "zero1-bf16-tp2-dp2"]
WITH_MASTERS = [name for name in ALL_NAMES if name not in (ZERO0, ZERO3)]
SHARDED = [name for name in ALL_NAMES if name != ZERO0]


def told(tag: Path) -> list[tuple[str, str]]:
    """Each fault's id and file."""
    return [(fault.id, Path(str(fault.where)).name) for fault in verify_tag(tag)]


def one_copy(tag: Path, kind: str, parameter: str = INPUT_EMBEDDING) -> Copy:
    return read_layout(tag).of_kind(parameter, kind)[-1]


def a_shard(tag: Path) -> Path:
    return sorted(tag.glob("*_optim_states.pt"))[-1]


def make_reset(tag: Path) -> None:
    reset(tag, ResetRequest(number=1, seed=1))


@pytest.mark.parametrize("name", ALL_NAMES)
def test_real_tags_are_sound_before_and_after_a_reset(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    assert verify_tag(tag) == []
    make_reset(tag)
    assert verify_tag(tag) == []


# Copies that must agree.


@pytest.mark.parametrize("name", WITH_MASTERS)
def test_a_model_copy_that_is_not_its_master_is_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    copy = one_copy(tag, MODEL)
    flip_copy(tag, copy)
    assert told(tag) == [("copies-disagree", copy.file)]
    assert "1 elements of 0.word_embeddings.weight" in str(verify_tag(tag)[0])


@pytest.mark.parametrize("name", ["zero1-bf16-tp2-dp2", "zero1-fp16-tp2-dp2", PIPELINE, TIED])
def test_a_tensor_rank_whose_masters_a_reset_skipped_is_found(name: str, checkpoint: GetTag) -> None:
    """As a script would that edits all layer files, but optimizer shards of the first tensor rank only."""
    tag = checkpoint(name)
    copies = read_layout(tag).copies[INPUT_EMBEDDING]
    change(tag, [c for c in copies if c.kind == MODEL or c.tensor_rank == 0], np.zeros_like)
    assert told(tag) == [("copies-disagree", "layer_00-model_01-model_states.pt")]


def test_a_tensor_rank_that_was_put_back_after_a_reset_is_found(checkpoint: GetTag, unpacked_checkpoints: Path) -> None:
    tag = checkpoint(PIPELINE)
    make_reset(tag)
    files = {c.file for c in read_layout(tag).copies[INPUT_EMBEDDING] if c.tensor_rank == 1}
    for file in files:
        shutil.copy(unpacked_checkpoints / PIPELINE / tag.name / file, tag / file)
    assert sorted(told(tag)) == [("altered-since", file) for file in sorted(files)]


def test_a_second_tied_copy_that_was_missed_is_found(checkpoint: GetTag) -> None:
    tag = checkpoint(TIED)
    first = [c for c in read_layout(tag).copies[INPUT_EMBEDDING] if c.stage == 0 and c.tensor_rank == 0]
    change(tag, first, np.zeros_like)
    assert told(tag) == [("copies-disagree", "zero_pp_rank_0_mp_rank_02_optim_states.pt")]
    assert "its second master differs" in str(verify_tag(tag)[0])


def test_second_tied_masters_may_be_rounded_differently(checkpoint: GetTag) -> None:
    """Seen in real tags: each stage steps its own, in partitions that are cut elsewhere."""
    tag = checkpoint(TIED)
    second = [c for c in read_layout(tag).of_kind(INPUT_EMBEDDING, MASTER) if c.stage == 1]
    change(tag, second, lambda values: np.nextafter(values, np.float32(np.inf)))
    assert told(tag) == []
    change(tag, second, lambda values: np.where(np.arange(len(values)) == 7, values + np.float32(0.01), values))
    assert len(told(tag)) == len(second) == 2


@pytest.mark.parametrize("name", WITH_MASTERS)
def test_a_shard_of_another_run_is_found(name: str, checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(name)
    other = tmp_path / "other" / tag.name
    shutil.copytree(tag, other)
    become_another_run(other)
    assert verify_tag(other) == []
    shutil.copy(a_shard(other), a_shard(tag))
    assert told(tag) == [("copies-disagree", a_shard(tag).name)]


@pytest.mark.parametrize("name", [PIPELINE, "zero1-bf16-tp2-dp2", "zero1-fp32-pp1-tp1-dp1"])
def test_a_layer_file_of_another_run_is_found(name: str, checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(name)
    other = tmp_path / "other" / tag.name
    shutil.copytree(tag, other)
    become_another_run(other)
    shutil.copy(other / "layer_03-model_00-model_states.pt", tag)
    assert told(tag) == [("copies-disagree", "layer_03-model_00-model_states.pt")]


# Files that belong together.


@pytest.mark.parametrize("name", SHARDED)
def test_a_shard_of_another_step_is_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    set_numbers(a_shard(tag), ["step"], 5, 3)
    if len(list(tag.glob("*_optim_states.pt"))) == 1:  # fewer steps than iterations are no fault by themselves
        assert told(tag) == []
    else:
        assert told(tag) == [("foreign-file", a_shard(tag).name)]


def test_a_shard_of_another_step_with_its_weights_is_told_once(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(ZERO2)
    other = tmp_path / "other" / tag.name
    shutil.copytree(tag, other)
    become_another_run(other)
    count_from(other, 5, 3)
    shutil.copy(a_shard(other), a_shard(tag))
    assert told(tag) == [("foreign-file", a_shard(tag).name)]


@pytest.mark.parametrize("name", [PIPELINE, ZERO2, ZERO3])
def test_more_optimizer_steps_than_were_taken_are_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    shards = sorted(tag.glob("*_optim_states.pt"))
    for shard in shards:
        set_numbers(shard, ["step"], 5, 7)
    assert told(tag) == [("foreign-file", shard.name) for shard in shards]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (PIPELINE, "mp_rank_00_model_states.pt"),
        (PIPELINE, "mp_rank_03_model_states.pt"),
        (TIED, "mp_rank_01_model_states.pt"),
        (ZERO3, "zero_pp_rank_1_mp_rank_00_model_states.pt"),
        (ZERO3, "zero_pp_rank_0_mp_rank_00_model_states.pt"),
    ],
)
@pytest.mark.parametrize("number", ["iteration", "num_iters"])
def test_a_model_file_of_another_step_is_found(name: str, file: str, number: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    set_numbers(tag / file, [number], 5, 4)
    found = told(tag)
    assert len(found) == 1
    if (
        name == PIPELINE or number == "iteration"
    ):  # of two files that say two things, the tag's name tells the right one
        assert found == [("foreign-file", file)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_tag_of_another_iteration_than_its_name_is_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    count_from(tag, 5, 4)
    assert told(tag) == [("wrong-iteration", tag.name)]
    assert verify_tag(tag.rename(tag.with_name("global_step4"))) == []
    assert verify_tag(tag.with_name("global_step4").rename(tag.with_name("a-name-of-my-own"))) == []


# What changed after an operation.


@pytest.mark.parametrize("name", LAYOUTS)
def test_moments_that_are_not_zero_after_a_reset_are_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    make_reset(tag)
    copy = one_copy(tag, "exp_avg")
    flip_copy(tag, copy)
    assert told(tag) == [("altered-since", copy.file)]


@pytest.mark.parametrize("name", [PIPELINE, ZERO2, ZERO3])
def test_moments_that_torch_put_back_after_a_reset_are_found(name: str, checkpoint: GetTag) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    tag = checkpoint(name)
    make_reset(tag)
    copy = one_copy(tag, "exp_avg")
    root = torch.load(tag / copy.file, weights_only=False)
    optimizer = root["optimizer_state_dict"]
    optimizer = optimizer.get("base_optimizer_state") or optimizer["optimizer_state_dict"]
    optimizer["state"][0]["exp_avg"].fill_(0.1)
    torch.save(root, tag / copy.file)
    assert told(tag) == [("altered-since", copy.file)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_byte_beside_what_a_reset_edited_is_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    make_reset(tag)
    file = one_copy(tag, "exp_avg").file
    edited = {c.record for c in read_layout(tag).copies[INPUT_EMBEDDING] if c.file == file}
    record = next(r for r in Archive(tag / file).records if r.startswith("data/") and r not in edited)
    flip(tag / file, record, 0, mend_crc=True)
    assert [file for _, file in told(tag)] == [file]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_byte_in_a_file_that_a_reset_did_not_touch_is_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    make_reset(tag)
    touched = {c.file for c in read_layout(tag).copies[INPUT_EMBEDDING]}
    untouched = [path for path in sorted(tag.glob("*.pt")) if path.name not in touched]
    for path in untouched:
        flip(path, "version", 0, mend_crc=True)
    assert sorted(told(tag)) == [("changed-elsewhere", path.name) for path in untouched]


@pytest.mark.parametrize("name", [TIED, ZERO2, ZERO3])
def test_one_bit_of_any_copy_that_changed_since_the_reset_is_found(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    make_reset(tag)
    for copy in read_layout(tag).copies[INPUT_EMBEDDING][::2]:
        flip_copy(tag, copy)
        assert told(tag) == [("altered-since", copy.file)]
        flip_copy(tag, copy)
    assert told(tag) == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_tag_that_was_trained_over_is_sound_without_its_old_record(
    name: str, checkpoint: GetTag, unpacked_checkpoints: Path
) -> None:
    tag = checkpoint(name)
    make_reset(tag)
    for path in (unpacked_checkpoints / name / tag.name).glob("*.pt"):
        shutil.copy(path, tag / path.name)
    assert told(tag) == []


# Damage.


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("operated", [False, True])
def test_a_flipped_bit_anywhere_is_found_by_its_crc(name: str, operated: bool, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    if operated:
        make_reset(tag)
    for kind in (read_layout(tag).truth(INPUT_EMBEDDING), "exp_avg_sq"):
        copy = one_copy(tag, kind)
        flip_copy(tag, copy, mend_crc=False)
        assert told(tag) == [("bad-crc", copy.file)]
        with zipfile.ZipFile(tag / copy.file) as archive:
            assert archive.testzip() is not None
        flip_copy(tag, copy, mend_crc=False)
    assert told(tag) == []


@pytest.mark.parametrize("name", [PIPELINE, ZERO0, ZERO3])
@pytest.mark.parametrize("operated", [False, True])
@pytest.mark.parametrize("place", ["directory", "descriptor"])
def test_a_wrong_crc_is_found(name: str, operated: bool, place: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    if operated:
        make_reset(tag)
    copy = one_copy(tag, "exp_avg")
    field = Archive(tag / copy.file).records[copy.record].crc_fields[place == "descriptor"]
    with open(tag / copy.file, "r+b") as file:
        file.seek(field)
        file.write(b"\x01\x02\x03\x04")
    assert told(tag) == [("bad-crc", copy.file)]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_any_missing_file_is_named(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    for path in sorted(tag.glob("*.pt")):
        away = path.rename(tag.parent / path.name)
        (fault,) = verify_tag(tag)
        if (name, path.name) == (ZERO0, "layer_06-model_00-model_states.pt"):  # looks like a tied model at first
            assert "orders its parameters in a way that is not known" in fault.what
        else:
            assert fault.id == "incomplete-tag"
        away.rename(path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_that_was_cut_off_is_named(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    for path in sorted(tag.glob("*.pt"))[::3]:
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        assert told(tag) == [("truncated-file", path.name)]
        path.write_bytes(whole)
    assert told(tag) == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_damaged_pickle_is_told_once(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    for path in sorted(tag.glob("*.pt"))[::3]:
        whole = path.read_bytes()
        poke(path, "data.pkl", 20, b"\xff" * 8, mend_crc=False)
        assert [file for _, file in told(tag)] == [path.name]
        path.write_bytes(whole)


@pytest.mark.parametrize("name", [PIPELINE, ZERO0, ZERO3])
def test_an_operation_that_was_cut_short_is_told(
    name: str, checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = checkpoint(name)

    def cut_short(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gaff.checkpoint.surgery.perform.apply", cut_short)
    with pytest.raises(KeyboardInterrupt):
        make_reset(tag)
    (fault,) = verify_tag(tag)
    assert fault.id == "half-done"
    assert "gaff surgery finish" in fault.remedy


def test_optimizer_files_of_step_0_are_found(checkpoint: GetTag) -> None:
    """What the published GAFF scripts did; before its first step the optimizer has no state."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    tag = checkpoint(PIPELINE)
    shards = sorted(tag.glob("*_optim_states.pt"))
    for shard in shards:
        root = torch.load(shard, weights_only=False)
        root["optimizer_state_dict"]["base_optimizer_state"]["state"] = {}
        torch.save(root, shard)
    assert told(tag) == [("foreign-file", shard.name) for shard in shards]
    assert "holds no moments" in str(verify_tag(tag)[0])


def test_masters_alone_are_enough_where_there_is_no_model_copy(checkpoint: GetTag) -> None:
    tag = checkpoint(ZERO3)
    assert not any(copy.kind == MODEL for copy in copies_of(read_layout(tag)))
    change(tag, read_layout(tag).of_kind(INPUT_EMBEDDING, MASTER), np.zeros_like)
    assert told(tag) == []
