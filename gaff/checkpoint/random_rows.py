# SPDX-License-Identifier: Apache-2.0
"""Random rows that depend on a key, the row's number and its width alone, the same bits on every machine.

Row r of width d is made from words r*W to (r+1)*W - 1 of a PCG64DXSM stream, W = ceil(d/2), so any rank can make any
rows without the others: the stream is advanced there in O(log r) steps.  NumPy promises the raw words of its bit
generators, not its distributions (NEP 19), therefore the step from words to floats is here.  It takes conversions,
additions, multiplications and table look-ups only (divisions and square roots for the tables), which IEEE 754 rounds
alike everywhere; ``numpy.log`` and its like do not.

PCG: O'Neill (2014), HMC-CS-2014-0905; its DXSM variant: https://numpy.org/doc/stable/reference/random/upgrading-pcg64.html
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

LARGEST_NORMAL = 6.337958  # a bound on |standard_normal|, reached by one word in 2^31: the quantile of 2^-33

_PIECE = 1 << 17  # values; few and large, because threads wait for the interpreter's lock between NumPy's calls


class _Scratch(threading.local):
    """Working memory of one thread, kept: memory fresh from the system costs more than the values worked out in it."""

    def __init__(self) -> None:
        self._arrays: tuple[NDArray[np.intp], NDArray[np.float32]] | None = None

    def arrays(self, length: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        import numpy as np

        if self._arrays is None or len(self._arrays[0]) < length:
            size = max(length, _PIECE)
            self._arrays = np.empty(size, np.intp), np.empty(size, np.float32)
        return self._arrays[0][:length], self._arrays[1][:length]


_scratch = _Scratch()


def key_for(*parts: str | int) -> tuple[int, int]:
    """A key from names and numbers, by SHA-256: state and (odd) increment of PCG64DXSM, 128 bits each."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:16], "little"), int.from_bytes(digest[16:], "little") | 1


def row_order(key: tuple[int, int], rows: int) -> NDArray[np.int64]:
    """Row numbers 0 to ``rows`` - 1 in an order drawn by ``key``; any first n of them are n distinct rows.

    The key should not be one that values are drawn with, for both come from the start of its stream.
    """
    import numpy as np

    return np.argsort(_words(key, 0, rows), kind="stable").astype(np.int64, copy=False)


def open_uniform(key: tuple[int, int], first_row: int, rows: int, width: int) -> NDArray[np.float32]:
    """Uniform numbers in (0, 1), shape (rows, width): the midpoints of 2^23 equal intervals, all exact in float32.

    The least is 2^-24, the largest 1 - 2^-24, and 2u - 1 is exact too, so symmetric about zero.
    """
    import numpy as np

    out = np.empty((rows, width), np.float32)
    for piece, halves in _pieces(key, first_row, out):
        np.right_shift(halves, 9, out=halves)
        np.copyto(piece, halves[:, :width], casting="unsafe")
        piece += np.float32(0.5)
        piece *= np.float32(2.0**-23)
    return out


def standard_normal(key: tuple[int, int], first_row: int, rows: int, width: int) -> NDArray[np.float32]:
    """Standard normal numbers, shape (rows, width), by the inverse of the distribution function.

    A signed 32-bit half w of a word becomes f = w + 1/2, rounded to float32.  The result has the sign of f, and its
    magnitude is exceeded by a standard normal number with probability p = |f| / 2^32, to within 3e-7 * max(1, z).
    The tails are as finely divided as the middle, because |f| is a float: out to :data:`LARGEST_NORMAL`, in steps of
    about 1e-7 around zero.
    """
    import numpy as np

    constants, slopes = _lines()
    out = np.empty((rows, width), np.float32)
    for piece, halves in _pieces(key, first_row, out):
        np.copyto(piece, halves.view("<i4")[:, :width], casting="unsafe")
        f = piece.reshape(-1)
        line, product = _scratch.arrays(len(f))
        f += np.float32(0.5)
        np.right_shift(f.view(np.uint32), 23 - _LINE_BITS, out=line, casting="unsafe")
        # Indices are in range by construction; "wrap" is the mode that takes least care of them.
        np.take(slopes, line, out=product, mode="wrap")
        product *= f
        np.take(constants, line, out=f, mode="wrap")
        f += product
    return out


