"""Operators: forward on values [n, *shape], backward on rows [P, *shape], and forward with |W|.

A linear one is y = W v + bias, W and bias exactly as stored. What computing with them may lose is said by three counts: `fan`,
roundings in one element of W v or of a row times W (0: nothing is computed); `rough`, roundings that made a stored number; and
`terms`, roundings in one element of the float32 program's y.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom_checker.numbers import Array, Numbers

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear:
    """Base: `inputs` are numbers of values, `shape` is the output's."""

    inputs: tuple[int, ...]
    shape: Shape
    fan: int
    terms: int
    rough: int = 0
    bias: Array | None = None  # of the output's shape
    bias_size: Array | None = None  # at least the magnitudes that the bias was computed from; None: |bias|

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        """W v, or |W| v."""
        raise NotImplementedError

    def back(self, a: Array) -> tuple[Array, ...]:
        """Rows over the output as rows over each input."""
        raise NotImplementedError

    def rows(self, index: Array) -> Array | None:
        """The rows of W for flat elements of y, where they are stored as such."""
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Matrix(Linear):
    """y = v W over the last axis; `weight` [in, out]."""

    weight: Array

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        return np.asarray(np.matmul(values[0], np.abs(self.weight) if absolute else self.weight))

    def back(self, a: Array) -> tuple[Array, ...]:
        return (np.matmul(a.reshape(-1, a.shape[-1]), self.weight.T).reshape(*a.shape[:-1], len(self.weight)),)

    def rows(self, index: Array) -> Array | None:
        single = math.prod(self.shape[:-1]) == 1
        return self.weight.T[index].reshape(-1, *self.shape[:-1], len(self.weight)) if single else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Linear):
    """y = weight * v, elementwise; `weight` of the output's shape, or None for 1."""

    weight: Array | None

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        return values[0] if self.weight is None else values[0] * (np.abs(self.weight) if absolute else self.weight)

    def back(self, a: Array) -> tuple[Array, ...]:
        return (a if self.weight is None else a * self.weight,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Linear):
    """The first input plus or minus the second."""

    sign: int

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        return values[0] + values[1] if absolute or self.sign == 1 else values[0] - values[1]

    def back(self, a: Array) -> tuple[Array, ...]:
        return (a, a if self.sign == 1 else -a)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pick(Linear):
    """Elements of the inputs in new places; the others are the bias's. `parts`: (places, elements) an input; None: reshaped."""

    numbers: Numbers
    parts: tuple[tuple[Array, Array], ...] | None
    sizes: tuple[Shape, ...]  # of the inputs

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        count = len(values[0])
        if self.parts is None:
            return values[0].reshape(count, *self.shape)
        y = self.numbers.zeros(count, math.prod(self.shape))
        for (places, elements), value in zip(self.parts, values):
            y[:, places] = value.reshape(count, -1)[:, elements]
        return y.reshape(count, *self.shape)

    def back(self, a: Array) -> tuple[Array, ...]:
        if self.parts is None:
            return (a.reshape(len(a), *self.sizes[0]),)
        flat, rows = a.reshape(len(a), -1), []
        for (places, elements), size in zip(self.parts, self.sizes):
            row = self.numbers.zeros(len(a), math.prod(size))
            while len(elements):  # every element once a round, so that no assignment overwrites another
                _, first = np.unique(elements, return_index=True)
                row[:, elements[first]] += flat[:, places[first]]
                places, elements = np.delete(places, first), np.delete(elements, first)
            rows.append(row.reshape(len(a), *size))
        return tuple(rows)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv(Linear):
    """Convolution over the trailing axes; v [batch, in, *size], `weight` [out, in / groups, *kernel]."""

    numbers: Numbers
    weight: Array
    size: Shape  # of the input
    strides: Shape
    pads: tuple[tuple[int, int], ...]
    dilations: Shape
    groups: int

    def _offsets(self, *, absolute: bool = False) -> list[tuple[Array, tuple[slice, ...]]]:
        """At every offset, the kernel [groups, out / groups, in / groups], and where it reads in the padded input."""
        weight = np.abs(self.weight) if absolute else self.weight
        found = []
        for place, offset in enumerate(itertools.product(*map(range, weight.shape[2:]))):
            ends = zip(offset, self.dilations, self.strides, self.shape[2:])
            where = (slice(o * d, o * d + s * (n - 1) + 1, s) for o, d, s, n in ends)
            part = np.ascontiguousarray(weight.reshape(*weight.shape[:2], -1)[:, :, place])
            found.append((part.reshape(self.groups, -1, weight.shape[1]), (slice(None), slice(None), *where)))
        return found

    def forward(self, values: Sequence[Array], *, absolute: bool) -> Array:
        v = np.pad(values[0].reshape(-1, *self.size[1:]), [(0, 0), (0, 0), *self.pads])
        total = self.numbers.zeros(len(v), self.groups, len(self.weight) // self.groups, math.prod(self.shape[2:]))
        for kernel, where in self._offsets(absolute=absolute):
            total += np.matmul(kernel, v[where].reshape(len(v), self.groups, kernel.shape[2], -1))
        return total.reshape(len(values[0]), *self.shape)

    def back(self, a: Array) -> tuple[Array, ...]:
        flat = a.reshape(-1, self.groups, len(self.weight) // self.groups, math.prod(self.shape[2:]))
        whole = [n + before + after for n, (before, after) in zip(self.size[2:], self.pads)]
        rows = self.numbers.zeros(len(flat), self.size[1], *whole)
        for kernel, where in self._offsets():
            rows[where] += np.matmul(kernel.swapaxes(1, 2), flat).reshape(len(flat), self.size[1], *self.shape[2:])
        inner = (slice(before, before + n) for n, (before, _) in zip(self.size[2:], self.pads))
        return (rows[(slice(None), slice(None), *inner)].reshape(len(a), *self.size),)


@dataclass(frozen=True, eq=False)
class Bend:
    """max(z, leak z), elementwise, with leak in [0, 1]; `start` is the number of its first neuron."""

    inputs: tuple[int, ...]
    shape: Shape
    leak: Any  # float or Fraction
    start: int

    @property
    def neurons(self) -> slice:
        return slice(self.start, self.start + math.prod(self.shape))


Operator = Linear | Bend
