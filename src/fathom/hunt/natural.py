"""Regions of natural activations: a box or an ellipsoid for each class, with the share of such activations that it holds.

Activations are dealt into three parts. The first gives the shape; the second its size, as an order statistic of how far out its
activations lie, which is what makes the stated share hold with the stated confidence, whatever their distribution is and
whatever the shape; the third is held out, and counted.

Reference: Wilks, Determination of sample sizes for setting tolerance limits, Annals of Mathematical Statistics 12, 1941;
Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate Analysis 88, 2004.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.region import Region
from fathom.core.rounding import down, up
from fathom.regions.box import BoxRegion
from fathom.regions.ellipsoid import Ellipsoid

FLOOR = 1e-2
"""Of the widest half-width, for elements that hardly move: nothing is known of what a constant would do next."""
WIDEST = 1024
"""Numbers of a layer, up to which an ellipsoid's covariance is kept."""
OUTWARD = 1e-9
"""Stated shares are rounded down by this much: more than quantiles are off."""


@dataclass(frozen=True, eq=False)
class Natural:
    """Regions of k classes, and what is stated of each: it holds at least `share` of what such activations are drawn from."""

    region: Region  # [k sets]
    group: Tensor  # [k] int64 the class
    share: Tensor  # [k] float64, at this confidence for each class alone
    confidence: float
    calibrated: Tensor  # [k] int64: on so many activations
    held: Tensor  # [H] the activations held out

    def of(self, group: Tensor) -> Tensor:
        """[n] the set for each class [n].

        Raises:
            FathomError: a class of which no natural activation is known.
        """
        match = group[:, None] == self.group[None]
        if not bool(match.any(1).all()):
            missing = group[~match.any(1)][0].item()
            raise FathomError(
                f"expected natural activations of every class, got none of class {missing}; add inputs of it to the natural data"
            )
        return match.to(torch.int64).argmax(1)


def fit(kind: str, z: Tensor, group: Tensor, coverage: float, confidence: float, generator: torch.Generator) -> Natural:
    """Regions "box" or "ellipsoid" round the activations z [N, w] of classes `group` [N].

    Args:
        coverage: the share of each class that its region is to hold; the one that can be stated may be less, of few activations.
        confidence: with which it can be stated.
        generator: deals the activations into three parts.

    Raises:
        FathomError: a class of fewer than 3 activations; shares that are none; or a layer too wide for ellipsoids.
    """
    for name, value in (("coverage", coverage), ("confidence", confidence)):
        if not 0 < value < 1:
            raise FathomError(f"expected a {name} between 0 and 1, such as 0.9, got {value:g}")
    if kind == "ellipsoid" and z.shape[1] > WIDEST:
        raise FathomError(f"expected a layer of at most {WIDEST} numbers for ellipsoids, got {z.shape[1]}; ask for boxes")
    z, groups = z.to(torch.float64), torch.unique(group)
    shapes, sizes, shares, counts, held = [], [], [], [], []
    for k in groups.tolist():
        mine = (group == k).nonzero()[:, 0]
        if len(mine) < 3:
            raise FathomError(
                f"expected at least 3 natural activations of each class, got {len(mine)} of class {k}; add inputs of it"
            )
        mine = mine[torch.randperm(len(mine), generator=generator)]
        third = len(mine) // 3
        shape = (_box if kind == "box" else _ellipsoid)(z[mine[:third]])
        size, share = _calibrated(shape.distances(z[mine[third : 2 * third]]), coverage, confidence)
        shapes.append(shape)
        sizes.append(size)
        shares.append(share)
        counts.append(third)
        held.append(mine[2 * third :])
    centre, spread = torch.stack([s.centre for s in shapes]), torch.stack([s.spread for s in shapes])
    radius = torch.tensor(sizes, dtype=torch.float64)
    region: Region
    if kind == "box":
        reach = up(radius[:, None] * spread)
        region = BoxRegion(down(centre - reach), up(centre + reach))
    else:
        region = Ellipsoid.make(centre, spread, up(radius * (1 + OUTWARD)))
    return Natural(region, groups, torch.tensor(shares, dtype=torch.float64), confidence, torch.tensor(counts), torch.cat(held))


@dataclass(frozen=True, eq=False)
class _Shape:
    """A family of sets, one inside the other, that grow with one number."""

    centre: Tensor  # [w]
    spread: Tensor  # [w] half-widths of a box, or [w, w] the factor of an ellipsoid

    def distances(self, z: Tensor) -> Tensor:
        """[k] the least size at which the set holds each of z [k, w]."""
        move = z - self.centre
        if self.spread.ndim == 1:
            return (move.abs() / self.spread).amax(1)
        u: Tensor = torch.linalg.solve_triangular(self.spread, move.T, upper=False)
        return u.square().sum(0).sqrt()


def _box(z: Tensor) -> _Shape:
    """The range of every element."""
    centre, half = (z.amax(0) + z.amin(0)) / 2, (z.amax(0) - z.amin(0)) / 2
    least = FLOOR * half.amax() if half.amax() > 0 else FLOOR * (1 + centre.abs().amax())
    return _Shape(centre, half.clamp(min=least.item()))


def _ellipsoid(z: Tensor) -> _Shape:
    """Mean and covariance, shrunk towards a multiple of the identity by as much as its own scatter says (Ledoit and Wolf)."""
    count, width = z.shape
    centre = z.mean(0)
    move = z - centre
    raw = move.T @ move / count
    level = raw.trace() / width
    unit = torch.eye(width, dtype=torch.float64)
    away = (raw - level * unit).square().sum()
    # The mean over samples of |z z^T - S|^2 is that of |z|^4 less |S|^2.
    scatter = (move.square().sum(1).square().mean() - raw.square().sum()).clamp(min=0) / count
    share = (scatter / away).clamp(max=1) if away > 0 else torch.ones((), dtype=torch.float64)
    floor = (FLOOR**2 * level).clamp(min=(FLOOR * (1 + centre.abs().amax()) * 1e-3) ** 2)
    return _Shape(centre, torch.linalg.cholesky((1 - share) * raw + (share * level + floor) * unit))


def _calibrated(distances: Tensor, coverage: float, confidence: float) -> tuple[float, float]:
    """A size, and the share of draws that are no further out, at this confidence: of the least order statistic that will do.

    The share of draws up to the k-th least of n is at least a Beta(k, n - k + 1) variable, whatever their distribution (Wilks).
    """
    count = len(distances)
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    shares = torch.from_numpy(special.betaincinv(rank.numpy(), (count - rank + 1).numpy(), 1 - confidence)) - OUTWARD
    enough = (shares >= coverage).nonzero()[:, 0]
    at = int(enough[0]) if len(enough) else count - 1
    return distances.sort().values[at].item(), max(shares[at].item(), 0.0)
