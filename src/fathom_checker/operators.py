"""Operators on flat values: forward [n, in] -> [n, out], backward on rows [P, out] -> [P, in], and forward with |W|."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fathom_checker.numbers import Array, Numbers

BLOCK = 1 << 18  # numbers gathered at once: what a processor holds close by
FEW = 8  # weights that rows of twins may have


class Entries:
    """y[to] += weight * v[at], an entry at a time."""

    def __init__(self, numbers: Numbers, to: Array, at: Array, weight: Array, size: int) -> None:
        order = np.argsort(to, kind="stable")
        self.to, self.at, self.weight, self.size, self.numbers = to[order], at[order], weight[order], size, numbers
        self.places, self.begins = np.unique(self.to, return_index=True)  # the elements of y that have entries, and their first
        self.plain = bool((weight == 1).all())

    def apply(self, v: Array, *, absolute: bool) -> Array:
        """[n, size] from [n, *]; `absolute`: with the magnitudes of the weights."""
        y, step = self.numbers.zeros(len(v), self.size), max(1, BLOCK // max(1, len(self.at)))
        for rows in (slice(start, start + step) for start in range(0, len(v), step)):
            part = np.take(v[rows], self.at, axis=1)
            if not self.plain:
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


@dataclass(frozen=True, eq=False)
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
    bias: Array | None  # [size]
    fan: int
    terms: int
    rough: int = 0

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        """W v, or |W| v."""
        return self.forth.apply(values[0] if len(values) == 1 else np.concatenate(values, 1), absolute=absolute)

    def backward(self, a: Array) -> list[Array]:
        """Rows over the output as rows over each input."""
        return np.split(self.back.apply(a, absolute=False), self.ends, 1)


@dataclass(frozen=True, eq=False)
class Bend:
    """max(z, 0), elementwise; `neurons` are the numbers of its elements [size]."""

    inputs: tuple[int]
    size: int
    neurons: Array
    whole: int  # elements of the tensor in the file, of which twins are left out


def twins(operator: Linear) -> tuple[Array, Array]:
    """[size] the first output that each is 1 or -1 times, or itself, and [size] the sign. Rows of at most FEW weights and the
    bias are compared as they are stored, to the bit; none that were rounded on the way."""
    size, forth = operator.size, operator.forth
    first, sign, seen = np.arange(size), np.ones(size, np.int64), dict[object, tuple[int, int]]()
    if operator.rough or (isinstance(forth, Dense) and forth.weight.shape[1] != size):
        return first, sign
    to, at = forth.weight.T.nonzero() if isinstance(forth, Dense) else (forth.to, forth.at)
    weight = forth.weight[at, to] if isinstance(forth, Dense) else forth.weight
    ends = np.searchsorted(to, np.arange(size + 1))
    for j in np.flatnonzero(np.diff(ends) <= FEW).tolist():
        mine = slice(ends[j], ends[j + 1])
        row = [*weight[mine].tolist(), 0 if operator.bias is None else operator.bias[j]]
        flip = -1 if next(filter(None, row), 1) < 0 else 1  # so that opposites read alike
        first[j], sign[j] = seen.setdefault((*at[mine].tolist(), *(flip * value for value in row)), (j, flip))
        sign[j] *= flip
    return first, sign
