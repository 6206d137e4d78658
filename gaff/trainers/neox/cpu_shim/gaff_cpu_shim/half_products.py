# SPDX-License-Identifier: Apache-2.0
"""Products of float16 matrices, worked out in float32 and rounded once: what a GPU's tensor cores do.

torch's own float16 products on a CPU are some fifty times as slow as those of float32.  The backward pass follows by
itself, since it is derived from what is done here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_FUNCTIONS = ("matmul", "mm", "bmm", "addmm", "baddbmm")
_METHODS = ("matmul", "mm", "bmm", "addmm", "baddbmm", "__matmul__")


def through_float32(torch: Any) -> None:
    """Replace torch's matrix products by ones that look at the type of what they are given."""
    for name in _FUNCTIONS:
        setattr(torch, name, _widened(torch, getattr(torch, name)))
    for name in _METHODS:
        setattr(torch.Tensor, name, _widened(torch, getattr(torch.Tensor, name)))
    torch.nn.functional.linear = _widened(torch, torch.nn.functional.linear)


def _widened(torch: Any, product: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(product)
    def compute(*factors: Any, **options: Any) -> Any:
        if "out" in options or not any(_is_half(torch, factor) for factor in factors):
            return product(*factors, **options)
        wide = (factor.float() if _is_half(torch, factor) else factor for factor in factors)
        return product(*wide, **options).half()

    return compute


def _is_half(torch: Any, value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype is torch.float16
