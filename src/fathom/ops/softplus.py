"""The softplus: a rectifier with a round corner."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.ops.convex import between, convex
from fathom.ops.elementary import ULPS, widen
from fathom.ops.sigmoid import SIGMOID


@dataclass(frozen=True, eq=False)
class Softplus(Nonlinear):
    """log(1 + e^x)."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].relu() + (-x[0].abs()).exp().log1p()

    def interval(self, *x: Box) -> Box:
        return Box(self._value(x[0].lower).lower, self._value(x[0].upper).upper)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """The tangent below touches `choice` of the way from lower to upper end; in the middle by default."""
        at = between(x[0], 0.5 if choice is None else choice)
        return convex(self._value, SIGMOID.value, x[0], at, (SIGMOID.value(x[0].lower).lower, SIGMOID.value(x[0].upper).upper))

    def _value(self, x: Tensor) -> Box:
        box = widen(self(x), ULPS["softplus"])
        return Box(torch.maximum(box.lower, x.relu()), box.upper)
