# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.inspect import inspect_tag
from gaff.checkpoint.layout import read_layout
from gaff.checkpoint.tag import TagFiles, find_tag
from gaff.errors import CheckpointError, InputError
from tests.conftest import ALL_NAMES, ZERO1_NAMES

GetTag = Callable[[str], Path]
GetOracle = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_every_copy_is_where_the_oracle_says_and_nowhere_else(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    layout = read_layout(checkpoint(name))
    found = sorted((c.file, c.kind, c.start, c.stop, c.dtype) for c in layout.copies)
    places = oracle(name)["places"]
    expected = [(Path(p["file"]).name, p["kind"], *p["global_flat_range"], p["dtype"]) for p in places]
    assert found == sorted(expected)


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_topology_and_precision_are_recognised(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    layout, known = read_layout(checkpoint(name)), oracle(name)["layout"]
    found = (layout.topology.tensor, layout.topology.pipeline, layout.topology.data)
    assert found == (known["tp"], known["pp"], known["dp"])
    assert layout.tied == known["tied"]
    assert layout.wrapper == known["optimizer_wrapper"]
    assert layout.shape == (known["padded_vocab"], known["hidden"])
    assert {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[layout.model_dtype] == known["precision"]


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("zero0-fp32-dp2", "ZeRO stage 0"),
        ("zero2-fp32-nopipe-dp2", "pipe_parallel_size: 0"),
        ("zero3-fp32-nopipe-dp2", "ZeRO stage 3"),
    ],
)
def test_other_layouts_are_refused_by_name(name: str, called: str, checkpoint: GetTag) -> None:
    with pytest.raises(CheckpointError, match=called):
        read_layout(checkpoint(name))


@pytest.mark.parametrize("name", ALL_NAMES)
def test_real_tags_are_whole_and_committed(name: str, checkpoint: GetTag) -> None:
    files = TagFiles(checkpoint(name))
    assert files.problems() == []
    assert files.written_after_commit() == []


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_any_missing_file_makes_a_tag_incomplete(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    for path in sorted(tag.glob("*.pt")):
        away = path.rename(tag.parent / path.name)
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


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("zero1-fp32-pp1-tp1-dp1", 31232), ("zero1-fp32-tied-tp2-pp2", 18944), ("zero1-fp32-learnedpos-dp2", 31616)],
)
def test_inspection_counts_the_whole_model_once(name: str, parameters: int, checkpoint: GetTag) -> None:
    """The numbers come from summing the tensors of the layer files with torch."""
    found = inspect_tag(checkpoint(name))
    assert found["parameters"] == parameters
    assert found["input_embedding"]["share"] == pytest.approx(12288 / parameters)


@pytest.mark.parametrize("name", [n for n in ZERO1_NAMES if "tp2" in n and "tied" not in n])
def test_the_model_is_as_large_with_tensor_parallelism_as_without(name: str, checkpoint: GetTag) -> None:
    assert inspect_tag(checkpoint(name))["parameters"] == 31232
