"""A distribution of inputs, named plainly: a set of the region drawn evenly, then a point in it.

Those over a region are images of independent standard normal numbers z. So one random walk that leaves those invariant serves
multi-level splitting over any of them, and importance sampling needs no density but the normal one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError

LEAST_SHARE = 1e-3
"""Of the draws that land in the range of legal inputs, at least; below it a distribution is refused."""


MOST_NUMBERS = 1 << 22
"""Normal numbers drawn at once."""


@dataclass(frozen=True, eq=False)
class Points:
    """k draws."""

    owner: Tensor  # [k] the set that each is of
    x: Tensor  # [k, d] float64


@dataclass(frozen=True, eq=False)
class Distribution(ABC):
    """n distributions in R^d, one for each set of a region; a draw is from one of them, each as likely. `str` names it."""

    @abstractmethod
    def __len__(self) -> int:
        """n."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Points:
        """Independent draws.

        Raises:
            FathomError: hardly any draw lands in the range of legal inputs.
        """

    @abstractmethod
    def log_density(self, owner: Tensor, x: Tensor) -> Tensor:
        """[k] the logarithm of the density at x [k, d] within its set, over the inputs that vary; -inf outside.

        For a ball cut by a range it is that before the cut: short of a constant for each set.
        """


@dataclass(frozen=True, eq=False)
class Latent(Distribution):
    """A distribution made from standard normal numbers; points outside the set are drawn again."""

    @property
    @abstractmethod
    def latent(self) -> int:
        """How many normal numbers make a point."""

    @abstractmethod
    def place(self, owner: Tensor, z: Tensor) -> Tensor:
        """The points [k, d], float64, that z [k, latent] makes in the sets `owner` [k]."""

    @abstractmethod
    def lift(self, owner: Tensor, x: Tensor) -> Tensor:
        """Some finite z [k, latent] that makes the points x [k, d], up to rounding and, at the ends of a set, a little more."""

    def kept(self, owner: Tensor, x: Tensor) -> Tensor:
        """[k] whether a point [k, d] that `place` made counts."""
        return torch.isfinite(self.log_density(owner, x))

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sets [count], normal numbers [count, latent], and whether [count] their points count: before any is drawn again."""
        owner = torch.randint(len(self), (count,), generator=generator)
        z = torch.randn(count, self.latent, generator=generator, dtype=torch.float64)
        return owner, z, self.kept(owner, self.place(owner, z))

    def sample(self, count: int, generator: torch.Generator) -> Points:
        owner, z = self.normal_numbers(count, generator)
        return Points(owner, self.place(owner, z))

    def normal_numbers(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sets [count] and normal numbers [count, latent] whose points all count: each set's own are drawn again.

        Raises:
            FathomError: hardly any does.
        """
        owner, z, kept = self.draw(count, generator)
        todo, tries = (~kept).nonzero()[:, 0], 0
        while len(todo):
            if tries >= 10 / LEAST_SHARE:
                raise FathomError(
                    f"expected a distribution of which a share of {LEAST_SHARE:g} or more lies in the range of legal inputs, got "
                    "one of which less does; take a smaller radius, an L-infinity ball, or no range"
                )
            # Several candidates for each at once, of which the first that counts is taken.
            block = max(1, min(64, 1 + tries, MOST_NUMBERS // (len(todo) * self.latent)))
            more = torch.randn(len(todo), block, self.latent, generator=generator, dtype=torch.float64)
            each = owner[todo].repeat_interleave(block)
            good = self.kept(each, self.place(each, more.flatten(0, 1))).reshape(len(todo), block)
            z[todo] = more[torch.arange(len(todo)), good.to(torch.int8).argmax(1)]
            todo, tries = todo[~good.any(1)], tries + block
        return owner, z


@dataclass(frozen=True, eq=False)
class Product(Latent):
    """A distribution of independent inputs, each between two numbers, so that boxes have exact masses."""

    inner: Box  # [n, d] float64: the largest boxes inside the sets; draws lie in them
    outer: Box  # [n, d] float64: boxes that hold the sets, an ulp larger at most

    def __len__(self) -> int:
        return len(self.inner)

    @cached_property
    def columns(self) -> Tensor:
        """The inputs that vary in some set."""
        return (self.inner.lower < self.inner.upper).any(0).nonzero()[:, 0]

    @property
    def latent(self) -> int:
        return len(self.columns)

    @abstractmethod
    def mass(self, owner: Tensor, box: Box) -> Box:
        """[k] intervals that hold the probability of the box [k, d] under its set's distribution; ends in [0, 1]."""
