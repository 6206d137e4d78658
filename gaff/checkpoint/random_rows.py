# SPDX-License-Identifier: Apache-2.0
"""Random rows that depend on a key and the row's number alone, the same bits on every machine.

Row r of a matrix of width d is made from its own stretch of the Philox4x64-10 stream (Salmon et al. 2011), so any rank
can make any row without the others.  NumPy promises Philox's raw words, not its distributions (NEP 19), therefore the
step from words to floats is here, in IEEE additions, multiplications, divisions and square roots only, which round
alike everywhere; ``numpy.log`` does not.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def key_for(*parts: str | int) -> tuple[int, int]:
    """A 128-bit Philox key from names and numbers, by SHA-256."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def open_uniform(key: tuple[int, int], first_row: int, rows: int, width: int) -> Floats:
    """Uniform numbers in (0, 1), shape (rows, width): the midpoints of 2^32 equal intervals."""
    import numpy as np

    blocks = -(-width // 8)  # one Philox block is four 64-bit words, eight 32-bit halves
    stream = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=first_row * blocks)
    words = stream.random_raw(rows * blocks * 4).astype("<u8").view("<u4")
    halves = words.reshape(rows, blocks * 8)[:, :width]
    return (halves.astype(np.float64) + 0.5) * 2.0**-32


def standard_normal(key: tuple[int, int], first_row: int, rows: int, width: int) -> Floats:
    """Standard normal numbers, shape (rows, width), by the inverse of the distribution function."""
    return normal_quantile(open_uniform(key, first_row, rows, width))


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    import numpy as np

    total = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total *= x
        total += c
    return total


def _log(x: Floats) -> Floats:
    """Natural logarithm of positive doubles to within a few units in the last place, in exact-rounding operations."""
    import numpy as np

    mantissa, exponent = np.frexp(x)  # exact
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = exponent - low
    s = (mantissa - 1.0) / (mantissa + 1.0)  # log m = 2 atanh(s), |s| < 0.1716
    series = _polynomial(s * s, tuple(1.0 / (2 * i + 1) for i in range(12)))
    return exponent * 0.6931471805599453 + 2.0 * s * series


# Wichura (1988), Algorithm AS 241, PPND16: relative accuracy about 1e-16.
_A = (
    3.3871328727963666080e0,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
_B = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
_C = (
    1.42343711074968357734e0,
    4.63033784615654529590e0,
    5.76949722146069140550e0,
    3.64784832476320460504e0,
    1.27045825245236838258e0,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
_D = (
    1.0,
    2.05319162663775882187e0,
    1.67638483018380384940e0,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)
_E = (
    6.65790464350110377720e0,
    5.46378491116411436990e0,
    1.78482653991729133580e0,
    2.96560571828504891230e-1,
    2.65321895265761230930e-2,
    1.24266094738807843860e-3,
    2.71155556874348757815e-5,
    2.01033439929228813265e-7,
)
_F = (
    1.0,
    5.99832206555887937690e-1,
    1.36929880922735805310e-1,
    1.48753612908506148525e-2,
    7.86869131145613259100e-4,
    1.84631831751005468180e-5,
    1.42151175831644588870e-7,
    2.04426310338993978564e-15,
)


def normal_quantile(p: Floats) -> Floats:
    """The standard normal quantile of ``p`` in (0, 1), elementwise."""
    import numpy as np

    q = p - 0.5
    r = 0.180625 - q * q
    result: Floats = q * (_polynomial(r, _A) / _polynomial(r, _B))
    tails = np.abs(q) > 0.425
    root = np.sqrt(-_log(np.minimum(p[tails], 1.0 - p[tails])))
    near = _ratio(root - 1.6, _C, _D)
    far = _ratio(root - 5.0, _E, _F)
    result[tails] = np.copysign(np.where(root <= 5.0, near, far), q[tails])
    return result


def _ratio(x: Floats, numerator: tuple[float, ...], denominator: tuple[float, ...]) -> Floats:
    return _polynomial(x, numerator) / _polynomial(x, denominator)
