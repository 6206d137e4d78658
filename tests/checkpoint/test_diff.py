# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaff.checkpoint.diff import diff_tags
from gaff.checkpoint.diff_text import render_diff
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER, MODEL, Copy
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.masters import against_all
from gaff.checkpoint.reader import CopyReader
from gaff.checkpoint.sources import TagValues, block_values
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.errors import InputError
from tests.checkpoint.planting import become_another_run, change, copies_of, count_from, poke
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]

PIPELINE = "zero1-fp32-tp2-pp2-dp2"
ZERO0, ZERO2, ZERO3 = "zero0-fp32-dp2", "zero2-fp32-nopipe-dp2", "zero3-fp32-nopipe-dp2"


def second(tag: Path, name: str = "other") -> Path:
    """A copy of a tag that may be changed."""
    return Path(shutil.copytree(tag, tag.parent.parent / name / tag.name))


def of(found: dict[str, Any], name: str = INPUT_EMBEDDING) -> dict[str, Any]:
    copies: dict[str, Any] = found["parameters"][name]["copies"]
    return copies


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_tag_equals_its_copy(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    found = diff_tags(tag, second(tag))
    assert found["equal"]
    assert found["findings"] == []
    kinds = {kind for parameter in found["parameters"].values() for kind in parameter["copies"]}
    assert kinds == {copy.kind for copy in copies_of(read_layout(tag))}
    assert all(sum(d["elements"] for d in of(found, n).values()) for n in found["parameters"])
    assert render_diff(found).endswith("A and B are equal")


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_reset_differs_in_the_embedding_alone(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    other = second(tag)
    reset(other, ResetRequest(number=1, seed=1))
    found = diff_tags(tag, other)
    assert [name for name, parameter in found["parameters"].items() if not parameter["equal"]] == [INPUT_EMBEDDING]
    assert [layer for layer, kinds in found["layers"].items() if any(d["different"] for d in kinds.values())] == [
        "embedding"
    ]
    assert all(number["equal"] for number in found["numbers"])
    assert found["findings"] == []
    assert not found["equal"]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_differences_are_measured(name: str, checkpoint: GetTag) -> None:
    """Three elements of each tensor rank's block are changed by known amounts, in the weights alone."""
    tag = checkpoint(name)
    other = second(tag)
    copies = [c for c in read_layout(tag).copies[INPUT_EMBEDDING] if c.start == 0 and not c.is_state]

    def first_three(values: np.ndarray) -> np.ndarray:
        new = values.copy()
        new[:3] += np.array([0.5, -2.0, 1.0], values.dtype)
        return new

    change(other, copies, first_three)
    found = diff_tags(tag, other)
    ranks = len({c.tensor_rank for c in copies})
    for difference in of(found).values():
        if difference["different"]:
            assert difference["different"] == 3 * ranks
            assert difference["max"] == pytest.approx(2.0, rel=1e-2)
            assert difference["share"] == pytest.approx(3 * ranks / 12288)
    assert {kind for kind, difference in of(found).items() if difference["different"]} == {c.kind for c in copies}


def test_the_relative_difference_is_of_the_larger_norm(checkpoint: GetTag) -> None:
    tag = checkpoint(ZERO2)
    other = second(tag)
    change(other, read_layout(tag).copies[INPUT_EMBEDDING], lambda values: values * 2)
    for found in (diff_tags(tag, other), diff_tags(other, tag)):
        assert [difference["relative"] for difference in of(found).values()] == pytest.approx([0.5] * 4)
    change(other, read_layout(tag).copies[INPUT_EMBEDDING], np.zeros_like)
    assert [difference["relative"] for difference in of(diff_tags(tag, other)).values()] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("name", [PIPELINE, "zero1-bf16-tp2-dp2", "zero1-fp32-tied-tp2-pp2"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_norm_that_differs_on_one_tensor_rank_only_is_seen(name: str, rank: int, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    other = second(tag)
    norm = [c for c in read_layout(tag).copies["2.input_layernorm.bias"] if c.tensor_rank == rank and c.kind == MODEL]
    change(other, norm, lambda values: values + 1)
    assert of(diff_tags(tag, other), "2.input_layernorm.bias")[MODEL]["different"] == 24


def test_a_second_tied_copy_that_differs_is_seen(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    other = second(tag)
    change(other, [c for c in read_layout(tag).copies[INPUT_EMBEDDING] if c.stage == 1], np.negative)
    differing = {kind for kind, difference in of(diff_tags(tag, other)).items() if difference["different"]}
    assert differing == {MASTER, "exp_avg", "exp_avg_sq"}


def test_columns_that_tensor_ranks_share_are_seen(checkpoint: GetTag) -> None:
    tag = checkpoint(PIPELINE)
    name = "2.attention.dense.weight"
    other = second(tag)
    change(other, [c for c in read_layout(tag).copies[name] if c.tensor_rank == 1 and c.kind == MODEL], np.negative)
    difference = of(diff_tags(tag, other), name)[MODEL]
    assert (difference["elements"], difference["different"]) == (576, 288)


def test_what_is_not_finite_is_told(checkpoint: GetTag) -> None:
    tag = checkpoint(ZERO2)
    other = second(tag)
    copies = read_layout(tag).of_kind(INPUT_EMBEDDING, MODEL, MASTER)
    change(tag, copies, lambda values: np.where(np.arange(len(values)) == 0, np.nan, values))
    difference = of(diff_tags(tag, other))[MODEL]
    assert (difference["different"], difference["max"], difference["relative"]) == (1, math.inf, math.inf)
    assert " inf " in render_diff(diff_tags(tag, other))
    assert diff_tags(tag, second(tag, "same"))["equal"]


@pytest.mark.parametrize(("one", "other"), [(PIPELINE, ZERO3), (ZERO0, ZERO2), ("zero1-bf16-tp2-dp2", ZERO0)])
def test_layouts_may_differ(one: str, other: str, checkpoint: GetTag) -> None:
    """These are of one architecture, trained apart."""
    tags = checkpoint(one), checkpoint(other)
    found = diff_tags(*tags)
    kinds = [{c.kind for c in read_layout(tag).copies[INPUT_EMBEDDING]} for tag in tags]
    expected = (kinds[0] & kinds[1]) | {MASTER}
    assert {frozenset(parameter["copies"]) for parameter in found["parameters"].values()} == {frozenset(expected)}
    assert found["parameters"][INPUT_EMBEDDING]["shape_a"] == [512, 24]
    assert not found["only_in_a"] + found["only_in_b"]


def test_one_model_in_two_layouts_is_equal(checkpoint: GetTag) -> None:
    """The weights and moments of one tag, written into a tag of another layout."""
    source, target = checkpoint(PIPELINE), checkpoint(ZERO2)
    reader = CopyReader(read_layout(source))
    layout = read_layout(target)

    def values_of(copy: Copy) -> Callable[[np.ndarray], np.ndarray]:
        parameter = layout.parameters[copy.parameter]
        values = TagValues(reader, copy.parameter, copy.kind)
        return lambda old: block_values(values, parameter, copy.tensor_rank, copy.start, copy.stop)

    for copy in copies_of(layout):
        change(target, [copy], values_of(copy))
    found = diff_tags(source, target)
    assert all(parameter["equal"] for parameter in found["parameters"].values())


def test_what_one_side_has_alone_is_told(checkpoint: GetTag) -> None:
    found = diff_tags(checkpoint("zero1-fp32-learnedpos-dp2"), checkpoint("zero1-fp32-tied-tp2-pp2"))
    assert found["only_in_a"] == ["0.position_embeddings.weight", "6.final_linear.weight"]
    assert found["only_in_b"] == []
    assert "only A has 6.final_linear.weight" in render_diff(found)


def test_optimizer_states_that_one_side_lacks_are_told(checkpoint: GetTag) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    other = second(tag)
    path = other / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    root = torch.load(path, weights_only=False)
    root["optimizer_state_dict"]["base_optimizer_state"]["state"] = {}
    torch.save(root, path)
    found = diff_tags(tag, other)
    assert not found["equal"]
    assert "only A has exp_avg, of 28 of 28 parameters" in render_diff(found)


def test_numbers_and_random_states_are_compared(checkpoint: GetTag) -> None:
    tag = checkpoint(PIPELINE)
    other = second(tag)
    count_from(other, 5, 6)
    poke(other / "mp_rank_03_model_states.pt", "data/0", 100, b"\x00\x01\x02")
    differing = {n["name"]: (n["a"], n["b"]) for n in diff_tags(tag, other)["numbers"] if not n["equal"]}
    assert {name: pair for name, pair in differing.items() if "rng" not in name} == {
        "iteration": (5, 6),
        "global_steps": (5, 6),
        "lr_scheduler.num_iters": (5, 6),
        "optimizer.step": (5, 6),
    }
    assert any("rng" in name for name in differing)
    assert "optimizer.step           5   6" in render_diff(diff_tags(tag, other))


def test_only_what_is_asked_for_is_compared(checkpoint: GetTag) -> None:
    tag = checkpoint(PIPELINE)
    found = diff_tags(tag, second(tag), "output_embedding", "*.input_layernorm.bias")
    assert list(found["parameters"]) == ["2.input_layernorm.bias", "3.input_layernorm.bias", "6.final_linear.weight"]
    with pytest.raises(InputError, match="no parameter 'nonsense'"):
        diff_tags(tag, tag, "nonsense")


# Masters of another step: what the published GAFF scripts leave behind.


def run_with_swapped_optimizer(tag: Path) -> tuple[Path, Path]:
    """A run's tags of step 5 and step 2, the former with the optimizer files of the latter."""
    early = Path(shutil.copytree(tag, tag.with_name("global_step2")))
    become_another_run(early)
    count_from(early, 5, 2)
    assert not diff_tags(tag, early)["findings"]
    for shard in early.glob("*_optim_states.pt"):
        shutil.copy(shard, tag)
    return tag, early


@pytest.mark.parametrize("name", [PIPELINE, ZERO2, "zero1-bf16-tp2-dp2", "zero1-fp32-tied-tp2-pp2"])
def test_swapped_optimizer_files_are_recognised(name: str, checkpoint: GetTag) -> None:
    late, early = run_with_swapped_optimizer(checkpoint(name))
    (sentence,) = diff_tags(late, early)["findings"]
    assert sentence == (
        "the master weights of A (iteration 5) are those of B (iteration 2): its optimizer files were swapped; "
        "training goes on from the old weights"
    )
    (sentence,) = diff_tags(early, late)["findings"]
    assert sentence.startswith("the master weights of B (iteration 5) are those of A (iteration 2)")


def test_swapped_optimizer_files_are_recognised_without_model_copies(checkpoint: GetTag) -> None:
    late, early = run_with_swapped_optimizer(checkpoint(ZERO3))
    (sentence,) = diff_tags(late, early)["findings"]
    assert sentence.startswith("the master weights of A (iteration 5) are those of B (iteration 2): training went back")


def test_they_are_recognised_when_the_embedding_was_reset_too(checkpoint: GetTag) -> None:
    late, early = run_with_swapped_optimizer(checkpoint(PIPELINE))
    change(late, read_layout(late).of_kind(INPUT_EMBEDDING, MODEL, MASTER), np.zeros_like)
    (sentence,) = diff_tags(late, early)["findings"]
    assert sentence.startswith("the master weights, all but the embeddings, of A (iteration 5) are those of B")


def test_a_model_copy_that_was_edited_alone_is_told(checkpoint: GetTag) -> None:
    tag = checkpoint(ZERO2)
    other = second(tag)
    change(other, read_layout(tag).of_kind(INPUT_EMBEDDING, MODEL), np.negative)
    (sentence,) = diff_tags(tag, other)["findings"]
    assert sentence.startswith("the model copies of B (iteration 5) are not its own masters in 1 of 28 parameters")


def test_all_other_tags_of_a_run_are_searched(checkpoint: GetTag) -> None:
    late, early = run_with_swapped_optimizer(checkpoint(PIPELINE))
    between = Path(shutil.copytree(late, late.with_name("global_step3")))
    change(between, [c for c in copies_of(read_layout(between)) if not c.is_state], lambda values: values * 3)
    broken = Path(shutil.copytree(late, late.with_name("global_step4")))
    next(broken.glob("*optim*")).unlink()
    found = against_all(late)
    assert [Path(other["checkpoint"]).name for other in found["tags"]] == [early.name, between.name, broken.name]
    assert [len(other["findings"]) for other in found["tags"]] == [1, 0, 0]
    assert (found["tags"][0]["same_records"], found["tags"][1]["same_records"]) == (found["records"], 0)
    assert "lacks 1 of its files" in found["tags"][2]["error"]
    assert not found["sound"]
    assert against_all(between)["sound"]
