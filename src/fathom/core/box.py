"""An elementwise interval: what the value of a node, or an input, may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.rounding import up
from fathom.core.value import flat


@dataclass(frozen=True, eq=False)
class Box:
    """n boxes of one shape, [n, *shape] each; closed, finite, lower <= upper."""

    lower: Tensor
    upper: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    def take(self, index: Tensor) -> Box:
        """The boxes at `index` [k], in that order."""
        return Box(self.lower[index], self.upper[index])

    def map(self, change: Callable[[Tensor], Tensor]) -> Box:
        """`change` applied to both ends; for changes of layout or dtype, never of value."""
        return Box(change(self.lower), change(self.upper))

    def to(self, dtype: torch.dtype) -> Box:
        """The same boxes in `dtype`; float64 holds every float32 exactly, so only widening casts are exact."""
        return self.map(lambda t: t.to(dtype))

    @property
    def middle(self) -> Tensor:
        """A point inside, near the middle."""
        return torch.minimum(torch.maximum(self.lower + (self.upper - self.lower) / 2, self.lower), self.upper)

    @property
    def radius(self) -> Tensor:
        """No less than the distance from `middle` to either end."""
        middle = self.middle
        return up(torch.maximum(self.upper - middle, middle - self.lower)).where(self.upper > self.lower, 0.0)

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value inside."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    @property
    def width(self) -> Tensor:
        """upper - lower."""
        return self.upper - self.lower

    def intersect(self, other: Box) -> Box:
        """What both hold. Where they are disjoint (an empty set of inputs), `lower` exceeds `upper`: see `empty`."""
        return Box(torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper))

    def hull(self, other: Box) -> Box:
        """The smallest boxes that hold both."""
        return Box(torch.minimum(self.lower, other.lower), torch.maximum(self.upper, other.upper))

    def contains(self, x: Tensor) -> Tensor:
        """[n] whether each x[i] lies in box i, ends included; NaN lies nowhere."""
        return flat((self.lower <= x) & (x <= self.upper), 1).all(1)

    def empty(self) -> Tensor:
        """[n] whether box i holds nothing."""
        return flat(self.lower > self.upper, 1).any(1)
