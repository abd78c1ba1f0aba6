"""Steps: one move downhill that stays in a region, by whatever means the region offers.

Nearly all are steps along the region's own linear minimisation oracle: towards the point of the set where the gradient's linear
model is least. That is the sign step in an L-infinity ball. In round sets a way towards a point of the surface leads through the
inside, so there the step is as from the centre to that point, the normalised gradient in an L2 ball. In an L1 ball it would be a
step in one or two inputs, and there are steps in ever fewer. Scaling the gradient changes none of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fathom.core.region import Region, Repairable
from fathom.regions.box import BoxRegion
from fathom.regions.ellipsoid import Ellipsoid
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.regions.product import Product
from fathom.regions.union import Union

KEPT = 0.4
"""Of the inputs that an L1 search has changed, those that its next step moves: of a half, 0.4 and a third the best on digits."""


def enlarged(region: Region) -> Repairable | None:
    """The sets in which a search does well to begin, larger than its own; None where it begins in its own.

    L1 balls of twice the radius, as by Croce and Hein (2021): what is spread over many inputs there is drawn together after.
    """
    return replace(region, radius=2 * region.radius) if isinstance(region, L1Ball) else None


@dataclass(frozen=True, eq=False)
class Step(ABC):
    """How L searches move, each in a set of its own."""

    @abstractmethod
    def move(self, x: Tensor, previous: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        """The next points [L, d] of searches at x that came from `previous`, moving by `size` [L], in half widths of the set."""

    @abstractmethod
    def take(self, index: Tensor) -> Step:
        """The steps of the searches at `index`."""


def stepper(region: Region, dtype: torch.dtype) -> Step:
    """The way to move in a region: clamped in a box, sparsely in an L1 ball, along the surface of round sets, repaired where
    that can be, else Frank-Wolfe."""
    if isinstance(region, BoxRegion | LinfBall):
        far = torch.full((len(region), region.size), torch.inf, dtype=dtype)
        return ClampedStep(region.project(-far), region.project(far))
    if isinstance(region, L1Ball):
        return SparseStep(region)
    if isinstance(region, L2Ball | Ellipsoid) or (isinstance(region, Product) and region.convex):
        return ShiftedStep(region)
    if isinstance(region, Union):
        return MemberStep(region, tuple(stepper(member, dtype) for member in region.members))
    if isinstance(region, Repairable):
        return ProjectedStep(region)
    return FrankWolfeStep(region)


@final
@dataclass(frozen=True, eq=False)
class ClampedStep(Step):
    """In a box: against the gradient, in proportion to each input's width, with momentum.

    An input that matters as much as the mean or more goes the whole step, as by the sign; one that matters less goes less
    far, which spares it the zigzag.
    """

    lower: Tensor  # [L, d] in the dtype of the search
    upper: Tensor  # [L, d]

    def move(self, x: Tensor, previous: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        width = self.upper - self.lower
        effect = gradient / gradient.abs().amax(1, keepdim=True) * width
        share = (effect / effect.abs().mean(1, keepdim=True)).nan_to_num(nan=0.0).clamp(-1, 1)
        target = self._clamp(x - (size / 2)[:, None] * width * share)
        return self._clamp(with_momentum(x, previous, target))

    def _clamp(self, x: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(x, self.upper), self.lower)

    def take(self, index: Tensor) -> ClampedStep:
        return ClampedStep(self.lower[index], self.upper[index])


@final
@dataclass(frozen=True, eq=False)
class ProjectedStep(Step):
    """In a region that repairs points: towards the oracle's minimiser, with momentum, and projected back, or nearly so."""

    region: Repairable

    def move(self, x: Tensor, previous: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        target = x + size.clamp(max=1)[:, None] * (minimiser(self.region, gradient) - x)
        return self.region.repair(with_momentum(x, previous, target))

    def take(self, index: Tensor) -> ProjectedStep:
        return ProjectedStep(self.region.take(index))


@final
@dataclass(frozen=True, eq=False)
class ShiftedStep(Step):
    """In round sets: as far as from the centre to the oracle's minimiser, projected back, or nearly so, with momentum.

    A step towards the minimiser itself ends inside, by about the square of its length, and so is never quite at the worst point.
    """

    region: Repairable

    def move(self, x: Tensor, previous: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        shift = minimiser(self.region, gradient) - self.region.centres().to(x.dtype)
        target = self.region.repair(x + size[:, None] * shift)
        return self.region.repair(with_momentum(x, previous, target))

    def take(self, index: Tensor) -> ShiftedStep:
        return ShiftedStep(self.region.take(index))


@final
@dataclass(frozen=True, eq=False)
class SparseStep(Step):
    """In an L1 ball: by the signs of the few greatest slopes, as far each, with momentum, and projected back.

    The oracle's minimiser spends the radius on one or two inputs at once, and where those do not bend the network yet, nothing
    leads to the others. So a step begins with many inputs and takes ever fewer: `KEPT` of those that are changed already
    (Croce and Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, ICML 2021).
    """

    region: L1Ball

    def move(self, x: Tensor, previous: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        centre, radius, lower, upper = (
            t.to(x.dtype) for t in (self.region.centre, self.region.radius, self.region.lower, self.region.upper)
        )
        walled = ((gradient > 0) & (x <= lower)) | ((gradient < 0) & (x >= upper))
        slope = gradient.masked_fill(walled, 0.0)
        changed = (x != centre).sum(1, keepdim=True)
        count = (KEPT * torch.where(changed > 0, changed, x.shape[1])).long().clamp(min=1)
        rank = slope.abs().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        share = torch.where(rank < count, slope.sign(), 0.0)
        target = x - (size * radius)[:, None] * share / share.abs().sum(1, keepdim=True).clamp(min=1)
        return self.region.repair(with_momentum(x, previous, self.region.repair(target)))

    def take(self, index: Tensor) -> SparseStep:
        return SparseStep(self.region.take(index))


@final
@dataclass(frozen=True, eq=False)
class MemberStep(Step):
    """In a union: as in the member that a search is in, where it stays."""

    region: Union
    steps: tuple[Step, ...]  # of each member

    def move(self, x: Tensor, previous: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        moved = torch.stack([step.move(x, previous, gradient, size) for step in self.steps])
        return moved[self.region.nearest(x), torch.arange(len(x))]

    def take(self, index: Tensor) -> MemberStep:
        return MemberStep(self.region.take(index), tuple(step.take(index) for step in self.steps))


@final
@dataclass(frozen=True, eq=False)
class FrankWolfeStep(Step):
    """In a region that repairs nothing: part of the way to the oracle's minimiser (Frank and Wolfe 1956)."""

    region: Region

    def move(self, x: Tensor, previous: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        """Without momentum, and so with a quarter of the step."""
        return x + (size / 4).clamp(max=1)[:, None] * (minimiser(self.region, gradient) - x)

    def take(self, index: Tensor) -> FrankWolfeStep:
        return FrankWolfeStep(self.region.take(index))


def minimiser(region: Region, gradient: Tensor) -> Tensor:
    """The oracle's minimisers [L, d] of one row [L, d] a set, in the dtype of the row."""
    return region.minimise(gradient.to(torch.float64)[:, None])[1][:, 0].to(gradient.dtype)


def with_momentum(x: Tensor, previous: Tensor, target: Tensor) -> Tensor:
    """Three quarters of the way to the target, and a quarter of the last move (Croce and Hein 2020)."""
    return x + 0.75 * (target - x) + 0.25 * (x - previous)
