# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.perform import finish_interrupted
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.surgery.restore import RestoreRequest, plan_restore, restore
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError, InputError
from tests.checkpoint.tags import values
from tests.conftest import ALL_NAMES

torch = pytest.importorskip("torch")

GetTag = Callable[[str], Path]
EMBEDDING = "0.word_embeddings.weight"
PLAIN, TIED, ZERO3 = "zero1-fp32-pp1-tp1-dp1", "zero1-fp32-tied-tp2-pp2", "zero3-fp32-nopipe-dp2"
RESETS = {
    "embedding": {"moments": "zero"},
    "rows": {"moments": "zero", "fraction": 0.3},
    "everything": {"moments": "keep", "parameters": ("*",)},
    "patterns": {"moments": "zero", "parameters": ("input_embedding", "*.dense.*", "*norm*"), "fraction": 0.5},
}  # fmt: skip


def contents(tag: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(tag.glob("*.pt"))}


def forget(tag: Path, file: Path, **options: Any) -> None:
    """Reset and keep what is forgotten; something must have changed."""
    before = contents(tag)
    reset(tag, ResetRequest(number=1, seed=3, forgotten=file, **options))
    assert contents(tag) != before


def resave(path: Path, change: Callable[[Any], None]) -> None:
    root = torch.load(path, weights_only=False)
    change(root)
    torch.save(root, path)


