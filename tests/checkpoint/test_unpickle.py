# SPDX-License-Identifier: Apache-2.0
"""What a pickle says, as plain data, against what torch makes of it."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.pickle_parser import DamagedPickleError
from gaff.checkpoint.unpickle import FragmentAddress, TensorRef, unpickle


@pytest.mark.parametrize(
    ("shape", "stride", "contiguous"),
    [((4, 3), (3, 1), True), ((4, 3), (1, 4), False), ((1, 3), (99, 1), True), ((), (), True), ((5,), (2,), False)],
)
def test_contiguity_is_told_from_strides(shape: tuple[int, ...], stride: tuple[int, ...], contiguous: bool) -> None:
    assert TensorRef("data/0", "float32", 0, shape, stride).is_contiguous is contiguous


def compare(ours: Any, theirs: Any, torch: Any, where: str = "") -> int:
    """Assert that two trees are the same; returns how many tensors they hold."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, TensorRef), where
        assert (ours.shape, ours.stride) == (tuple(theirs.shape), theirs.stride()), where
        assert (ours.dtype, ours.offset) == (str(theirs.dtype).removeprefix("torch."), theirs.storage_offset()), where
        return 1
    if type(theirs).__name__ == "fragment_address":
        assert ours == FragmentAddress(theirs.numel, theirs.start), where
        return 0
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        return sum(compare(ours[key], theirs[key], torch, f"{where}.{key}") for key in theirs)
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        return sum(compare(a, b, torch, f"{where}[]") for a, b in zip(ours, theirs, strict=True))
    if isinstance(theirs, torch.dtype):
        assert ours == str(theirs).removeprefix("torch."), where
    elif isinstance(theirs, (int, float, str, bytes, set, type(None))):
        assert ours == theirs, where
    return 0


def test_every_real_file_says_what_torch_says(unpacked_checkpoints: Path) -> None:
    pytest.importorskip("deepspeed")  # its classes stand in the pickles
    torch = pytest.importorskip("torch")
    tensors = 0
    for path in sorted(unpacked_checkpoints.rglob("*.pt")):
        theirs = torch.load(path, weights_only=False)
        tensors += compare(Archive(path).root, theirs, torch, path.name)
    assert tensors > 500


def test_what_is_shared_stays_shared() -> None:
    inner: list[int] = [1]
    loaded = unpickle(pickle.dumps(OrderedDict(a=inner, b=inner), protocol=2))
    assert loaded["a"] is loaded["b"]


def test_attributes_of_an_ordered_dict_do_not_hide_its_methods() -> None:
    # torch's state dicts carry ``_metadata`` so
    data = b"\x80\x02ccollections\nOrderedDict\n)RX\x01\x00\x00\x00aK\x01s}X\x05\x00\x00\x00itemsK\x05sb."
    assert pickle.loads(data).items == 5
    assert list(unpickle(data).items()) == [("a", 1)]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_pickle_that_breaks_off_is_refused(cut: int) -> None:
    data = pickle.dumps({"a": [1, 2.0, "text", (1 << 40, None)], "b": {}}, protocol=2)
    with pytest.raises(DamagedPickleError):
        unpickle(data[:-cut])


def test_nothing_may_follow_a_pickle() -> None:
    with pytest.raises(DamagedPickleError, match="left over"):
        unpickle(pickle.dumps(1, protocol=2) + b"N.")
