"""The data themselves: one of the samples of a file, each as likely, as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.estimates.distribution import Distribution, Points


@final
@dataclass(frozen=True, eq=False)
class Empirical(Distribution):
    """The samples of n cases, one each."""

    x: Tensor  # [n, d] float64

    def __str__(self) -> str:
        return f"the data's own {len(self)} samples, unchanged"

    def __len__(self) -> int:
        return len(self.x)

    def sample(self, count: int, generator: torch.Generator) -> Points:
        owner = torch.randint(len(self), (count,), generator=generator)
        return Points(owner, self.x[owner])

    def log_density(self, owner: Tensor, x: Tensor) -> Tensor:
        """Of a discrete distribution: the logarithm of the share of a case's samples at x, of which there is one."""
        return torch.where((x == self.x[owner]).all(1), 0.0, -math.inf).to(torch.float64)
