# SPDX-License-Identifier: Apache-2.0
"""Where DeepSpeed wrote no ``param_slice_mappings``, the same places follow from arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError
from tests.checkpoint import synthetic
from tests.checkpoint.synthetic import rewrite
from tests.checkpoint.tags import contents
from tests.conftest import ALL_NAMES

pytest.importorskip("torch")
pytest.importorskip("deepspeed")

GetTag = Callable[[str], Path]
MAPPED = [name for name in ALL_NAMES if name.startswith(("zero1-", "zero2-"))]
STATE = "optimizer_state_dict"


def shards(tag: Path) -> list[Path]:
    return sorted(tag.glob("*_optim_states.pt"))


def without_mappings(root: Any) -> None:
    del root[STATE]["param_slice_mappings"]


def read_both_ways(tag: Path) -> tuple[Layout, Layout]:
    """With the mappings and without; torch saves the files both times, so that they are laid out alike."""
    for path in shards(tag):
        rewrite(path, lambda root: None)
    mapped = read_layout(tag)
    for path in shards(tag):
        rewrite(path, without_mappings)
    return mapped, read_layout(tag)


@pytest.mark.parametrize("name", MAPPED)
def test_real_shards_are_understood_without_their_mappings(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    mapped, computed = read_both_ways(tag)
    assert computed.copies == mapped.copies
    reset(tag, ResetRequest(1, 1234))
    assert verify_tag(tag) == []


def test_a_boundary_inside_a_row_is_worked_out(tmp_path: Path) -> None:
    """8 x 6 embedding and 8 more weights over two ranks: 28 elements each, so row 4 is cut in two."""
    tag = synthetic.write_tag(tmp_path / "save", rows=8, width=6, neighbour=8, data_ranks=2)
    mapped, computed = read_both_ways(tag)
    assert computed.copies == mapped.copies
    assert [(c.start, c.stop) for c in computed.chain(INPUT_EMBEDDING, MASTER, 0)] == [(0, 28), (28, 48)]
    reset(tag, ResetRequest(1, 1234))
    assert verify_tag(tag) == []


def test_a_reset_by_arithmetic_writes_the_same_values(tmp_path: Path) -> None:
    mapped, computed = (
        synthetic.write_tag(tmp_path / folder, rows=8, width=6, neighbour=8, data_ranks=2) for folder in "ab"
    )
    for path in shards(computed):
        rewrite(path, without_mappings)
    for tag in (mapped, computed):
        reset(tag, ResetRequest(1, 1234))
    for path in shards(computed):
        rewrite(path, lambda root: None)
    for path in shards(mapped):
        rewrite(path, without_mappings)
    assert contents(mapped) == contents(computed)


def test_partitions_of_another_size_than_arithmetic_says_are_refused(tmp_path: Path) -> None:
    """As when padding stands between the parameters: without a mapping their places cannot be known."""
    import torch

    tag = synthetic.write_tag(tmp_path / "save", rows=8, width=6, neighbour=8, data_ranks=2)

    def longer(root: Any) -> None:
        groups = root[STATE]["single_partition_of_fp32_groups"]
        groups[0] = torch.cat([groups[0], torch.zeros(2)])
        without_mappings(root)

    for path in shards(tag):
        rewrite(path, longer)
    before = contents(tag)
    with pytest.raises(CheckpointError, match="a partition of group 0 has 30 elements where its parameters come to 28"):
        reset(tag, ResetRequest(1, 1))
    assert contents(tag) == before


@pytest.mark.parametrize(
    ("name", "path", "kinds"),
    [
        ("zero1-fp32-tp2-pp2-dp2", (STATE, "base_optimizer_state"), {"model", "master"}),
        ("zero1-bf16-tp2-dp2", (STATE, "base_optimizer_state"), {"model", "master"}),
        ("zero2-fp32-nopipe-dp2", (STATE, "base_optimizer_state"), {"model", "master"}),
        ("zero3-fp32-nopipe-dp2", (STATE, STATE), {"master"}),
        ("zero0-fp32-dp2", ("optimizer",), {"model"}),
    ],
)
def test_a_tag_of_step_0_has_no_optimizer_state(
    name: str, path: tuple[str, ...], kinds: set[str], checkpoint: GetTag
) -> None:
    """FusedAdam makes its state at the first step (``state == {}`` before)."""
    tag = checkpoint(name)

    def to_step_0(root: Any) -> None:
        if "iteration" in root:
            root["iteration"] = 0
        for key in path:
            if key not in root:
                return
            root = root[key]
        if root is not None:
            root["state"] = {}

    for file in [*tag.glob("*mp_rank*.pt")]:
        rewrite(file, to_step_0)
    tag = tag.rename(tag.with_name("global_step0"))
    layout = read_layout(tag)
    assert (layout.iteration, layout.states(INPUT_EMBEDDING), layout.scalars) == (0, (), ())
    assert {c.kind for c in layout.copies[INPUT_EMBEDDING]} == kinds
    result = reset(tag, ResetRequest(1, 1234))
    assert {edit.content for edit in result.operation.edits} == {INPUT_EMBEDDING}
    assert verify_tag(tag) == []
