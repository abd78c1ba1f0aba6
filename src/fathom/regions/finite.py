"""Finite sets: a handful of inputs each, such as a sample's corruptions, or the codes that an encoder can give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.region import Projectable, Region
from fathom.core.rounding import down, gamma
from fathom.regions.balls import with_gradient
from fathom.regions.box import BoxRegion, in_rows


@final
@dataclass(frozen=True, eq=False)
class FiniteSet(Projectable):
    """Up to k points a set. `of` makes it from tensors; a set without a point is empty.

    The oracle looks at every point, which is exact. The hull of the points is all that a relaxation sees of them, so branch and
    bound takes them one by one (`parts`), and decides every set.

    Raises:
        FathomError: `points` is not finite float64 [n, k, d] with k >= 1, or `present` no bool [n, k].
    """

    points: Tensor  # [n, k, d] float64
    present: Tensor  # [n, k] bool: False for padding

    def __post_init__(self) -> None:
        shape, dtype = list(self.points.shape), self.points.dtype
        if len(shape) != 3 or shape[1] < 1 or dtype != torch.float64:
            raise FathomError(f"expected `points` as float64 [n, k, d], k >= 1, got {dtype} {shape}; see FiniteSet.of")
        if not bool(torch.isfinite(self.points).all()):
            raise FathomError("expected finite numbers in `points`, got others; mark padding by `present` alone")
        if list(self.present.shape) != shape[:2] or self.present.dtype != torch.bool:
            raise FathomError(f"expected `present` as bool {shape[:2]}, got {self.present.dtype} {list(self.present.shape)}")

    @staticmethod
    def of(points: Tensor, present: Tensor | None = None) -> FiniteSet:
        """Sets from points [n, k, *shape], of any dtype; without `present`, points that are all NaN are padding.

        Raises:
            FathomError: they are no such tensor, or a set has no point.
        """
        if not isinstance(points, Tensor) or points.ndim < 3:
            got = f"a tensor {list(points.shape)}" if isinstance(points, Tensor) else f"a {type(points).__name__}"
            raise FathomError(f"expected k points for each of n sets as a tensor [n, k, *shape], got {got}")
        flat = points.detach().to(torch.float64).flatten(2)
        here = ~torch.isnan(flat).all(2) if present is None else present
        made = FiniteSet(torch.where(here[..., None], flat, 0.0) if here.shape == flat.shape[:2] else flat, here)
        bare = (~made.present.any(1)).nonzero()[:, 0]
        if len(bare):
            raise FathomError(f"expected a point in every set, got none in set {int(bare[0])}")
        return made

    def __str__(self) -> str:
        count = self.present.sum(1)
        least, most = (int(count.min()), int(count.max())) if len(count) else (0, 0)
        return f"one of {most} points" if least == most else f"one of {least} to {most} points"

    def __len__(self) -> int:
        return len(self.points)

    @property
    def size(self) -> int:
        return self.points.shape[2]

    @property
    def convex(self) -> bool:
        return False

    def rounded(self, dtype: torch.dtype) -> FiniteSet:
        return FiniteSet(self.points.to(dtype).to(torch.float64), self.present)

    def hull(self, other: Region) -> FiniteSet:
        """The points of both."""
        assert isinstance(other, FiniteSet)
        if torch.equal(self.points, other.points) and torch.equal(self.present, other.present):
            return self
        return FiniteSet(torch.cat([self.points, other.points], 1), torch.cat([self.present, other.present], 1))

    def centres(self) -> Tensor:
        """The first point of each set."""
        first = self._counted.to(torch.int8).argmax(1)
        return self.points[torch.arange(len(first)), first]

    def empty(self) -> Tensor:
        return ~self.present.any(1)

    def why_empty(self, index: int) -> str:
        return "there is no point"

    def parts(self, most: int) -> tuple[Region, Tensor] | None:
        """Every point alone, as a box without width."""
        if int(self.present.sum(1).max() if len(self) else 0) > most:
            return None
        owner, which = self.present.nonzero().T
        points = self.points[owner, which]
        return BoxRegion(points, points), owner

    def box(self) -> Box:
        """The hull; its ends cross where a set is empty."""
        here, infinity = self.present[..., None], torch.inf
        lower = torch.where(here, self.points, infinity).amin(1)
        upper = torch.where(here, self.points, -infinity).amax(1)
        none, top = self.empty()[:, None], self.points.amax(1)
        below = torch.nextafter(self.points.amin(1), torch.full_like(top, -infinity))
        return Box(torch.where(none, top, lower), torch.where(none, below, upper))

    def contains(self, x: Tensor) -> Tensor:
        """Exact: x is one of the points, number by number."""
        same = (self.points == x.to(torch.float64)[:, None]).all(2)
        return (same & self.present).any(1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points drawn at random, each as likely as another."""
        chance = torch.rand(len(self), count, self.points.shape[1], generator=generator)
        return self._pick(torch.where(self._counted[:, None], chance, -1.0).argmax(2))

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The least over the points, each with the rounding of its dot product subtracted; the points themselves are exact."""
        a = a.to(torch.float64)
        fixed = a.detach()
        points = self.points.transpose(1, 2)
        size = fixed.abs() @ points.abs()
        values = down(fixed @ points - gamma(self.size + 2, a.dtype) * size)
        least, at = torch.where(self._counted[:, None], values, torch.inf).min(2)
        x = self._pick(at)
        return with_gradient(least, a, x), x

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> FiniteSet:
        points = self.points[owner]
        held = ((lower[:, None] <= points) & (points <= upper[:, None])).all(2)
        return FiniteSet(points, self.present[owner] & held)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point; in the dtype of x, whose numbers the points of a `rounded` set are."""
        wide = in_rows(x)
        far = torch.cdist(wide, self.points, compute_mode="donot_use_mm_for_euclid_dist")
        return self._pick(torch.where(self._counted[:, None], far, torch.inf).argmin(2)).reshape(x.shape).to(x.dtype)

    @property
    def _counted(self) -> Tensor:
        """[n, k] the points, or all padding where there is none: nothing asked of an empty set has a meaning, but a shape."""
        return self.present | self.empty()[:, None]

    def _pick(self, at: Tensor) -> Tensor:
        """Points [n, j, d] by their places [n, j]."""
        return self.points.gather(1, at[..., None].expand(*at.shape, self.size))
