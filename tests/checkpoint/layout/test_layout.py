# SPDX-License-Identifier: Apache-2.0
"""Real tags of nine layouts are understood, each copy of each parameter in its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER, MODEL, POSITION_EMBEDDING, split_dimension
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.tag import TagFiles, find_tag
from gaff.errors import CheckpointError, InputError
from tests.checkpoint.tags import all_copies, values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
GetOracle = Callable[[str], dict[str, Any]]
# ZeRO stage 0 lists no names, so that the head is missing shows only when the optimizer's parameters are counted.
NAMED_NOWHERE = ("zero0-fp32-dp2", "layer_06-model_00-model_states.pt")
UNTIED = [name for name in ALL_NAMES if "tied" not in name and "learnedpos" not in name]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_copy_is_where_the_oracle_says_and_nowhere_else(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    layout = read_layout(checkpoint(name))
    per_rank = layout.parameters[INPUT_EMBEDDING].block_numel
    found = sorted(
        (c.file, c.kind, c.tensor_rank * per_rank + c.start, c.tensor_rank * per_rank + c.stop, c.dtype)
        for c in layout.copies[INPUT_EMBEDDING]
    )
    places = oracle(name)["places"]
    expected = [(Path(p["file"]).name, p["kind"], *p["global_flat_range"], p["dtype"]) for p in places]
    assert found == sorted(expected)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_topology_and_precision_are_recognised(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    layout, known = read_layout(checkpoint(name)), oracle(name)["layout"]
    found = (layout.topology.tensor, layout.topology.pipeline, layout.topology.data)
    assert found == (known["tp"], known["pp"], known["dp"])
    assert layout.tied == known["tied"]
    assert layout.wrapper == known["optimizer_wrapper"].replace("plain torch optimizer, no wrapper", "none")
    assert layout.zero_stage == known["zero_stage"]
    assert layout.vocabulary == (known["padded_vocab"], known["hidden"])
    assert {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[layout.model_dtype] == known["precision"]
    assert layout.iteration == 5
    assert layout.deepspeed_version == known["ds_version"]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_parameter_of_every_layout_has_all_its_copies(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    """Each kind covers each parameter once per tensor rank, and as often as it is kept by stages."""
    layout, known = read_layout(checkpoint(name)), oracle(name)["layout"]
    expected = {MASTER, "exp_avg", "exp_avg_sq"} | ({MODEL} if known["zero_stage"] < 3 else set())
    if known["zero_stage"] == 0:
        expected -= {MASTER}
    for parameter in layout.parameters.values():
        copies = layout.copies[parameter.name]
        assert {c.kind for c in copies} == expected, parameter.name
        stages = 2 if known["tied"] and known["pp"] == 2 and parameter.name == INPUT_EMBEDDING else 1
        for kind in expected - {MODEL}:
            held = sum(c.numel for c in copies if c.kind == kind)
            assert held == stages * parameter.block_numel * parameter.tensor, (parameter.name, kind)
        assert prod(parameter.shape) == parameter.numel


@pytest.mark.parametrize("name", ALL_NAMES)
def test_no_two_copies_share_a_byte(name: str, checkpoint: GetTag) -> None:
    layout = read_layout(checkpoint(name))
    by_record: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for copies in layout.copies.values():
        for c in copies:
            by_record.setdefault((c.file, c.record), []).append((c.offset, c.offset + c.length))
    for ranges in by_record.values():
        ranges.sort()
        assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))


@pytest.mark.parametrize("name", UNTIED)
def test_the_same_model_has_the_same_parameters_in_every_layout(name: str, checkpoint: GetTag) -> None:
    """These fixtures are one model: names and whole shapes must come out alike, however it is split."""
    layout = read_layout(checkpoint(name))
    plain = read_layout(checkpoint("zero1-fp32-pp1-tp1-dp1"))
    assert {n: p.shape for n, p in layout.parameters.items()} == {n: p.shape for n, p in plain.parameters.items()}
    assert sum(p.numel for p in layout.parameters.values()) == 31232


@pytest.mark.parametrize(
    ("name", "parameters"), [("zero1-fp32-tied-tp2-pp2", 18944), ("zero1-fp32-learnedpos-dp2", 31616)]
)
def test_the_whole_model_is_counted_once(name: str, parameters: int, checkpoint: GetTag) -> None:
    """The numbers come from summing the tensors of the layer files with torch."""
    assert sum(p.numel for p in read_layout(checkpoint(name)).parameters.values()) == parameters


@pytest.mark.parametrize("name", ["zero1-fp32-tp2-pp2-dp2", "zero1-fp32-tied-tp2-pp2"])
def test_split_weights_are_put_together_as_megatron_splits_them(name: str, checkpoint: GetTag) -> None:
    """By rows, by columns, or whole on each rank; put together here with torch."""
    torch = pytest.importorskip("torch")
    tag = checkpoint(name)
    splits = {"attention.query_key_value.weight": 0, "mlp.linear1.bias": 0, "attention.dense.weight": 1,
              "mlp.linear2.weight": 1, "input_layernorm.weight": None, "mlp.linear2.bias": None}  # fmt: skip
    ranks = [torch.load(tag / f"layer_03-model_{rank:02d}-model_states.pt") for rank in (0, 1)]
    for part, dimension in splits.items():
        assert split_dimension(f"3.{part}", 2) == dimension
        blocks = [rank[part] for rank in ranks]
        whole = blocks[0] if dimension is None else torch.cat(blocks, dim=dimension)
        for kind in (MODEL, MASTER):
            assert np.array_equal(values(tag, f"3.{part}", kind), whole.numpy()), (part, kind)


def test_a_parameter_that_nobody_knows_how_to_split_is_refused() -> None:
    assert split_dimension("2.mlp.gate.weight", 1) is None
    with pytest.raises(InputError, match=r"2 tensor ranks share the parameter 2\.mlp\.gate\.weight"):
        split_dimension("2.mlp.gate.weight", 2)


# --- names that a user gives ---


def test_nicknames_and_patterns_name_parameters_in_the_models_order(checkpoint: GetTag) -> None:
    layout = read_layout(checkpoint("zero1-fp32-learnedpos-dp2"))
    assert layout.named("input_embedding") == (INPUT_EMBEDDING,)
    assert layout.named("output_embedding") == ("6.final_linear.weight",)
    assert layout.named("position_embedding") == (POSITION_EMBEDDING,)
    assert layout.named("output_embedding", "input_embedding") == (INPUT_EMBEDDING, "6.final_linear.weight")
    dense = layout.named("*.attention.dense.weight", "3.attention.dense.*")
    assert dense == ("2.attention.dense.weight", "3.attention.dense.weight", "3.attention.dense.bias")


@pytest.mark.parametrize("pattern", ["position_embedding", "*.attention.dense", "word_embeddings.weight", ""])
def test_a_name_that_means_nothing_is_refused(pattern: str, checkpoint: GetTag) -> None:
    with pytest.raises(InputError, match="has no parameter"):
        read_layout(checkpoint("zero3-fp32-nopipe-dp2")).named("input_embedding", pattern)


def test_a_tied_output_embedding_is_said_to_be_the_input_embedding(checkpoint: GetTag) -> None:
    with pytest.raises(InputError, match="tied to the input embedding; name input_embedding"):
        read_layout(checkpoint("zero1-fp32-tied-tp2-pp2")).named("output_embedding")


# --- which tags are whole ---


@pytest.mark.parametrize("name", ALL_NAMES)
def test_real_tags_are_whole_and_committed(name: str, checkpoint: GetTag) -> None:
    files = TagFiles(checkpoint(name))
    assert files.problems() == []
    assert files.written_after_commit() == []


@pytest.mark.parametrize("name", ALL_NAMES)
def test_any_missing_file_makes_a_tag_incomplete(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    for path in sorted(tag.glob("*.pt")):
        away = path.rename(tag.parent / path.name)
        if (name, path.name) != NAMED_NOWHERE:
            assert TagFiles(tag).problems(), path.name
        with pytest.raises(CheckpointError):
            read_layout(tag)
        away.rename(path)
    assert TagFiles(tag).problems() == []


def test_a_file_cut_off_anywhere_is_noticed(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    path = tag / "layer_00-model_00-model_states.pt"
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert [p.id for p in TagFiles(tag).problems()] == ["truncated-file"], length


def test_a_tag_without_configs_was_not_finished(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    shutil.rmtree(tag / "configs")
    assert [p.id for p in TagFiles(tag).problems()] == ["incomplete-tag"]
    assert len(TagFiles(tag).written_after_commit()) == 22


def test_latest_leads_to_its_tag(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    assert find_tag(tag) == tag
    assert find_tag(tag.parent) == tag


@pytest.mark.parametrize("latest", ["global_step9", "", "../zero1-fp32-pp1-tp1-dp1/nothing"])
def test_a_wrong_latest_is_said(latest: str, checkpoint: GetTag) -> None:
    save = checkpoint("zero1-fp32-pp1-tp1-dp1").parent
    (save / "latest").write_text(latest)
    with pytest.raises(InputError, match="latest"):
        find_tag(save)


def test_data_ranks_hold_their_pieces_of_the_embedding(checkpoint: GetTag) -> None:
    """Where the boundary between two partitions lies in the embedding, and where it lies behind."""
    dp2 = [c.data_rank for c in all_copies(checkpoint("zero1-fp32-tp2-pp2-dp2")) if c.kind == MASTER]
    assert sorted(dp2) == [0, 0, 1, 1]
    behind = [c.data_rank for c in all_copies(checkpoint("zero2-fp32-nopipe-dp2")) if c.kind == MASTER]
    assert behind == [0]
