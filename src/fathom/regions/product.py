"""Products: each group of consecutive inputs has a region of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.region import Region, Repairable
from fathom.core.rounding import down


@final
@dataclass(frozen=True, eq=False)
class Product(Repairable):
    """The Cartesian product: the first inputs lie in the first factor, the next in the second, and so on.

    A linear function is least where each of its parts is, so the oracle is that of the factors, and so is everything else.

    Raises:
        FathomError: there are no factors, they have different numbers of sets, or one cannot bring points back into its sets.
    """

    factors: tuple[Region, ...]

    def __post_init__(self) -> None:
        counts = [len(factor) for factor in self.factors]
        if len(set(counts)) != 1:
            raise FathomError(f"expected factors, with one number of sets, got {counts}")
        for factor in self.factors:
            if not isinstance(factor, Repairable):
                raise FathomError(f"expected factors that repair points, got {type(factor).__name__}, which does not")

    def __str__(self) -> str:
        return " x ".join(f"({factor})" for factor in self.factors)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """[..., d] cut at the factors' borders."""
        return torch.split(x, [factor.size for factor in self.factors], -1)

    @property
    def convex(self) -> bool:
        return all(factor.convex for factor in self.factors)

    @property
    def exact(self) -> bool:
        return all(factor.exact for factor in self.factors)

    def rounded(self, dtype: torch.dtype) -> Product:
        return Product(tuple(factor.rounded(dtype) for factor in self.factors))

    def hull(self, other: Region) -> Product:
        assert isinstance(other, Product)
        return Product(tuple(mine.hull(theirs) for mine, theirs in zip(self.factors, other.factors, strict=True)))

    def centres(self) -> Tensor:
        return torch.cat([factor.centres() for factor in self.factors], 1)

    def empty(self) -> Tensor:
        return torch.stack([factor.empty() for factor in self.factors]).any(0)

    def why_empty(self, index: int) -> str:
        k = next(k for k, factor in enumerate(self.factors) if bool(factor.empty()[index]))
        return f"factor {k} ({type(self.factors[k]).__name__}) is empty: there {self.factors[k].why_empty(index)}"

    def ties(self) -> tuple[Tensor, ...]:
        found, first = [], 0
        for factor in self.factors:
            sides = (first, self.size - first - factor.size)
            found += [torch.nn.functional.pad(tie, sides, value=-1) for tie in factor.ties()]
            first += factor.size
        return tuple(found)

    def parts(self, most: int) -> tuple[Region, Tensor] | None:
        """Every combination of parts of the factors."""
        found = []
        for factor in self.factors:
            parts = (factor, torch.arange(len(factor))) if factor.convex else factor.parts(most)
            if parts is None:
                return None
            found.append(parts)
        picks: list[Tensor] = []
        for i in range(len(self)):
            places = [(owner == i).nonzero()[:, 0] for _, owner in found]
            if math.prod(len(place) for place in places) > most:
                return None
            picks.append(torch.cartesian_prod(*places).reshape(-1, len(places)))
        owner = torch.repeat_interleave(torch.arange(len(self)), torch.tensor([len(pick) for pick in picks], dtype=torch.int64))
        index = torch.cat(picks) if picks else torch.zeros(0, len(found), dtype=torch.int64)
        return Product(tuple(region.take(index[:, k]) for k, (region, _) in enumerate(found))), owner

    def box(self) -> Box:
        boxes = [factor.box() for factor in self.factors]
        return Box(torch.cat([box.lower for box in boxes], 1), torch.cat([box.upper for box in boxes], 1))

    def contains(self, x: Tensor) -> Tensor:
        pairs = zip(self.factors, self._split(x), strict=True)
        return torch.stack([factor.contains(part) for factor, part in pairs]).all(0)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Each factor's own samples, side by side."""
        return torch.cat([factor.sample(count, generator) for factor in self.factors], 2)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        found = [factor.minimise(part) for factor, part in zip(self.factors, self._split(a), strict=True)]
        value = found[0][0]
        for other, _ in found[1:]:
            value = down(value + other)
        return value, torch.cat([x for _, x in found], 2)

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Product:
        cut = zip(self.factors, self._split(lower), self._split(upper), strict=True)
        return Product(tuple(factor.restrict(owner, low, high) for factor, low, high in cut))

    def repair(self, x: Tensor) -> Tensor:
        """Each part on its own: nearest, where all factors project."""
        fixed = []
        for factor, part in zip(self.factors, self._split(x), strict=True):
            assert isinstance(factor, Repairable)
            fixed.append(factor.repair(part))
        return torch.cat(fixed, -1)
