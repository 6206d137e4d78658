# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.reader import CopyReader, OpenFiles
from gaff.checkpoint.surgery.perform import finish_interrupted
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.surgery.splice import SpliceRequest, plan_splice, splice
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError, GaffError, InputError
from gaff.plan.settings import InitSpec

torch = pytest.importorskip("torch")

GetTag = Callable[[str], Path]
EMBEDDING, HEAD = "0.word_embeddings.weight", "6.final_linear.weight"
PLAIN, FP16, SPLIT = "zero1-fp32-pp1-tp1-dp1", "zero1-fp16-tp2-dp2", "zero1-fp32-tp2-pp2-dp2"
TIED, ZERO0, ZERO2, ZERO3 = (
    "zero1-fp32-tied-tp2-pp2",
    "zero0-fp32-dp2",
    "zero2-fp32-nopipe-dp2",
    "zero3-fp32-nopipe-dp2",
)
POSITIONS = "zero1-fp32-learnedpos-dp2"


def contents(tag: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(tag.glob("*.pt"))}


def values(tag: Path, name: str, kind: str | None = None) -> Any:
    """A whole parameter, of the copies that training goes on from unless another kind is named."""
    layout: Layout = read_layout(tag)
    with OpenFiles(tag) as files:
        return CopyReader(layout).values(files, name, kind or layout.truth(name), 0, layout.parameters[name].numel)


def distinct(tag: Path) -> Path:
    """A giver whose embeddings and heads are its own: the fixtures share a seed."""
    for number, name in enumerate(name for name in (EMBEDDING, HEAD) if name in read_layout(tag).parameters):
        request = ResetRequest(number, 77, InitSpec("normal", 0.05), moments="keep", parameters=(name,))
        reset(tag, request)
    return tag


@pytest.mark.parametrize(
    ("body", "giver"), [(PLAIN, ZERO3), (ZERO3, FP16), (FP16, ZERO2), (SPLIT, ZERO0), (ZERO0, SPLIT), (ZERO2, PLAIN)]
)
def test_the_body_stays_and_the_embeddings_are_the_givers(body: str, giver: str, checkpoint: GetTag) -> None:
    tag, other = checkpoint(body), distinct(checkpoint(giver))
    names = list(read_layout(tag).parameters)
    before = {name: values(tag, name) for name in names}
    given = contents(other)
    splice(tag, SpliceRequest(other))
    for name in names:
        expected = values(other, name) if name in (EMBEDDING, HEAD) else before[name]
        assert np.array_equal(values(tag, name), expected), name
    assert not np.array_equal(values(tag, EMBEDDING), before[EMBEDDING])
    for state in ("exp_avg", "exp_avg_sq"):
        assert not values(tag, EMBEDDING, state).any()
        assert not values(tag, HEAD, state).any()
        assert values(tag, "5.norm.weight", state).any()
    assert verify_tag(tag) == []
    assert contents(other) == given


@pytest.mark.parametrize("moments", ["keep", "take"])
def test_moments_are_kept_or_taken(moments: str, checkpoint: GetTag) -> None:
    tag, other = checkpoint(SPLIT), checkpoint(FP16)
    wanted = {state: values(tag if moments == "keep" else other, HEAD, state) for state in ("exp_avg", "exp_avg_sq")}
    splice(tag, SpliceRequest(other, moments=moments))
    assert all(np.array_equal(values(tag, HEAD, state), wanted[state]) for state in wanted)
    assert verify_tag(tag) == []


