"""L1 balls, clipped: the changes of all inputs add up to a bounded sum, and every input stays in its range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.rounding import TINY, gamma
from fathom.regions.balls import Ball, root, rounded_towards, split_bound, with_gradient
from fathom.regions.box import clamp, in_rows, inward


@final
@dataclass(frozen=True, eq=False)
class L1Ball(Ball):
    """|x - centre|_1 <= radius and lower <= x <= upper, over the real numbers.

    Sub-boxes are exact: they tighten the clipping range.
    """

    norm: ClassVar[str] = "L1"

    def contains(self, x: Tensor) -> Tensor:
        """Conservative by the rounding of the sum; the centre itself is always inside."""
        x = x.to(torch.float64)
        total = (x - self.centre).abs().sum(1) * (1 + gamma(self.size + 6, x.dtype)) + TINY
        near = (total <= self.radius) | (x == self.centre).all(1)
        return near & self.clip.contains(x)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Half of the points, before clipping, on the sphere; in directions from dense to sparse, as vertices are."""
        shape = (len(self.radius), count)
        size = torch.empty(*shape, self.size, dtype=torch.float64).exponential_(generator=generator)
        sign = torch.rand(size.shape, generator=generator, dtype=torch.float64) - 0.5
        power = 1 + 4 * torch.rand(*shape, 1, generator=generator, dtype=torch.float64)
        direction = torch.nn.functional.normalize(size**power * sign.sign(), p=1.0, dim=-1)
        length = (2 * torch.rand(*shape, 1, generator=generator, dtype=torch.float64)).clamp(max=1)
        return self.project(self.centre[:, None] + length * self.radius[:, None, None] * direction)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The radius is spent on the inputs of largest |a| first, each up to its wall: a fractional knapsack (Dantzig 1957).

        Bounded by splitting a at the price of the last one, which is the multiplier of the ball.
        """
        a = a.to(torch.float64)
        fixed = a.detach()
        base = clamp(self.centre, self.clip)
        left = (self.radius - (base - self.centre).abs().sum(-1)).clamp(min=0) * (1 - 1e-12)
        wall = torch.where(fixed > 0, self.lower[:, None], self.upper[:, None])
        room = (wall - base[:, None]).abs()
        price, order = fixed.abs().sort(stable=True, dim=-1, descending=True)
        room = room.gather(-1, order)
        before = room.cumsum(-1) - room
        spent = torch.minimum((left[:, None, None] - before).clamp(min=0), room)
        steps = torch.zeros_like(spent).scatter(-1, order, spent)
        x = clamp(base[:, None] - fixed.sign() * steps, self.clip)
        multiplier = torch.where(spent < room, price, 0.0).amax(-1, keepdim=True)
        part = fixed.clamp(-multiplier, multiplier)
        beyond = (base - self.centre).sign()[:, None]  # where the centre is outside the box, the ball pulls at full price
        part = torch.where(beyond != 0, -multiplier * beyond, part)
        bounds = [split_bound(fixed, z, z.abs().amax(-1), self.centre, self.radius, self.clip) for z in (part, fixed, 0 * fixed)]
        return with_gradient(torch.stack(bounds).amax(0), a, x), x

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> L1Ball:
        part = self.clip.take(owner).intersect(Box(lower, upper))
        return L1Ball(self.centre[owner], self.radius[owner], part.lower, part.upper)

    def project(self, x: Tensor) -> Tensor:
        """Every change shrunk by the least price that brings them inside, then clamped; rounded towards the centre, so that
        `contains` holds for a centre of the dtype of x inside the clipping range."""
        wide = in_rows(x)
        change, centre = wide - self.centre[:, None], self.centre[:, None]
        radius = self.radius[:, None] * (1 - 1e-12)

        def shrunk(price: Tensor) -> tuple[Tensor, Tensor]:
            free = centre + change.sign() * (change.abs() - price[..., None]).clamp(min=0)
            return free, clamp(free, self.clip)

        def measure(price: Tensor) -> tuple[Tensor, Tensor]:
            free, near = shrunk(price)
            active = (free == near) & (change.abs() > price[..., None])
            stuck = (near - centre).abs().where(~active, 0.0).sum(-1)
            guess = (change.abs().where(active, 0.0).sum(-1) + stuck - radius) / active.sum(-1)
            return (near - centre).abs().sum(-1) - radius, guess

        nothing = torch.zeros_like(change[..., 0])
        excess, guess = measure(nothing)
        most = torch.where(excess <= 0, nothing, change.abs().amax(-1))
        start = torch.where((guess > 0) & (guess < most), guess, most)
        price = root(measure, start, most, nothing, 1e-13 * radius.expand_as(most))
        near = shrunk(price)[1].reshape(x.shape)
        return clamp(rounded_towards(self.centre, near, x.dtype), inward(self.clip, x.dtype))
