"""The exponential and the natural logarithm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.core.rounding import tiny
from fathom.ops.convex import between, concave, convex
from fathom.ops.elementary import ULPS, require, widen
from fathom.ops.reciprocal import reciprocal


@dataclass(frozen=True, eq=False)
class Exp(Nonlinear):
    """e^x, for x small enough that it is finite in the dtype at hand."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].exp()

    def interval(self, *x: Box) -> Box:
        _representable(x[0])
        return Box(_exp(x[0].lower).lower, _exp(x[0].upper).upper)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """The tangent below touches `choice` of the way from lower to upper end; by default in the middle, and no more than 1
        above the lower end, so that the line stays positive."""
        _representable(x[0])
        at = torch.minimum(x[0].middle, x[0].lower + 1) if choice is None else between(x[0], choice)
        return convex(_exp, _exp, x[0], at, (_exp(x[0].lower).lower, _exp(x[0].upper).upper))


@dataclass(frozen=True, eq=False)
class Log(Nonlinear):
    """The natural logarithm, for x > 0."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].log()

    def interval(self, *x: Box) -> Box:
        _positive(x[0])
        return Box(_log(x[0].lower).lower, _log(x[0].upper).upper)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """The tangent above touches `choice` of the way from lower to upper end; in the middle by default."""
        _positive(x[0])
        at = between(x[0], 0.5 if choice is None else choice)
        slopes = reciprocal(x[0].upper).lower, reciprocal(x[0].lower).upper
        return concave(_log, reciprocal, x[0], at, slopes)


def _exp(x: Tensor) -> Box:
    box = widen(x.exp(), ULPS["exp"])
    return Box(box.lower.clamp(min=0.0), box.upper)


def _log(x: Tensor) -> Box:
    return widen(x.log(), ULPS["log"])


def _representable(x: Box) -> None:
    most = math.log(torch.finfo(x.upper.dtype).max) / 2
    require(x.upper <= most, x, f"exponents of at most {most:.0f}, so that products of exponentials stay finite")


def _positive(x: Box) -> None:
    least = tiny(x.lower.dtype) ** 0.25
    require(x.lower >= least, x, f"arguments of a logarithm of at least {least:.0e}")
