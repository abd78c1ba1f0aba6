"""The square and the square root."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.ops.convex import between, concave, convex
from fathom.ops.elementary import ULPS, require, widen


@dataclass(frozen=True, eq=False)
class Square(Nonlinear):
    """x^2."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0] * x[0]

    def interval(self, *x: Box) -> Box:
        least = torch.maximum(torch.maximum(x[0].lower, -x[0].upper), torch.zeros_like(x[0].lower))
        return Box(_square(least).lower, _square(x[0].magnitude).upper)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """The tangent below touches `choice` of the way from lower to upper end; in the middle by default."""
        at = between(x[0], 0.5 if choice is None else choice)
        return convex(_square, _double, x[0], at, (2 * x[0].lower, 2 * x[0].upper))


@dataclass(frozen=True, eq=False)
class Sqrt(Nonlinear):
    """The square root, for x >= 0."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].sqrt()

    def interval(self, *x: Box) -> Box:
        _not_negative(x[0])
        return Box(_sqrt(x[0].lower).lower, _sqrt(x[0].upper).upper)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """The tangent above touches `choice` of the way from lower to upper end, and never at 0, where it would be upright."""
        _not_negative(x[0])
        floor = torch.maximum(x[0].upper * 2.0**-20, x[0].upper.new_tensor(_LEAST))
        at = torch.maximum(between(x[0], 0.5 if choice is None else choice), floor)
        steepest = _slope(torch.maximum(x[0].lower, floor * 2.0**-20)).upper
        return concave(_sqrt, _slope, x[0], at, (_slope(torch.maximum(x[0].upper, floor)).lower, steepest))


_LEAST = 2.0**-60


def _square(x: Tensor) -> Box:
    box = widen(x * x, ULPS["square"])
    return Box(box.lower.clamp(min=0.0), box.upper)


def _double(x: Tensor) -> Box:
    return Box(2 * x, 2 * x)


def _sqrt(x: Tensor) -> Box:
    # Held off 0, where the gradient of the root is infinite: up to the floor the enclosure is [0, root of the floor].
    floor = _LEAST**2
    box = widen(x.clamp(min=floor).sqrt(), ULPS["sqrt"])
    return Box(torch.where(x > floor, box.lower.clamp(min=0.0), 0.0), box.upper)


def _slope(x: Tensor) -> Box:
    return widen(0.5 / x.sqrt(), ULPS["sqrt"] + ULPS["reciprocal"])


def _not_negative(x: Box) -> None:
    require(x.lower >= 0, x, "arguments of a square root of at least 0")
