# SPDX-License-Identifier: Apache-2.0
from statistics import NormalDist

import numpy as np
import pytest

from gaff.checkpoint.random_rows import key_for, normal_quantile, open_uniform, standard_normal

KEY = key_for("gaff-reset", 1234, 1, "word_embeddings.weight")


def test_bits_are_pinned() -> None:
    """Written down once: a run resumed on another machine, or with another numpy, must draw the same values."""
    assert KEY == (5740329454592763568, 4422237643801571480)
    assert [float(x).hex() for x in standard_normal(KEY, 7, 1, 3)[0]] == [
        "-0x1.23a837be5b45dp-3",
        "-0x1.3d2dc4ae2a598p-3",
        "0x1.02f0e61fb6b21p-1",
    ]
    assert [float(x).hex() for x in open_uniform(KEY, 7, 1, 2)[0]] == ["0x1.c604d50600000p-2", "0x1.c0fbe74e00000p-2"]


@pytest.mark.parametrize("width", [1, 7, 8, 24, 129])
def test_a_row_does_not_depend_on_the_rows_drawn_with_it(width: int) -> None:
    together = standard_normal(KEY, 0, 50, width)
    apart = np.concatenate([standard_normal(KEY, row, 1, width) for row in range(50)])
    assert np.array_equal(together, apart)


def test_seed_number_and_parameter_each_change_every_row() -> None:
    keys = [key_for("gaff-reset", *parts) for parts in ((1, 1, "a"), (2, 1, "a"), (1, 2, "a"), (1, 1, "b"))]
    rows = [standard_normal(key, 0, 4, 16) for key in keys]
    for i, one in enumerate(rows):
        for other in rows[:i]:
            assert not np.any(one == other)


def test_quantile_agrees_with_the_standard_library() -> None:
    p = np.concatenate([np.linspace(1e-9, 1 - 1e-9, 999), [2.0**-33, 1 - 2.0**-33, 0.074, 0.076, 0.925]])
    expected = [NormalDist().inv_cdf(float(x)) for x in p]
    assert np.allclose(normal_quantile(p), expected, rtol=1e-13, atol=1e-15)


def test_distribution_is_standard_normal() -> None:
    sample = standard_normal(KEY, 0, 4000, 64)
    assert abs(sample.mean()) < 0.01
    assert abs(sample.std() - 1) < 0.01
    assert abs((sample**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(sample[:-1].ravel(), sample[1:].ravel())[0, 1]) < 0.01


def test_uniform_never_touches_its_ends() -> None:
    sample = open_uniform(KEY, 0, 1000, 64)
    assert sample.min() > 0
    assert sample.max() < 1
    assert abs(sample.mean() - 0.5) < 0.005
