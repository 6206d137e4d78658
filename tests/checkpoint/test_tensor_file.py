# SPDX-License-Identifier: Apache-2.0
"""safetensors files read and written without the library are the library's, and damaged ones are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gaff.checkpoint.tensor_file import TensorFile, write_tensors
from gaff.errors import InputError

SHAPES = {"one": (3, 5), "a.b#c": (7,), "empty": (0, 4), "number": ()}


def tensor(name: str) -> NDArray[np.float32]:
    generator = np.random.default_rng(len(name))
    return generator.standard_normal(SHAPES[name]).astype(np.float32)


def flat_pieces(name: str) -> Iterator[NDArray[np.float32]]:
    flat = tensor(name).reshape(-1)
    for start in range(0, len(flat), 4):
        yield flat[start : start + 4]


def write(path: Path) -> None:
    write_tensors(path, SHAPES, {name: flat_pieces(name) for name in SHAPES}, {"iteration": "5"})


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / "file.safetensors")
    found = load_file(tmp_path / "file.safetensors")
    assert found.keys() == SHAPES.keys()
    for name, matrix in found.items():
        assert (matrix.dtype, matrix.shape) == (np.float32, SHAPES[name])
        assert np.array_equal(matrix, tensor(name))
    with safe_open(tmp_path / "file.safetensors", "numpy") as file:
        assert file.metadata() == {"iteration": "5"}
    assert [p.name for p in tmp_path.iterdir()] == ["file.safetensors"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_what_the_library_writes_is_read_in_any_range(dtype: Any, tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).standard_normal((6, 9)).astype(dtype)
    path = tmp_path / "file.safetensors"
    save_file({"first": matrix[:2], "matrix": matrix, "whole": np.arange(4)}, path, {"key": "value"})
    file = TensorFile(path)
    assert file.about == {"key": "value"}
    assert file.tensors.keys() == {"first", "matrix"}, "integers are no weights"
    assert file.tensors["matrix"].shape == (6, 9)
    expected = matrix.astype(np.float32).reshape(-1)
    for start, stop in ((0, 54), (5, 5), (13, 31), (53, 54)):
        found = file.values("matrix", start, stop)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected[start:stop])


def test_pieces_that_do_not_fill_the_shape_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"old")
    for short in (b"", bytes(4)):
        pieces = [np.frombuffer(short, np.float32)]
        with pytest.raises(ValueError, match="not as long as the shapes say"):
            write_tensors(path, {"a": (2,)}, {"a": pieces}, {})
        assert [p.name for p in tmp_path.iterdir()] == ["file.safetensors"]
        assert path.read_bytes() == b"old"


def header(fields: Any, data: bytes = bytes(16)) -> bytes:
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + data


BROKEN = {
    "empty": b"", "short": b"\x01\x00", "no header": bytes(8), "longer than the file": (1 << 40).to_bytes(8, "little"),
    "no JSON": (4).to_bytes(8, "little") + b"{{{{", "a list": header([1]), "a number": header({"a": 1}),
    "outside": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}}),
    "before": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}),
    "backwards": header({"a": {"dtype": "F32", "shape": [0], "data_offsets": [8, 4]}}),
    "another size": header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}}),
    "negative shape": header({"a": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}}),
    "no offsets": header({"a": {"dtype": "F32", "shape": [4]}}),
    "words": header({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 16]}}),
    "metadata": header({"__metadata__": 3}), "deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_safetensors_file_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(BROKEN[case])
    with pytest.raises(InputError, match="cannot be read as a safetensors file"):
        TensorFile(path)


@pytest.mark.parametrize("path", ["absent", "."])
def test_a_path_that_leads_to_no_file_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is not there, or not a plain file"):
        TensorFile(tmp_path / path)
