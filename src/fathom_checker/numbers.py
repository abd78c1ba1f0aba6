"""Two arithmetics for one text: float64 with an account of its rounding, and rational numbers, where that account is zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Array = Any
"""A numpy array, of float64 or of Fractions; which shape, the docstrings say."""

UNIT = 2.0**-53
TINY = 2.0**-900
"""Pays for 2^100 underflows, also where subnormals are flushed to zero."""


@dataclass(frozen=True)
class Numbers:
    """How bounds are computed. A sum of k products, in any order, is off by at most gamma(k) times the sum of magnitudes."""

    exact: bool

    def array(self, values: Any) -> Array:
        """An array of numbers of this kind; each keeps its value, which a float64 holds already."""
        values = np.asarray(values)
        if not self.exact:
            return np.asarray(values, np.float64)
        made = np.empty(values.shape, dtype=object)
        made.reshape(-1)[:] = [Fraction(v) for v in values.reshape(-1).tolist()]
        return made

    def zeros(self, *shape: int) -> Array:
        return np.full(shape, Fraction(0), dtype=object) if self.exact else np.zeros(shape)

    def gamma(self, count: int) -> Any:
        """Twice k u: the second half pays for computing the majorant itself, which is off by far less than a half."""
        assert count < 2**40
        return 0 if self.exact else 2 * count * UNIT

    @property
    def tiny(self) -> Any:
        return 0 if self.exact else TINY

    def single(self, count: int) -> Any:
        """k u / (1 - k u) of float32, rounded up: what a float32 program may lose in a sum of k products, in any order."""
        assert count < 2**22
        exact = Fraction(count, 2**24 - count)
        return exact if self.exact else above(exact)

    def up(self, x: Array) -> Array:
        """At least the exact result of the one operation that was rounded to x."""
        return x if self.exact else x + (np.abs(x) * (4 * UNIT) + TINY)

    def down(self, x: Array) -> Array:
        return x if self.exact else x - (np.abs(x) * (4 * UNIT) + TINY)

    def dot(self, a: Array, b: Array) -> Array:
        """[P] sums over everything but the first axis; rounded, and charged for by the caller."""
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        return np.asarray((a * b).sum(1) if self.exact else np.einsum("pi,pi->p", a, b))

    def floor(self, x: Array) -> Array:
        """A lower bound, where what is no number says nothing."""
        return x if self.exact else np.where(np.isnan(x), -np.inf, x)

    def ceil(self, x: Array) -> Array:
        return x if self.exact else np.where(np.isnan(x), np.inf, x)


def below(value: Fraction) -> float:
    """The largest float64 that is no more than a rational number; -inf if there is none."""
    try:
        near = float(value)
    except OverflowError:
        return -math.inf if value < 0 else float(np.finfo(np.float64).max)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)


def above(value: Fraction) -> float:
    """The smallest float64 that is no less."""
    return -below(-value)


def nearest(value: Fraction, dtype: np.dtype[Any]) -> float:
    """A rational number rounded once to a floating-point type, ties to even; infinite beyond its largest number."""
    if dtype == np.float64:
        return below(value) if _closer(value, below(value), above(value)) else above(value)
    with np.errstate(over="ignore"):
        middle = np.float32(below(value))
        candidates = [np.nextafter(middle, np.float32(-np.inf)), middle, np.nextafter(middle, np.float32(np.inf))]
    low = max((c for c in candidates if np.isfinite(c) and Fraction(float(c)) <= value), default=candidates[0])
    high = min((c for c in candidates if np.isfinite(c) and Fraction(float(c)) >= value), default=candidates[2])
    if not (np.isfinite(low) and np.isfinite(high)):
        return float(low if np.isinf(low) else high)
    return float(low if _closer(value, float(low), float(high), even=int(low.view(np.int32)) % 2 == 0) else high)


def _closer(value: Fraction, low: float, high: float, *, even: bool | None = None) -> bool:
    """Whether low is nearer than high, or as near and even."""
    if math.isinf(low) or math.isinf(high):
        return math.isinf(high)
    to_low, to_high = value - Fraction(low), Fraction(high) - value
    if even is None:
        even = int(np.float64(low).view(np.int64)) % 2 == 0
    return to_low < to_high or (to_low == to_high and even)
