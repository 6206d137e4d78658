# SPDX-License-Identifier: Apache-2.0
"""float32 rounded to the dtype of a model copy: to nearest, ties to even, as torch and the hardware do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SMALLEST_NORMAL = 0x38800000  # bits of 2^-14, float16's smallest normal number, as float32
_OVERFLOW = 0x477FF000  # bits of 65520, from which float16 is infinite
_REBIAS = (0xFFF - (112 << 23)) & 0xFFFFFFFF  # half an ulp less one, and float32's exponent bias to float16's


def rounded(values: NDArray[np.float32], dtype: np.dtype[np.generic]) -> NDArray[Any]:
    """``values`` in ``dtype``; what is too large becomes infinite."""
    import numpy as np

    if dtype == np.float32:
        return values
    if dtype == np.float16:
        return _half(values)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype)


def _half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """NumPy casts to float16 one by one; normal numbers go much faster as whole arrays of their bits."""
    import numpy as np

    bits = np.ascontiguousarray(values).view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    result = magnitude >> np.uint32(13)
    result &= np.uint32(1)  # an odd last digit is rounded up from exactly one half
    result += magnitude
    result += np.uint32(_REBIAS)
    result >>= np.uint32(13)
    bits = bits >> np.uint32(16)
    bits &= np.uint32(0x8000)
    result |= bits
    halves = result.astype(np.uint16)
    magnitude -= np.uint32(_SMALLEST_NORMAL)
    others = np.flatnonzero(magnitude >= np.uint32(_OVERFLOW - _SMALLEST_NORMAL))  # subnormal, zero, infinite, NaN
    if len(others):
        with np.errstate(over="ignore", invalid="ignore"):
            halves[others] = values[others].astype(np.float16).view(np.uint16)
    found: NDArray[np.float16] = halves.view(np.float16)
    return found
