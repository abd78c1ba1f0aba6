"""A region: the inputs that the adversary may choose. One object for attack, proof, sampling and training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.value import take


@dataclass(frozen=True, eq=False)
class Region(ABC):
    """n sets of one kind in R^d, held as float64 tensors whose first dimension is n.

    The numbers are meant exactly as stored: the set is a set of real vectors, and every method says on which side it errs.
    """

    def __len__(self) -> int:
        return len(self.box())

    @property
    def size(self) -> int:
        """d."""
        return self.box().lower.shape[1]

    @property
    def convex(self) -> bool:
        """False for a kind whose sets may have a hole between two of their points: no step part of the way stays inside."""
        return True

    @property
    def exact(self) -> bool:
        """False for a set that over-approximates what was asked for: proofs carry over, and failures may not."""
        return True

    def take(self, index: Tensor) -> Self:
        """The sets at `index` [k], in that order."""
        return take(self, index)

    def rounded(self, dtype: torch.dtype) -> Region:
        """What a program of this dtype may be given: end points rounded to the nearest value of the dtype.

        Many published properties fix inputs that no float32 equals; their real box holds no float32 at all.
        """
        return self

    def hull(self, other: Region) -> Region:
        """A region that holds this one and its `rounded` form `other`."""
        return self

    def centres(self) -> Tensor:
        """[n, d] what the sets are about: the sample itself, where they are made round samples."""
        return self.box().middle

    def empty(self) -> Tensor:
        """[n] whether a set certainly holds nothing, as parts of sets may: then nothing in it can fail."""
        return self.box().empty()

    def why_empty(self, index: int) -> str:
        """What is wrong with the set at `index`, which is `empty`, for whoever wrote it: "input 3 is to be ..."."""
        box = self.box()
        crossed = (box.lower[index] > box.upper[index]).nonzero()[:, 0].tolist()
        if not crossed:
            return "no input keeps to all that bounds it"
        low, high = (end[index, crossed[0]].item() for end in (box.lower, box.upper))
        others = f" (and {len(crossed) - 1} others likewise)" if len(crossed) > 1 else ""
        return f"input {crossed[0]} is to be at least {low:.9g} and at most {high:.9g}{others}"

    def parts(self, most: int) -> tuple[Region, Tensor] | None:
        """The sets as unions of convex ones, where they are not convex and that takes at most `most` for each.

        Branch and bound, whose relaxations see no more of a set than its convex hull, then works on the parts.

        Returns:
            k convex sets of one kind that together hold just what these hold, and [k] which set each is a part of; None where
            they are convex, or where it would take more. `restrict` to the box of a part has to be exact.
        """
        return None

    def ties(self) -> tuple[Tensor, ...]:
        """Which inputs may have to change together, as far as the kind knows: for the failures of an attack to be made simple.

        Returns:
            [n, d] int64 each: inputs of one number are tied; -1 for those that are not.
        """
        return ()

    @abstractmethod
    def box(self) -> Box:
        """[n, d] float64 boxes that hold the sets, rounded outward."""

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """[n] whether x[i], [n, d] of any float dtype, lies in the closed set i; True only if that is certain."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """[n, count, d] points of the sets, in float64; spread over each, by whatever distribution suits the kind."""

    @abstractmethod
    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The linear minimisation oracle: for rows a [n, rows, d], the values [n, rows] and minimisers [n, rows, d] of a x.

        Values are rigorous: never above the real minimum over the set, rounding subtracted; differentiable in a. Minimisers are
        points of the set up to rounding, where the value is attained unless the kind says that it is bounded. This is a step of
        the attack and the last step of a bound alike. Of an empty set values and minimisers are any finite numbers.
        """

    @abstractmethod
    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Region:
        """k sets: set owner[j] intersected with the box [lower[j], upper[j]] (each [k, d]); a hull of that is allowed."""


@dataclass(frozen=True, eq=False)
class Repairable(Region):
    """A region that brings points back into its sets, though not always by the shortest way: all that an attack needs."""

    @abstractmethod
    def repair(self, x: Tensor) -> Tensor:
        """Points of the sets near x [n, ..., d], in the dtype of x, up to rounding; points of a set stay."""


@dataclass(frozen=True, eq=False)
class Projectable(Repairable):
    """A region with a Euclidean projection."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The points of the sets nearest to x [n, ..., d], in the dtype of x, up to rounding."""

    def repair(self, x: Tensor) -> Tensor:
        return self.project(x)
