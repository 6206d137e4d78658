# SPDX-License-Identifier: Apache-2.0
"""Sources give the same values for any range asked, before and after JSON, and know what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gaff.checkpoint.init_methods import Distribution
from gaff.checkpoint.layout.parameter import Parameter
from gaff.checkpoint.sources import (
    ArrayValues,
    ConstantValue,
    DrawnValues,
    FileValues,
    GoneValues,
    block_values,
    is_lasting,
    refuse_overflow,
    source_from_json,
    store,
)
from gaff.checkpoint.tensor_file import TensorFile
from gaff.errors import InputError

ROWS, WIDTH = 40, 6
MATRIX = np.random.default_rng(5).standard_normal((ROWS, WIDTH)).astype(np.float32)


def drawn(kind: Any = "normal", scale: float = 0.5, mean: float = 0.0) -> DrawnValues:
    return DrawnValues(Distribution(kind, scale, mean), 1234, 2, "0.word_embeddings.weight", WIDTH)


def file_values(folder: Path) -> FileValues:
    save_file({"m": MATRIX}, folder / "m.safetensors")
    return FileValues(TensorFile(folder / "m.safetensors"), "m")


def every_source(folder: Path) -> list[Any]:
    return [drawn(), drawn("uniform"), drawn(mean=3.0), ConstantValue(1.0), ArrayValues(MATRIX), file_values(folder)]


def test_any_range_is_a_slice_of_all(tmp_path: Path) -> None:
    for source in every_source(tmp_path):
        whole = source.values(0, MATRIX.size)
        assert (whole.dtype, whole.shape) == (np.float32, (MATRIX.size,))
        for start in range(0, MATRIX.size, 11):
            for stop in (start + 1, start + WIDTH + 2, MATRIX.size):
                assert np.array_equal(source.values(start, stop), whole[start:stop]), source


@pytest.mark.parametrize("split", [None, 0, 1])
def test_blocks_put_together_are_the_whole(split: int | None, tmp_path: Path) -> None:
    """Two tensor ranks, cut as ``numpy.split`` cuts; any range of a block is a slice of it."""
    parameter = Parameter("p", (ROWS, WIDTH), split, 2)
    blocks = [MATRIX, MATRIX] if split is None else np.split(MATRIX, 2, axis=split)
    for source in (ArrayValues(MATRIX), file_values(tmp_path)):
        for rank, block in enumerate(blocks):
            flat = np.ascontiguousarray(block).reshape(-1)
            assert parameter.block_numel == flat.size
            for start in range(0, flat.size, 7):
                for stop in (start + 1, min(start + 8, flat.size), flat.size):
                    assert np.array_equal(block_values(source, parameter, rank, start, stop), flat[start:stop])


def test_lasting_sources_are_the_same_after_json(tmp_path: Path) -> None:
    for source in (drawn(), drawn("uniform"), drawn(mean=-1.5), ConstantValue(0.25)):
        assert is_lasting(source)
        again = source_from_json(json.loads(json.dumps(source.to_json())), tmp_path)
        assert again == source
        assert np.array_equal(again.values(3, 100), source.values(3, 100))


def test_what_does_not_last_is_stored_and_read_from_there(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    sources = {"file": file_values(given), "drawn": drawn(), "array": ArrayValues(MATRIX * 2)}
    before = {name: source.values(0, MATRIX.size) for name, source in sources.items()}
    path = tmp_path / "new-values.safetensors"
    kept = store(path, sources, dict.fromkeys(sources, (ROWS, WIDTH)))
    (given / "m.safetensors").unlink()
    assert TensorFile(path).tensors.keys() == {"file", "array"}
    assert all(is_lasting(source) for source in kept.values())
    for name, source in kept.items():
        again = source_from_json(json.loads(json.dumps(source.to_json())), tmp_path)
        assert np.array_equal(again.values(0, MATRIX.size), before[name]), name
    assert kept["file"].to_json()["origin"] == str(given / "m.safetensors")
    path.unlink()
    assert isinstance(source_from_json(kept["file"].to_json(), tmp_path), GoneValues)


def test_nothing_is_written_where_all_sources_last(tmp_path: Path) -> None:
    sources = {"a": drawn(), "b": ConstantValue(1.0)}
    assert store(tmp_path / "new-values.safetensors", sources, {}) == sources
    assert list(tmp_path.iterdir()) == []


def test_a_stored_file_that_lies_elsewhere_is_never_looked_for(tmp_path: Path) -> None:
    """Fields of a record name a file in the tag's own folder, whatever path they give."""
    (tmp_path / "tag").mkdir()
    save_file({"t": MATRIX}, tmp_path / "secret.safetensors")
    fields = {"kind": "stored", "file": "../secret.safetensors", "tensor": "t", "origin": ""}
    assert isinstance(source_from_json(fields, tmp_path / "tag"), GoneValues)


@pytest.mark.parametrize(
    "fields", [{}, {"kind": "other"}, {"kind": "constant"}, {"kind": "drawn", "seed": 1}, {"kind": "stored"}]
)
def test_fields_that_are_no_source_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        source_from_json(fields, tmp_path)


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [(65504, "float16", True), (65520, "float16", False), (3e38, "bfloat16", True), (np.inf, "float32", False),
     (np.nan, "float32", False), (-65520, "float16", False), (1e5, "bfloat16", True)],
)  # fmt: skip
def test_values_beyond_the_models_dtype_are_refused(value: float, dtype: str, fits: bool) -> None:
    matrix = MATRIX.copy()
    matrix[-1, -1] = value
    for source in (ArrayValues(matrix), ConstantValue(value)):
        if fits:
            refuse_overflow(source, matrix.size, dtype, "it", Path("tag"))
        else:
            with pytest.raises(InputError, match="not finite"):
                refuse_overflow(source, matrix.size, dtype, "it", Path("tag"))


def test_no_drawn_value_is_larger_than_its_source_says() -> None:
    for source in (drawn(), drawn("uniform"), drawn(mean=2.0)):
        assert np.abs(source.values(0, 60_000)).max() <= source.largest()
