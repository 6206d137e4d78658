# SPDX-License-Identifier: Apache-2.0
"""What is not as it should be is refused or named, by every check on its own."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint import surgery, transaction
from gaff.checkpoint.archive import Archive
from gaff.checkpoint.layout import read_layout
from gaff.checkpoint.surgery import ResetRequest, finish_interrupted, reset
from gaff.checkpoint.transaction import begun_operation, records, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError
from tests.checkpoint import synthetic
from tests.checkpoint.synthetic import EMBEDDING, EMBEDDING_FILE, rewrite, shard_name

GetTag = Callable[[str], Path]
REQUEST = ResetRequest(number=1, seed=1)
REAL = "zero1-fp32-tp2-pp2-dp2"


def flip(path: Path, record: str, offset: int, *, mend_crc: bool = True) -> None:
    """Change one byte of a record, and its CRCs as somebody would who keeps the zip right."""
    data = bytearray(path.read_bytes())
    found = Archive(path).records[record]
    data[found.data_offset + offset] ^= 0x40
    crc = zlib.crc32(data[found.data_offset : found.data_offset + found.size])
    for field in found.crc_fields if mend_crc else ():
        data[field : field + 4] = crc.to_bytes(4, "little")
    path.write_bytes(data)


def refusal(tag: Path) -> tuple[str, str]:
    """Id and sentence with which a reset is refused, after making sure that nothing was written."""
    before = {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError) as caught:
        reset(tag, REQUEST)
    assert {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()} == before
    return caught.value.problems[0].id, str(caught.value)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """8 x 6 embedding over three data ranks: 17, 17 and 14 elements."""
    pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    tag = synthetic.write_tag(tmp_path / "save", rows=8, width=6, neighbour=3, data_ranks=3)
    assert verify_tag(tag) == []
    return tag


def state_of(root: Any) -> Any:
    return root["optimizer_state_dict"]


# --- changes that no reset made ---


def test_a_file_that_the_reset_did_not_touch_and_that_changed_since_is_named(checkpoint: GetTag) -> None:
    tag = checkpoint(REAL)
    reset(tag, REQUEST)
    untouched = valid_records(tag)[-1].operation.untouched
    assert "layer_03-model_01-model_states.pt" in untouched
    for name in untouched:
        whole = (tag / name).read_bytes()
        tensor = next(r for r in Archive(tag / name).records if r.startswith("data/"))
        flip(tag / name, tensor, 1)
        with zipfile.ZipFile(tag / name) as archive:
            assert archive.testzip() is None, "the zip itself must not give it away"
        assert [(p.id, Path(str(p.where)).name) for p in verify_tag(tag)] == [("changed-elsewhere", name)]
        (tag / name).write_bytes(whole)
    assert verify_tag(tag) == []


def test_a_record_beside_the_edited_ones_that_changed_since_is_named(checkpoint: GetTag) -> None:
    """In a file that the reset did touch: another tensor of the optimizer's shard."""
    tag = checkpoint(REAL)
    reset(tag, REQUEST)
    operation = valid_records(tag)[-1].operation
    edited = {(edit.copy.file, edit.copy.record) for edit in operation.edits}
    beside = [
        (name, record)
        for name, crcs in operation.crcs_before.items()
        for record in crcs
        if record.startswith("data/") and (name, record) not in edited
    ]
    assert beside
    for name, record in beside:
        flip(tag / name, record, 0)
        assert [Path(str(p.where)).name for p in verify_tag(tag)] == [name], record
        flip(tag / name, record, 0)
    assert verify_tag(tag) == []


def test_a_crc_that_is_wrong_beside_the_record_only_is_found(checkpoint: GetTag) -> None:
    """zipfile looks at the central directory alone; a streaming reader believes the data descriptor."""
    tag = checkpoint(REAL)
    path = tag / "layer_03-model_01-model_states.pt"
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("/data/0"))
    flags, name, extra = struct.unpack_from("<6xH18xHH", data, info.header_offset)
    assert flags & 8, "torch streams its records out, with a data descriptor behind each"
    descriptor = info.header_offset + 30 + name + extra + info.file_size
    assert data[descriptor : descriptor + 8] == b"PK\x07\x08" + info.CRC.to_bytes(4, "little")
    data[descriptor + 4] ^= 1
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    (problem,) = verify_tag(tag)
    assert (problem.id, Path(str(problem.where)).name) == ("bad-crc", path.name)
    assert "data/0" in problem.what


# --- a disk that does not keep what was written ---


