"""The reciprocal on positive numbers: what a softmax or a division ends in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.core.rounding import tiny
from fathom.ops.convex import between, convex, negative
from fathom.ops.elementary import ULPS, require, widen


@dataclass(frozen=True, eq=False)
class Reciprocal(Nonlinear):
    """1 / x, for x > 0."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].reciprocal()

    def interval(self, *x: Box) -> Box:
        _positive(x[0])
        return Box(reciprocal(x[0].upper).lower, reciprocal(x[0].lower).upper)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """The tangent below touches `choice` of the way from lower to upper end; by default at their geometric mean, where it
        is parallel to the chord, and positive at both ends."""
        _positive(x[0])
        mean = x[0].lower.sqrt() * x[0].upper.sqrt()
        mean = torch.minimum(torch.maximum(mean, x[0].lower), x[0].upper)
        at = mean if choice is None else between(x[0], choice)
        return convex(reciprocal, _slope, x[0], at, (_slope(x[0].lower).lower, _slope(x[0].upper).upper))


def reciprocal(x: Tensor) -> Box:
    """An enclosure of 1 / x for x > 0."""
    box = widen(x.reciprocal(), ULPS["reciprocal"])
    return Box(box.lower.clamp(min=0.0), box.upper)


def _slope(x: Tensor) -> Box:
    inverse = x.reciprocal()
    return negative(widen(inverse * inverse, 2 * ULPS["reciprocal"] + 1))


def _positive(x: Box) -> None:
    least = tiny(x.lower.dtype) ** 0.25
    require(x.lower >= least, x, f"positive denominators, of at least {least:.0e}")
