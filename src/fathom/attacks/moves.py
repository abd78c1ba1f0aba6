"""Moves: what a search may change at once where inputs are choices, whole numbers, or few: block by block, kind by kind.

A block is what changes together: a choice of one among several, a group of inputs, a single number, or inputs that are one of a
list. For each there are several targets. A move gives one block one target; a pair of moves gives two.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.region import Region, Repairable
from fathom.regions.changes import Changes
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.product import Product
from fathom.regions.tabular import Tabular
from fathom.regions.union import Union

NEAR = 16  # moves, the most promising ones, that pairs are made of


@dataclass(frozen=True, eq=False)
class Moves:
    """The moves of L searches at points x, each in a set of its own."""

    x: Tensor  # [L, d] float64
    block: Tensor  # [L, d] int64: what changes together
    target: Tensor  # [L, K, d] what each input of a block becomes by each kind of move; where that is x, there is none
    back: Tensor  # [L, d] what each input was in the sample

    @staticmethod
    def of(region: Region, x: Tensor, size: Tensor, generator: torch.Generator) -> Moves:
        """The moves in L sets from x [L, d]; numbers move by up to `size` [L] of their range, and to its ends."""
        x = x.to(torch.float64)
        block, target = _targets(region, x, size.to(torch.float64), generator)
        return Moves(x, block, target, region.centres())

    def gains(self, slope: Tensor) -> Tensor:
        """[L, K * B] by how much each move raises what has the gradient `slope` [L, d], to first order; +inf for none."""
        step = self.target - self.x[:, None]
        blocks = self.block[:, None].expand_as(step)
        empty = step.new_zeros(*step.shape[:2], int(self.block.max()) + 1 if self.block.numel() else 1)
        gain = empty.scatter_add(2, blocks, slope.to(torch.float64)[:, None] * step)
        some = empty.scatter_add(2, blocks, (step != 0).to(step.dtype)) > 0
        return torch.where(some, gain, torch.inf).flatten(1)

    def propose(self, gains: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Points [L, count, d] from gains [L, K * B]: half by the most promising moves, a quarter by any, the rest by pairs.

        They may lie outside the sets, and be x itself where there are no more moves.
        """
        ranked = gains.argsort(stable=True, dim=1)[:, : max(count, NEAR)]
        chance = torch.where(torch.isfinite(gains), torch.rand(gains.shape, generator=generator), torch.inf)
        drawn = chance.argsort(dim=1)[:, : max(count // 4, 1)]
        single = torch.cat([ranked[:, : max(count // 2, 1)], drawn], 1)[:, :count]
        points = self.moved(self.x[:, None].expand(-1, single.shape[1], -1), single)
        pairs = count - single.shape[1]
        if pairs <= 0:
            return points
        near = ranked[:, :NEAR]
        first, second = (near.gather(1, torch.randint(near.shape[1], (len(near), pairs), generator=generator)) for _ in range(2))
        once = self.moved(self.x[:, None].expand(-1, pairs, -1), first)
        twice = torch.where(
            torch.rand(pairs, 1, generator=generator) < 0.5, self.moved(once, second), self._put_back(once, generator)
        )
        return torch.cat([points, twice], 1)

    def moved(self, points: Tensor, move: Tensor) -> Tensor:
        """Points [L, c, d] after the moves [L, c]."""
        count = self.target.shape[1]
        blocks = (int(self.block.max()) + 1) if self.block.numel() else 1
        kind, block = move // blocks, move % blocks
        to = self.target.gather(1, kind.clamp(max=count - 1)[..., None].expand(-1, -1, self.x.shape[1]))
        return torch.where(self.block[:, None] == block[..., None], to, points)

    def _put_back(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Points [L, c, d] with one of the blocks that x has changed as it was in the sample: room for another change."""
        changed = (self.x != self.back).to(torch.float64)
        blocks = (int(self.block.max()) + 1) if self.block.numel() else 1
        weight = changed.new_zeros(len(changed), blocks).scatter_add(1, self.block, changed)
        chance = torch.rand(*points.shape[:2], blocks, generator=generator) * (weight > 0)[:, None]
        return torch.where(self.block[:, None] == chance.argmax(2)[..., None], self.back[:, None], points)


def _targets(region: Region, x: Tensor, size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blocks [L, d] and targets [L, K, d]."""
    if isinstance(region, Product):
        return _side_by_side(region, x, size, generator)
    if isinstance(region, Union):
        return _of_members(region, x, size, generator)
    if isinstance(region, FiniteSet):
        return torch.zeros_like(x, dtype=torch.int64), torch.where(region.present[..., None], region.points, x[:, None])
    box, d = region.box(), x.shape[1]
    block = torch.arange(d).expand_as(x)
    if isinstance(region, Tabular):
        return _features(region, x, size, generator)
    if isinstance(region, L0Ball):
        block = region.group
    low, high = (region.lower, region.upper) if isinstance(region, Changes) else (box.lower, box.upper)
    return block, _numbers(x, low, high, region.centres(), size[:, None] * (high - low), generator)


def _numbers(x: Tensor, low: Tensor, high: Tensor, back: Tensor, step: Tensor, generator: torch.Generator) -> Tensor:
    """Targets [L, 8, d] of numbers: the ends, the sample, one step and a quarter of it either way, and anywhere."""
    anywhere = low + (high - low) * torch.rand(x.shape, generator=generator, dtype=torch.float64)
    to = torch.stack([low, high, back, x - step, x + step, x - step / 4, x + step / 4, anywhere], 1)
    return torch.maximum(torch.minimum(to, high[:, None]), low[:, None])


def _features(region: Tabular, x: Tensor, size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of rows of a table: choices are blocks with a target for each member, and whole numbers move by whole steps."""
    box, whole = region.box(), region.step > 0
    step = torch.where(whole, region.step, 1.0)
    wide = size[:, None] * (box.upper - box.lower)
    by = torch.where(whole, step * (wide / step).round().clamp(min=1), wide)
    to = _numbers(x, box.lower, box.upper, region.centre, by, generator)
    to[:, 5], to[:, 6] = torch.where(whole, x - step, to[:, 5]), torch.where(whole, x + step, to[:, 6])
    to = torch.where(whole[:, None], (to / step[:, None]).round() * step[:, None], to)
    to = torch.maximum(
        torch.minimum(to, torch.where(whole, box.upper, torch.inf)[:, None]), torch.where(whole, box.lower, -torch.inf)[:, None]
    )
    block = torch.arange(x.shape[1]).expand_as(x).clone()
    most = max((len(group) for group in region.groups), default=0)
    target = x[:, None].repeat(1, max(most, to.shape[1]), 1)
    target[:, : to.shape[1]] = to
    for group in region.groups:
        members = list(group)
        block[:, members] = members[0]
        may = (box.upper[:, members] >= 1)[..., None]  # [L, members, 1]
        target[:, :, members] = x[:, None, members]
        target[:, : len(members), members] = torch.where(may, torch.eye(len(members), dtype=x.dtype), x[:, None, members])
    return block, target


def _side_by_side(region: Product, x: Tensor, size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of a product: each factor's own."""
    parts = torch.split(x, [factor.size for factor in region.factors], 1)
    found = [_targets(factor, part, size, generator) for factor, part in zip(region.factors, parts, strict=True)]
    firsts = itertools.accumulate((part.shape[1] for part in parts), initial=0)
    most = max(target.shape[1] for _, target in found)
    targets = [_filled(target, part, most) for part, (_, target) in zip(parts, found, strict=True)]
    return torch.cat([block + first for (block, _), first in zip(found, firsts)], 1), torch.cat(targets, 2)


def _of_members(region: Union, x: Tensor, size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of a union: those of the member that each point is in."""
    found = [_targets(member, x, size, generator) for member in region.members]
    most = max(target.shape[1] for _, target in found)
    at, each = region.nearest(x), torch.arange(len(x))
    targets = torch.stack([_filled(target, x, most) for _, target in found])
    return torch.stack([block for block, _ in found])[at, each], targets[at, each]


def _filled(target: Tensor, x: Tensor, most: int) -> Tensor:
    """Targets [L, K, d] made `most`, with x [L, d], which is none."""
    return torch.cat([target, x[:, None].expand(-1, most - target.shape[1], -1)], 1)


def continuous(region: Region) -> bool:
    """Whether some number of the region may move by as little as it likes."""
    if isinstance(region, Product | Union):
        return any(continuous(part) for part in (region.factors if isinstance(region, Product) else region.members))
    if isinstance(region, FiniteSet):
        return False
    box = region.box()
    wide = box.lower < box.upper
    if isinstance(region, Tabular):
        members = [i for group in region.groups for i in group]
        wide = wide & (region.step == 0)
        wide[:, members] = False
    return bool(wide.any())


def along(region: Region, x: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    """Points [L, 3, d] on the way from x [L, d] to where the oracle takes a gradient [L, d]: all of it, `size` [L], a quarter."""
    end = region.minimise(direction.to(torch.float64)[:, None])[1]
    share = torch.stack([torch.ones_like(size), size, size / 4], 1).to(torch.float64)[..., None]
    return x.to(torch.float64)[:, None] + share * (end - x.to(torch.float64)[:, None])


def inside(region: Region, points: Tensor, dtype: torch.dtype) -> Tensor:
    """Points [L, c, d] as numbers of `dtype`, brought into the sets where these can be."""
    points = points.to(dtype)
    return region.repair(points) if isinstance(region, Repairable) else points
