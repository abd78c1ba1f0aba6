"""Wasserstein balls on images: mass moves from pixel to pixel, and mass times distance, over all that moves, is bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.checks import check_number, check_whole
from fathom.core.errors import FathomError
from fathom.core.region import Region, Repairable
from fathom.core.rounding import TINY, dot_down, down, gamma, up
from fathom.regions.balls import End, ball_parts, check_ball, describe, with_gradient
from fathom.regions.box import BoxRegion, clamp, in_rows, inward
from fathom.regions.features import peak

SLACK = 2.0**-20
AT_ONCE = 1 << 24  # moves looked at
PASSES = 4  # of filling pixels up to their range
HALVINGS = 4  # of prices, where that stops mass


@final
@dataclass(frozen=True, eq=False)
class WassersteinBall(Repairable):
    """Images within `slack`, pixel by pixel, of what moving mass makes of the centre at a cost of at most `radius`; in a range.

    Mass is what pixels hold, channel by channel; moving a unit of it by one pixel costs 1, and by (y, x) the Euclidean distance,
    as float64 has it; no mass moves further than `window` rows or columns. No mass is lost, but that images of floats cannot keep
    a sum exactly: that is what `slack` is for.

    The oracle is the dual of the linear minimisation over plans. For any price m >= 0 of moving,

        a x >= sum_i centre_i min_j (a_j + m distance_ij) - m radius,

    which is concave in m; the best m is found by search, and plans at prices on both sides of it are mixed so as to spend the
    radius (Wu, Smith and Yu, Stronger and faster Wasserstein adversarial attacks, ICML 2020, who smooth the inner minimum; here
    it is exact, so no scale is too large or too small). With the range the value is a bound, the better of ball and box;
    minimisers fill pixels up to their range, and lie in the set.

    Raises:
        FathomError: parts that are no such ball.
    """

    centre: Tensor  # [n, d] float64, >= 0
    radius: Tensor  # [n] float64: mass times pixels
    slack: Tensor  # [n] float64
    lower: Tensor  # [n, d]: the range of a pixel
    upper: Tensor  # [n, d]
    shape: tuple[int, int, int]  # channels, height, width
    window: int

    def __post_init__(self) -> None:
        check_ball(self.centre, self.radius, self.lower, self.upper)
        check_ball(self.centre, self.slack, self.lower, self.upper)
        if math.prod(self.shape) != self.centre.shape[1] or self.window < 0:
            raise FathomError(
                f"expected images of {self.centre.shape[1]} numbers and a window of at least 0, got shape {list(self.shape)} "
                f"and window {self.window}"
            )
        if bool((self.centre < 0).any()):
            raise FathomError(f"expected images of mass, which is at least 0, got {self.centre.min().item():g}; shift the data")

    @classmethod
    def around(
        cls,
        centre: Tensor,
        radius: float | Tensor,
        clip: tuple[End, End] | None = None,
        *,
        window: int = 2,
        slack: float = SLACK,
    ) -> WassersteinBall:
        """Balls around images [n, channels, height, width] or [n, height, width].

        Args:
            radius: mass times pixels, one or one for each [n]: 0.5 moves half of a white pixel by one.
            clip: the range of a pixel; without, from 0 to whatever mass can come.
            window: how far mass moves, in rows and columns.
            slack: how far each pixel may be off besides.

        Raises:
            FathomError: no images, an image below 0 or outside the range, or a radius below 0.
        """
        if not isinstance(centre, Tensor) or centre.ndim not in (3, 4):
            got = list(centre.shape) if isinstance(centre, Tensor) else type(centre).__name__
            raise FathomError(f"expected images [n, channels, height, width] or [n, height, width], got {got}")
        shape = (centre.shape[1] if centre.ndim == 4 else 1, centre.shape[-2], centre.shape[-1])
        total = centre.detach().to(torch.float64).flatten(1).sum(1).amax().item() if len(centre) else 0.0
        wide, size, lower, upper = ball_parts(centre, radius, (0.0, 1.0 + 2 * abs(total)) if clip is None else clip)
        off, window = torch.full_like(size, check_number("slack", slack, least=0)), check_whole("window", window)
        return cls(wide, size.clone(), off, lower.clone(), upper.clone(), shape, window)

    def __str__(self) -> str:
        return describe("Wasserstein", self.radius, self.lower, self.upper, Box(self.lower, self.upper))

    def __len__(self) -> int:
        return len(self.centre)

    @property
    def size(self) -> int:
        return self.centre.shape[1]

    def centres(self) -> Tensor:
        return self.centre

    def rounded(self, dtype: torch.dtype) -> WassersteinBall:
        """A program is given images whose pixels are rounded: the slack grows by that much."""
        lower, upper = (end.to(dtype).to(torch.float64) for end in (self.lower, self.upper))
        if dtype == torch.float64:
            return self
        most = up(self.centre.sum(1)) * (1 + gamma(self.size, torch.float64)) + self.slack
        slack = up(self.slack + up(most * torch.finfo(dtype).eps) + torch.finfo(dtype).tiny)
        return replace(self, slack=slack, lower=lower, upper=upper)

    def hull(self, other: Region) -> WassersteinBall:
        """The larger slack, round the same images."""
        assert isinstance(other, WassersteinBall)
        both = Box(self.lower, self.upper).hull(Box(other.lower, other.upper))
        return replace(self, slack=torch.maximum(self.slack, other.slack), lower=both.lower, upper=both.upper)

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> WassersteinBall:
        part = Box(self.lower[owner], self.upper[owner]).intersect(Box(lower, upper))
        return replace(self.take(owner), lower=part.lower, upper=part.upper)

    @property
    def _range(self) -> Box:
        return Box(self.lower, self.upper)

    @property
    def _shifts(self) -> list[tuple[float, int, int]]:
        """(distance, rows, columns) of every move within the window and the image, the nearest first; not to stay."""
        down, right = (min(self.window, side - 1) for side in self.shape[1:])
        moves = [(math.hypot(y, x), y, x) for y in range(-down, down + 1) for x in range(-right, right + 1)]
        return sorted(moves)[1:]

    def _pairs(self, y: int, x: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where a shift starts from, and where it ends, as parts of the image."""
        ends = [(slice(max(0, -s), min(n, n - s)), slice(max(0, s), min(n, n + s))) for s, n in zip((y, x), self.shape[1:])]
        return (ends[0][0], ends[1][0]), (ends[0][1], ends[1][1])

    def _each(self, *images: Tensor) -> Iterator[tuple[float, list[tuple[Tensor, Tensor]]]]:
        """For every shift its distance, and of every image [..., channels, height, width] the part it starts from and ends at."""
        for distance, y, x in self._shifts:
            start, end = self._pairs(y, x)
            yield distance, [(image[..., start[0], start[1]], image[..., end[0], end[1]]) for image in images]

    def _image(self, x: Tensor) -> Tensor:
        """[..., d] as [..., channels, height, width]."""
        return x.reshape(*x.shape[:-1], *self.shape)

    @cached_property
    def _box(self) -> Box:
        mass, radius = self._image(self.centre), self.radius[:, None, None, None]
        left, gained, leaves = radius.expand_as(mass).clone(), torch.zeros_like(mass), torch.zeros_like(mass)
        for distance, ((near, _), (_, budget), (_, gain), (leave, _)) in self._each(mass, left, gained, leaves):
            come = torch.minimum(near, budget / distance)
            budget -= come * distance
            gain += come
            leave.clamp_(min=1.0)  # there is somewhere to go
        lost = torch.minimum(mass, radius) * leaves  # no pixel is nearer than 1
        gain = gained.flatten(1)
        gain = up(gain + gamma(8 * len(self._shifts) + 8, gain.dtype) * (gain + self.radius[:, None]))
        low = down(down(self.centre - up(lost.flatten(1))) - self.slack[:, None])
        high = up(up(self.centre + gain) + self.slack[:, None])
        return Box(torch.maximum(low, self.lower), torch.minimum(high, self.upper))

    def box(self) -> Box:
        """Each pixel's own ends, exact but for rounding: a pixel is filled from its nearest neighbours."""
        return self._box

    def contains(self, x: Tensor) -> Tensor:
        """True only where a plan was found that certainly costs no more than the radius: mass goes to the nearest that needs it.
        Such plans cost more than the best do, so an image near the edge may be called outside."""
        x = x.to(torch.float64)
        known = Box(self.lower, self.upper).contains(x) & torch.isfinite(x).all(1)
        safe = torch.where(known[:, None], x, self.centre)
        drift = (self.centre - safe).sum(1, keepdim=True) / self.size
        change, cost = self._plan((safe + drift - self.centre)[:, None])
        count = 4 * len(self._shifts) + self.size + 20
        size = 4 * (self.centre.abs() + safe.abs()) + drift.abs()
        off = (self.centre + change[:, 0] - safe).abs() + gamma(count, x.dtype) * size + TINY
        paid = cost[:, 0] * (1 + gamma(count, x.dtype)) + TINY
        near = (off <= self.slack[:, None]).all(1) & (paid <= self.radius)
        still = ((x - self.centre).abs() * (1 + gamma(4, x.dtype)) <= self.slack[:, None]).all(1)
        return known & (near | still)

    def _plan(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """What moving mass to the nearest in need can do of changes [n, k, d] to the centre: the change, and its cost [n, k]."""
        less = 1 - gamma(4 * len(self._shifts) + 20, wanted.dtype)  # so that no pixel gives more than it has, whatever rounds
        give = self._image(-wanted.clamp(max=0) * less).minimum(self._image(self.centre)[:, None] * less)
        take = self._image(wanted.clamp(min=0))
        before, needed, cost = give.clone(), take.clone(), torch.zeros_like(wanted[..., 0])
        for distance, ((source, _), (_, target)) in self._each(give, take):
            moved = torch.minimum(source, target)
            source -= moved
            target -= moved
            cost = cost + moved.sum((-3, -2, -1)) * distance
        return ((needed - take) - (before - give)).flatten(-3), cost

    def repair(self, x: Tensor) -> Tensor:
        """What moving mass to the nearest in need can make of the image, and as much of that as the radius pays for."""
        wide = clamp(in_rows(x), self._range)
        change, cost = self._plan(wide - self.centre[:, None])
        share = torch.where(cost > 0, self.radius[:, None] / cost, 1.0).clamp(max=1)
        found = in_rows(x).to(x.dtype)
        every, ends = self.take(torch.arange(len(self)).repeat_interleave(found.shape[1])), inward(self._range, x.dtype)
        for margin in (1e-9, 1e-6, 1e-4, 1e-2, 1.0):  # rounding to the dtype of x costs a little, too
            outside = ~every.contains(found.flatten(0, 1)).reshape(found.shape[:2])
            if not bool(outside.any()):
                break
            near = (self.centre[:, None] + ((1 - margin) * share)[..., None] * change).to(x.dtype)
            found = torch.where(outside[..., None], clamp(near, ends), found)
        return found.reshape(x.shape)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Mixtures of the centre with plans at random rows, dense and sparse."""
        a = torch.randn(len(self), count, self.size, generator=generator, dtype=torch.float64) ** 3
        share = (2 * torch.rand(len(self), count, 1, generator=generator, dtype=torch.float64)).clamp(max=1)
        target = self.minimise(a)[1] if count else a
        return self.repair(self.centre[:, None] + share * (target - self.centre[:, None]))

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Rigorous at any price of moving; the best is searched for, and plans on both sides of it are mixed."""
        a = a.to(torch.float64)
        at_once = max(1, AT_ONCE // max(1, len(self) * self.size * (len(self._shifts) + 1)))
        found = [self._least(part) for part in torch.split(a.detach(), at_once, 1)]
        value, x = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return with_gradient(value, a, x), x

    def _least(self, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Values [n, k] and minimisers [n, k, d] of some rows."""
        image, mass = self._image(fixed), self.centre[:, None]
        way, toll = self._ways(image)
        spread = image.amax((-3, -2, -1)) - image.amin((-3, -2, -1))

        def tangent(m: Tensor) -> tuple[Tensor, Tensor]:
            gain, which = (way + m[..., None, None] * toll[:, None]).min(2)
            return (mass * gain).sum(2) - m * self.radius[:, None], (mass * toll[which]).sum(2) - self.radius[:, None]

        price, other = peak(tangent, spread * (1 + 1e-9))  # dearer than what any move gains: nothing moves
        values = [self._bound(fixed, way, toll, m) for m in (price, other, spread * 2 + TINY)]
        box = BoxRegion(self._box.lower, torch.maximum(self._box.lower, self._box.upper)).minimise(fixed)[0]
        return torch.stack([*values, box]).amax(0), self._found(image, price, other)

    def _ways(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Of all moves of a distance the least that each pixel gains, a_j - a_i [n, k, distances, d], and the distances.

        The first is to stay. A move of a distance that leads nowhere within the image gains nothing.
        """
        least = {0.0: torch.zeros_like(a)}
        for distance, y, x in self._shifts:
            start, end = self._pairs(y, x)
            gain = a[..., end[0], end[1]] - a[..., start[0], start[1]]
            best = least.setdefault(distance, torch.zeros_like(a))[..., start[0], start[1]]
            best.copy_(torch.minimum(best, gain))
        return torch.stack(list(least.values()), 2).flatten(-3), torch.tensor(list(least), dtype=torch.float64)

    def _bound(self, a: Tensor, way: Tensor, toll: Tensor, m: Tensor) -> Tensor:
        """Rigorous lower bounds [n, k] at prices m [n, k] >= 0: each move is charged for its own rounding."""
        paid = m[..., None, None] * toll[:, None]
        cost = way + paid - gamma(4, a.dtype) * (way.abs() + paid) - TINY
        gain = cost.amin(2)
        stay, move = dot_down(a, self.centre[:, None]), dot_down(gain, self.centre[:, None])
        off = up(a.abs().sum(2) * (1 + gamma(self.size + 4, a.dtype)))
        return down(down(down(stay + move) - up(m * self.radius[:, None])) - up(off * self.slack[:, None]))

    def _found(self, a: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """Images [n, k, d] that are nearly least, from the two prices on both sides of the best where no range binds.

        Full pixels stop mass that such a price would have moved; where the radius is then not spent, a lower price may spend it.
        """
        dear, cheap = torch.maximum(one, other), torch.minimum(one, other)
        plans = self._filled(a, dear), self._filled(a, cheap)
        x = self._mixed(*plans)
        i, r = ((torch.maximum(plans[0][1], plans[1][1]) < self.radius[:, None]) & (cheap > 0)).nonzero(as_tuple=True)
        if len(i):
            part, row = self.take(i), a[i, r][:, None]
            more = part._mixed(*part._spent(row, cheap[i, r][:, None]))[:, 0]
            better = ((more - x[i, r]) * row.flatten(1)).sum(1) < 0
            x[i, r] = torch.where(better[:, None], more, x[i, r])
        return x

    def _spent(self, a: Tensor, high: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Changes and costs at two near prices up to `high` [n, k]: one spends less than the radius and one, if any, more."""
        low = torch.zeros_like(high)
        (small, paid), (large, cost) = self._filled(a, high), self._filled(a, low)
        for _ in range(HALVINGS):
            middle = low + (high - low) / 2
            change, price = self._filled(a, middle)
            over = price > self.radius[:, None]
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
            small, paid = torch.where(over[..., None], small, change), torch.where(over, paid, price)
            large, cost = torch.where(over[..., None], change, large), torch.where(over, price, cost)
        return (small, paid), (large, cost)

    def _mixed(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
        """Images [n, k, d] by two changes and their costs, mixed so that the radius is spent."""
        (first, paid), (second, cost) = one, other
        radius = self.radius[:, None] * (1 - 1e-12)
        cheap = paid <= cost
        small, large = torch.where(cheap, paid, cost), torch.where(cheap, cost, paid)
        share = torch.where(large > radius, ((radius - small) / (large - small)).clamp(0, 1).nan_to_num(), 1.0)
        below, above = torch.where(cheap[..., None], first, second), torch.where(cheap[..., None], second, first)
        total = small + share * (large - small)
        fit = torch.where(total > radius, radius / total, 1.0)[..., None]
        moved = fit * (below + share[..., None] * (above - below))
        return clamp(self.centre[:, None] + moved, Box(self.lower, self.upper))

    def _filled(self, a: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """The change [n, k, d] by the best move of every pixel's mass at a price, and its cost [n, k]; where more would come than
        the range holds, some stays, and looks for another place."""
        mass = (self.centre - self.lower.clamp(min=0)).clamp(min=0)[:, None].expand(*m.shape, -1)
        room = (self.upper - self.centre).clamp(min=0)[:, None].expand_as(mass)
        change, cost = torch.zeros_like(mass), torch.zeros_like(m)
        for _ in range(PASSES):
            goal, length = self._best_moves(a, torch.where(self._image(room) > 0, a, torch.inf), m)
            leaving = torch.where(length > 0, mass, 0.0)
            if not bool((length > 0).any()):
                break
            inflow = torch.zeros_like(mass).scatter_add(2, goal, leaving)
            fits = torch.where(inflow > room, room / inflow, 1.0).nan_to_num(nan=0.0) * (1 - 1e-15)
            moved = leaving * fits.gather(2, goal)
            change = change.scatter_add(2, goal, moved) - moved
            cost = cost + (moved * length).sum(2)
            mass = mass - moved
            room = torch.where(inflow >= room, 0.0, (room - inflow).clamp(min=0))
        return change, cost

    def _best_moves(self, a: Tensor, target: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Where [n, k, d] a pixel's mass is best moved to at a price, and how far: 0 where it is best to stay."""
        pixel = torch.arange(self.size).reshape(self.shape)
        goal, length, least = pixel.expand_as(a).clone(), torch.zeros_like(a), torch.zeros_like(a)
        for distance, ((here, _), (_, there), (best, _), (far, _), (to, _), (_, end)) in self._each(
            a, target, least, length, goal, pixel
        ):
            worth = there - here + (m * distance)[..., None, None, None]
            better = worth < best
            best.copy_(torch.minimum(worth, best))
            far.masked_fill_(better, distance)
            to.copy_(torch.where(better, end, to))
        return goal.flatten(-3), length.flatten(-3)
