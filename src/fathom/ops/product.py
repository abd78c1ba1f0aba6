"""The product of two values, by McCormick's planes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.core.rounding import down, gamma, tiny, up


@dataclass(frozen=True, eq=False)
class Product(Nonlinear):
    """y = x_1 x_2, elementwise."""

    def __call__(self, *x: Tensor) -> Tensor:
        if x[0].shape != x[1].shape:
            raise ValueError(f"Product takes two values of one shape, got {tuple(x[0].shape[1:])} and {tuple(x[1].shape[1:])}")
        return x[0] * x[1]

    def interval(self, *x: Box) -> Box:
        first, second = x
        corners = [p * q for p, q in product((first.lower, first.upper), (second.lower, second.upper))]
        low, high = torch.stack(corners).aminmax(dim=0)
        return Box(down(low), up(high))

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """Planes between the two of McCormick on each side, `choice` of the way from the one to the other; midway by default.

        On a box, x_1 x_2 minus a plane is bilinear and so extreme at a corner: the offsets are read off there, for whatever
        slopes were stored. (McCormick, Computability of global solutions to factorable nonconvex programs, 1976.)
        """
        first, second = x
        share = 0.5 if choice is None else choice
        lower_slope = (_mix(second.lower, second.upper, share), _mix(first.lower, first.upper, share))
        upper_slope = lower_slope if choice is None else (_mix(second.upper, second.lower, share), lower_slope[1])
        low = _gaps(first, second, lower_slope)
        high = _gaps(first, second, upper_slope)
        lower_offset = torch.stack([value - error for value, error in low]).amin(0)
        upper_offset = torch.stack([value + error for value, error in high]).amax(0)
        return Lines(lower_slope, down(lower_offset), upper_slope, up(upper_offset))


def _mix(start: Tensor, end: Tensor, share: Tensor | float) -> Tensor:
    return start + share * (end - start)


def _gaps(first: Box, second: Box, slope: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """At each corner x_1 x_2 - s_1 x_1 - s_2 x_2, and a bound on the rounding of that."""
    gaps = []
    for p, q in product((first.lower, first.upper), (second.lower, second.upper)):
        terms = p * q, slope[0] * p, slope[1] * q
        size = terms[0].abs() + terms[1].abs() + terms[2].abs()
        gaps.append((terms[0] - terms[1] - terms[2], gamma(4, size.dtype) * size + tiny(size.dtype)))
    return gaps