def test_a_reset_whose_bytes_are_not_on_disk_is_not_recorded(
    checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment is damaged behind the write, CRCs and all; the copies of the embedding itself agree."""
    tag = checkpoint(REAL)
    copy = next(c for c in read_layout(tag).copies if c.kind == "exp_avg")
    real = transaction.apply

    def apply_on_a_bad_disk(*arguments: Any) -> Any:
        outcome = real(*arguments)
        flip(tag / copy.file, copy.record, copy.offset)
        return outcome

    monkeypatch.setattr(surgery, "apply", apply_on_a_bad_disk)
    with pytest.raises(CheckpointError, match=r"the exp_avg copy is not as reset 1 left it") as caught:
        reset(tag, REQUEST)
    assert [(p.id, Path(str(p.where)).name) for p in caught.value.problems] == [("reset-undone", copy.file)]
    assert begun_operation(tag) is not None
    assert records(tag) == []
    monkeypatch.undo()
    assert finish_interrupted(tag) is not None, "done again on a good disk"
    assert verify_tag(tag) == []


# --- tags that are laid out otherwise ---


def test_a_file_of_a_big_endian_machine_is_refused(checkpoint: GetTag, tmp_path: Path) -> None:
    path = checkpoint(REAL) / EMBEDDING_FILE

    def with_byte_order(order: bytes) -> Path:
        target = tmp_path / f"{order.decode()}.pt"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
            for name in old.namelist():
                new.writestr(name, order if name.endswith("/byteorder") else old.read(name))
        return target

    assert Archive(with_byte_order(b"little")).root.keys() == Archive(path).root.keys()
    with pytest.raises(CheckpointError, match="big-endian machine") as caught:
        Archive(with_byte_order(b"big"))
    assert caught.value.problems[0].id == "big-endian"
    os.replace(tmp_path / "big.pt", path)
    assert refusal(path.parent)[0] == "big-endian"


def test_an_embedding_that_does_not_lie_in_one_piece_is_refused(small: Path) -> None:
    import torch

    def transpose(root: Any) -> None:
        values = root["word_embeddings.weight"]
        root["word_embeddings.weight"] = values.t().contiguous().t()
        assert torch.equal(root["word_embeddings.weight"], values)
        assert root["word_embeddings.weight"].stride() == (1, 8)

    rewrite(small / EMBEDDING_FILE, transpose)
    problem_id, said = refusal(small)
    assert problem_id == "strided-tensor"
    assert EMBEDDING_FILE in said
    assert "not contiguous" in said


def test_a_master_that_does_not_lie_in_one_piece_is_refused(small: Path) -> None:
    def spread(root: Any) -> None:
        groups = state_of(root)["single_partition_of_fp32_groups"]
        groups[0] = groups[0].repeat_interleave(2)[::2]

    rewrite(small / shard_name(1), spread)
    assert refusal(small)[0] == "strided-tensor"


def test_an_optimizer_other_than_adam_is_refused_by_its_state(small: Path) -> None:
    def to_momentum(root: Any) -> None:
        state = state_of(root)["base_optimizer_state"]["state"][0]
        state["momentum_buffer"] = state.pop("exp_avg")
        del state["exp_avg_sq"]

    for rank in range(3):
        rewrite(small / shard_name(rank), to_momentum)
    problem_id, said = refusal(small)
    assert problem_id == "unsupported-optimizer"
    assert "['momentum_buffer'], so it is not Adam's" in said


def test_state_beside_adams_own_is_refused(small: Path) -> None:
    """Adam with ``amsgrad`` keeps a third tensor, which would remember what is to be forgotten."""

    def to_amsgrad(root: Any) -> None:
        state = state_of(root)["base_optimizer_state"]["state"][0]
        state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()

    rewrite(small / shard_name(2), to_amsgrad)
    problem_id, said = refusal(small)
    assert problem_id == "unsupported-optimizer"
    assert "max_exp_avg_sq" in said


def test_moments_that_one_rank_lacks_leave_a_gap(small: Path) -> None:
    rewrite(small / shard_name(1), lambda root: state_of(root)["base_optimizer_state"]["state"].clear())
    problem_id, said = refusal(small)
    assert problem_id == "inconsistent-layout"
    assert "has a gap or an overlap at element 17 of the exp_avg copy" in said


def test_moments_that_the_last_rank_lacks_leave_the_end_open(small: Path) -> None:
    rewrite(small / shard_name(2), lambda root: state_of(root)["base_optimizer_state"]["state"].clear())
    problem_id, said = refusal(small)
    assert problem_id == "inconsistent-layout"
    assert "holds 34 of 48 elements of the exp_avg copy" in said


@pytest.mark.parametrize("shift", [-2, 2], ids=["gap", "overlap"])
def test_tensor_ranks_whose_blocks_do_not_meet_are_refused(shift: int, checkpoint: GetTag) -> None:
    """The end of the first block is moved; the second begins where it should, so the matrix's end looks right."""
    pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    tag = checkpoint(REAL)
    last_of_block = tag / "zero_pp_rank_1_mp_rank_00_optim_states.pt"

    def move(root: Any) -> None:
        mapping = state_of(root)["param_slice_mappings"][0]
        mapping[EMBEDDING] = replace(mapping[EMBEDDING], numel=mapping[EMBEDDING].numel + shift)

    rewrite(last_of_block, move)
    problem_id, said = refusal(tag)
    assert problem_id == "inconsistent-layout"
    assert f"gap or an overlap at element {6144 + shift} of the master copy" in said


def test_a_fragment_that_ends_behind_its_partition_is_refused(small: Path) -> None:
    """It would be read, and written, beyond the tensor."""

    def move(root: Any) -> None:
        mapping = state_of(root)["param_slice_mappings"][0]
        mapping[EMBEDDING] = replace(mapping[EMBEDDING], start=1)

    rewrite(small / shard_name(1), move)
    problem_id, said = refusal(small)
    assert problem_id == "inconsistent-layout"
    assert "shorter than its fragments" in said
