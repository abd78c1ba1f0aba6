"""The S-shaped activations: logistic sigmoid, hyperbolic tangent, and the error function of the exact GELU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.ops.elementary import ULPS
from fathom.ops.s_shape import Curve


@dataclass(frozen=True, eq=False)
class Sigmoid(Nonlinear):
    """1 / (1 + e^-x)."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].sigmoid()

    def interval(self, *x: Box) -> Box:
        return SIGMOID.interval(x[0])

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        return SIGMOID.relax(x[0], choice)


@dataclass(frozen=True, eq=False)
class Tanh(Nonlinear):
    """The hyperbolic tangent."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].tanh()

    def interval(self, *x: Box) -> Box:
        return TANH.interval(x[0])

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        return TANH.relax(x[0], choice)


@dataclass(frozen=True, eq=False)
class Erf(Nonlinear):
    """The error function."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].erf()

    def interval(self, *x: Box) -> Box:
        return ERF.interval(x[0])

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        return ERF.relax(x[0], choice)


def _bell(x: Tensor) -> Tensor:
    """The sigmoid's derivative e^-|x| / (1 + e^-|x|)^2, without the cancellation of y (1 - y)."""
    small = (-x.abs()).exp()
    total = 1 + small
    return small / (total * total)


def _sigmoid_bend(x: Tensor) -> Tensor:
    y = x.sigmoid()
    return y * (1 - y) * (1 - 2 * y)


def _tanh_bend(x: Tensor) -> Tensor:
    y = x.tanh()
    return -2 * y * (1 - y * y)


def _erf_slope(x: Tensor) -> Tensor:
    return (2 / math.sqrt(math.pi)) * (-x * x).exp()


def _erf_slope_ulps(x: Tensor) -> Tensor:
    """The exponential magnifies the rounding of x^2 by x^2."""
    return ULPS["exp"] + 4 + x * x


SIGMOID = Curve(torch.sigmoid, _bell, _sigmoid_bend, ULPS["sigmoid"], ULPS["bell"], least=0.0, saturation=40.0)
TANH = Curve(torch.tanh, lambda x: 4 * _bell(2 * x), _tanh_bend, ULPS["tanh"], ULPS["bell"], least=-1.0, saturation=20.0)
ERF = Curve(torch.erf, _erf_slope, lambda x: -2 * x * _erf_slope(x), ULPS["erf"], _erf_slope_ulps, least=-1.0, saturation=6.0)
