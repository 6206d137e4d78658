# SPDX-License-Identifier: Apache-2.0
import random
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from gaff.checkpoint import crc
from gaff.checkpoint.crc import combined_crc, crc32, patched_crc, zeros_crc


@pytest.fixture(params=["as installed", "zlib"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CRC function that this machine has, and the one that machines without ISA-L have."""
    crc._fastest.cache_clear()
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
        assert crc._fastest() is zlib.crc32
    yield
    crc._fastest.cache_clear()


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("length", [0, 1, 15, 16, 255, 4096, 100_003])
def test_crc32_is_the_one_of_zip(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32(data) == zlib.crc32(data)
    assert crc32(memoryview(data)[1:], 123) == zlib.crc32(data[1:], 123)
    assert crc32(np.frombuffer(data, np.uint8)) == zlib.crc32(data)
    assert crc32(bytearray(data[length // 2 :]), crc32(data[: length // 2])) == zlib.crc32(data)


@pytest.mark.parametrize("seed", range(30))
def test_combined_crc_equals_crc_of_the_concatenation(seed: int) -> None:
    rng = random.Random(seed)
    first, second = rng.randbytes(rng.randrange(2000)), rng.randbytes(rng.randrange(2000))
    assert combined_crc(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_combined_crc_with_nothing_on_either_side() -> None:
    whole = zlib.crc32(b"gaff")
    assert combined_crc(whole, zlib.crc32(b""), 0) == whole
    assert combined_crc(zlib.crc32(b""), whole, 4) == whole


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 1023, 65536, 1_000_003])
def test_zeros_crc_equals_crc_of_zeros(length: int) -> None:
    assert zeros_crc(length) == zlib.crc32(bytes(length))


@pytest.mark.parametrize("seed", range(30))
def test_patched_crc_equals_crc_of_the_patched_bytes(seed: int) -> None:
    rng = random.Random(seed)
    before = rng.randbytes(rng.randrange(1, 5000))
    start = rng.randrange(len(before))
    stop = rng.randrange(start, len(before) + 1)
    change = rng.randbytes(stop - start)
    after = before[:start] + change + before[stop:]
    crc = patched_crc(zlib.crc32(before), zlib.crc32(before[start:stop]), zlib.crc32(change), len(before) - stop)
    assert crc == zlib.crc32(after)


def test_several_patches_of_one_record_compose() -> None:
    data = bytearray(random.Random(1).randbytes(3000))
    crc = zlib.crc32(data)
    for start, stop in ((0, 10), (700, 701), (2990, 3000)):
        old = zlib.crc32(data[start:stop])
        data[start:stop] = bytes(stop - start)
        crc = patched_crc(crc, old, zlib.crc32(data[start:stop]), len(data) - stop)
    assert crc == zlib.crc32(data)


def test_cost_does_not_depend_on_lengths() -> None:
    """Records of an exabyte take as many steps as those of a kilobyte: this ends at once."""
    some, more = 6 * 10**17, 4 * 10**17
    zeros = zeros_crc(some + more)
    assert combined_crc(zeros_crc(some), zeros_crc(more), more) == zeros
    patched = patched_crc(zeros, zeros_crc(4), zlib.crc32(b"gaff"), some + more - 4)
    assert patched == combined_crc(zlib.crc32(b"gaff"), zeros_crc(some + more - 4), some + more - 4)
