"""The rectifier and its leaky form: linear on either side of a kink at 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.core.rounding import up


@dataclass(frozen=True, eq=False)
class Relu(Nonlinear):
    """max(x, 0)."""

    @property
    def kink(self) -> float | None:
        return 0.0

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].relu()

    def interval(self, *x: Box) -> Box:
        return x[0].map(torch.relu)

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """Above, the chord from (l, 0) to (u, u); below, the line through 0 with slope `choice`.

        By default 1 where u > -l and 0 elsewhere, which leaves the least area (Zhang et al., Efficient neural network
        robustness certification with general activation functions, NeurIPS 2018).
        """
        lower, upper = x[0].lower, x[0].upper
        on, off = lower >= 0, upper <= 0
        below = (upper > -lower).to(lower.dtype) if choice is None else choice
        below = torch.where(on, 1.0, torch.where(off, 0.0, below))
        unstable = ~(on | off)
        width = torch.where(unstable, upper - lower, 1.0)
        chord = torch.where(on, 1.0, torch.where(off, 0.0, (upper / width).clamp(max=1.0)))
        # Whatever the chord's slope was rounded to, this offset lifts it over both ends.
        offset = torch.maximum(-chord * lower, (1 - chord) * upper)
        offset = torch.where(unstable, up(up(offset)), 0.0)
        return Lines((below,), torch.zeros_like(below), (chord,), offset)


@dataclass(frozen=True, eq=False)
class LeakyRelu(Nonlinear):
    """max(x, 0) + slope min(x, 0), for a slope in [0, 1]."""

    slope: float

    @property
    def kink(self) -> float | None:
        return 0.0

    def __call__(self, *x: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(x[0], self.slope)

    def interval(self, *x: Box) -> Box:
        """Increasing, so the images of the ends, rounded outward where they are products."""
        lower, upper = self(x[0].lower), self(x[0].upper)
        return Box(
            torch.where(x[0].lower < 0, lower - lower.abs() * 1e-15, lower),
            torch.where(x[0].upper < 0, upper + upper.abs() * 1e-15, upper),
        )

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """As for the rectifier, with slopes between `slope` and 1 below."""
        lower, upper = x[0].lower, x[0].upper
        on, off = lower >= 0, upper <= 0
        share = (upper > -lower).to(lower.dtype) if choice is None else choice
        below = self.slope + share * (1 - self.slope)
        below = torch.where(on, 1.0, torch.where(off, self.slope, below.clamp(self.slope, 1.0)))
        unstable = ~(on | off)
        width = torch.where(unstable, upper - lower, 1.0)
        chord = ((upper - self.slope * lower) / width).clamp(self.slope, 1.0)
        chord = torch.where(on, 1.0, torch.where(off, self.slope, chord))
        # Above both ends: slope l at l, u at u.
        offset = torch.maximum((self.slope - chord) * lower, (1 - chord) * upper)
        offset = torch.where(unstable, up(up(offset)), 0.0)
        return Lines((below,), torch.zeros_like(below), (chord,), offset)
