"""Operators on flat values: forward [n, in] -> [n, out], backward on rows [P, out] -> [P, in], and forward with |W|."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fathom_checker.numbers import Array, Numbers

BLOCK = 1 << 18  # numbers gathered at once: what a processor holds close by
FEW = 8  # weights that rows of twins may have


@dataclass(frozen=True, eq=False)
class Entries:
    """y[to] += weight * v[at], an entry at a time."""

    numbers: Numbers
    to: Array  # ascending
    at: Array
    weight: Array | None  # 1 everywhere
    size: int  # of y
    places: Array  # of the elements of y that have entries
    begins: Array  # the first entry of each

    @staticmethod
    def sorted(numbers: Numbers, to: Array, at: Array, weight: Array, size: int) -> Entries:
        order = np.argsort(to, kind="stable")
        given = weight[order] if (weight != 1).any() else None
        return Entries(numbers, to[order], at[order], given, size, *np.unique(to[order], return_index=True))

    def apply(self, v: Array, *, absolute: bool) -> Array:
        """[n, size] from [n, *]; `absolute`: with the magnitudes of the weights."""
        y, step = self.numbers.zeros(len(v), self.size), max(1, BLOCK // max(1, len(self.at)))
        for rows in (slice(start, start + step) for start in range(0, len(v), step)):
            part = np.take(v[rows], self.at, axis=1)
            if self.weight is not None:
                part = part * (np.abs(self.weight) if absolute else self.weight)
            part = part if len(self.places) == len(self.at) else np.add.reduceat(part, self.begins, axis=1)
            y[rows, slice(None) if len(self.places) == self.size else self.places] = part
        return y


@dataclass(frozen=True, eq=False)
class Dense:
    """y = v W, block after block: v is [blocks, in], y is [blocks, out], `weight` is [in, out]."""

    weight: Array

    def apply(self, v: Array, *, absolute: bool) -> Array:
        weight = np.abs(self.weight) if absolute else self.weight
        return np.matmul(v.reshape(-1, len(weight)), weight).reshape(len(v), -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear:
    """y = W v + bias, where v is the values `inputs`, laid end to end.

    What computing with it may lose is said by three counts: `fan`, roundings in one element of y or of a row times W (0: it only
    moves); `rough`, roundings that made a stored number; and `terms`, roundings in one element of the float32 program's y.
    """

    inputs: tuple[int, ...]
    ends: Sequence[int]  # where they end, but the last
    size: int  # of y
    forth: Entries | Dense
    back: Entries | Dense  # transposed
    fan: int
    terms: int
    rough: int = 0
    bias: Array | None = None  # [size]

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        """W v, or |W| v."""
        return self.forth.apply(values[0] if len(values) == 1 else np.concatenate(values, 1), absolute=absolute)

    def backward(self, a: Array) -> list[Array]:
        """Rows over the output as rows over each input."""
        return np.split(self.back.apply(a, absolute=False), self.ends, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bend:
    """max(z, 0), elementwise; `neurons` are the numbers of its elements [size]."""

    inputs: tuple[int, ...]
    size: int
    neurons: Array
    whole: int  # elements of the tensor in the file, of which twins are left out


Operator = Linear | Bend


def twins(linear: Linear) -> tuple[Array, Array]:
    """[size] the first output that each is 1 or -1 times, or itself, and [size] the sign.

    Rows of at most FEW weights and the bias are compared as they are stored, to the bit; none that were rounded on the way.
    """
    first, sign, seen = np.arange(linear.size), np.ones(linear.size, np.int64), dict[object, int]()
    if isinstance(linear.forth, Entries):
        to, at = linear.forth.to, linear.forth.at
        weight = np.ones(len(to)) if linear.forth.weight is None else linear.forth.weight
    elif linear.size == linear.forth.weight.shape[1]:
        to, at = linear.forth.weight.T.nonzero()
        weight = linear.forth.weight[at, to]
    else:
        return first, sign
    ends = np.searchsorted(to, np.arange(linear.size + 1))
    for j in np.flatnonzero((np.diff(ends) <= FEW) & (linear.rough == 0)).tolist():
        places, row = tuple(at[ends[j] : ends[j + 1]].tolist()), weight[ends[j] : ends[j + 1]].tolist()
        row.append(0 if linear.bias is None else linear.bias[j])
        if (opposite := (places, tuple(-value for value in row))) in seen:
            first[j], sign[j] = seen[opposite], -1
        else:
            first[j] = seen.setdefault((places, tuple(row)), j)
    return first, sign
