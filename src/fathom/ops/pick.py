"""Selection by index: slices, splits, gathers, expansion, tiling, nearest upsampling, windows; and concatenation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Gather(Linear):
    """Along `axis` of a sample, whose length in x is `size`, element j of y is element index[j] of x; index [k] int64."""

    axis: int
    index: Tensor
    size: int

    @property
    def terms(self) -> int:
        return 0

    @cached_property
    def accumulation(self) -> int:
        return _fan_out(self.index)

    @property
    def copies(self) -> bool:
        return True

    @property
    def increasing(self) -> bool:
        return True

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].index_select(self.axis + 1, self.index)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        axis = self.axis + 2
        if self.size == 1:
            return (a.sum(axis, keepdim=True),)
        shape = [*a.shape[:axis], self.size, *a.shape[axis + 1 :]]
        return (a.new_zeros(shape).index_add(axis, self.index, a),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)


@dataclass(frozen=True, eq=False)
class Pick(Linear):
    """y = x.flatten()[index], for samples x of shape `before` and an index [*out] int64 of any shape."""

    before: tuple[int, ...]
    index: Tensor

    @property
    def terms(self) -> int:
        return 0

    @cached_property
    def accumulation(self) -> int:
        return _fan_out(self.index)

    @property
    def copies(self) -> bool:
        return True

    @property
    def increasing(self) -> bool:
        return True

    def __call__(self, *x: Tensor) -> Tensor:
        y = x[0].reshape(len(x[0]), math.prod(self.before)).index_select(1, self.index.flatten())
        return y.reshape(x[0].shape[0], *self.index.shape)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        lead, size = a.shape[:2], math.prod(self.before)
        flat = a.reshape(*lead, self.index.numel())
        return (a.new_zeros(*lead, size).index_add(2, self.index.flatten(), flat).reshape(*lead, *self.before),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)


@dataclass(frozen=True, eq=False)
class Pad(Linear):
    """Zeros round a sample: `pairs` of counts (before, after), one for each of its last axes, in order; negative counts crop."""

    pairs: tuple[tuple[int, int], ...]

    @property
    def terms(self) -> int:
        return 0

    @property
    def accumulation(self) -> int:
        return 0

    def __call__(self, *x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x[0], self._counts(1))

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (torch.nn.functional.pad(a, self._counts(-1)),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)

    def _counts(self, sign: int) -> list[int]:
        return [sign * count for pair in reversed(self.pairs) for count in pair]


@dataclass(frozen=True, eq=False)
class Concat(Linear):
    """Values laid end to end along `axis` of a sample, where they have `sizes`."""

    axis: int
    sizes: tuple[int, ...]

    @property
    def terms(self) -> int:
        return 0

    @property
    def accumulation(self) -> int:
        return 0

    def __call__(self, *x: Tensor) -> Tensor:
        return torch.cat(x, self.axis + 1)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return torch.split(a, list(self.sizes), self.axis + 2)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)


def _fan_out(index: Tensor) -> int:
    """How many elements of y are copies of one of x: that many are summed on the way back; 0 where none is copied twice."""
    most = int(index.flatten().bincount().max()) if index.numel() else 0
    return most if most > 1 else 0
