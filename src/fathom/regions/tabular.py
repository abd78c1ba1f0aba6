"""Rows of a table: features that may not move, whole numbers, one-hot choices, budgets in the user's units, and relations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.checks import as_numbers, check_whole
from fathom.core.errors import FathomError
from fathom.core.region import Region, Repairable
from fathom.core.rounding import TINY, gamma, up
from fathom.regions.balls import End, ball_parts, difference, with_gradient
from fathom.regions.box import check_matrices, in_rows, sample_box
from fathom.regions.features import Features, certainly_at_most
from fathom.regions.ties import labellings


@final
@dataclass(frozen=True, eq=False)
class Tabular(Repairable):
    """Rows x round a sample, feature by feature and tied together. `around` makes them from samples.

    - lower <= x <= upper: a range, a feature's own budget |x_i - centre_i| <= b_i, or both ends the sample's: immutable;
    - x_i is a whole multiple of step_i, where that is above 0;
    - of each of `groups` exactly one feature is 1, and the others are 0;
    - sum_i price_i |x_i - centre_i| <= budget, with price_i = 1 / unit_i: at most so many units are changed in all;
    - rows x <= limits: relations between features, such as "paid <= due".

    The oracle's values price budget and relations in with multipliers (weak duality, so that any will do; each is found by
    search) and take the least of every feature and group in closed form. They are the minimum itself where features are
    intervals and at most one constraint ties them (a fractional knapsack, Dantzig 1957), or where nothing ties them; else a
    bound, that of the linear relaxation. Its points are reached from the sample, one feature at a time, the best gain for its
    price first; they lie in the set, and are no exact minimisers where values are bounds alone.

    Raises:
        FathomError: parts of other shapes or types, or groups that overlap.
    """

    centre: Tensor  # [n, d] float64
    lower: Tensor  # [n, d]
    upper: Tensor  # [n, d]
    step: Tensor  # [n, d]; 0 for features that are any number
    price: Tensor  # [n, d] >= 0; 0 for features that are free
    budget: Tensor  # [n]; inf for none
    rows: Tensor  # [n, K, d]
    limits: Tensor  # [n, K]
    groups: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        check_matrices(centre=self.centre, lower=self.lower, upper=self.upper, step=self.step, price=self.price)
        n, d = self.centre.shape
        if self.budget.shape != (n,) or self.rows.ndim != 3 or self.rows.shape[::2] != (n, d):
            raise FathomError(
                f"expected a budget [{n}] and rows [{n}, K, {d}], got {list(self.budget.shape)}, {list(self.rows.shape)}"
            )
        if self.limits.shape != self.rows.shape[:2] or not bool(
            torch.isfinite(self.rows).all() & torch.isfinite(self.limits).all()
        ):
            raise FathomError(f"expected finite rows, and limits {list(self.rows.shape[:2])}, got {list(self.limits.shape)}")
        if bool((self.price < 0).any() | (self.step < 0).any() | ~(self.budget >= 0).all()):
            raise FathomError("expected steps, prices and budgets >= 0, got one below")
        members = [i for group in self.groups for i in group]
        if len(set(members)) != len(members) or not all(0 <= i < d for i in members) or not all(self.groups):
            raise FathomError(f"expected groups of features 0 to {d - 1} that do not overlap, got {self.groups}")

    @classmethod
    def around(
        cls,
        centre: Tensor,
        clip: tuple[End, End],
        *,
        immutable: Sequence[int] = (),
        step: Sequence[float] | Tensor | None = None,
        groups: Sequence[Sequence[int]] = (),
        most: Sequence[float] | Tensor | None = None,
        unit: Sequence[float] | Tensor | None = None,
        budget: float | None = None,
        relations: tuple[Sequence[Sequence[float]] | Tensor, Sequence[float] | Tensor] | None = None,
    ) -> Tabular:
        """What may become of rows [n, d].

        Args:
            clip: the range of every feature: numbers, or tensors [d].
            immutable: the features that stay as they are.
            step: [d] what a feature is a whole multiple of, such as 1 for counts; 0 for any number.
            groups: features of which exactly one is 1, and the others 0.
            most: [d] how far a feature may move, in its own units; inf for the whole range.
            unit: [d] the size of a step that counts as one unit of `budget`; inf for features that count nothing.
            budget: how many units may be changed in all.
            relations: rows [K, d] and limits [K]: rows x <= limits.

        Raises:
            FathomError: a sample that is not in its own set, or parts of other shapes; the text says which.
        """
        wide, _, low, high = ball_parts(centre, 0.0, clip)
        n, d = wide.shape
        chosen = tuple(tuple(check_whole("groups", i) for i in group) for group in groups)
        grid, reach, units = (
            _per_feature(v, d, word, none)
            for v, word, none in ((step, "step", 0.0), (most, "most", math.inf), (unit, "unit", 1.0))
        )
        if not bool((reach >= 0).all()):
            raise FathomError(f"expected `most` >= 0 for every feature, got {reach.min().item():g}")
        far = torch.where(torch.isfinite(reach), reach, 0.0).expand(n, d)
        low = torch.where(torch.isfinite(reach), torch.maximum(low, difference(wide, far)[0]), low)
        high = torch.where(torch.isfinite(reach), torch.minimum(high, difference(wide, -far)[1]), high)
        for i in immutable:
            if check_whole("immutable", i) >= d:
                raise FathomError(f"expected immutable features from 0 to {d - 1}, got {i}")
            low[:, i], high[:, i] = wide[:, i], wide[:, i]
        if not bool((units > 0).all()):
            raise FathomError(f"expected units above 0, got {units.min().item():g}")
        rows, limits = ([], []) if relations is None else relations
        a = as_numbers("relations", rows).reshape(-1, d)
        b = as_numbers("relations", limits).flatten()
        if len(a) != len(b):
            raise FathomError(f"expected a limit for each of {len(a)} relations, got {len(b)}")
        price = torch.where(torch.isfinite(units), 1 / units, 0.0) if budget is not None else torch.zeros(d, dtype=torch.float64)
        made = cls(
            wide,
            low.clone(),
            high.clone(),
            grid.expand(n, d).clone(),
            price.expand(n, d).clone(),
            as_numbers("budget", math.inf if budget is None else budget).expand(n).clone(),
            a.expand(n, *a.shape).clone(),
            b.expand(n, len(b)).clone(),
            chosen,
        )
        made._check_samples()
        return made

    def _check_samples(self) -> None:
        """Refuses steps whose multiples float32 cannot hold, and samples outside their own sets."""
        for s in torch.unique(self.step).tolist():
            most = self._clip.magnitude[self.step == s].max().item()
            if s and most / s * Fraction(s).numerator >= 1 << 24:
                raise FathomError(
                    f"expected steps whose multiples are float32 numbers, such as 1 or 0.25, got {s!r} up to {most:g}"
                )
        off = ((self.step > 0) & (torch.fmod(self.centre, torch.where(self.step > 0, self.step, 1.0)) != 0)).nonzero()
        if len(off):
            i, j = off[0].tolist()
            raise FathomError(
                f"expected a multiple of {self.step[i, j].item():g} in feature {j}, got {self.centre[i, j].item()!r} in row {i}"
            )
        for group in self.groups:
            chosen = self.centre[:, list(group)]
            bad = (~(((chosen == 0) | (chosen == 1)).all(1) & (chosen.sum(1) == 1))).nonzero()[:, 0]
            if len(bad):
                raise FathomError(
                    f"expected one 1 among features {list(group)}, got {chosen[bad[0]].tolist()} in row {int(bad[0])}"
                )
        for k in range(self.rows.shape[1]):
            held = certainly_at_most(self.rows[:, k], self.centre, self.centre, self.limits[:, k], distance=False)
            if not bool(held.all()):
                raise FathomError(f"expected rows that keep relation {k}, got row {int((~held).nonzero()[0, 0])}, which does not")
        if not bool(self.contains(self.centre).all()):
            i = int((~self.contains(self.centre)).nonzero()[0, 0])
            raise FathomError(f"expected rows within their own sets, got row {i}, which is not; check ranges, groups and steps")

    def __str__(self) -> str:
        words = [f"rows of {self.size} features"]
        fixed = int((self.lower == self.upper).all(0).sum()) if len(self.lower) else 0
        words += [f"{fixed} immutable"] if fixed else []
        words += [f"{len(self.groups)} one-hot"] if self.groups else []
        words += [f"{self.rows.shape[1]} relations"] if self.rows.shape[1] else []
        words += [f"{self.budget.max().item():g} units"] if len(self.budget) and bool(torch.isfinite(self.budget).all()) else []
        return ", ".join(words)

    @property
    def size(self) -> int:
        return self.centre.shape[1]

    def __len__(self) -> int:
        return len(self.centre)

    @property
    def _clip(self) -> Box:
        return Box(self.lower, self.upper)

    @property
    def _members(self) -> Tensor:
        """[d] the features in groups."""
        member = torch.zeros(self.size, dtype=torch.bool)
        member[[i for group in self.groups for i in group]] = True
        return member

    @cached_property
    def _options(self) -> Tensor:
        """[n, d] the members of groups that may be 1."""
        on, off = (self.lower <= 1) & (self.upper >= 1), (self.lower <= 0) & (self.upper >= 0)
        allowed = torch.zeros_like(on)
        for group in self.groups:
            members = list(group)
            stuck = ~off[:, members]
            others = stuck.sum(1, keepdim=True) - stuck.to(torch.int64)
            allowed[:, members] = on[:, members] & (others == 0)
        return allowed

    @cached_property
    def _domains(self) -> Box:
        """What each feature may be on its own; ends cross where that is nothing."""
        whole = self.step > 0
        step = torch.where(whole, self.step, 1.0)
        low, high = (self.lower / step).ceil() * step, (self.upper / step).floor() * step
        low, high = torch.where(low < self.lower, low + step, low), torch.where(high > self.upper, high - step, high)
        box = Box(torch.where(whole, low, self.lower), torch.where(whole, high, self.upper))
        far = up(self.budget[:, None] / self.price)
        priced = (self.price > 0) & torch.isfinite(far)
        far = torch.where(priced, far, 0.0)
        near = Box(difference(self.centre, far)[0], difference(self.centre, -far)[1])
        box = Box(
            torch.where(priced, torch.maximum(box.lower, near.lower), box.lower),
            torch.where(priced, torch.minimum(box.upper, near.upper), box.upper),
        )
        some = torch.zeros_like(whole)
        for group in self.groups:
            members = list(group)
            some[:, members] = self._options[:, members].sum(1, keepdim=True) > 1
        member = self._members
        may, must = self._options.to(torch.float64), (self._options & ~some).to(torch.float64)
        return Box(torch.where(member, must, box.lower), torch.where(member, may, box.upper))

    @cached_property
    def _features(self) -> Features:
        """The same for the oracle, where nothing is empty: crossed ends are made one."""
        box = self._domains
        low, high = box.lower, torch.maximum(box.lower, box.upper)
        middle = torch.maximum(torch.minimum(self.centre, high), low)
        whole = self.step > 0  # ends that the budget cuts need not be multiples, which is sound; the middle is
        middle = torch.where(whole, (middle / torch.where(whole, self.step, 1.0)).round() * self.step, middle)
        option = self._options.clone()
        for group in self.groups:
            members = list(group)
            option[:, members] |= ~option[:, members].any(1, keepdim=True)
            keep = torch.where(option[:, members], self.centre[:, members] + 1, 0.0).argmax(1)
            middle[:, members] = torch.nn.functional.one_hot(keep, len(members)).to(middle.dtype)
        parts = (self.price, self.budget, self.rows, self.limits)
        return Features(low, high, middle, self.centre, self.step, self.groups, option, *parts)

    @property
    def convex(self) -> bool:
        """Once every whole number and every choice is settled."""
        box = self._domains
        return not bool((((self.step > 0) | self._members) & (box.lower < box.upper)).any())

    def centres(self) -> Tensor:
        return self.centre

    def rounded(self, dtype: torch.dtype) -> Tabular:
        ends = ("centre", "lower", "upper")
        return replace(self, **{end: getattr(self, end).to(dtype).to(torch.float64) for end in ends})

    def hull(self, other: Region) -> Tabular:
        """Ranges that hold both, and a budget that pays for the way between the samples."""
        assert isinstance(other, Tabular)
        box = self._clip.hull(other._clip)
        way = (self.price * (self.centre - other.centre).abs()).sum(1) * (1 + gamma(self.size + 4, torch.float64))
        budget = torch.where(way > 0, up(self.budget + up(way)), self.budget)
        return replace(self, lower=box.lower, upper=box.upper, budget=budget)

    def empty(self) -> Tensor:
        """No value of a feature, no choice in a group, or a relation that nothing in the box keeps, or pays for."""
        none = self.box().empty()
        for group in self.groups:
            none = none | ~self._options[:, list(group)].any(1)
        short = torch.maximum((self._domains.lower - self.centre), self.centre - self._domains.upper).clamp(min=0)
        cost = (self.price * short).sum(1)
        return none | (cost * (1 - gamma(self.size + 8, cost.dtype)) - TINY > self.budget)

    def box(self) -> Box:
        """Every feature's own ends, narrowed once by each relation, rounded outward."""
        box = self._domains
        for k in range(self.rows.shape[1]):
            row, limit = self.rows[:, k], self.limits[:, k, None]
            least = torch.minimum(row * box.lower, row * box.upper)
            loss = gamma(self.size + 8, row.dtype) * (least.abs().sum(1, keepdim=True) + limit.abs()) + TINY
            room = up((limit - (least.sum(1, keepdim=True) - least)) + loss)
            end = room / row
            above, below = up(end), -up(-end)
            box = Box(
                torch.where(row < 0, torch.maximum(box.lower, below), box.lower),
                torch.where(row > 0, torch.minimum(box.upper, above), box.upper),
            )
        return box

    def contains(self, x: Tensor) -> Tensor:
        """Exact: what float64 leaves in doubt is judged in rational arithmetic."""
        x = x.to(torch.float64)
        held = self._clip.contains(x) & torch.isfinite(x).all(1)
        held &= ((self.step == 0) | (torch.fmod(x, torch.where(self.step > 0, self.step, 1.0)) == 0)).all(1)
        for group in self.groups:
            chosen = x[:, list(group)]
            held &= ((chosen == 0) | (chosen == 1)).all(1) & (chosen.sum(1) == 1)
        index = held.nonzero()[:, 0]
        part, here, sure = self.take(index), x[index], torch.ones(len(index), dtype=torch.bool)
        limited = torch.isfinite(part.budget).nonzero()[:, 0]
        if len(limited):
            some = (part.price[limited], here[limited], part.centre[limited], part.budget[limited])
            sure[limited] = certainly_at_most(*some, distance=True)
        for k in range(self.rows.shape[1]):
            sure &= certainly_at_most(part.rows[:, k], here, part.centre, part.limits[:, k], distance=False)
        return held.index_copy(0, index, sure)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """From the sample towards random points of the box, features in random order."""
        place = sample_box(self._domains, count, generator)
        priority = torch.rand(place.shape, generator=generator, dtype=torch.float64)
        return self._features.towards(self._in_domains(place), priority)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Weak duality at multipliers found one by one; points by gain for the price."""
        a = a.to(torch.float64)
        fixed, features = a.detach(), self._features
        none = fixed.new_zeros(*fixed.shape[:2], self.rows.shape[1]), fixed.new_zeros(fixed.shape[:2])
        plain, target = features.bound(fixed, *none)
        if not self.rows.shape[1] and not bool(torch.isfinite(self.budget).any()):
            return with_gradient(plain, a, target), target
        priced, _ = features.bound(fixed, *features.ascend(fixed))
        gain = fixed.abs() / torch.where(self.price > 0, self.price, 1e-300)[:, None]
        x = features.towards(target, gain)
        return with_gradient(torch.maximum(plain, priced), a, x), x

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Tabular:
        box = self._clip.take(owner).intersect(Box(lower, upper))
        return replace(self.take(owner), lower=box.lower, upper=box.upper)

    def parts(self, most: int) -> tuple[Region, Tensor] | None:
        """Every combination of whole numbers and choices."""
        box, lows, highs, owner = self._domains, [], [], []
        single = [(i,) for i in range(self.size) if not self._members[i] and bool((self.step[:, i] > 0).any())]
        for i in range(len(self)):
            values: list[list[tuple[float, ...]]] = []
            for (j,) in single:
                step, count = self.step[i, j].item(), 0
                if step:
                    first, last = (
                        math.ceil(box.lower[i, j].item() / step - 1e-6),
                        math.floor(box.upper[i, j].item() / step + 1e-6),
                    )
                    count = last - first + 1
                    if count > most:
                        return None
                values.append([(k * step,) for k in range(first, last + 1)] if step else [])
            for group in self.groups:
                marks = self._options[i, list(group)].nonzero()[:, 0].tolist()
                values.append([tuple(float(k == mark) for k in range(len(group))) for mark in marks])
            places = [*single, *self.groups]
            free = [k for k, place in enumerate(places) if len(place) == 1 and not self.step[i, place[0]]]
            choices = [[()] if k in free else found for k, found in enumerate(values)]
            if math.prod(len(choice) for choice in choices) > most:
                return None
            for pick in itertools.product(*choices):
                low, high = self.lower[i].clone(), self.upper[i].clone()
                for place, value in zip(places, pick, strict=True):
                    for feature, number in zip(place, value):
                        low[feature], high[feature] = max(low[feature].item(), number), min(high[feature].item(), number)
                lows.append(low)
                highs.append(high)
                owner.append(i)
        if not owner:
            return self.take(torch.zeros(0, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64)
        sets = torch.tensor(owner)
        found = self.restrict(sets, torch.stack(lows), torch.stack(highs))
        full = (~found.empty()).nonzero()[:, 0]
        return found.take(full), sets[full]

    def ties(self) -> tuple[Tensor, ...]:
        """Groups, and the features of each relation."""
        related = [row.nonzero()[:, 0].tolist() for row in (self.rows != 0).any(0)]
        return labellings([*self.groups, *related], len(self), self.size)

    def repair(self, x: Tensor) -> Tensor:
        """Each feature to the nearest of its domain; where that breaks budget or relations, from the sample towards it."""
        wide = in_rows(x)
        near = self._in_domains(wide)
        k = wide.shape[1]
        owner = torch.arange(len(self)).repeat_interleave(k)
        every, near_rows = self.take(owner), near.reshape(len(owner), self.size).to(x.dtype)
        fixed = near_rows.to(torch.float64)
        open_ = ~every.contains(near_rows)
        if bool(open_.any()):
            moved = self._features.towards(near, (near - self.centre[:, None]).abs()).reshape(len(owner), self.size)
            base = every._features.middle
            whole = (every.step > 0) | self._members
            for share in (1.0, 1 - 2.0**-22, 1 - 2.0**-16, 1 - 2.0**-8, 0.5, 0.0, None):
                again = base if share is None else torch.where(whole, moved, base + share * (moved - base))
                again = again.to(x.dtype).to(torch.float64)
                fixed = torch.where(open_[:, None], again, fixed)
                open_ = open_ & ~every.contains(again)
                if not bool(open_.any()):
                    break
        return fixed.reshape(x.shape).to(x.dtype)

    def _in_domains(self, x: Tensor) -> Tensor:
        """The nearest point of the domains, whatever ties them, to x [n, k, d]; integers by rounding, choices by the largest."""
        features = self._features
        whole = (self.step > 0)[:, None]
        step = torch.where(whole, self.step[:, None], 1.0)
        near = torch.where(whole, (x / step).round() * step, x)
        near = torch.maximum(torch.minimum(near, features.high[:, None]), features.low[:, None])
        near = torch.where(whole, (near / step).round() * step, near)
        for group in self.groups:
            members = list(group)
            score = torch.where(features.option[:, None, members], x[..., members].nan_to_num(), -torch.inf)
            near[..., members] = torch.nn.functional.one_hot(score.argmax(2), len(members)).to(near.dtype)
        return near


def _per_feature(value: Sequence[float] | Tensor | None, d: int, word: str, none: float) -> Tensor:
    """[d] float64, of what the user gave, or `none`."""
    given = torch.full((d,), none) if value is None else as_numbers(word, value).flatten()
    if len(given) != d or bool(torch.isnan(given).any()):
        raise FathomError(f"expected `{word}` as {d} numbers, one a feature, got {given.tolist()}")
    return given.to(torch.float64)
