# SPDX-License-Identifier: Apache-2.0
import hashlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist

import numpy as np
import pytest

from gaff.checkpoint import random_rows
from gaff.checkpoint.random_rows import LARGEST_NORMAL, key_for, open_uniform, row_order, standard_normal

KEY = key_for("gaff-reset", 1234, 1, "word_embeddings.weight")
Method = Callable[[tuple[int, int], int, int, int], np.ndarray]
METHODS: list[Method] = [standard_normal, open_uniform]


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def reference_halves(key: tuple[int, int], row: int, width: int) -> list[int]:
    """The 32-bit halves that make one row: PCG64DXSM written down from its definition, run from the stream's start."""
    state, increment = key
    multiplier, mask = 0xDA942042E4DD58B5, 2**64 - 1
    words = -(-width // 2)
    halves = []
    for number in range((row + 1) * words):
        high, low = state >> 64, state & mask | 1
        high ^= high >> 32
        high = high * multiplier & mask
        high ^= high >> 48
        word = high * low & mask
        state = (state * multiplier + increment) % 2**128
        if number >= row * words:
            halves += [word & 0xFFFFFFFF, word >> 32]
    return halves[:width]


def normals_of(monkeypatch: pytest.MonkeyPatch, halves: np.ndarray) -> np.ndarray:
    """What standard_normal makes of given (an even number of) 32-bit halves."""
    words = halves.astype("<u4").view("<u8").astype(np.uint64)
    monkeypatch.setattr(random_rows, "_words", lambda key, first, count: words[first : first + count].copy())
    return standard_normal(KEY, 0, 1, len(halves))[0]


def assert_is_quantile(halves: np.ndarray, found: np.ndarray) -> None:
    """Against the standard library's erfc, with which neither our tables nor their making have anything in common."""
    for half, z in zip(halves.astype(np.int64).tolist(), found.tolist(), strict=True):
        w = half - 2**32 if half >= 2**31 else half
        p = abs(w + 0.5) / 2**32
        magnitude = math.copysign(1.0, w) * z
        density = math.exp(-magnitude * magnitude / 2) / math.sqrt(2 * math.pi)
        error = (math.erfc(magnitude / math.sqrt(2)) / 2 - p) / density
        assert abs(error) <= 3e-7 * max(1.0, magnitude), (half, z)


def test_bits_are_pinned() -> None:
    """Written down once: a run resumed on another machine, or with another numpy, must draw the same values."""
    assert KEY == (81575886048331929759011604921566275248, 338593106598795313335276578514748133235)
    assert [x.hex() for x in standard_normal(KEY, 7, 1, 3)[0].tolist()] == [
        "0x1.4c516c0000000p+0",
        "0x1.1bd94c0000000p+0",
        "-0x1.b628080000000p-1",
    ]
    assert [x.hex() for x in open_uniform(KEY, 7, 1, 2)[0].tolist()] == ["0x1.b40f940000000p-2", "0x1.d956100000000p-4"]
    assert (
        sha256(standard_normal(KEY, 50_000, 1000, 257))
        == "a9a1061248f03a276f10921e72755ab8d5ef96368e9ab52a9aa97c1cabe0708c"
    )
    assert (
        sha256(open_uniform(KEY, 50_000, 1000, 257))
        == "c1837a7e0414c414faae18a3fbc78884948e81fb29ca38aec66d3896d01767c8"
    )
    assert sha256(row_order(KEY, 50_304)) == "08bf1fc56e03309cec4aa45b67abc4e66492da2a42e36b4cd0be0d8055154104"


@pytest.mark.parametrize(("row", "width"), [(0, 8), (3, 7), (11, 1), (2, 129)])
def test_rows_follow_from_their_definition(row: int, width: int) -> None:
    halves = np.array(reference_halves(KEY, row, width))
    assert open_uniform(KEY, row, 1, width)[0].tolist() == [(int(h) // 512 + 0.5) / 2**23 for h in halves]
    assert_is_quantile(halves, standard_normal(KEY, row, 1, width)[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [1, 7, 8, 24, 129])
def test_a_row_does_not_depend_on_the_rows_drawn_with_it(method: Method, width: int) -> None:
    together = method(KEY, 5, 50, width)
    apart = np.concatenate([method(KEY, 5 + row, 1, width) for row in range(50)])
    assert together.dtype == np.float32
    assert np.array_equal(together, apart)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rows", "width"), [(700, 511), (3, 150_001)])
def test_many_values_are_those_of_few_at_a_time(method: Method, rows: int, width: int) -> None:
    assert rows * width > 2 * random_rows._PIECE
    together = method(KEY, 0, rows, width)
    for row in (0, 1, rows // 2, rows - 1):
        assert np.array_equal(together[row], method(KEY, row, 1, width)[0])


def test_threads_do_not_disturb_each_other() -> None:
    expected = [standard_normal(KEY, 100 * number, 100, 1001) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: standard_normal(KEY, 100 * number, 100, 1001), range(8)))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_no_values(method: Method, shape: tuple[int, int]) -> None:
    assert method(KEY, 3, *shape).shape == shape


def test_seed_number_and_parameter_each_change_every_row() -> None:
    keys = [key_for("gaff-reset", *parts) for parts in ((1, 1, "a"), (2, 1, "a"), (1, 2, "a"), (1, 1, "b"))]
    rows = [standard_normal(key, 0, 4, 16) for key in keys]
    for i, one in enumerate(rows):
        for other in rows[:i]:
            assert not np.any(one == other)


def test_quantile_at_every_line_and_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a line begins, ends and bends away most; each with both signs."""
    edges = np.unique(2.0 ** np.arange(32)[:, None] * (1 + np.arange(512) / 512))
    points = np.unique(np.floor(np.concatenate([edges[:-1], (edges[1:] + edges[:-1]) / 2, edges[1:] - 1])))
    positive = np.concatenate([[0], points[points < 2**31]]).astype(np.uint32)
    halves = np.concatenate([positive, ~positive])
    found = normals_of(monkeypatch, halves)
    assert_is_quantile(halves, found)
    assert np.allclose(found[: len(positive)], -found[len(positive) :], rtol=0, atol=2e-7)


def test_largest_normal_is_the_quantile_of_the_last_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    outermost = normals_of(monkeypatch, np.array([0, 0xFFFFFFFF], np.uint32)).tolist()
    assert outermost[0] == -outermost[1]
    assert LARGEST_NORMAL - 5e-7 < outermost[0] <= LARGEST_NORMAL
    assert pytest.approx(-NormalDist().inv_cdf(2.0**-33), abs=1e-6) == LARGEST_NORMAL


def kolmogorov(sample: np.ndarray, distribution: np.ndarray) -> float:
    """sqrt(n) times the largest distance of the empirical from the given distribution function, at sorted values."""
    n = len(sample)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - distribution).max(), (distribution - steps[:-1]).max()) * math.sqrt(n))


def test_distribution_is_standard_normal() -> None:
    z = standard_normal(KEY, 0, 2048, 512).astype(np.float64).ravel()
    n = len(z)
    # Moments of the normal distribution, each within four of its standard errors.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - moment) < 4 * math.sqrt(variance / n), power
    for bound in (0.5, 1, 2, 3, 4, 4.5):
        p = math.erfc(bound / math.sqrt(2)) / 2
        for side in (z, -z):
            assert abs(np.count_nonzero(side > bound) - n * p) < 4 * math.sqrt(n * p), bound
    part = np.sort(z[:100_000])
    cdf = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in part.tolist()])
    assert kolmogorov(part, cdf) < 1.63  # exceeded with probability 0.01


def test_distribution_is_uniform() -> None:
    u = open_uniform(KEY, 0, 2048, 512).astype(np.float64).ravel()
    n = len(u)
    for power in (1, 2, 3):
        mean, variance = 1 / (power + 1), 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        assert abs((u**power).mean() - mean) < 4 * math.sqrt(variance / n), power
    ordered = np.sort(u)
    assert kolmogorov(ordered, ordered) < 1.63


def test_uniform_values_are_midpoints_and_never_touch_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = open_uniform(KEY, 0, 1000, 64).astype(np.float64) * 2**24
    assert np.all(sample % 2 == 1)
    monkeypatch.setattr(random_rows, "_words", lambda *_: np.array([0xFFFFFFFF00000000], np.uint64))
    assert open_uniform(KEY, 0, 1, 2).tolist() == [[2.0**-24, 1 - 2.0**-24]]


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_and_their_squares_are_uncorrelated(method: Method) -> None:
    sample = method(KEY, 0, 1024, 256).astype(np.float64)
    other = method(key_for("gaff-reset", 1234, 2, "word_embeddings.weight"), 0, 1024, 256).astype(np.float64)
    pairs = {
        "next row": (sample[:-1], sample[1:]),
        "next but 511 rows": (sample[:512], sample[512:]),
        "next column": (sample[:, :-1], sample[:, 1:]),
        "halves of a word": (sample[:, ::2], sample[:, 1::2]),
        "next reset": (sample, other),
    }
    for name, (one, two) in pairs.items():
        for f in (lambda x: x, np.square):
            r = np.corrcoef(f(one).ravel(), f(two).ravel())[0, 1]
            assert abs(r) < 4 / math.sqrt(one.size), name


def test_row_order_is_a_permutation_that_the_key_decides() -> None:
    order = row_order(KEY, 1000)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(order, row_order(KEY, 1000))
    assert not np.array_equal(order, row_order(key_for("another"), 1000))
    assert row_order(KEY, 0).tolist() == []
    assert row_order(KEY, 1).tolist() == [0]


def test_every_row_is_equally_likely_at_every_place() -> None:
    rows, draws = 8, 4000
    counts = np.zeros((rows, rows))
    for number in range(draws):
        counts[np.arange(rows), row_order(key_for("order", number), rows)] += 1
    expected = draws / rows
    assert ((counts - expected) ** 2 / expected).sum() < 85.4  # chi-square, 49 degrees of freedom, P = 0.001
