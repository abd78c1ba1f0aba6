"""What tabular regions compute with: features one by one, and the multipliers of what ties them together.

x_i in a domain: an interval, whole multiples of a step in one, or a place in a group of which exactly one is 1
sum_i price_i |x_i - centre_i| <= budget,   rows x <= limits
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from fathom.core.rounding import TINY, down, gamma

STEPS = 30  # towards the best of one multiplier
SWEEPS = 3  # over the multipliers; one is enough where there is one constraint


@dataclass(frozen=True, eq=False)
class Features:
    """The domains of n sets, and the constraints across them. Every tensor's first dimension is n."""

    low: Tensor  # [n, d] least values; of members of groups 0
    high: Tensor  # [n, d]
    middle: Tensor  # [n, d] the sample, brought into its domains
    centre: Tensor  # [n, d]
    step: Tensor  # [n, d]; 0 for intervals
    groups: tuple[tuple[int, ...], ...]
    option: Tensor  # [n, d] bool: members of groups that may be 1; any, where none may
    price: Tensor  # [n, d] >= 0
    budget: Tensor  # [n], inf for none
    rows: Tensor  # [n, K, d]
    limits: Tensor  # [n, K]

    def least(self, a: Tensor, price: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Minima [n, k] and minimisers [n, k, d] of a x + m sum price |x - centre| over the domains alone; as floats round."""
        centre = self.centre[:, None]

        def cost(x: Tensor) -> Tensor:
            return a * x + m[..., None] * price * (x - centre).abs()

        ends = torch.stack([torch.broadcast_to(end[:, None], a.shape) for end in (self.middle, self.low, self.high)])
        values, at = torch.stack([cost(end) for end in ends]).min(0)
        x = ends.gather(0, at[None])[0]
        zero = cost(torch.zeros_like(a))
        gain = torch.where(self.option[:, None], cost(torch.ones_like(a)) - zero, torch.inf)
        for group in self.groups:
            members = list(group)
            best, which = gain[..., members].min(2)
            values[..., members] = zero[..., members]
            values[..., members[0]] = values[..., members[0]] + best
            x[..., members] = torch.nn.functional.one_hot(which, len(members)).to(x.dtype)
        return values.sum(2), x

    def bound(self, a: Tensor, multiplier: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Rigorous lower bounds [n, k] on a x over the sets, by weak duality at *any* multipliers >= 0; and [n, k, d] where the
        priced rows are least.

        Args:
            multiplier: [n, k, K] of the relations.
            m: [n, k] of the budget; 0 where there is none.

        Reference: Neumaier and Shcherbina, Safe bounds in linear and mixed-integer linear programming, 2004.
        """
        priced = a + multiplier @ self.rows
        value, x = self.least(priced, self.price[:, None], m)
        budget = torch.where(torch.isfinite(self.budget), self.budget, 0.0)[:, None]
        value = value - m * budget - (multiplier * self.limits[:, None]).sum(2)
        far = torch.maximum(torch.maximum(self.low.abs(), self.high.abs()), self.middle.abs()).clamp(min=1.0)[:, None]
        size = ((a.abs() + multiplier @ self.rows.abs()) * far).sum(2) + (multiplier * self.limits[:, None].abs()).sum(2)
        size = size + m * ((self.price[:, None] * (far + self.centre[:, None].abs())).sum(2) + budget)
        return down(value - gamma(2 * (a.shape[2] + self.rows.shape[1]) + 40, a.dtype) * size - TINY), x

    def ascend(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Good multipliers for `bound`, one at a time: the dual is concave along each."""
        limited = torch.isfinite(self.budget)[:, None].expand(a.shape[:2])
        multiplier = a.new_zeros(*a.shape[:2], self.rows.shape[1])
        m = a.new_zeros(a.shape[:2])
        sweeps = 1 if self.rows.shape[1] + bool(limited.any()) == 1 else SWEEPS
        for _ in range(sweeps):
            for k in range(self.rows.shape[1]):
                multiplier = self._along(a, multiplier, m, k)
            if bool(limited.any()):
                m = torch.where(limited, self._along_budget(a, multiplier), 0.0)
        return multiplier, m

    def _along(self, a: Tensor, multiplier: Tensor, m: Tensor, k: int) -> Tensor:
        row, limit = self.rows[:, None, k], self.limits[:, None, k]
        unit = torch.zeros(self.rows.shape[1], dtype=a.dtype).index_fill(0, torch.tensor([k]), 1.0)
        rest = multiplier * (1 - unit)
        priced = a + rest @ self.rows
        smallest = torch.where(row == 0, torch.inf, row.abs()).amin(2)
        most = torch.where(
            torch.isfinite(smallest), 2 * (priced.abs() + (m[..., None] * self.price[:, None])).amax(2) / smallest, 0.0
        )

        def tangent(t: Tensor) -> tuple[Tensor, Tensor]:
            value, x = self.least(priced + t[..., None] * row, self.price[:, None], m)
            return value - t * limit, (row * x).sum(2) - limit

        return rest + unit * peak(tangent, most)[0][..., None]

    def _along_budget(self, a: Tensor, multiplier: Tensor) -> Tensor:
        priced = a + multiplier @ self.rows
        smallest = torch.where(self.price > 0, self.price, torch.inf).amin(1)[:, None]
        most = torch.where(torch.isfinite(smallest), 2 * priced.abs().amax(2) / smallest, 0.0)

        budget = torch.where(torch.isfinite(self.budget), self.budget, 0.0)[:, None]

        def tangent(t: Tensor) -> tuple[Tensor, Tensor]:
            value, x = self.least(priced, self.price[:, None], t)
            return value - t * budget, (self.price[:, None] * (x - self.centre[:, None]).abs()).sum(2) - budget

        return peak(tangent, most)[0]

    def towards(self, target: Tensor, priority: Tensor) -> Tensor:
        """Points [n, k, d] from the sample towards points `target` [n, k, d] of the domains: first groups, then each feature in
        the order of `priority`, as far as budget and relations let it. So it stays in the set where the sample is in it."""
        x = torch.broadcast_to(self.middle[:, None], target.shape).clone()
        price = torch.broadcast_to(self.price[:, None], target.shape)
        for group in self.groups:
            members = list(group)
            moved = x.clone()
            moved[..., members] = target[..., members]
            left, room = self._room(moved)
            fits = (left >= 0) & (room >= 0).all(2)
            x = torch.where(fits[..., None], moved, x)
        left, room = self._room(x)
        member = torch.zeros(target.shape[2], dtype=torch.bool)
        member[[i for group in self.groups for i in group]] = True
        columns = torch.broadcast_to(self.rows[:, None], (*target.shape[:2], *self.rows.shape[1:]))
        for i in torch.where(member, -torch.inf, priority).argsort(2, descending=True).unbind(2):
            at = i[..., None]
            goal, now, step = (v.gather(2, at)[..., 0] for v in (target, x, self.step[:, None].expand_as(x)))
            each, tie = price.gather(2, at)[..., 0], columns.gather(3, at[..., None].expand(*columns.shape[:3], 1))[..., 0]
            way = (goal - now).sign()
            pull = tie * way[..., None]
            wall = torch.where(pull > 0, room / pull, torch.inf).amin(2) if room.shape[2] else torch.full_like(now, torch.inf)
            wall = torch.minimum(wall, torch.where(each > 0, left / each, torch.inf)).clamp(min=0)
            full = (goal - now).abs()
            far = torch.where(wall >= full, full, wall * (1 - 1e-13))
            far = torch.where(step > 0, (far / torch.where(step > 0, step, 1.0) + 1e-9).floor() * step, far)
            to = torch.where(far >= full, goal, now + way * far)
            to = torch.where(member[i], now, to)
            x = x.scatter(2, at, to[..., None])
            room = room - tie * (to - now)[..., None]
            left = left - each * (to - now).abs()
        return x

    def _room(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of the budget [n, k], and of the relations [n, k, K]."""
        left = self.budget[:, None] - (self.price[:, None] * (x - self.centre[:, None]).abs()).sum(2)
        return left, self.limits[:, None] - x @ self.rows.transpose(1, 2)


def peak(tangent: Callable[[Tensor], tuple[Tensor, Tensor]], most: Tensor) -> tuple[Tensor, Tensor]:
    """Where a concave, piecewise linear function is greatest in [0, most], nearly: between two numbers, the better one first.

    Args:
        tangent: the value and a slope at a point.

    By turns the middle of the bracket and the place where the tangents of its ends meet, which is exact once one kink is left.
    """
    low, high = torch.zeros_like(most), most
    (at_low, rising), (at_high, falling) = tangent(low), tangent(high)
    still = rising <= 0
    for k in range(STEPS):
        meet = low + (at_high - at_low - falling * (high - low)) / (rising - falling)
        # A meeting at an end is the peak itself: from there on only the bracket has to close.
        meet = torch.where(meet > low, torch.where(meet < high, meet, high - (high - low) / 1024), low + (high - low) / 1024)
        t = meet if k % 2 else low + (high - low) / 2
        value, slope = tangent(t)
        up_hill = slope > 0
        low, at_low, rising = (torch.where(up_hill, new, old) for new, old in ((t, low), (value, at_low), (slope, rising)))
        high, at_high, falling = (torch.where(up_hill, old, new) for new, old in ((t, high), (value, at_high), (slope, falling)))
    left = at_low > at_high
    best, other = torch.where(left, low, high), torch.where(left, high, low)
    return torch.where(still, 0.0, best), torch.where(still, 0.0, other)


def certainly_at_most(a: Tensor, x: Tensor, centre: Tensor, limit: Tensor, *, distance: bool) -> Tensor:
    """[n] whether sum_i a_i t_i <= limit exactly, for [n, d] and [n], with t = |x - centre|, or x where `distance` is False.

    Numbers of few digits, such as whole ones, need no rational arithmetic: all of a, x and centre being multiples of 2^-10, every
    product and every sum is one of 2^-20, and those below 2^32 are float64 numbers.
    """
    terms = a * ((x - centre).abs() if distance else x)
    total, size = terms.sum(1), (a.abs() * (x.abs() + (centre.abs() if distance else 0.0))).sum(1) + limit.abs()
    doubt = gamma(x.shape[1] + 8, x.dtype) * size + TINY
    parts = torch.cat([a, x, centre], 1) * 1024
    short = ((parts == parts.round()) & (parts.abs() < 1 << 36)).all(1) & (size < 1 << 32)  # nothing is rounded: see below
    sure = torch.where(short, total <= limit, total + doubt <= limit)
    for i in (~sure & ~short & (total - doubt <= limit)).nonzero()[:, 0].tolist():
        point = [Fraction(v) for v in x[i].tolist()]
        if distance:
            point = [abs(v - Fraction(c)) for v, c in zip(point, centre[i].tolist(), strict=True)]
        exact = sum((Fraction(p) * v for p, v in zip(a[i].tolist(), point, strict=True) if p), Fraction(0))
        sure[i] = exact <= Fraction(limit[i].item())
    return sure
