"""Where a search that stops would have gone on: points of its worst open leaves, for whoever attacks next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.attacks.board import of_each, turns
from fathom.core.value import join, take

HANDED_ON = 8
"""Points of one set."""


@dataclass(frozen=True, eq=False)
class Starts:
    """k points, where relaxations of open leaves are least. Search aids, never trusted."""

    owner: Tensor  # [k] the set of the problem
    promise: Tensor  # [k] float64: the margin that the search expects in the leaf
    point: Tensor  # [k, d] float64

    @staticmethod
    def none(size: int) -> Starts:
        """No points, of so many inputs."""
        return Starts.at(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, size))

    @staticmethod
    def at(owner: Tensor, promise: Tensor, point: Tensor) -> Starts:
        """Points of any float dtype."""
        return Starts(owner, promise.to(torch.float64), point.to(torch.float64))

    def worst(self, other: Starts) -> Starts:
        """Of these and others the `HANDED_ON` of each set that promise least, worst first, no point twice in a row."""
        every = join(self, other)
        every = take(every, every.promise.argsort(stable=True))
        every = take(every, every.owner.argsort(stable=True))
        fresh = torch.ones(len(every.owner), dtype=torch.bool)
        fresh[1:] = (every.owner[1:] != every.owner[:-1]) | (every.point[1:] != every.point[:-1]).any(1)
        every = take(every, fresh.nonzero()[:, 0])
        return take(every, (turns(every.owner) < HANDED_ON).nonzero()[:, 0])

    def of_sets(self, n: int, dtype: torch.dtype) -> Tensor:
        """[n, c, d] the points of each of n sets; NaN rows are none."""
        return of_each(self.owner, self.point.to(dtype), n)
