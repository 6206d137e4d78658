# SPDX-License-Identifier: Apache-2.0
"""What is not as it should be is refused or named, by every check on its own."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.surgery import perform
from gaff.checkpoint.surgery.perform import finish_interrupted
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.transaction import begun_operation, records, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError
from tests.checkpoint import synthetic
from tests.checkpoint.synthetic import EMBEDDING, EMBEDDING_FILE, rewrite, shard_name
from tests.checkpoint.tags import all_copies, everything, flip, values

GetTag = Callable[[str], Path]
REQUEST = ResetRequest(number=1, seed=1)
REAL = "zero1-fp32-tp2-pp2-dp2"


def refusal(tag: Path) -> tuple[str, str]:
    """Id and sentence with which a reset is refused, after making sure that nothing was written."""
    before = everything(tag)
    with pytest.raises(CheckpointError) as caught:
        reset(tag, REQUEST)
    assert everything(tag) == before
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


def test_an_edit_that_is_not_on_disk_is_found(checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment is damaged behind the write, CRCs and all; the copies of the embedding itself agree."""
    tag = checkpoint(REAL)
    copy = next(c for c in all_copies(tag) if c.kind == "exp_avg")
    real = perform.apply

    def apply_on_a_bad_disk(*arguments: Any) -> Any:
        outcome = real(*arguments)
        flip(tag / copy.file, copy.record, copy.offset)
        return outcome

    monkeypatch.setattr(perform, "apply", apply_on_a_bad_disk)
    with pytest.raises(CheckpointError, match=r"does not hold what was written to it") as caught:
        reset(tag, REQUEST)
    assert [(p.id, Path(str(p.where)).name) for p in caught.value.problems] == [("bad-write", copy.file)]
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


# --- optimizers: every state that is a tensor is forgotten, what is none is refused ---


def rename_states(small: Path, names: dict[str, str | None]) -> None:
    """Give the optimizer's tensors other names, or take them away."""

    def change(root: Any) -> None:
        for state in state_of(root)["base_optimizer_state"]["state"].values():
            for old, new in names.items():
                tensor = state.pop(old)
                if new is not None:
                    state[new] = tensor

    for rank in range(3):
        rewrite(small / shard_name(rank), change)


@pytest.mark.parametrize(
    "names",
    [{"exp_avg": "momentum_buffer", "exp_avg_sq": None}, {"exp_avg_sq": None}, {"exp_avg": None, "exp_avg_sq": None}],
    ids=["SGD with momentum", "Lion", "SGD"],
)
def test_whatever_an_optimizer_keeps_is_forgotten(names: dict[str, str | None], small: Path) -> None:
    rename_states(small, names)
    kept = {names.get(n, n) for n in ("exp_avg", "exp_avg_sq")} - {None}
    edits = reset(small, REQUEST).operation.edits
    assert {e.copy.kind for e in edits} == {"model", "master", *kept}
    for kind in kept:
        assert not values(small, kind=kind).any()
    assert verify_tag(small) == []


def test_a_third_moment_is_forgotten_too(small: Path) -> None:
    """Adam with ``amsgrad`` keeps one, which would remember what is to be forgotten."""

    def to_amsgrad(root: Any) -> None:
        state = state_of(root)["base_optimizer_state"]["state"][0]
        state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()

    for rank in range(3):
        rewrite(small / shard_name(rank), to_amsgrad)
    reset(small, REQUEST)
    assert not values(small, kind="max_exp_avg_sq").any()


def test_a_third_moment_that_one_rank_alone_keeps_is_refused(small: Path) -> None:
    def to_amsgrad(root: Any) -> None:
        state = state_of(root)["base_optimizer_state"]["state"][0]
        state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()

    rewrite(small / shard_name(2), to_amsgrad)
    problem_id, said = refusal(small)
    assert problem_id == "inconsistent-layout"
    assert "max_exp_avg_sq" in said


@pytest.mark.parametrize("state", ["a word", [1, 2], {"deeper": 1}], ids=["word", "list", "dict"])
def test_optimizer_state_that_is_no_tensor_is_refused_by_its_name(state: object, small: Path) -> None:
    def strange(root: Any) -> None:
        state_of(root)["base_optimizer_state"]["state"][0]["quantiles"] = state

    rewrite(small / shard_name(1), strange)
    problem_id, said = refusal(small)
    assert problem_id == "unsupported-layout"
    assert "keeps optimizer state 'quantiles', which is not a tensor" in said


# --- models that are not handled, by name ---


def test_a_mixture_of_experts_is_refused_by_its_file(small: Path) -> None:
    stranger = "layer_2_expert_0_mp_rank_00_model_states.pt"
    (small / stranger).write_bytes((small / EMBEDDING_FILE).read_bytes())
    problem_id, said = refusal(small)
    assert problem_id == "unsupported-layout"
    assert f"holds {stranger}, a file that this version does not understand (mixture of experts?)" in said
    (problem,) = verify_tag(small)
    assert problem.id == "unsupported-layout"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (REAL, "mp_rank_01_model_states.pt"),
        ("zero2-fp32-nopipe-dp2", "mp_rank_00_model_states.pt"),
        ("zero3-fp32-nopipe-dp2", "zero_pp_rank_0_mp_rank_00_model_states.pt"),
    ],
)
def test_frozen_parameters_are_refused(name: str, file: str, checkpoint: GetTag) -> None:
    """Their shards hold no master and no moments of them, in an order of their own."""
    pytest.importorskip("deepspeed")
    tag = checkpoint(name)

    def freeze(root: Any) -> None:
        root["frozen_param_shapes"] = {"sequential.2.input_layernorm.weight": (24,)}

    rewrite(tag / file, freeze)
    problem_id, said = refusal(tag)
    assert problem_id == "unsupported-layout"
    assert "frozen parameters" in said


def test_partitions_of_old_deepspeed_are_refused(small: Path) -> None:
    def older(root: Any) -> None:
        state = state_of(root)
        state["local_sub_partitions_of_fp32_groups"] = state.pop("single_partition_of_fp32_groups")

    rewrite(small / shard_name(0), older)
    problem_id, said = refusal(small)
    assert problem_id == "unsupported-layout"
    assert "DeepSpeed before 0.4" in said


def test_a_tag_of_another_program_is_refused(small: Path) -> None:
    rewrite(small / synthetic.MODEL_FILE, lambda root: root.pop("args"))
    problem_id, said = refusal(small)
    assert problem_id == "not-gpt-neox"
    assert "lacks the `args` that GPT-NeoX saves" in said


# --- pieces that do not fit together ---


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
    assert f"holds {6144 + shift} of 6144 elements of the exp_avg copy of {EMBEDDING}" in said


def test_a_fragment_that_ends_behind_its_partition_is_refused(small: Path) -> None:
    """It would be read, and written, beyond the tensor."""

    def move(root: Any) -> None:
        mapping = state_of(root)["param_slice_mappings"][0]
        mapping[EMBEDDING] = replace(mapping[EMBEDDING], start=1)

    rewrite(small / shard_name(1), move)
    problem_id, said = refusal(small)
    assert problem_id == "inconsistent-layout"
    assert "shorter than its fragments" in said
