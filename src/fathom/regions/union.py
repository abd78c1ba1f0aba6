"""Unions: an input lies in any of several sets, of any kinds: one sample under two threats, or several places to be safe in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.filled import require_filled
from fathom.core.region import Region, Repairable
from fathom.core.value import join
from fathom.regions.box import BoxRegion


@final
@dataclass(frozen=True, eq=False)
class Union(Repairable):
    """Set i is the union of set i of every member. `of` makes one from regions; set i of some of them may be empty.

    A linear function is least in one of the members, so the oracle is the best of theirs. What a relaxation sees is the hull of
    all, so branch and bound takes the members one after the other.

    Raises:
        FathomError: there are no members, they differ in size or in number of sets, or one of them repairs no points.
    """

    members: tuple[Region, ...]

    def __post_init__(self) -> None:
        counts, sizes = [len(member) for member in self.members], [member.size for member in self.members]
        if len(set(counts)) != 1 or len(set(sizes)) != 1:
            raise FathomError(f"expected members with one number of sets, of one size, got {counts} sets of sizes {sizes}")
        for member in self.members:
            if not isinstance(member, Repairable):
                raise FathomError(f"expected members that repair points, got {type(member).__name__}, which does not")

    @staticmethod
    def of(*members: Region) -> Union:
        """The union of regions of n sets each, set by set.

        Raises:
            FathomError: there are none, they do not fit together, or a set of one of them is empty.
        """
        for member in members:
            require_filled(member)
        return Union(members)

    def __str__(self) -> str:
        few, kinds = len(self.members) < 3, sorted({type(member).__name__ for member in self.members})
        return " or ".join(f"({member})" for member in self.members) if few else f"in one of many: {', '.join(kinds)}"

    def __len__(self) -> int:
        return len(self.members[0])

    @property
    def size(self) -> int:
        return self.members[0].size

    @property
    def convex(self) -> bool:
        return False

    @property
    def exact(self) -> bool:
        return all(member.exact for member in self.members)

    def rounded(self, dtype: torch.dtype) -> Union:
        return Union(tuple(member.rounded(dtype) for member in self.members))

    def hull(self, other: Region) -> Union:
        """The union of the members' hulls with those of `other`."""
        assert isinstance(other, Union)
        return Union(tuple(mine.hull(theirs) for mine, theirs in zip(self.members, other.members, strict=True)))

    def centres(self) -> Tensor:
        """Those of the first member."""
        return self.members[0].centres()

    def empty(self) -> Tensor:
        return self._vacant.all(0)

    def ties(self) -> tuple[Tensor, ...]:
        return tuple(tie for member in self.members for tie in member.ties())

    def parts(self, most: int) -> tuple[Region, Tensor] | None:
        """The members' parts, where all of these are boxes: of other kinds, members reach into one another's boxes."""
        found = []
        for member in self.members:
            every, box = torch.arange(len(member)), member.box()
            parts = (member.restrict(every, box.lower, box.upper), every) if member.convex else member.parts(most)
            if parts is None or not isinstance(parts[0], BoxRegion):
                return None
            there = (~parts[0].empty()).nonzero()[:, 0]
            found.append((parts[0].take(there), parts[1][there]))
        boxes, owner = join(found[0], *found[1:])
        return None if len(owner) and int(torch.bincount(owner).max()) > most else (boxes, owner)

    def box(self) -> Box:
        """The hull; its ends cross where a set is empty."""
        boxes, out, none = [member.box() for member in self.members], self._vacant[..., None], self.empty()[:, None]
        lower = torch.where(out, torch.inf, torch.stack([box.lower for box in boxes])).amin(0)
        upper = torch.where(out, -torch.inf, torch.stack([box.upper for box in boxes])).amax(0)
        first = boxes[0].lower
        below = torch.nextafter(first, torch.full_like(first, -torch.inf))
        return Box(torch.where(none, first, lower), torch.where(none, below, upper))

    def contains(self, x: Tensor) -> Tensor:
        return torch.stack([member.contains(x) for member in self.members]).any(0)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Of the members that hold something in turn, from a random one on."""
        drawn = torch.stack([member.sample(count, generator) for member in self.members], 2)  # [n, count, members, d]
        asked = self._asked.T.to(torch.int64)  # [n, members]
        many = asked.sum(1, keepdim=True)
        start = (torch.rand(len(self), 1, generator=generator) * many).to(torch.int64)
        turn = (start + torch.arange(count)) % many
        place = (asked.cumsum(1)[:, None] == turn[..., None] + 1).to(torch.int8).argmax(2)  # the first with so many up to it
        return drawn.gather(2, place[..., None, None].expand(-1, -1, 1, self.size))[:, :, 0]

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The least of the members', and where it is."""
        found = [member.minimise(a) for member in self.members]
        values = torch.stack([value for value, _ in found])
        value, at = torch.where(self._asked[..., None], values, torch.inf).min(0)
        return value, _picked(torch.stack([x for _, x in found]), at)

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Union:
        return Union(tuple(member.restrict(owner, lower, upper) for member in self.members))

    def repair(self, x: Tensor) -> Tensor:
        """What the member does that moves a point least: nearest, where all project."""
        return self._repaired(x)[0]

    def nearest(self, x: Tensor) -> Tensor:
        """[n, ...] the member that points x [n, ..., d] lie in, or are nearest to."""
        return self._repaired(x)[1]

    def _repaired(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fixed = torch.stack([member.repair(x) for member in self.members if isinstance(member, Repairable)])
        far = (fixed.to(torch.float64) - x.to(torch.float64)).norm(dim=-1)
        asked = self._asked.reshape(*self._asked.shape, *[1] * (x.ndim - 2))
        at = torch.where(asked, far, torch.inf).argmin(0)
        return _picked(fixed, at), at

    @property
    def _vacant(self) -> Tensor:
        """[members, n] where a member's set is empty."""
        return torch.stack([member.empty() for member in self.members])

    @property
    def _asked(self) -> Tensor:
        """[members, n] the members that hold something, or all where none does: nothing asked of an empty set has a meaning."""
        vacant = self._vacant
        return ~vacant | vacant.all(0)


def _picked(points: Tensor, at: Tensor) -> Tensor:
    """Points [...., d] of [members, ..., d], of each the member `at` [...]."""
    return points.gather(0, at[None, ..., None].expand(1, *points.shape[1:]))[0]
