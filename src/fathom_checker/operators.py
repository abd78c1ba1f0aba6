"""Operators on flat values: forward [n, in] -> [n, out], backward on rows [P, out] -> [P, in], and forward with |W|.

A linear one is y = W v + bias, with W as a list of entries or as a dense matrix. What computing with it may lose is said by three
counts: `fan`, roundings in one element of W v + bias or of a row times W (0: nothing is computed); `rough`, roundings that made a
stored number; and `terms`, roundings in one element of the float32 program's y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom_checker.numbers import Array, Numbers

BLOCK = 1 << 18  # numbers gathered at once: what a processor holds close by
FEW = 8


@dataclass(frozen=True, eq=False)
class Entries:
    """y[to] += weight * v[at], an entry at a time; an entry without weight counts once."""

    numbers: Numbers
    to: Array  # ascending
    at: Array
    weight: Array | None
    size: int  # of y
    begins: Array  # the first entry of each element of y that has one
    places: Array  # that element

    @staticmethod
    def sorted(numbers: Numbers, to: Array, at: Array, weight: Array | None, size: int) -> Entries:
        order = np.argsort(to, kind="stable")
        places, begins = np.unique(to[order], return_index=True)
        return Entries(numbers, to[order], at[order], None if weight is None else weight[order], size, begins, places)

    @property
    def most(self) -> int:
        """Of entries for one element."""
        return int(np.bincount(self.to).max(initial=0))

    def apply(self, v: Array, *, absolute: bool = False) -> Array:
        """[n, size] from [n, *]; `absolute`: with the magnitudes of the weights."""
        weight = np.abs(self.weight) if absolute and self.weight is not None else self.weight
        if len(self.at) == v.shape[1] == self.size and np.array_equal(self.at, self.to):
            return v if weight is None else v * weight
        y = self.numbers.zeros(len(v), self.size)
        step = max(1, BLOCK // max(1, len(self.at)))
        for rows in (slice(start, start + step) for start in range(0, len(v), step)):
            part = np.take(v[rows], self.at, axis=1)
            part = part if weight is None else part * weight
            part = part if len(self.places) == len(self.at) else np.add.reduceat(part, self.begins, axis=1)
            y[rows, slice(None) if len(self.places) == self.size else self.places] = part
        return y


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear:
    """Base: `inputs` are numbers of values, `size` is the output's."""

    inputs: tuple[int, ...]
    size: int
    fan: int
    terms: int
    rough: int = 0
    bias: Array | None = None  # [size]

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        """W v, or |W| v."""
        raise NotImplementedError

    def back(self, a: Array) -> list[Array]:
        """Rows over the output as rows over each input."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Sparse(Linear):
    """By entries; v is the inputs laid end to end."""

    forth: Entries
    transposed: Entries
    ends: Array  # where inputs end but the last

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        return self.forth.apply(values[0] if len(values) == 1 else np.concatenate(values, 1), absolute=absolute)

    def back(self, a: Array) -> list[Array]:
        return np.split(self.transposed.apply(a), self.ends, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Matrix(Linear):
    """y = v W, block after block: v is [blocks, in], y is [blocks, out], `weight` is [in, out]."""

    weight: Array

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        weight = np.abs(self.weight) if absolute else self.weight
        return np.matmul(values[0].reshape(-1, len(weight)), weight).reshape(len(values[0]), -1)

    def back(self, a: Array) -> list[Array]:
        return [np.matmul(a.reshape(-1, self.weight.shape[1]), self.weight.T).reshape(len(a), -1)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Bend:
    """max(z, 0), elementwise; `neurons` are the numbers of its elements [size]."""

    inputs: tuple[int, ...]
    size: int
    neurons: Array
    whole: int  # elements of the tensor in the file, of which twins are left out


Operator = Linear | Bend


def twins(linear: Linear) -> tuple[Array, Array] | None:
    """Which outputs are 1 or -1 times an earlier one: [size] the first such, or itself, and [size] the sign; None where none is.

    Rows of at most FEW weights and the bias are compared as they are stored, to the bit; none that were rounded on the way.
    """
    if isinstance(linear, Matrix) and linear.size == linear.weight.shape[1]:
        to, at = linear.weight.T.nonzero()
        weight = linear.weight[at, to]
    elif isinstance(linear, Sparse):
        to, at, weight = linear.forth.to, linear.forth.at, linear.forth.weight
    else:
        return None
    first, sign, seen = np.arange(linear.size), np.ones(linear.size, np.int64), dict[Any, int]()
    ends = np.searchsorted(to, np.arange(linear.size + 1))
    for j in np.flatnonzero((np.diff(ends) <= FEW) & (linear.rough == 0)).tolist():
        places = tuple(at[ends[j] : ends[j + 1]].tolist())
        row = [1] * len(places) if weight is None else weight[ends[j] : ends[j + 1]].tolist()
        row.append(0 if linear.bias is None else linear.bias[j])
        same, opposite = (places, tuple(row)), (places, tuple(-value for value in row))
        if opposite in seen:
            first[j], sign[j] = seen[opposite], -1
        else:
            first[j] = seen.setdefault(same, j)
    return None if (first == np.arange(linear.size)).all() else (first, sign)
