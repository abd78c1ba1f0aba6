"""Uniform over the points of finite sets, each as likely as another of its set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.estimates.distribution import Distribution, Points


@final
@dataclass(frozen=True, eq=False)
class UniformPoints(Distribution):
    """One of the points of a set; one that is listed twice is twice as likely. No set is without a point."""

    points: Tensor  # [n, k, d] float64
    present: Tensor  # [n, k] bool: False for padding

    def __str__(self) -> str:
        return f"uniform over {int(self.present.sum()):,} points, those of a set each as likely"

    def __len__(self) -> int:
        return len(self.points)

    def sample(self, count: int, generator: torch.Generator) -> Points:
        owner = torch.randint(len(self), (count,), generator=generator)
        at = torch.multinomial(self.present[owner].to(torch.float64), 1, generator=generator)[:, 0]
        return Points(owner, self.points[owner, at])

    def log_density(self, owner: Tensor, x: Tensor) -> Tensor:
        """Of a discrete distribution: the logarithm of the share of the set's points that x is."""
        here = self.present[owner]
        same = (self.points[owner] == x[:, None]).all(2) & here
        return (same.sum(1).to(torch.float64) / here.sum(1)).log()
