# SPDX-License-Identifier: Apache-2.0
"""One pass finds CRCs, disagreements and statistics, as zlib and numpy find them over the whole."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gaff.checkpoint import survey as survey_module
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.survey import Survey, survey
from tests.checkpoint.tags import flip, members, values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]


@pytest.fixture(params=[None, 1000], ids=["whole", "cut"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with tasks and pieces far smaller than the fixtures' embedding, so that parts must be joined."""
    if request.param:
        real = survey_module.pieces
        monkeypatch.setattr(survey_module, "TASK_ELEMENTS", request.param)
        monkeypatch.setattr(survey_module, "pieces", lambda start, stop, step=77: real(start, stop, step))


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("name", ALL_NAMES)
def test_crcs_and_statistics_are_those_of_the_whole(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    layout = read_layout(tag)
    names = [INPUT_EMBEDDING, "2.attention.dense.weight", "2.input_layernorm.weight"]
    found = survey(layout, names)
    assert found.problems(tag) == []
    assert not any(found.differences.values())
    for parameter in names:
        matrix = values(tag, parameter).astype(np.float64)
        statistics = found.statistics[parameter]
        assert statistics.norm == pytest.approx(np.linalg.norm(matrix), rel=1e-12)
        assert statistics.mean == pytest.approx(matrix.mean(), rel=1e-9)
        assert statistics.std == pytest.approx(matrix.std(), rel=1e-9, abs=1e-9)
        for copy in layout.copies[parameter]:
            begin = members(tag / copy.file)[copy.record][0] + copy.offset
            part = (tag / copy.file).read_bytes()[begin : begin + copy.length]
            assert found.crcs[copy] == zlib.crc32(part), copy


def differing(tag: Path, kind: str, stage: int, element: int, byte: int) -> tuple[str, Survey]:
    """Survey after one element of one copy was changed; with the copy's file."""
    layout = read_layout(tag)
    copy = next(
        c for c in layout.copies[INPUT_EMBEDDING]
        if (c.kind, c.stage) == (kind, stage) and c.start <= element < c.stop and c.tensor_rank == 1
    )  # fmt: skip
    flip(tag / copy.file, copy.record, copy.offset + (element - copy.start) * copy.item_size + byte)
    return copy.file, survey(layout, [INPUT_EMBEDDING])


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("element", [0, 76, 77, 999, 1000, 6143])
@pytest.mark.parametrize(("kind", "stage"), [("model", 0), ("master", 1)])
def test_one_element_that_differs_is_counted_in_its_copy(
    kind: str, stage: int, element: int, checkpoint: GetTag
) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    file, found = differing(tag, kind, stage, element, 0 if kind == "model" else 3)
    assert sorted(found.differences.values())[-2:] == [0, 1]
    (problem,) = found.problems(tag)
    assert Path(str(problem.where)).name == file
    assert f"its {kind} copy of {INPUT_EMBEDDING} differs from the master in 1 elements" in problem.what


def test_a_second_master_may_drift_by_its_last_digits(checkpoint: GetTag) -> None:
    """It is stepped on its own, and rounded differently; a model copy may not."""
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    assert differing(tag, "master", 1, 100, 0)[1].problems(tag) == []
    assert len(differing(tag, "model", 0, 100, 0)[1].problems(tag)) == 1


def test_states_are_left_out_when_they_are_not_wanted(checkpoint: GetTag) -> None:
    layout = read_layout(checkpoint("zero1-fp32-tp2-pp2-dp2"))
    found = survey(layout, [INPUT_EMBEDDING], states=False)
    assert found.crcs.keys() == {c for c in layout.copies[INPUT_EMBEDDING] if not c.is_state}
