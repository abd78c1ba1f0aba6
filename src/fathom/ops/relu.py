"""Piecewise-linear functions with one bend, at 0: the rectifier, its leaky form, the absolute value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import NotUnderstood
from fathom.core.operator import Lines, Nonlinear
from fathom.core.rounding import down, up
from fathom.ops.convex import chord


@dataclass(frozen=True, eq=False)
class Relu(Nonlinear):
    """max(x, 0)."""

    @property
    def terms(self) -> int:
        return 0

    @property
    def kink(self) -> float | None:
        return 0.0

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].relu()

    def interval(self, *x: Box) -> Box:
        return x[0].map(torch.relu)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        return _bent(0.0, x[0], choice)


@dataclass(frozen=True, eq=False)
class LeakyRelu(Nonlinear):
    """max(x, 0) + slope min(x, 0), for a slope in [0, 1]; a float32 file's slope is exact in the float64 of proofs."""

    slope: float

    def __post_init__(self) -> None:
        if not 0 <= self.slope <= 1:
            raise NotUnderstood(f"expected a leaky slope in [0, 1], got {self.slope!r}; capture.rewrite.prelu takes any")

    @property
    def terms(self) -> int:
        return 1

    @property
    def kink(self) -> float | None:
        return 0.0

    def __call__(self, *x: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(x[0], self.slope)

    def interval(self, *x: Box) -> Box:
        """Increasing, so the images of the ends, rounded outward where they are products."""
        lower, upper = self(x[0].lower), self(x[0].upper)
        return Box(torch.where(x[0].lower < 0, down(lower), lower), torch.where(x[0].upper < 0, up(upper), upper))

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        return _bent(self.slope, x[0], choice)


@dataclass(frozen=True, eq=False)
class Abs(Nonlinear):
    """|x|."""

    @property
    def terms(self) -> int:
        return 0

    @property
    def kink(self) -> float | None:
        return 0.0

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].abs()

    def interval(self, *x: Box) -> Box:
        least = torch.maximum(x[0].lower, -x[0].upper).relu()
        return Box(least, x[0].magnitude)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        return _bent(-1.0, x[0], choice)


def _bent(left: float, x: Box, choice: Tensor | None) -> Lines:
    """Lines of the function that is x for x >= 0 and left x for x <= 0, where left <= 1: itself on boxes to one side of 0.

    Across 0, the chord above; below, a line through 0 whose slope is `choice` of the way from `left` to 1, by default 1 where
    upper > -lower and `left` where it is less, which leaves the least area (Zhang et al., Efficient neural network robustness
    certification with general activation functions, NeurIPS 2018). In between every line leaves the same, and the middle one is
    taken: so 2 relu(x) - x is seen to be no less than 0, like relu(x) + relu(-x), of which it is another spelling.
    """
    lower, upper = x.lower, x.upper
    on = lower >= 0
    unstable = ~on & (upper > 0)
    exact = torch.full_like(lower, left).masked_fill(on, 1.0)
    share = ((upper > -lower).to(lower.dtype) + (upper >= -lower)) / 2 if choice is None else choice
    slope = share if left == 0 else (left + share * (1 - left)).clamp(left, 1.0)
    below = torch.where(unstable, slope, exact)
    above = torch.where(unstable, chord(x, left * lower, upper).clamp(left, 1.0), exact)
    # Whatever the chord's slope was rounded to, this offset lifts it over both ends; two roundings each.
    offset = up(up(torch.maximum((left - above) * lower, (1 - above) * upper)))
    return Lines((below,), torch.zeros_like(below), (above,), torch.where(unstable, offset, 0.0))
