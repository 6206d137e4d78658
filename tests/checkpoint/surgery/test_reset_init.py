# SPDX-License-Identifier: Apache-2.0
"""Where new values come from: each init, for embeddings and for other weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.verify import verify_tag
from gaff.errors import InputError
from gaff.plan.settings import InitSpec
from tests.checkpoint.tags import everything, values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
SMALL = "zero1-fp32-pp1-tp1-dp1"
LINEAR1, LINEAR2 = "2.mlp.linear1.weight", "3.mlp.linear2.weight"
HIDDEN, LAYERS = 24, 2


def set_config(tag: Path, **keys: str) -> None:
    """Other initialisers in the config that the tag carries."""
    (path,) = (tag / "configs").glob("*")
    text = path.read_text()
    for key, value in keys.items():
        old = {"init_method": "small_init", "output_layer_init_method": "wang_init"}[key]
        assert f'"{key}": "{old}"' in text
        text = text.replace(f'"{key}": "{old}"', f'"{key}": "{value}"')
    path.write_text(text)


def after_reset(tag: Path, name: str, init: InitSpec | None = None) -> np.ndarray:
    reset(tag, ResetRequest(1, 1234, init or InitSpec(), parameters=(name,)))
    assert verify_tag(tag) == []
    return values(tag, name).astype(np.float64)


def spread(matrix: np.ndarray) -> float:
    """How far the sample's standard deviation may be from the true one: five standard errors of a normal sample."""
    return 5 / sqrt(2 * matrix.size)


FORMULAS = {
    "normal": lambda rows, columns: 0.02,
    "scaled_normal": lambda rows, columns: 0.02 / sqrt(2 * LAYERS),
    "single_residual_scaled_normal": lambda rows, columns: 0.02 / sqrt(LAYERS),
    "small_init": lambda rows, columns: sqrt(2 / (5 * HIDDEN)),
    "wang_init": lambda rows, columns: 2 / LAYERS / sqrt(HIDDEN),
    "xavier_normal": lambda rows, columns: sqrt(2 / (rows + columns)),
    "xavier_uniform": lambda rows, columns: sqrt(6 / (rows + columns)) / sqrt(3),
}


@pytest.mark.parametrize("method", FORMULAS)
@pytest.mark.parametrize("name", [INPUT_EMBEDDING, LINEAR1, LINEAR2])
def test_config_init_follows_the_trainers_formulas(name: str, method: str, checkpoint: GetTag) -> None:
    """Output projections take ``output_layer_init_method``, all others ``init_method``."""
    tag = checkpoint(SMALL)
    if method != "wang_init" and name == LINEAR2:
        set_config(tag, output_layer_init_method=method)
    elif method != "small_init" and name != LINEAR2:
        set_config(tag, init_method=method)
    matrix = after_reset(tag, name)
    rows, columns = matrix.shape
    std = FORMULAS[method](rows, columns)
    assert matrix.std() == pytest.approx(std, rel=spread(matrix))
    assert abs(matrix.mean()) < 5 * std / sqrt(matrix.size)
    bound = sqrt(6 / (rows + columns)) if method == "xavier_uniform" else 6 * std
    assert np.abs(matrix).max() <= bound * (1 + 1e-6)
    assert np.abs(matrix).max() > 0.99 * sqrt(3) * std
    assert len(np.unique(matrix)) > 0.99 * matrix.size


@pytest.mark.parametrize("name", [INPUT_EMBEDDING, LINEAR1, "2.attention.dense.weight", LINEAR2])
def test_scaled_orthogonal_is_orthogonal_and_scaled(name: str, checkpoint: GetTag) -> None:
    """Q of (rows, columns): its columns, or its rows if those are fewer, are orthonormal times the gain."""
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    set_config(tag, init_method="scaled_orthogonal", output_layer_init_method="scaled_orthogonal")
    matrix = after_reset(tag, name)
    rows, columns = matrix.shape
    gram = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
    gain = sqrt(2 / LAYERS)
    assert np.allclose(gram, gain**2 * np.eye(min(rows, columns)), atol=1e-5)
    assert 0.3 < (matrix > 0).mean() < 0.7


def test_orthogonal_weights_are_alike_in_split_and_whole_layouts(checkpoint: GetTag) -> None:
    found = []
    for layout in ("zero1-fp32-tp2-pp2-dp2", SMALL, "zero3-fp32-nopipe-dp2"):
        tag = checkpoint(layout)
        set_config(tag, output_layer_init_method="scaled_orthogonal")
        found.append(after_reset(tag, LINEAR2))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("method", ["orthogonal", "nonsense"])
def test_an_initialiser_that_cannot_be_had_is_refused(method: str, checkpoint: GetTag) -> None:
    tag = checkpoint(SMALL)
    set_config(tag, init_method=method)
    before = everything(tag)
    with pytest.raises(InputError, match=f"cannot make new rows by {method}"):
        reset(tag, ResetRequest(1, 1))
    assert everything(tag) == before
    reset(tag, ResetRequest(1, 1, parameters=(LINEAR2,)))  # which has another