def _words(key: tuple[int, int], first: int, count: int) -> NDArray[np.uint64]:
    """Words ``first`` to ``first + count`` - 1 of the key's stream."""
    import numpy as np

    state, increment = key
    stream = np.random.PCG64DXSM(0)  # any seed: the state is set next
    stream.state = {
        "bit_generator": "PCG64DXSM",
        "state": {"state": state, "inc": increment},
        "has_uint32": 0,
        "uinteger": 0,
    }
    return stream.advance(first).random_raw(count)


def _pieces(
    key: tuple[int, int], first_row: int, out: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint32]]]:
    """``out`` in pieces of whole rows, each with the halves of its words, low ones first; odd widths leave one over."""
    rows, width = out.shape
    words = (width + 1) // 2
    step = max(1, _PIECE // max(1, width))
    for row in range(0, rows, step):
        piece = out[row : row + step]
        drawn = _words(key, (first_row + row) * words, len(piece) * words)
        yield piece, drawn.astype("<u8", copy=False).view("<u4").reshape(len(piece), 2 * words)


# The quantile as straight lines: each octave of p is cut into 2^9 of equal width, so a line's number is the sign,
# exponent and upper nine mantissa bits of the float f.
_LINE_BITS = 9
_FIRST_LINE = 126 << _LINE_BITS  # f = 1/2, whose biased exponent is 126
_LAST_LINE = 158 << _LINE_BITS  # f = 2^31, that is p = 1/2
_NEGATIVE = 256 << _LINE_BITS  # the sign bit


@cache
def _lines() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Constant and slope of each line, such that z = constant + slope * f.

    A line goes through the quantile at the two Chebyshev nodes of its range, which nearly halves the error that the
    range's ends would give.  Entries for floats that do not occur stay zero.
    """
    import numpy as np

    numbers = np.arange(_FIRST_LINE, _LAST_LINE + 2, dtype=np.uint32)
    edges = (numbers << np.uint32(23 - _LINE_BITS)).view(np.float32).astype(np.float64)
    middle = (edges[1:] + edges[:-1]) * 0.5
    reach = (edges[1:] - edges[:-1]) * 0.5 * 0.7071067811865476
    low, high = _upper_quantile((middle - reach) * 2.0**-32), _upper_quantile((middle + reach) * 2.0**-32)
    slope = ((high - low) / (2.0 * reach)).astype(np.float32)
    constant = ((high + low) * 0.5 - slope.astype(np.float64) * middle).astype(np.float32)
    constants, slopes = np.zeros(2 * _NEGATIVE, np.float32), np.zeros(2 * _NEGATIVE, np.float32)
    used = slice(_FIRST_LINE, _LAST_LINE + 1)
    constants[used], slopes[used] = constant, slope
    constants[_NEGATIVE:][used], slopes[_NEGATIVE:][used] = -constant, slope
    return constants, slopes


# Wichura (1988), Algorithm AS 241, PPND16: relative accuracy about 1e-16.  Its third pair of polynomials is for
# p < 1.4e-11, which does not occur here.
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


def _upper_quantile(p: Doubles) -> Doubles:
    """The z that a standard normal number exceeds with probability ``p``, elementwise, for p in [1.4e-11, 0.925]."""
    import numpy as np

    q = 0.5 - p
    middle: Doubles = q * _ratio(0.180625 - q * q, _A, _B)
    tail = _ratio(np.sqrt(-_log(p)) - 1.6, _C, _D)
    return np.where(q <= 0.425, middle, tail)


def _ratio(x: Doubles, numerator: tuple[float, ...], denominator: tuple[float, ...]) -> Doubles:
    return _polynomial(x, numerator) / _polynomial(x, denominator)


def _polynomial(x: Doubles, coefficients: tuple[float, ...]) -> Doubles:
    import numpy as np

    total = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total *= x
        total += c
    return total


def _log(x: Doubles) -> Doubles:
    """Natural logarithm of positive doubles to within a few units in the last place, in exact-rounding operations."""
    import numpy as np

    mantissa, exponent = np.frexp(x)  # exact
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = exponent - low
    s = (mantissa - 1.0) / (mantissa + 1.0)  # log m = 2 atanh(s), |s| < 0.1716
    series = _polynomial(s * s, tuple(1.0 / (2 * i + 1) for i in range(12)))
    return exponent * 0.6931471805599453 + 2.0 * s * series
