"""Normal around the centre, cut off at the ends of a box or an L-infinity ball; inputs are independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.rounding import down, up
from fathom.estimates.distribution import Product
from fathom.estimates.distributions.normal_numbers import below, enclose_between, quantile
from fathom.estimates.distributions.uniform import product


@final
@dataclass(frozen=True, eq=False)
class TruncatedNormal(Product):
    """x = centre + deviation t, where t is a standard normal number given that x lies between its ends."""

    centre: Tensor  # [n, d] float64
    deviation: Tensor  # [n, d] float64, > 0 where an input varies

    def __str__(self) -> str:
        shares = (self.deviation / self.half.clamp(min=torch.finfo(torch.float64).tiny))[self.deviation > 0]
        size = f" of standard deviation {shares.median().item():.3g} half widths" if len(shares) else ""
        return f"normal around the centre{size}, cut off at the region's ends"

    @property
    def half(self) -> Tensor:
        """[n, d] how far the farther end is from the centre."""
        return torch.maximum(self.outer.upper - self.centre, self.centre - self.outer.lower)

    def _standard(self, owner: Tensor, x: Tensor) -> Tensor:
        """x [k, d] in standard deviations from the centre, [k, columns]."""
        deviation = self.deviation[owner].clamp(min=torch.finfo(torch.float64).tiny)
        return ((x - self.centre[owner]) / deviation)[:, self.columns]

    def place(self, owner: Tensor, z: Tensor) -> Tensor:
        """By the inverse of the cumulative probability, counted from the end that is nearer to z."""
        x = self.inner.lower[owner]
        a, b = self._standard(owner, x), self._standard(owner, self.inner.upper[owner])
        share = below(b) - below(a)
        t = torch.where(z <= 0, quantile(below(a) + share * below(z)), -quantile(below(-b) + share * below(-z)))
        spread = self.centre[owner][:, self.columns] + self.deviation[owner][:, self.columns] * t
        x[:, self.columns] = torch.minimum(torch.maximum(spread, x[:, self.columns]), self.inner.upper[owner][:, self.columns])
        return x

    def lift(self, owner: Tensor, x: Tensor) -> Tensor:
        ends = (self.inner.lower[owner], x.to(torch.float64), self.inner.upper[owner])
        a, t, b = (self._standard(owner, end) for end in ends)
        share = (below(b) - below(a)).clamp(min=torch.finfo(torch.float64).tiny)
        left, right = ((below(t) - below(a)) / share).clamp(0, 1), ((below(-t) - below(-b)) / share).clamp(0, 1)
        return torch.where(left <= right, quantile(left), -quantile(right))

    def log_density(self, owner: Tensor, x: Tensor) -> Tensor:
        box = self.inner.take(owner)
        a, t, b = (self._standard(owner, end) for end in (box.lower, x.to(torch.float64), box.upper))
        each = -0.5 * t.square() - math.log(2 * math.pi) / 2 - (below(b) - below(a)).log()
        each = each - self.deviation[owner][:, self.columns].log()
        own = (box.lower < box.upper)[:, self.columns]  # an input may vary in some sets only
        return torch.where(box.contains(x), torch.where(own, each, 0.0).sum(1), -torch.inf)

    def mass(self, owner: Tensor, box: Box) -> Box:
        """The product of the inputs' shares: the probability between the ends of the box, over that between the set's."""
        inner, outer = self.inner.take(owner), self.outer.take(owner)
        fixed = outer.lower == outer.upper
        least = Box(torch.maximum(box.lower, inner.lower), torch.minimum(box.upper, inner.upper))
        most = Box(torch.maximum(box.lower, outer.lower), torch.minimum(box.upper, outer.upper))
        low = down(self._between(owner, least, inward=True) / up(self._between(owner, outer, inward=False)))
        high = up(self._between(owner, most, inward=False) / down(self._between(owner, inner, inward=True)))
        hit = ((box.lower <= outer.lower) & (outer.upper <= box.upper)).to(box.lower.dtype)
        low = torch.where(fixed, hit, low.nan_to_num(nan=0.0)).clamp(0, 1)
        high = torch.where(fixed, hit, high.nan_to_num(nan=1.0, posinf=1.0, neginf=1.0)).clamp(0, 1)
        return product(Box(low, torch.where(high < low, 1.0, high)))

    def _between(self, owner: Tensor, box: Box, *, inward: bool) -> Tensor:
        """[k, d] bounds on the probability of each input between the ends of `box`, before the cut; 0 where they cross."""
        centre, deviation = self.centre[owner], self.deviation[owner].clamp(min=torch.finfo(torch.float64).tiny)
        sides = (up, down) if inward else (down, up)
        a = sides[0](sides[0](box.lower - centre) / deviation)
        b = sides[1](sides[1](box.upper - centre) / deviation)
        shares = enclose_between(a, torch.maximum(a, b))
        return torch.where(b >= a, shares.lower if inward else shares.upper, 0.0)
