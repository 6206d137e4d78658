# SPDX-License-Identifier: Apache-2.0
"""Quiet output rows: the softmax over old tokens stays as it was for every hidden state, in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gaff.checkpoint.layout.parameter import MODEL
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.quiet_rows import final_norm, look_at
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.surgery.resize import ResizeRequest, resize
from gaff.checkpoint.verify import verify_tag
from gaff.errors import InputError
from gaff.plan.gaff_values import parse_init
from tests.checkpoint.tags import contents, values

GetTag = Callable[[str], Path]
ROWS, WIDTH = 512, 24
HEAD, NORM = "6.final_linear.weight", "5.norm"
QUIET = ResizeRequest(vocab=1000)
LAYOUTS = ["zero1-fp32-tp2-pp2-dp2", "zero0-fp32-dp2", "zero1-bf16-tp2-dp2", "zero1-fp16-tp2-dp2"]


def trained(tag: Path, part: str = "bias", init: str = "normal:0.5") -> Path:
    """The final norm as if training had moved it: five iterations, as the fixtures had, have hardly."""
    parameters = (f"{NORM}.{part}",)
    reset(tag, ResetRequest(number=1, seed=3, init=parse_init(init), moments="keep", parameters=parameters))
    return tag


def given(tag: Path, part: str, whole: NDArray[np.float64]) -> Path:
    """The same, with values of the test's choice."""
    path = tag.parent / f"{part}.safetensors"
    save_file({part: whole.astype(np.float32)}, path)
    return trained(tag, part, str(path))


def states(tag: Path, count: int = 4000) -> NDArray[np.float64]:
    """Outputs of the final LayerNorm for inputs of many kinds: even ones, ones along one axis, ones along old rows."""
    random = np.random.default_rng(5)
    even = random.standard_normal((count, WIDTH))
    peaked = np.eye(WIDTH)[random.integers(0, WIDTH, count)] * random.choice([-9, 9], (count, 1)) + even * 0.1
    old = values(tag, HEAD)[:ROWS]
    along = np.concatenate([old, -old, -old.mean(axis=0, keepdims=True)])
    inputs = np.concatenate([even, peaked, along]).astype(np.float64)
    inputs -= inputs.mean(axis=1, keepdims=True)
    inputs /= inputs.std(axis=1, keepdims=True)
    return inputs * values(tag, f"{NORM}.weight", MODEL) + values(tag, f"{NORM}.bias", MODEL)


