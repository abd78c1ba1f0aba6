"""L-infinity balls, clipped: every input may change by so much, and stays in its range."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.region import Projectable
from fathom.regions.balls import End, ball_parts, check_ball, core, describe, reach
from fathom.regions.box import BoxRegion, clamp, inward, sample_box


@final
@dataclass(frozen=True, eq=False)
class LinfBall(Projectable):
    """|x - centre| <= radius and lower <= x <= upper, elementwise and over the real numbers.

    `around` makes one from samples. `contains` is exact: the float64 ends it compares with are rounded inward.

    Raises:
        FathomError: parts that are no ball (see `check_ball`).
    """

    centre: Tensor  # [n, d] float64
    radius: Tensor  # [n] float64
    lower: Tensor  # [n, d] float64: the clipping range
    upper: Tensor  # [n, d] float64

    def __post_init__(self) -> None:
        check_ball(self.centre, self.radius, self.lower, self.upper)

    @staticmethod
    def around(centre: Tensor, radius: float | Tensor, clip: tuple[End, End] | None = None) -> LinfBall:
        """Balls around samples [n, *shape], of one radius or one for each [n], clipped to a range such as (0, 1).

        Raises:
            FathomError: a sample outside the range, or a radius below 0.
        """
        return LinfBall(*ball_parts(centre, radius, clip))

    def __str__(self) -> str:
        return describe("Linf", self.radius, self.lower, self.upper, reach(self.centre, self.radius))

    @cached_property
    def _outer(self) -> BoxRegion:
        hull = reach(self.centre, self.radius).intersect(Box(self.lower, self.upper))
        return BoxRegion(hull.lower, hull.upper)

    @cached_property
    def _inner(self) -> Box:
        return core(self.centre, self.radius).intersect(Box(self.lower, self.upper))

    def box(self) -> Box:
        return self._outer.box()

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
