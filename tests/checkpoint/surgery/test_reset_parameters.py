# SPDX-License-Identifier: Apache-2.0
"""Resets of other parameters than the input embedding: the head, positions, and whatever a pattern names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, POSITION_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.reader import CopyReader, OpenFiles
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.verify import verify_tag
from gaff.errors import InputError
from gaff.plan.settings import InitSpec
from tests.checkpoint.tags import everything, values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
COLUMNS, HEAD = "*.attention.dense.weight", "6.final_linear.weight"
ONE_MODEL = [name for name in ALL_NAMES if "tied" not in name and "learnedpos" not in name]


def request(*parameters: str, init: InitSpec | None = None) -> ResetRequest:
    return ResetRequest(1, 1234, init or InitSpec(), parameters=parameters)


def every_parameter(tag: Path) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Every kind of every parameter, whole."""
    layout = read_layout(tag)
    reader = CopyReader(layout)
    with OpenFiles(tag) as files:
        return {
            (name, kind): reader.values(files, name, kind, 0, parameter.numel)
            for name, parameter in layout.parameters.items()
            for kind in {c.kind for c in layout.copies[name]}
        }


def changed_parameters(tag: Path, wanted: ResetRequest) -> set[str]:
    """Reset, and say which parameters are others now, of any kind; moments that were zero already may stay so."""
    before = every_parameter(tag)
    reset(tag, wanted)
    after = every_parameter(tag)
    assert verify_tag(tag) == []
    found = {key for key in before if not np.array_equal(before[key], after[key])}
    named = set(read_layout(tag).named(*wanted.parameters))
    for (name, kind), matrix in after.items():
        if name in named and kind.startswith("exp_avg"):
            assert not matrix.any()
    return {name for name, _ in found}


@pytest.mark.parametrize("name", [n for n in ALL_NAMES if "tied" not in n])
def test_the_head_alone_is_reset_on_whatever_stage_it_lives(name: str, checkpoint: GetTag) -> None:
    assert changed_parameters(checkpoint(name), request("output_embedding")) == {HEAD}


def test_both_embeddings_at_once_get_different_rows(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    assert changed_parameters(tag, request("input_embedding", "output_embedding")) == {INPUT_EMBEDDING, HEAD}
    assert not np.any(values(tag) == values(tag, HEAD))


def test_the_input_embeddings_rows_do_not_depend_on_what_else_is_reset(checkpoint: GetTag, tmp_path: Path) -> None:
    alone, both = checkpoint("zero1-fp32-tp2-pp2-dp2"), checkpoint("zero1-fp32-pp1-tp1-dp1")
    reset(alone, request("input_embedding"))
    reset(both, request("output_embedding", "input_embedding"))
    assert np.array_equal(values(alone), values(both))


def test_learned_positions_are_reset_alone(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-learnedpos-dp2")
    assert changed_parameters(tag, request("position_embedding")) == {POSITION_EMBEDDING}
    positions = values(tag, POSITION_EMBEDDING)
    assert positions.shape == (16, 24)
    assert positions.std() == pytest.approx(np.sqrt(2 / (5 * 24)), rel=0.15)  # small_init, 384 values


@pytest.mark.parametrize("name", ["zero1-bf16-tp2-dp2", "zero3-fp32-nopipe-dp2", "zero0-fp32-dp2"])
def test_norms_begin_at_one_and_biases_at_zero(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    patterns = ("*norm*", "*.bias")
    names = read_layout(tag).named(*patterns)
    assert any(n.endswith("norm.weight") for n in names)
    assert changed_parameters(tag, request(*patterns)) == set(names)
    for each in names:
        expected = 1.0 if each.endswith("norm.weight") else 0.0
        assert (values(tag, each) == expected).all(), each


@pytest.mark.parametrize("pattern", [COLUMNS, "2.mlp.linear2.weight", "3.attention.query_key_value.*", "*.mlp.*"])
def test_every_layout_forgets_alike_also_where_weights_are_split_by_columns(pattern: str, checkpoint: GetTag) -> None:
    truths: dict[str, dict[str, Any]] = {}
    for name in ONE_MODEL:
        tag = checkpoint(name)
        assert changed_parameters(tag, request(pattern)) == set(read_layout(tag).named(pattern))
        truths[name] = {n: values(tag, n) for n in read_layout(tag).named(pattern)}
    first = truths.pop("zero1-fp32-pp1-tp1-dp1")
    assert len(truths) == 6
    for name, found in truths.items():
        assert found.keys() == first.keys()
        for parameter, matrix in found.items():
            assert np.array_equal(matrix, first[parameter]), (name, parameter)


def test_column_blocks_of_two_ranks_make_the_matrix_of_one_as_torch_reads_them(checkpoint: GetTag) -> None:
    torch = pytest.importorskip("torch")
    split, whole = checkpoint("zero1-fp32-tp2-pp2-dp2"), checkpoint("zero1-fp32-pp1-tp1-dp1")
    for tag in (split, whole):
        reset(tag, request(COLUMNS))
    for layer in (2, 3):
        blocks = [torch.load(split / f"layer_{layer:02d}-model_{rank:02d}-model_states.pt") for rank in (0, 1)]
        matrix = torch.cat([block["attention.dense.weight"] for block in blocks], dim=1)
        expected = torch.load(whole / f"layer_{layer:02d}-model_00-model_states.pt")["attention.dense.weight"]
        assert torch.equal(matrix, expected)
        assert matrix.shape == (24, 24)


def test_all_weights_of_a_model_can_be_reset(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    assert changed_parameters(tag, request("*")) == set(read_layout(tag).parameters)


@pytest.mark.parametrize("name", ["zero1-fp32-tp2-pp2-dp2", "zero3-fp32-nopipe-dp2"])
def test_values_of_a_file_go_into_split_weights(name: str, checkpoint: GetTag, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tag = checkpoint(name)
    given = np.arange(24 * 24, dtype=np.float32).reshape(24, 24)
    save_file({"2.attention.dense.weight": given, "other": given[:1]}, tmp_path / "given.safetensors")
    init = InitSpec("file", path=str(tmp_path / "given.safetensors"))
    assert changed_parameters(tag, request("2.attention.dense.weight", init=init)) == {"2.attention.dense.weight"}
    assert np.array_equal(values(tag, "2.attention.dense.weight"), given)


def test_a_name_that_means_nothing_changes_nothing(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    before = everything(tag)
    for pattern in ("output_embedding", "position_embedding", "nothing.*"):
        with pytest.raises(InputError, match="has no"):
            reset(tag, request("input_embedding", pattern))
    assert everything(tag) == before
