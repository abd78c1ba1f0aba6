"""Two arithmetics for one text: float64 with an account of its rounding, and rational numbers, where that account is zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Array = Any
"""A numpy array, of float64 or of Fractions; the docstrings say of which shape."""

UNIT, TINY = 2.0**-53, 2.0**-900  # TINY pays for 2^100 underflows, also where subnormals are flushed to zero


@dataclass(frozen=True)
class Numbers:
    """How bounds are computed. A sum of k products, in any order, is off by at most gamma(k) times the sum of magnitudes."""

    exact: bool

    def array(self, values: Any) -> Array:
        """Numbers of this kind, each with the value it has as a float64."""
        values = np.asarray(values, np.float64)
        return np.vectorize(Fraction, otypes=[object])(values) if self.exact else values

    def zeros(self, *shape: int) -> Array:
        return np.full(shape, Fraction(0), dtype=object) if self.exact else np.zeros(shape)

    def gamma(self, count: int) -> Any:
        """Twice k u: the second half pays for computing the majorant itself, which is off by far less than a half."""
        return 0 if self.exact else 2 * count * UNIT

    @property
    def tiny(self) -> Any:
        return 0 if self.exact else TINY

    def single(self, count: int) -> Any:
        """k u / (1 - k u) of float32, rounded up: what a float32 program may lose in a sum of k products, in any order."""
        share = Fraction(count, 2**24 - count)
        return share if self.exact else above(share)

    def up(self, x: Array) -> Array:
        """At least the exact result of the one operation that was rounded to x."""
        return x if self.exact else x + (np.abs(x) * (4 * UNIT) + TINY)

    def down(self, x: Array) -> Array:
        return -self.up(-x)

    def dot(self, a: Array, b: Array) -> Array:
        """[P] sums of products of rows; rounded, and charged for by the caller."""
        return (a * b).sum(1) if self.exact else np.einsum("pi,pi->p", a, b)

    def floor(self, x: Array) -> Array:
        """A lower bound, where what is no number says nothing."""
        assert not self.exact or not any(isinstance(value, float) for value in x.flat), "a float among rational numbers"
        return x if self.exact else np.where(np.isnan(x), -np.inf, x)


def below(value: Fraction) -> float:
    """The largest float64 that is no more than a rational number.

    Raises:
        OverflowError: there is no finite one.
    """
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)


def above(value: Fraction) -> float:
    return -below(-value)


def nearest(value: Fraction, dtype: Any) -> float:
    """A rational number rounded once to a floating-point type, ties to even.

    Raises:
        OverflowError: it is beyond the type's largest, or next to that.
    """
    near = np.dtype(dtype).type(float(value))  # perhaps rounded twice; a tie between floats is a float64, and rounded once
    about = [float(x) for x in (near, np.nextafter(near, -np.inf, dtype=dtype), np.nextafter(near, np.inf, dtype=dtype))]
    return min(about, key=lambda x: abs(Fraction(x) - value))
