"""Sums and means over axes of a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Reduce(Linear):
    """y = (sum of x over `axes`) / divisor, for samples x of shape `before`; the axes summed over are gone from y.

    A divisor of the number of elements makes it a mean.
    """

    before: tuple[int, ...]
    axes: tuple[int, ...]
    divisor: int = 1

    @property
    def terms(self) -> int | None:
        """None for a mean: its sum may overflow where the mean does not, so the two are to be nodes of their own."""
        return self.accumulation if self.divisor == 1 else None

    @property
    def accumulation(self) -> int:
        return math.prod(self.before[axis] for axis in self.axes) + 1

    @property
    def increasing(self) -> bool:
        return self.divisor > 0

    def __call__(self, *x: Tensor) -> Tensor:
        y = x[0].sum([axis + 1 for axis in self.axes]) if self.axes else x[0]
        return y if self.divisor == 1 else y / self.divisor

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        kept = [1 if axis in self.axes else size for axis, size in enumerate(self.before)]
        rows = a if self.divisor == 1 else a / self.divisor
        return (rows.reshape(*a.shape[:2], *kept).expand(*a.shape[:2], *self.before),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)
