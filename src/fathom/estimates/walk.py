"""A random walk that leaves a distribution, restricted to margins below a level, as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.core.value import take
from fathom.estimates.distribution import Latent, Product
from fathom.estimates.question import Question

WANTED = 0.3  # share of moves to be accepted
SPREAD = 0.7  # of the logarithm of the size of moves: some are long, some short


@dataclass(frozen=True, eq=False)
class Walkers:
    """k points, as normal numbers, of the sets `owner`."""

    owner: Tensor  # [k]
    z: Tensor  # [k, latent]
    margin: Tensor  # [k]

    def take(self, index: Tensor) -> Walkers:
        return take(self, index)

    def put(self, index: Tensor, others: Walkers) -> Walkers:
        """These, with others in the places `index`."""
        parts = ("owner", "z", "margin")
        return replace(self, **{name: getattr(self, name).index_copy(0, index, getattr(others, name)) for name in parts})

    def where(self, keep: Tensor, others: Walkers) -> Walkers:
        """Each of these where `keep` [k], else of the others."""
        z = torch.where(keep[:, None], self.z, others.z)
        return Walkers(torch.where(keep, self.owner, others.owner), z, torch.where(keep, self.margin, others.margin))


@dataclass(frozen=True, eq=False)
class Walk:
    """A preconditioned Crank-Nicolson walk: z' = sqrt(1 - s^2) z + s w with w normal leaves normal numbers as they are,
    whatever the dimension; a move is taken where its margin is below the level (Metropolis).

    The size s of each move is drawn apart from where the walker is, around `size`. Where every point of a set counts, one
    move in ten also goes to a set drawn evenly: it is as likely to go back.

    Reference: Cotter, Roberts, Stuart and White, MCMC methods for functions, Statistical Science 28, 2013.
    """

    question: Question
    distribution: Latent
    generator: torch.Generator

    def start(self, count: int) -> Walkers:
        """Independent draws."""
        owner, z = self.distribution.normal_numbers(count, self.generator)
        return Walkers(owner, z, self.question.margins(owner, self.distribution.place(owner, z)))

    def go(self, walkers: Walkers, level: Tensor, steps: int, size: float) -> tuple[Walkers, float]:
        """`steps` moves of k walkers, all with margins below `level` [k], and the share that was taken."""
        taken = 0
        for _ in range(steps):
            owner, z = self._propose(walkers, size)
            x = self.distribution.place(owner, z)
            if self.whole:
                margin = self.question.margins(owner, x)
            else:
                legal = self.distribution.kept(owner, x).nonzero()[:, 0]
                margin = torch.full((len(x),), torch.inf, dtype=torch.float64)
                margin[legal] = self.question.margins(owner[legal], x[legal])
            better = margin < level
            walkers = walkers.where(~better, Walkers(owner, z, margin))
            taken += int(better.sum())
        return walkers, taken / max(steps * len(walkers.owner), 1)

    def _propose(self, walkers: Walkers, size: float) -> tuple[Tensor, Tensor]:
        k, random = len(walkers.owner), self.generator
        spread = SPREAD * torch.randn(k, 1, generator=random, dtype=torch.float64)
        s = (size * spread.exp()).clamp(max=1.0)
        z = (1 - s.square()).sqrt() * walkers.z + s * torch.randn(walkers.z.shape, generator=random, dtype=torch.float64)
        sets = len(self.distribution)
        if sets == 1 or not self.whole:
            return walkers.owner, z
        elsewhere = torch.rand(k, generator=random) < 0.1
        return torch.where(elsewhere, torch.randint(sets, (k,), generator=random), walkers.owner), z

    @property
    def whole(self) -> bool:
        """Whether every point that normal numbers make counts, so that all sets are as likely before and after a move."""
        return isinstance(self.distribution, Product)


def adapted(size: float, share: float) -> float:
    """The size of the next moves, after a share of the last was taken."""
    return min(1.0, max(1e-6, size * math.exp(2.0 * (share - WANTED))))