@pytest.mark.parametrize("what", RESETS)
@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_restore_gives_back_every_byte(name: str, what: str, checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(name), tmp_path / "forgotten.safetensors"
    before = contents(tag)
    forget(tag, file, **RESETS[what])
    restore(tag, RestoreRequest(file))
    assert contents(tag) == before
    assert verify_tag(tag) == []


def test_it_gives_back_every_byte_where_there_are_no_moments_yet(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(PLAIN), tmp_path / "forgotten.safetensors"
    shard = next(tag.glob("*_optim_states.pt"))
    resave(shard, lambda root: root["optimizer_state_dict"]["base_optimizer_state"].update(state={}))
    before = contents(tag)
    forget(tag, file)
    assert list(load_file(file)) == [EMBEDDING]
    restore(tag, RestoreRequest(file))
    assert contents(tag) == before


def test_it_gives_back_every_byte_of_bfloat16_masters(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint("zero1-bf16-tp2-dp2"), tmp_path / "forgotten.safetensors"

    def narrow(root: Any) -> None:
        state = root["optimizer_state_dict"]
        state["single_partition_of_fp32_groups"] = [
            master.bfloat16() for master in state["single_partition_of_fp32_groups"]
        ]
        for moments in state["base_optimizer_state"]["state"].values():
            moments["exp_avg"] = moments["exp_avg"].bfloat16()

    for shard in tag.glob("*_optim_states.pt"):
        resave(shard, narrow)
    before = contents(tag)
    forget(tag, file)
    restore(tag, RestoreRequest(file))
    assert contents(tag) == before


def test_moments_that_differ_between_tied_stages_come_back_as_they_were(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(TIED), tmp_path / "forgotten.safetensors"

    def scale(root: Any) -> None:
        root["optimizer_state_dict"]["base_optimizer_state"]["state"][0]["exp_avg"] *= 3

    resave(tag / "zero_pp_rank_0_mp_rank_02_optim_states.pt", scale)  # stage 1
    before = contents(tag)
    forget(tag, file)
    assert sorted(load_file(file)) == [
        EMBEDDING,
        *(f"{EMBEDDING}#{s}" for s in ("exp_avg", "exp_avg@last", "exp_avg_sq")),
    ]
    restore(tag, RestoreRequest(file))
    assert contents(tag) == before


@pytest.mark.parametrize("target", ["zero1-fp32-tp2-pp2-dp2", "zero1-bf16-tp2-dp2", "zero0-fp32-dp2"])
def test_what_one_layout_forgot_can_be_put_into_another(target: str, checkpoint: GetTag, tmp_path: Path) -> None:
    source, tag, file = checkpoint(ZERO3), checkpoint(target), tmp_path / "forgotten.safetensors"
    forget(source, file, parameters=("input_embedding", "*.attention.dense.weight"))
    restore(tag, RestoreRequest(file))
    assert verify_tag(tag) == []
    kept = load_file(file)
    for layer, name, dimension in ((0, "word_embeddings.weight", 0), (2, "attention.dense.weight", 1)):
        blocks = [torch.load(path)[name] for path in sorted(tag.glob(f"layer_{layer:02d}-*"))]
        whole = torch.cat(blocks, dimension) if len(blocks) > 1 else blocks[0]
        assert torch.equal(whole, torch.from_numpy(kept[f"{layer}.{name}"]).to(whole.dtype))
    again = tmp_path / "again.safetensors"  # forgotten there, it is the same again, moments too
    forget(tag, again, parameters=("input_embedding", "*.attention.dense.weight"))
    mine, theirs = load_file(file), load_file(again)
    assert {name: m.tobytes() for name, m in mine.items()} == {name: t.tobytes() for name, t in theirs.items()}


def test_only_the_chosen_parameters_are_restored(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(ZERO3), tmp_path / "forgotten.safetensors"
    forget(tag, file, parameters=("input_embedding", "output_embedding"))
    done = restore(tag, RestoreRequest(file, ("output_embedding",))).operation
    assert {edit.copy.parameter for edit in done.edits} == {"6.final_linear.weight"}


def test_moments_that_the_file_lacks_are_left_alone_or_zeroed(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(PLAIN), tmp_path / "weights.safetensors"
    rows, hidden = read_layout(tag).vocabulary
    save_file({EMBEDDING: np.full((rows, hidden), 0.5, np.float32)}, file)

    def state() -> Any:
        shard = torch.load(next(tag.glob("*_optim_states.pt")), weights_only=False)["optimizer_state_dict"]
        return shard["base_optimizer_state"]["state"][0], shard["single_partition_of_fp32_groups"][0]

    before, _ = state()
    restore(tag, RestoreRequest(file))
    after, master = state()
    assert torch.equal(before["exp_avg"], after["exp_avg"])
    assert (master[: rows * hidden] == 0.5).all()
    done = restore(tag, RestoreRequest(file, moments="zero")).operation
    after, _ = state()
    assert not after["exp_avg_sq"][: rows * hidden].any()
    assert torch.equal(before["exp_avg_sq"][rows * hidden :], after["exp_avg_sq"][rows * hidden :])
    assert done.about["notes"] == [f"zeroed, not in the file: {EMBEDDING}#exp_avg, {EMBEDDING}#exp_avg_sq"]
    assert verify_tag(tag) == []


def test_moments_that_the_checkpoint_does_not_have_are_ignored_with_a_word(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(PLAIN), tmp_path / "forgotten.safetensors"
    forget(tag, file)
    kept = load_file(file)
    save_file({**kept, f"{EMBEDDING}#momentum_buffer": kept[EMBEDDING]}, file)
    done = restore(tag, RestoreRequest(file)).operation
    assert done.about["notes"] == [f"ignored, no such moments in the checkpoint: {EMBEDDING}#momentum_buffer"]


def test_the_same_restore_again_is_already_done_until_the_file_is_another(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(PLAIN), tmp_path / "forgotten.safetensors"
    forget(tag, file)
    assert not restore(tag, RestoreRequest(file)).already_done
    after = contents(tag)
    assert restore(tag, RestoreRequest(file)).already_done
    assert contents(tag) == after
    save_file({EMBEDDING: load_file(file)[EMBEDDING] + 1}, file)
    assert not restore(tag, RestoreRequest(file)).already_done
    assert contents(tag) != after


def test_it_is_finished_without_its_file_when_cut_short(
    checkpoint: GetTag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag, file = checkpoint(TIED), tmp_path / "forgotten.safetensors"
    before = contents(tag)
    forget(tag, file)

    def cut_short(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gaff.checkpoint.surgery.perform.apply", cut_short)
        with pytest.raises(KeyboardInterrupt):
            restore(tag, RestoreRequest(file))
    file.unlink()
    assert [fault.id for fault in verify_tag(tag)] == ["half-done"]
    assert finish_interrupted(tag) is not None
    assert contents(tag) == before
    assert verify_tag(tag) == []


def test_two_restores_one_after_the_other_leave_readable_records(checkpoint: GetTag, tmp_path: Path) -> None:
    """The values that the second one was given are in the tag while the record of the first is read."""
    tag = checkpoint(PLAIN)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    forget(tag, first, parameters=("input_embedding", "*.norm.weight"))
    save_file({"5.norm.weight": load_file(first)["5.norm.weight"]}, second)
    restore(tag, RestoreRequest(first))
    restore(tag, RestoreRequest(second))
    assert verify_tag(tag) == []


@pytest.mark.parametrize(
    ("tensors", "parameters", "said"),
    [
        ({EMBEDDING: (8, 4)}, (), f"holds {EMBEDDING} of shape (8, 4), but"),
        ({EMBEDDING: None, f"{EMBEDDING}#exp_avg": (3,)}, (), f"holds {EMBEDDING}#exp_avg of shape (3,), but"),
        ({"99.norm.weight": (2,)}, (), "holds 99.norm.weight, which is no parameter of"),
        ({EMBEDDING: None}, ("output_embedding",), f"holds no weights of output_embedding (of others: {EMBEDDING})"),
        ({EMBEDDING: None}, ("position_embedding",), "has no parameter 'position_embedding'"),
        ({f"{EMBEDDING}#exp_avg": None}, (), "holds no weights"),
    ],
)
def test_what_does_not_fit_is_refused(
    tensors: dict[str, Any], parameters: tuple[str, ...], said: str, checkpoint: GetTag, tmp_path: Path
) -> None:
    tag, file = checkpoint(PLAIN), tmp_path / "wrong.safetensors"
    vocabulary = read_layout(tag).vocabulary
    save_file({name: np.ones(shape or vocabulary, np.float32) for name, shape in tensors.items()}, file)
    before = contents(tag)
    with pytest.raises(InputError) as caught:
        restore(tag, RestoreRequest(file, parameters))
    assert said in str(caught.value)
    assert contents(tag) == before


def test_values_beyond_the_dtype_of_the_model_are_refused(checkpoint: GetTag, tmp_path: Path) -> None:
    layout, file = read_layout(checkpoint("zero1-fp16-tp2-dp2")), tmp_path / "large.safetensors"
    save_file({EMBEDDING: np.full(layout.vocabulary, 1e5, np.float32)}, file)
    with pytest.raises(InputError, match="not finite in the model's float16"):
        plan_restore(layout, RestoreRequest(file))


def test_a_checkpoint_whose_copies_disagree_is_refused(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(PLAIN), tmp_path / "forgotten.safetensors"
    forget(tag, file)
    resave(next(tag.glob("layer_00-*")), lambda root: root["word_embeddings.weight"].zero_())
    before = contents(tag)
    with pytest.raises(CheckpointError, match="differs from the master"):
        restore(tag, RestoreRequest(file))
    assert contents(tag) == before


def test_after_a_reset_of_rows_only_these_are_put_back(checkpoint: GetTag, tmp_path: Path) -> None:
    """The others may have been trained since."""
    tag, file = checkpoint(PLAIN), tmp_path / "forgotten.safetensors"
    (tmp_path / "rows").write_text("3\n100-199\n")
    forget(tag, file, rows=tmp_path / "rows")
    forgotten = load_file(file)[EMBEDDING]
    later = checkpoint(TIED)  # of another layout, all of whose rows moved on
    reset(later, ResetRequest(number=1, seed=9))
    expected = values(later)
    restore(later, RestoreRequest(file))
    expected[[3, *range(100, 200)]] = forgotten[[3, *range(100, 200)]]
    assert np.array_equal(values(later), expected)
    assert verify_tag(later) == []


@pytest.mark.parametrize("rows", ["{", "[]", '{"other": {"rows": 1, "runs": []}}', '{"%s": {"rows": 9, "runs": []}}'])
def test_a_file_that_says_wrongly_which_rows_is_refused(rows: str, checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint(PLAIN), tmp_path / "forgotten.safetensors"
    save_file({EMBEDDING: np.zeros((512, 24), np.float32)}, file, {"rows": rows.replace("%s", EMBEDDING)})
    before = contents(tag)
    with pytest.raises(InputError, match="which rows were forgotten"):
        restore(tag, RestoreRequest(file))
    assert contents(tag) == before
