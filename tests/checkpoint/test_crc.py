# SPDX-License-Identifier: Apache-2.0
import random
import zlib

import pytest

from gaff.checkpoint.crc import patched_crc


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


def test_cost_does_not_depend_on_what_follows() -> None:
    """A record of an exabyte takes as many steps as one of a kilobyte: this ends at once."""
    assert 0 <= patched_crc(1, 2, 3, 10**18) < 2**32