def test_tied_embeddings_change_on_both_stages(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(TIED)
    other = tmp_path / "giver" / "global_step5"
    shutil.copytree(tag, other)
    done = splice(tag, SpliceRequest(distinct(other))).operation
    assert {edit.copy.stage for edit in done.edits if edit.copy.kind == "master"} == {0, 1}
    assert np.array_equal(values(tag, EMBEDDING), values(other, EMBEDDING))
    assert verify_tag(tag) == []


def test_only_what_is_named_is_spliced(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(POSITIONS)
    other = tmp_path / "giver" / "global_step5"
    shutil.copytree(tag, other)
    layout = read_layout(tag)
    default = plan_splice(layout, SpliceRequest(other))
    assert set(default.parameters) == {EMBEDDING, HEAD}
    chosen = plan_splice(layout, SpliceRequest(other, ("position_embedding",)))
    assert set(chosen.parameters) == {"0.position_embeddings.weight"}


def test_the_same_splice_again_is_already_done_until_the_giver_changes(checkpoint: GetTag) -> None:
    tag, other = checkpoint(PLAIN), checkpoint(ZERO3)
    assert not splice(tag, SpliceRequest(other)).already_done
    after = contents(tag)
    assert splice(tag, SpliceRequest(other)).already_done
    assert contents(tag) == after
    distinct(other)
    assert not splice(tag, SpliceRequest(other)).already_done
    assert contents(tag) != after


def test_it_is_finished_without_the_giver_when_cut_short(checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch) -> None:
    tag, other = checkpoint(SPLIT), distinct(checkpoint(ZERO3))
    wanted = values(other, EMBEDDING)

    def cut_short(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gaff.checkpoint.surgery.perform.apply", cut_short)
        with pytest.raises(KeyboardInterrupt):
            splice(tag, SpliceRequest(other))
    shutil.rmtree(other)
    assert finish_interrupted(tag) is not None
    assert np.array_equal(values(tag, EMBEDDING), wanted)
    assert verify_tag(tag) == []


def refused(tag: Path, request: SpliceRequest, kind: type[GaffError]) -> str:
    before = contents(tag)
    with pytest.raises(kind) as caught:
        splice(tag, request)
    assert contents(tag) == before
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_tied_and_untied_embeddings_are_not_mixed(checkpoint: GetTag) -> None:
    tied, untied = checkpoint(TIED), checkpoint(PLAIN)
    said = refused(untied, SpliceRequest(tied), InputError)
    assert f"has tied embeddings, but those of {untied} are untied" in said
    assert "has untied embeddings" in refused(tied, SpliceRequest(untied), InputError)


def test_another_vocabulary_is_refused(checkpoint: GetTag) -> None:
    tag, other = checkpoint(ZERO3), checkpoint(ZERO2)
    rows = read_layout(tag).vocabulary[0]
    smaller(other, rows - 64)
    said = refused(tag, SpliceRequest(other), InputError)
    assert f"has a vocabulary of {rows - 64} rows and hidden size 24, but {tag} has {rows} and 24" in said
    assert "use `gaff surgery resize` first" in said


def smaller(tag: Path, rows: int) -> None:
    """Name the embedding's last rows as a parameter of their own: a model of a smaller vocabulary."""
    name, rest = "sequential.0.word_embeddings.weight", "sequential.9.norm.weight"
    path = tag / "mp_rank_00_model_states.pt"
    root = torch.load(path, weights_only=False)
    shapes = root["param_shapes"][0]
    whole = root["module"][name]
    root["module"][name], root["module"][rest] = whole[:rows], whole[rows:]
    items = [(name, torch.Size((rows, whole.shape[1]))), (rest, whole[rows:].shape)]
    items += [(other, shape) for other, shape in shapes.items() if other != name]
    shapes.clear()
    shapes.update(items)
    torch.save(root, path)
    for shard in tag.glob("*_optim_states.pt"):
        state = torch.load(shard, weights_only=False)
        state["optimizer_state_dict"].pop("param_slice_mappings")
        torch.save(state, shard)


def test_a_checkpoint_is_not_spliced_with_itself(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(PLAIN)
    (tmp_path / "link").symlink_to(tag)
    assert "is the checkpoint that is to take" in refused(tag, SpliceRequest(tmp_path / "link"), InputError)


def test_what_the_giver_lacks_is_refused(checkpoint: GetTag) -> None:
    tag, other = checkpoint(POSITIONS), checkpoint(PLAIN)
    said = refused(tag, SpliceRequest(other, ("position_embedding",)), InputError)
    assert "has no 0.position_embeddings.weight, which" in said
    said = refused(other, SpliceRequest(tag, ("position_embedding",)), InputError)
    assert "has no parameter 'position_embedding'" in said


def test_moments_that_the_giver_lacks_cannot_be_taken(checkpoint: GetTag) -> None:
    tag, other = checkpoint(ZERO3), checkpoint(PLAIN)
    shard = next(other.glob("*_optim_states.pt"))
    state = torch.load(shard, weights_only=False)
    state["optimizer_state_dict"]["base_optimizer_state"]["state"] = {}
    torch.save(state, shard)
    assert f"has no exp_avg of {EMBEDDING}" in refused(tag, SpliceRequest(other, moments="take"), InputError)
    assert not splice(tag, SpliceRequest(other)).already_done


def test_a_giver_that_was_half_operated_on_is_refused(checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch) -> None:
    tag, other = checkpoint(PLAIN), checkpoint(ZERO3)

    def cut_short(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gaff.checkpoint.surgery.perform.apply", cut_short)
        with pytest.raises(KeyboardInterrupt):
            reset(other, ResetRequest(1, 1))
    assert "a reset was begun here and not finished" in refused(tag, SpliceRequest(other), CheckpointError)


def test_a_giver_whose_copies_disagree_is_refused(checkpoint: GetTag) -> None:
    tag, other = checkpoint(ZERO3), checkpoint(PLAIN)
    layer = next(other.glob("layer_00-*"))
    root = torch.load(layer)
    root["word_embeddings.weight"][3, 4] += 1
    torch.save(root, layer)
    assert "differs from the master in 1 elements" in refused(tag, SpliceRequest(other), CheckpointError)


@pytest.mark.parametrize("giver", [ZERO0, ZERO3])
def test_a_giver_with_a_damaged_byte_is_refused(giver: str, checkpoint: GetTag) -> None:
    """Where there is one copy only, nothing but the CRC tells."""
    tag, other = checkpoint(PLAIN), checkpoint(giver)
    layout = read_layout(other)
    copy = layout.chain(EMBEDDING, layout.truth(EMBEDDING), 0)[-1]
    path = other / copy.file
    offset = CopyReader(layout).offset(copy) + copy.length - 1
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    assert f"record {copy.record} does not match its CRC-32" in refused(tag, SpliceRequest(other), CheckpointError)
