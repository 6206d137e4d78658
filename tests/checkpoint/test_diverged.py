# SPDX-License-Identifier: Apache-2.0
"""Surgery on a run that diverged: weights and moments that are infinite or not numbers."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gaff.checkpoint.inspect import inspect_tag
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.perform import finish_interrupted
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.surgery.restore import RestoreRequest, restore
from gaff.checkpoint.survey import different_elements, survey
from gaff.checkpoint.transaction import FOLDER, INTENT, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.errors import InputError
from tests.checkpoint.planting import change, copies_of
from tests.checkpoint.tags import contents, values

GetTag = Callable[[str], Path]
BAD = np.array([math.nan, math.inf, -math.inf, -0.0], np.float32)
NAMES = ["zero1-fp32-pp1-tp1-dp1", "zero1-fp16-tp2-dp2", "zero1-bf16-tp2-dp2", "zero3-fp32-nopipe-dp2"]


@pytest.fixture
def diverged(checkpoint: GetTag) -> GetTag:
    """``diverged(name)``: all weights and moments of the embedding are NaN, infinities and -0 in turn."""

    def get(name: str) -> Path:
        tag = checkpoint(name)
        change(tag, copies_of(read_layout(tag), INPUT_EMBEDDING), lambda old: np.resize(BAD, len(old)))
        return tag

    return get


@pytest.mark.parametrize("name", NAMES)
def test_it_is_sound_is_reset_and_comes_back_byte_for_byte(name: str, diverged: GetTag, tmp_path: Path) -> None:
    tag, file = diverged(name), tmp_path / "forgotten.safetensors"
    before = contents(tag)
    assert verify_tag(tag) == []
    reset(tag, ResetRequest(1, 1, forgotten=file))
    assert np.isfinite(values(tag)).all()
    restore(tag, RestoreRequest(file))
    assert contents(tag) == before
    assert verify_tag(tag) == []


def test_it_is_put_back_only_where_the_precision_is_the_same(
    diverged: GetTag, checkpoint: GetTag, tmp_path: Path
) -> None:
    file = tmp_path / "forgotten.safetensors"
    reset(diverged("zero1-fp32-pp1-tp1-dp1"), ResetRequest(1, 1, forgotten=file))
    with pytest.raises(InputError, match="not finite"):
        restore(checkpoint("zero1-fp16-tp2-dp2"), RestoreRequest(file))


def test_statistics_do_not_hide_it(diverged: GetTag) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = inspect_tag(diverged(NAMES[0]))["looked_into"]
    assert all(math.isnan(found[key]) for key in ("norm", "mean", "std"))


def test_the_record_is_json_and_is_recognised_after_a_kill(diverged: GetTag) -> None:
    tag = diverged(NAMES[0])
    record = reset(tag, ResetRequest(1, 1)).record

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    fields = json.loads(record.path.read_text(), parse_constant=refuse)
    (tag / FOLDER / INTENT).write_text(json.dumps({k: v for k, v in fields.items() if k not in ("crcs_after", "gaff")}))
    finish_interrupted(tag)
    assert [r.path for r in valid_records(tag)] == [record.path]
    assert not (tag / FOLDER / "0002-reset.json").exists()


def test_any_nan_agrees_with_any_other() -> None:
    truth = np.array([math.nan, 1.0, math.nan, 2.0], np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        mine = truth.astype(dtype)
        mine.view(np.uint16)[[0, 2]] = 0x7FFF, 0xFFFF  # what CUDA's conversions make of NaN, and the other sign
        assert different_elements(mine, truth) == 0
        mine[3] = math.nan
        assert different_elements(mine, truth) == 1


def test_a_survey_says_nothing_of_std_where_there_is_none(diverged: GetTag) -> None:
    layout = read_layout(diverged(NAMES[0]))
    assert math.isnan(survey(layout, [INPUT_EMBEDDING], states=False).statistics[INPUT_EMBEDDING].std)
