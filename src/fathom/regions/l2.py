"""L2 balls, clipped: the Euclidean length of the change is bounded, and every input stays in its range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.rounding import TINY, gamma
from fathom.regions.balls import Ball, euclidean, root, rounded_towards, split_bound, with_gradient
from fathom.regions.box import clamp, in_rows, inward


@final
@dataclass(frozen=True, eq=False)
class L2Ball(Ball):
    """|x - centre|_2 <= radius and lower <= x <= upper, over the real numbers.

    Sub-boxes are exact: they tighten the clipping range.
    """

    norm: ClassVar[str] = "L2"

    def contains(self, x: Tensor) -> Tensor:
        """Conservative by the rounding of the sum of squares; the centre itself is always inside."""
        x = x.to(torch.float64)
        change = x - self.centre
        square = change.square().sum(1) * (1 + gamma(self.size + 8, x.dtype)) + TINY
        near = (square <= self.radius.square() * (1 - 1e-15)) | (x == self.centre).all(1)
        return near & self.clip.contains(x)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Half of the points, before clipping, on the sphere, and half uniform in the ball."""
        shape = (len(self.radius), count)
        direction = torch.randn(*shape, self.size, generator=generator, dtype=torch.float64)
        inside = torch.rand(*shape, 1, generator=generator, dtype=torch.float64) ** (1 / self.size)
        sphere = torch.rand(*shape, 1, generator=generator, dtype=torch.float64) < 0.5
        length = torch.where(sphere, 1.0, inside) * self.radius[:, None, None]
        return self.project(self.centre[:, None] + length * torch.nn.functional.normalize(direction, dim=-1))

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Where the path clamp(centre - t a) leaves the ball; bounded by splitting a between ball and box there."""
        a = a.to(torch.float64)
        fixed = a.detach()
        unit = fixed / fixed.abs().amax(-1, keepdim=True).clamp(min=TINY)
        vertex = torch.where(unit > 0, self.lower[:, None], self.upper[:, None])
        walls = (vertex - self.centre[:, None]).abs() / unit.abs()
        last = torch.where(unit == 0, 0.0, walls).amax(-1).clamp(min=TINY, max=1e150)
        t = self._leave(unit, last)
        x = clamp(self.centre[:, None] - t[..., None] * unit, self.clip)
        part = (self.centre[:, None] - x) / t.clamp(min=TINY)[..., None] * (fixed / unit).where(unit != 0, 0.0)
        part = torch.where((x == vertex) & (t == last)[..., None], 0.0, part)
        bounds = [split_bound(fixed, z, euclidean(z), self.centre, self.radius, self.clip) for z in (part, fixed, 0 * fixed)]
        return with_gradient(torch.stack(bounds).amax(0), a, x), x

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> L2Ball:
        part = self.clip.take(owner).intersect(Box(lower, upper))
        return L2Ball(self.centre[owner], self.radius[owner], part.lower, part.upper)

    def project(self, x: Tensor) -> Tensor:
        """Where the path clamp(centre + t (x - centre)), t in [0, 1], leaves the ball; rounded towards the centre, so that
        `contains` holds for a centre of the dtype of x inside the clipping range."""
        wide = in_rows(x)
        change = self.centre[:, None] - wide
        t = self._leave(change, torch.ones_like(change[..., 0]))
        near = clamp(self.centre[:, None] - t[..., None] * change, self.clip).reshape(x.shape)
        return clamp(rounded_towards(self.centre, near, x.dtype), inward(self.clip, x.dtype))

    def _leave(self, a: Tensor, last: Tensor) -> Tensor:
        """The greatest t [n, k] in [0, last] with clamp(centre - t a), for a [n, k, d], inside the ball.

        Given which elements are clamped, the distance is a quadratic in t, whose root is the next guess.
        """
        centre, square = self.centre[:, None], (self.radius.square() * (1 - 1e-12))[:, None]

        def measure(t: Tensor) -> tuple[Tensor, Tensor]:
            free = centre - t[..., None] * a
            moved = clamp(free, self.clip)
            clamped = moved != free
            distances = (moved - centre).square()
            stuck, slope = (distances * clamped).sum(-1), (a.square() * ~clamped).sum(-1)
            return distances.sum(-1) - square, ((square - stuck).clamp(min=0) / slope).sqrt()

        excess, guess = measure(last)
        good = torch.where(excess <= 0, last, 0.0)
        start = torch.where((good < guess) & (guess < last), guess, good)
        return root(measure, start, good, last, 1e-13 * square.expand_as(last))