def log_partition(tag: Path, hidden: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
    logits = hidden @ values(tag, HEAD, MODEL)[rows].astype(np.float64).T
    top = logits.max(axis=1, keepdims=True)
    summed: NDArray[np.float64] = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return summed


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_loss_on_old_tokens_stays_for_every_hidden_state(name: str, checkpoint: GetTag) -> None:
    import torch

    tag = trained(checkpoint(name))
    dtype = getattr(torch, read_layout(tag).model_dtype)
    resize(tag, QUIET)
    hidden = torch.tensor(states(tag)).to(dtype).to(torch.float64).numpy()  # as the model rounds them
    rise = log_partition(tag, hidden, slice(None)) - log_partition(tag, hidden, slice(ROWS))
    assert rise.max() < 1e-8
    assert verify_tag(tag) == []


def test_drawn_rows_raise_the_loss(checkpoint: GetTag) -> None:
    tag = trained(checkpoint(LAYOUTS[0]))
    resize(tag, ResizeRequest(vocab=1000, output_rows="init"))
    hidden = states(tag)
    assert (log_partition(tag, hidden, slice(None)) - log_partition(tag, hidden, slice(ROWS))).min() > 0.1


def test_only_new_output_rows_are_made_quiet_and_they_stay_apart(checkpoint: GetTag) -> None:
    drawn, quiet = checkpoint(LAYOUTS[0]), checkpoint(LAYOUTS[1])
    resize(drawn, ResizeRequest(vocab=1000, output_rows="init"))
    before = values(trained(quiet), HEAD)
    resize(quiet, QUIET)
    np.testing.assert_array_equal(values(quiet)[ROWS:], values(drawn)[ROWS:])
    np.testing.assert_array_equal(values(quiet, HEAD)[:ROWS], before)
    new, plain = values(quiet, HEAD)[ROWS:].astype(np.float64), values(drawn, HEAD)[ROWS:].astype(np.float64)
    inverse = 1 / values(quiet, f"{NORM}.weight").astype(np.float64)
    unit = inverse / np.linalg.norm(inverse)
    offset = new - plain
    np.testing.assert_allclose(offset, (offset @ unit)[:, None] * unit, atol=1e-4)  # along 1 / gamma alone
    assert len(np.unique(new, axis=0)) == len(new)


def refusal(tag: Path, request: ResizeRequest = QUIET) -> str:
    before = contents(tag)
    with pytest.raises(InputError) as caught:
        resize(tag, request)
    assert contents(tag) == before
    (problem,) = caught.value.problems
    assert (problem.id, problem.remedy) == ("not-quiet", "accept that with --output-rows init")
    return problem.what


@pytest.mark.parametrize("name", ["zero1-fp32-tp2-pp2-dp2", "zero3-fp32-nopipe-dp2"])
def test_a_bias_that_training_has_hardly_moved_is_refused(name: str, checkpoint: GetTag) -> None:
    what = refusal(checkpoint(name))
    assert "would be needed, where the largest old one is" in what
    assert "it rises, by 0.693 where all logits are alike" in what


def test_a_bias_that_half_precision_drowns_is_refused(checkpoint: GetTag) -> None:
    assert "add up to nearly nothing" in refusal(checkpoint("zero1-bf16-tp2-dp2"))


def test_a_weight_of_zero_is_refused(checkpoint: GetTag) -> None:
    tag = given(trained(checkpoint(LAYOUTS[0])), "weight", np.arange(WIDTH) / WIDTH)
    assert "a weight of the final LayerNorm is zero" in refusal(tag)


@pytest.mark.parametrize(
    ("line", "reason"),
    [('"norm": "rmsnorm"', "does not take away the mean"), ('"use_mup": true', "muP rescales the logits")],
)
def test_other_norms_and_mup_are_refused(line: str, reason: str, checkpoint: GetTag) -> None:
    tag = trained(checkpoint(LAYOUTS[0]))
    (config,) = (tag / "configs").iterdir()
    config.write_text(config.read_text().replace("{", "{" + line + ",", 1))
    assert reason in refusal(tag, ResizeRequest(vocab=1000, init=parse_init("normal:0.02")))


def test_a_smaller_vocabulary_needs_no_quiet_rows(checkpoint: GetTag) -> None:
    tag = checkpoint(LAYOUTS[0])
    assert resize(tag, ResizeRequest(vocab=200)).operation.about["sources"] == {}


def test_tied_rows_are_quiet_where_the_input_can_still_tell_them_apart(checkpoint: GetTag) -> None:
    tag = trained(checkpoint("zero1-fp32-tied-tp2-pp2"))
    resize(tag, QUIET)
    new = values(tag)[ROWS:].astype(np.float64)
    seen = new - new.mean(axis=1, keepdims=True)  # what a block's LayerNorm leaves of an input row
    similarity = np.corrcoef(seen)[np.triu_indices(len(seen), 1)]
    assert np.abs(similarity).mean() < 0.5
    assert verify_tag(tag) == []


def test_tied_rows_that_the_input_could_not_tell_apart_are_refused(checkpoint: GetTag) -> None:
    tag = given(checkpoint("zero1-fp32-tied-tp2-pp2"), "bias", np.full(WIDTH, 0.15))
    assert "could hardly be told apart" in refusal(given(tag, "weight", np.linspace(0.7, 1.7, WIDTH)))


def test_old_rows_are_looked_at_as_a_whole(checkpoint: GetTag) -> None:
    tag = checkpoint(LAYOUTS[0])
    head, found = values(tag, HEAD).astype(np.float64), look_at(read_layout(tag), HEAD)
    np.testing.assert_allclose(found.mean, head.mean(axis=0), atol=1e-9)
    assert (found.rows, found.largest) == (ROWS, np.abs(head).max())
    norm = final_norm(read_layout(tag))
    np.testing.assert_array_equal(norm.gamma, values(tag, f"{NORM}.weight"))
