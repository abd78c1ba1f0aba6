"""The standard normal distribution: its cumulative probability both ways, and rigorous intervals round it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.rounding import TINY, down, up

FARTHEST = 8.2
"""Standard normal numbers are taken no farther out: the probability beyond is 2e-16, one unit in the last place of 1."""


def below(z: Tensor) -> Tensor:
    """P(Z < z)."""
    share: Tensor = torch.special.erfc(-z / math.sqrt(2)) / 2
    return share


def quantile(share: Tensor) -> Tensor:
    """The z with P(Z < z) = share, no farther out than `FARTHEST`."""
    z: Tensor = torch.special.ndtri(share)
    return z.clamp(-FARTHEST, FARTHEST)


def log_density(z: Tensor) -> Tensor:
    """Logarithms [k] of the standard normal density at z [k, m]."""
    return -0.5 * z.square().sum(-1) - z.shape[-1] * math.log(2 * math.pi) / 2


def enclose_below(z: Tensor) -> Box:
    """Intervals that hold P(Z < z) for z exactly as stored.

    erfc is taken to be within 16 units in the last place; that its argument was rounded changes its value, far out, by
    4 t^2 units more, for t = z / sqrt(2): the slope of log erfc is at most 2 t + 2 in size (from Mills' ratio).
    """
    value = below(z)
    error = value * (torch.finfo(z.dtype).eps * (24 + 4 * z.square())) + TINY
    return Box((value - error).clamp(0, 1), (value + error).clamp(0, 1))


def enclose_between(lower: Tensor, upper: Tensor) -> Box:
    """Intervals that hold P(lower < Z < upper), each taken in the nearer tail, where no digits are lost.

    The narrower of two enclosures: a difference of tails, and width times the least and the greatest density.
    """
    flip = (lower + upper) > 0
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    at_a, at_b = enclose_below(a), enclose_below(b)
    width, eps = b - a, torch.finfo(a.dtype).eps
    farthest = torch.maximum(a.abs(), b.abs())
    nearest = torch.where((a <= 0) & (b >= 0), 0.0, torch.minimum(a.abs(), b.abs()))
    slack = [eps * (16 + 2 * t.square()) for t in (farthest, nearest)]
    scale = 1 / math.sqrt(2 * math.pi)
    least = down(down(width) * scale * torch.exp(-farthest.square() / 2) * (1 - slack[0])).clamp(min=0)
    most = up(up(width) * scale * torch.exp(-nearest.square() / 2) * (1 + slack[1]))
    low = torch.maximum(least, down(at_b.lower - at_a.upper))
    high = torch.minimum(most, up(at_b.upper - at_a.lower))
    return Box(low.clamp(0, 1), high.clamp(0, 1))
