"""Ellipsoids: what a Gaussian calls near, such as the activations that a layer takes on natural inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.region import Repairable
from fathom.core.rounding import TINY, down, gamma, up
from fathom.regions.balls import check_ball, euclidean, split_bound, with_gradient
from fathom.regions.box import clamp, in_rows, inward

INSIDE = 1 - 1e-12
"""How far towards the edge points are put, so that `contains` is certain of them."""
ALTERNATIONS = 20
"""Of clamping and scaling, for a sub-box without the centre."""


@final
@dataclass(frozen=True, eq=False)
class Ellipsoid(Repairable):
    """The points centre + factor u with |u|_2 <= radius, and lower <= x <= upper, over the real numbers.

    With a Cholesky factor of a covariance, |u| is Mahalanobis' distance from the centre. The oracle is exact where nothing is
    clipped. In a sub-box its values are bounds (those of the better split of the row between ellipsoid and box), and where the
    centre is outside the sub-box its points are of the box, and near the ellipsoid. `make` leaves nothing clipped.

    Raises:
        FathomError: parts that are not finite float64 of these shapes, or a factor that is not lower triangular with a positive
            diagonal.
    """

    centre: Tensor  # [n, d] float64
    factor: Tensor  # [n, d, d] float64, lower triangular
    radius: Tensor  # [n] float64
    lower: Tensor  # [n, d] float64: the clipping range
    upper: Tensor  # [n, d] float64

    def __post_init__(self) -> None:
        check_ball(self.centre, self.radius, self.lower, self.upper)
        n, d = self.centre.shape
        if self.factor.shape != (n, d, d) or self.factor.dtype != torch.float64:
            raise FathomError(f"expected `factor` as float64 [{n}, {d}, {d}], got {self.factor.dtype} {list(self.factor.shape)}")
        diagonal = self.factor.diagonal(dim1=1, dim2=2)
        if not bool(torch.isfinite(self.factor).all() and (diagonal > 0).all() and (self.factor.tril() == self.factor).all()):
            raise FathomError(
                "expected factors of finite numbers, lower triangular with a positive diagonal, got others; "
                "see torch.linalg.cholesky"
            )

    @staticmethod
    def make(centre: Tensor, factor: Tensor, radius: Tensor) -> Ellipsoid:
        """Whole ellipsoids, from centres [n, d], factors [n, d, d] and radii [n], of any float dtype."""
        centre, factor, radius = (part.detach().to(torch.float64) for part in (centre, factor, radius))
        hull = _hull(centre, factor, radius)
        return Ellipsoid(centre, factor, radius, hull.lower, hull.upper)

    def __str__(self) -> str:
        return f"an ellipsoid of {self.size} inputs"

    @cached_property
    def clip(self) -> Box:
        """The clipping range."""
        return Box(self.lower, self.upper)

    @cached_property
    def _bounds(self) -> Box:
        return _hull(self.centre, self.factor, self.radius).intersect(self.clip)

    @cached_property
    def _inverse(self) -> Tensor:
        """[n] at least the Euclidean norm of the inverse of each factor; inf where that is not known.

        For an approximate inverse M, factor M = 1 - E gives inverse = M (1 - E)^-1, and the norm of that is at most
        |M| / (1 - |E|).
        """
        unit = torch.eye(self.size, dtype=torch.float64).expand_as(self.factor)
        near = torch.linalg.solve_triangular(self.factor, unit, upper=False)
        lost = gamma(self.size + 8, near.dtype) * (self.factor.abs() @ near.abs() + unit)
        error = up(euclidean(((unit - self.factor @ near).abs() + lost).flatten(1)))
        return torch.where(error < 0.5, up(euclidean(near.flatten(1)) / (1 - error)), torch.inf)

    def box(self) -> Box:
        return self._bounds

    def centres(self) -> Tensor:
        return self.centre

    def contains(self, x: Tensor) -> Tensor:
        """Conservative by the rounding of the distance; the centre itself is always inside.

        u is solved for approximately; what centre + factor u misses x by is worth at most the inverse's norm times that.
        """
        x = x.to(torch.float64)
        move = x - self.centre
        u = self._distances(move[:, None])[1][:, 0]
        lost = gamma(self.size + 8, x.dtype) * (move.abs() + (self.factor.abs() @ u.abs()[..., None])[..., 0])
        missed = (move - (self.factor @ u[..., None])[..., 0]).abs() + lost
        length = up(euclidean(u) + up(self._inverse * up(euclidean(missed))))
        return ((length <= self.radius) | (x == self.centre).all(1)) & self.clip.contains(x)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Half of the points on the surface, and half uniform inside, before clipping."""
        shape = (len(self.radius), count)
        direction = torch.randn(*shape, self.size, generator=generator, dtype=torch.float64)
        inside = torch.rand(*shape, 1, generator=generator, dtype=torch.float64) ** (1 / self.size)
        surface = torch.rand(*shape, 1, generator=generator, dtype=torch.float64) < 0.5
        length = torch.where(surface, 1.0, inside) * self.radius[:, None, None]
        u = length * torch.nn.functional.normalize(direction, dim=-1)
        return self.repair(self.centre[:, None] + u @ self.factor.mT)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """centre - radius factor w / |w| for w = factor^T a; of a sub-box, the best of a few splits of the row."""
        a = a.to(torch.float64)
        fixed = a.detach()
        scale = fixed.abs().amax(-1, keepdim=True).clamp(min=TINY)
        unit = fixed / scale
        x = self._least(unit)
        bounds, part = [], fixed
        for _ in range(3 if bool(self._clipped.any()) else 1):
            bounds.append(split_bound(fixed, part, self._dual(part), self.centre, self.radius, self._bounds))
            free = (self.lower[:, None] < x) & (x < self.upper[:, None])
            part = torch.where(free, fixed, 0.0)
            x = self._least(part / scale)
        if len(bounds) > 1:
            bounds.append(split_bound(fixed, 0 * fixed, torch.zeros_like(bounds[0]), self.centre, self.radius, self._bounds))
        x = self._least(unit)
        x = torch.where(self._clipped[:, None, None], self.repair(x), x)
        return with_gradient(torch.stack(bounds).amax(0), a, x), x

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Ellipsoid:
        part = self.clip.take(owner).intersect(Box(lower, upper))
        return Ellipsoid(self.centre[owner], self.factor[owner], self.radius[owner], part.lower, part.upper)

    def repair(self, x: Tensor) -> Tensor:
        """Clamped, and scaled towards the centre; with the centre outside the sub-box, back and forth.

        In a narrower dtype the ellipsoid is taken to be smaller, by as much as rounding may move a point.
        """
        wide = in_rows(x)
        slack = 0.0 if x.dtype == torch.float64 else torch.finfo(x.dtype).eps * self._inverse * euclidean(self._bounds.magnitude)
        limit = (self.radius * INSIDE - slack).clamp(min=0)[:, None, None]
        middle, narrow = self.centre[:, None], inward(self.clip, x.dtype).map(lambda t: t.to(torch.float64))
        within = bool(self.clip.contains(self.centre).all())
        for _ in range(1 if within else ALTERNATIONS):
            wide = clamp(wide, narrow)
            length = self._distances(wide - middle)[0]
            wide = torch.where(length > limit, middle + (limit / length) * (wide - middle), wide)
        return clamp(wide.reshape(x.shape).to(x.dtype), inward(self.clip, x.dtype))

    @cached_property
    def _clipped(self) -> Tensor:
        """[n] whether the clipping range takes anything away."""
        hull = _hull(self.centre, self.factor, self.radius)
        return ((self.lower > hull.lower) | (self.upper < hull.upper)).any(1)

    def _distances(self, move: Tensor) -> tuple[Tensor, Tensor]:
        """For moves [n, k, d] from the centre, |u| [n, k, 1] and u [n, k, d], as solved for."""
        u = torch.linalg.solve_triangular(self.factor, move.mT, upper=False).mT
        return u.norm(dim=-1, keepdim=True), u

    def _least(self, unit: Tensor) -> Tensor:
        """Where rows [n, k, d] are least over the whole ellipsoid."""
        w = unit @ self.factor
        length = w.norm(dim=-1, keepdim=True)
        u = torch.where(length > 0, w / length.clamp(min=TINY), 0.0) * self.radius[:, None, None]
        return self.centre[:, None] - u @ self.factor.mT

    def _dual(self, part: Tensor) -> Tensor:
        """At least |factor^T part| [n, k] for rows [n, k, d]."""
        scale = part.abs().amax(-1, keepdim=True).clamp(min=TINY)
        unit = part / scale
        lost = gamma(self.size + 8, part.dtype) * (unit.abs() @ self.factor.abs())
        return up(scale[..., 0] * up(euclidean((unit @ self.factor).abs() + lost)))


def _hull(centre: Tensor, factor: Tensor, radius: Tensor) -> Box:
    """Boxes [n, d] that hold the ellipsoids."""
    reach = up(radius[:, None] * euclidean(factor))
    return Box(down(centre - reach), up(centre + reach))
