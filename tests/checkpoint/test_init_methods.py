# SPDX-License-Identifier: Apache-2.0
"""``init: config`` takes what the config in a tag says, or says why it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from gaff.checkpoint.init_methods import Distribution, ModelSizes, init_method_of
from gaff.errors import InputError, Location

SIZES = ModelSizes(hidden=64, layers=2, rows=128)


@pytest.mark.parametrize("neox", [{}, {"init_method_std": None}, {"init_method": None}, {"init_method_std": 0.02}])
def test_what_is_null_or_missing_has_the_trainers_default(neox: dict[str, Any]) -> None:
    assert init_method_of(neox, SIZES) == Distribution("normal", 0.02)


@pytest.mark.parametrize("std", ["x", "0.02", -0.02, 0, float("nan"), float("inf"), 1e300, 1e-40, True, [0.02]])
def test_a_std_that_is_no_size_is_refused_with_its_place(std: object) -> None:
    with pytest.raises(InputError) as caught:
        init_method_of({"init_method_std": std}, SIZES, Location("tag/configs"))
    assert str(caught.value).startswith("tag/configs: `init_method_std` must be a number above 0")