@pytest.mark.parametrize("name", [INPUT_EMBEDDING, LINEAR1, "2.input_layernorm.weight"])
def test_a_given_number_holds_for_whatever_is_named(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    normal = after_reset(tag, name, InitSpec("normal", 0.5))
    assert normal.std() == pytest.approx(0.5, rel=spread(normal))
    uniform = after_reset(tag, name, InitSpec("uniform", 0.25))
    assert 0.2 < np.abs(uniform).max() <= 0.25
    assert uniform.std() == pytest.approx(0.25 / sqrt(3), rel=spread(uniform))


@pytest.mark.parametrize("layout", ["zero1-fp32-tied-tp2-pp2", "zero3-fp32-nopipe-dp2", "zero1-bf16-tp2-dp2"])
@pytest.mark.parametrize("name", [INPUT_EMBEDDING, LINEAR1])
def test_matched_has_mean_and_std_of_what_was_there(name: str, layout: str, checkpoint: GetTag) -> None:
    tag = checkpoint(layout)
    before = values(tag, name)
    after = after_reset(tag, name, InitSpec("matched"))
    assert after.std() == pytest.approx(before.std(), rel=spread(after))
    assert abs(after.mean() - before.mean()) < 5 * before.std() / sqrt(before.size)
    assert not np.any(after == before)


@pytest.mark.parametrize("layout", ALL_NAMES)
def test_step0_gives_what_that_tag_holds_whatever_its_layout(layout: str, checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-bf16-tp2-dp2")
    with pytest.raises(InputError, match="step0"):
        reset(tag, ResetRequest(1, 1, InitSpec("step0")))
    source = "zero1-fp16-tp2-dp2" if layout == "zero1-bf16-tp2-dp2" else layout
    step0 = checkpoint(source).rename(tag.parent / "global_step0")
    assert np.array_equal(after_reset(tag, INPUT_EMBEDDING, InitSpec("step0")), values(step0))


def test_step0_of_another_model_is_refused(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-learnedpos-dp2")
    checkpoint(SMALL).rename(tag.parent / "global_step0")
    with pytest.raises(InputError, match=r"has no 0\.position_embeddings\.weight"):
        reset(tag, ResetRequest(1, 1, InitSpec("step0"), parameters=("position_embedding",)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_a_file_gives_its_values_as_they_are(dtype: type, checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    given = np.random.default_rng(1).standard_normal((512, 24)).astype(dtype)
    save_file({"word_embeddings.weight": given, "other": given[:3]}, tmp_path / "given.safetensors")
    init = InitSpec("file", path=str(tmp_path / "given.safetensors"))
    assert np.array_equal(after_reset(tag, INPUT_EMBEDDING, init), given.astype(np.float32))


def test_a_file_of_another_shape_or_with_values_that_are_no_numbers_is_refused(
    checkpoint: GetTag, tmp_path: Path
) -> None:
    tag = checkpoint("zero1-fp16-tp2-dp2")
    before = everything(tag)
    wrong = np.zeros((512, 24), np.float32)
    cases = {"shape": wrong[:100], "nan": wrong.copy(), "overflow": wrong.copy(), "name": wrong}
    cases["nan"][511, 23], cases["overflow"][0, 0] = np.nan, 65536
    for case, matrix in cases.items():
        tensors = {"any": matrix, "more": matrix} if case == "name" else {"any": matrix}
        save_file(tensors, tmp_path / f"{case}.safetensors")
        with pytest.raises(InputError, match=r"not finite|not 0\.word_embeddings\.weight of shape \(512, 24\)"):
            reset(tag, ResetRequest(1, 1, InitSpec("file", path=str(tmp_path / f"{case}.safetensors"))))
    for text in (b"", b"{}", b"\xff" * 100, (10).to_bytes(8, "little") + b'{"a": 1}  '):
        (tmp_path / "no.safetensors").write_bytes(text)
        with pytest.raises(InputError, match="cannot be read as a safetensors file"):
            reset(tag, ResetRequest(1, 1, InitSpec("file", path=str(tmp_path / "no.safetensors"))))
    assert everything(tag) == before


def test_the_same_file_with_other_values_is_another_reset(checkpoint: GetTag, tmp_path: Path) -> None:
    tag, file = checkpoint("zero1-fp32-pp1-tp1-dp1"), tmp_path / "new.safetensors"
    request = ResetRequest(1, 1, InitSpec("file", path=str(file)))
    for value in (0.25, 0.5):
        save_file({"any": np.full((512, 24), value, np.float32)}, file)
        assert not reset(tag, request).already_done
        assert np.all(values(tag) == np.float32(value))
        assert reset(tag, request).already_done


def test_a_file_whose_name_is_no_text_is_recorded_and_recognised(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    shape = np.full((512, 24), 0.25, np.float32)
    save_file({"any": shape}, tmp_path / "text.safetensors")
    (tmp_path / "text.safetensors").rename(file)
    request = ResetRequest(1, 1, InitSpec("file", path=str(file)))
    assert not reset(tag, request).already_done
    assert reset(tag, request).already_done
    assert verify_tag(tag) == []
