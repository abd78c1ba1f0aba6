"""Uniform over L2 and L1 balls; where the range of legal inputs cuts a ball, uniform over what is left of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.estimates.distribution import Latent
from fathom.estimates.distributions.normal_numbers import FARTHEST, below, quantile


@final
@dataclass(frozen=True, eq=False)
class UniformBall(Latent):
    """A point of the unit ball from one or two numbers more than it has dimensions, then scaled and moved.

    The first d of d + 2 normal numbers over the length of all are uniform in the L2 ball. Exponential numbers with random
    signs over the sum of them and of one more are so in the L1 ball. (Barthe, Guedon, Mendelson and Naor, A probabilistic
    approach to the geometry of the l_p^n-ball, Annals of Probability 33, 2005.)
    """

    power: int  # 1 or 2
    centre: Tensor  # [n, d] float64
    radius: Tensor  # [n] float64
    lower: Tensor  # [n, d] float64: the range of legal inputs
    upper: Tensor  # [n, d] float64

    def __str__(self) -> str:
        return "uniform over the region"

    def __len__(self) -> int:
        return len(self.centre)

    @property
    def latent(self) -> int:
        return self.centre.shape[1] + (2 if self.power == 2 else 1)

    def place(self, owner: Tensor, z: Tensor) -> Tensor:
        d = self.centre.shape[1]
        if self.power == 2:
            unit = z[:, :d] / z.square().sum(1, keepdim=True).sqrt().clamp(min=torch.finfo(z.dtype).tiny)
        else:
            size = -(2 * below(-z.abs())).clamp(min=torch.finfo(z.dtype).tiny).log()
            unit = z[:, :d].sign() * size[:, :d] / size.sum(1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)
        return self.centre[owner] + self.radius[owner, None] * unit

    def lift(self, owner: Tensor, x: Tensor) -> Tensor:
        """With numbers of the size that such numbers have: of squared length d + 2, or exponentials that add up to d + 1."""
        d, radius = self.centre.shape[1], self.radius[owner, None].clamp(min=torch.finfo(torch.float64).tiny)
        unit = (x.to(torch.float64) - self.centre[owner]) / radius
        if self.power == 2:
            rest = ((1 - unit.square().sum(1, keepdim=True)).clamp(min=0) / 2).sqrt()
            return torch.cat([unit, rest, rest], 1) * math.sqrt(d + 2)
        size = (d + 1) * torch.cat([unit.abs(), (1 - unit.abs().sum(1, keepdim=True)).clamp(min=0)], 1)
        z = -quantile((-size).exp() / 2)
        signs = torch.cat([unit.sign(), torch.ones_like(unit[:, :1])], 1)
        lifted: Tensor = signs * z
        return lifted.clamp(-FARTHEST, FARTHEST)

    def log_density(self, owner: Tensor, x: Tensor) -> Tensor:
        d = self.centre.shape[1]
        inside = ((self.lower[owner] <= x) & (x <= self.upper[owner])).all(1)
        change = x - self.centre[owner]
        size = change.abs().sum(1) if self.power == 1 else change.square().sum(1).sqrt()
        volume = torch.lgamma(torch.tensor(1 + d / self.power, dtype=torch.float64))
        unit = d * torch.lgamma(torch.tensor(1 + 1 / self.power, dtype=torch.float64)) + d * torch.log(torch.tensor(2.0))
        near = size <= self.radius[owner] * (1 + 1e-12)
        return torch.where(inside & near, volume - unit - d * self.radius[owner].log(), -torch.inf)
