"""L-infinity balls, clipped: every input may change by so much, and stays in its range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.regions.balls import Ball, End, ball_parts, core, difference
from fathom.regions.box import BoxRegion, clamp, inward, sample_box


@final
@dataclass(frozen=True, eq=False)
class LinfBall(Ball):
    """|x - centre| <= radius and lower <= x <= upper, elementwise and over the real numbers.

    `contains` is exact: the float64 ends it compares with are rounded inward.
    """

    norm: ClassVar[str] = "Linf"

    @staticmethod
    def per_input(centre: Tensor, radius: Sequence[float] | Tensor, clip: tuple[End, End] | None = None) -> BoxRegion:
        """The same with a radius for each input, in its own unit: boxes, whose ends are float64 numbers rounded outward.

        Args:
            centre: samples [n, *shape].
            radius: [d], or [n, d] of each sample's own.

        Raises:
            FathomError: a sample outside the range, or radii that are not as many, or below 0, or not finite.
        """
        wide, _, lower, upper = ball_parts(centre, 0.0, clip)
        far = torch.as_tensor(radius, dtype=torch.float64)
        if far.shape not in (wide.shape[1:], wide.shape):
            raise FathomError(f"expected a radius for each of {wide.shape[1]} inputs, got {list(far.shape)}")
        if not bool((torch.isfinite(far) & (far >= 0)).all()):
            raise FathomError(f"expected radii >= 0 and finite, got {far[~(torch.isfinite(far) & (far >= 0))][0].item()}")
        far = far.expand_as(wide)
        box = Box(difference(wide, far)[0], difference(wide, -far)[1])
        box = box if clip is None else box.intersect(Box(lower, upper))
        return BoxRegion(box.lower, box.upper)

    @cached_property
    def _outer(self) -> BoxRegion:
        return BoxRegion(self.box().lower, self.box().upper)

    @cached_property
    def _inner(self) -> Box:
        return core(self.centre, self.radius).intersect(self.clip)

    def contains(self, x: Tensor) -> Tensor:
        return self._inner.contains(x.to(torch.float64))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return sample_box(self._inner, count, generator)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The vertex, against the signs of a, of the box rounded outward."""
        return self._outer.minimise(a)

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> BoxRegion:
        """Boxes rounded outward: a unit in the last place larger, at most, than the exact intersection."""
        return self._outer.restrict(owner, lower, upper)

    def project(self, x: Tensor) -> Tensor:
        """Clamped to the ends rounded inward in the dtype of x, so that `contains` holds wherever the set has such a point."""
        return clamp(x, inward(self._inner, x.dtype))
