"""Uniform over boxes and L-infinity balls: every input between its ends, each value as likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.rounding import down, up
from fathom.estimates.distribution import Product
from fathom.estimates.distributions.normal_numbers import below, quantile


@final
@dataclass(frozen=True, eq=False)
class Uniform(Product):
    """x = lower + (upper - lower) P(Z < z), input by input."""

    def __str__(self) -> str:
        return "uniform over the region"

    def place(self, owner: Tensor, z: Tensor) -> Tensor:
        x = self.inner.lower[owner]
        low, high = x[:, self.columns], self.inner.upper[owner][:, self.columns]
        width = high - low
        from_nearer_end = torch.where(z <= 0, low + width * below(z), high - width * below(-z))
        x[:, self.columns] = torch.minimum(torch.maximum(from_nearer_end, low), high)
        return x

    def lift(self, owner: Tensor, x: Tensor) -> Tensor:
        low, high = (end[owner][:, self.columns] for end in (self.inner.lower, self.inner.upper))
        x, width = x[:, self.columns].to(torch.float64), (high - low).clamp(min=torch.finfo(torch.float64).tiny)
        left, right = ((x - low) / width).clamp(0, 1), ((high - x) / width).clamp(0, 1)
        return torch.where(left <= right, quantile(left), -quantile(right))

    def log_density(self, owner: Tensor, x: Tensor) -> Tensor:
        box = self.inner.take(owner)
        width = torch.where(box.width > 0, box.width, 1.0)
        return torch.where(box.contains(x), -width.log().sum(1), -torch.inf)

    def mass(self, owner: Tensor, box: Box) -> Box:
        """The product over the inputs that vary of width over width; each rounded outward."""
        inner, outer = self.inner.take(owner), self.outer.take(owner)
        least = down(torch.minimum(box.upper, inner.upper) - torch.maximum(box.lower, inner.lower)).clamp(min=0)
        most = up(torch.minimum(box.upper, outer.upper) - torch.maximum(box.lower, outer.lower)).clamp(min=0)
        fixed = outer.lower == outer.upper
        hit = ((box.lower <= outer.lower) & (outer.upper <= box.upper)).to(box.lower.dtype)
        low = torch.where(fixed, hit, down(least / up(outer.width).clamp(min=torch.finfo(least.dtype).tiny)).clamp(0, 1))
        high = torch.where(fixed, hit, up(most / down(inner.width)).clamp(0, 1))
        high = torch.where(~fixed & (down(inner.width) <= 0), 1.0, high)  # ends so near that rounding hides the width
        return product(Box(low, high))


def product(shares: Box) -> Box:
    """Intervals [k] that hold the products of numbers in [0, 1], each in its interval [k, d]; rounded outward."""
    slack = shares.lower.shape[1] * 2 * torch.finfo(shares.lower.dtype).eps
    low = (down(shares.lower.prod(1)) * (1 - slack)).clamp(0, 1)
    return Box(low, (up(shares.upper.prod(1)) * (1 + slack)).clamp(0, 1))
