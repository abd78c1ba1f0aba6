"""Two arithmetics for one text: float64 with an account of its rounding, and rational numbers, where that account is zero."""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

Array = Any
"""A numpy array, of float64 or of Fractions; the docstrings say of which shape."""

UNIT, TINY = 2.0**-53, 2.0**-900  # TINY pays for 2^100 underflows, also where subnormals are flushed to zero


class Numbers:
    """How bounds are computed: in rational numbers, or in float64."""

    def __init__(self, *, exact: bool) -> None:
        self.exact, self.tiny = exact, 0 if exact else TINY

    def array(self, values: Any) -> Array:
        """Numbers of this kind, each with the value it has as a float64."""
        values = np.asarray(values, np.float64)
        return np.vectorize(Fraction, otypes=[object])(values) if self.exact else values

    def zeros(self, *shape: int) -> Array:
        return np.full(shape, Fraction(0), dtype=object) if self.exact else np.zeros(shape)

    def gamma(self, count: int) -> Any:
        """A sum of so many products, in any order, is off by at most half of this times the sum of their magnitudes; the other
        half pays for computing that bound itself, which is off by far less."""
        return 0 if self.exact else 2 * count * UNIT

    def single(self, count: int) -> Any:
        """k u / (1 - k u) of float32, rounded up: what a float32 program may lose in a sum of k products, in any order."""
        share = Fraction(count, 2**24 - count)
        return share if self.exact else above(share)

    def down(self, x: Array) -> Array:
        """At most the exact result of the one operation that was rounded to x; what is no number says nothing."""
        if self.exact:
            assert not any(isinstance(value, float) for value in np.ravel(x)), "a float among rational numbers"
            return x
        return np.fmax(x - (np.abs(x) * (4 * UNIT) + TINY), -np.inf)

    def up(self, x: Array) -> Array:
        return -self.down(-x)

    def dot(self, a: Array, b: Array) -> Array:
        """[P] sums of products of rows; rounded, and charged for by the caller."""
        return (a * b).sum(1) if self.exact else np.einsum("pi,pi->p", a, b)


def below(value: Fraction) -> float:
    """The largest float64 that is no more than a rational number. Raises: OverflowError: there is no finite one."""
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)


def above(value: Fraction) -> float:
    return -below(-value)


@lru_cache(1 << 16)
def around(value: Fraction, dtype: Any) -> tuple[float, float]:
    """The hull of a rational number and of what it is rounded to, once and ties to even, as a number of `dtype`."""
    near = np.dtype(dtype).type(float(value))  # perhaps rounded twice; a tie between floats is a float64, and rounded once
    about = [float(x) for x in (near, np.nextafter(near, -np.inf, dtype=dtype), np.nextafter(near, np.inf, dtype=dtype))]
    nearest = min(about, key=lambda x: abs(Fraction(x) - value))
    return min(below(value), nearest), max(above(value), nearest)
