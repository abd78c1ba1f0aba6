"""Where importance sampling draws from: a mixture round the failures that are known, and a share of the distribution itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.estimates.distributions.normal_numbers import log_density
from fathom.estimates.walk import Walkers

DEFENSIVE = 0.1  # share of draws from the distribution itself: no weight is then above its inverse
SHIFTED = 0.2  # share of normal draws round the design points; all but the defensive ones where there are many dimensions
FREEDOM = 5.0  # degrees of freedom of the fitted components: tails heavier than those of what is fitted
WIDER = 1.3  # times the standard deviation of what is fitted
FEW = 24  # dimensions up to which covariances are fitted
CLUSTERS = 8  # of a set, at most
SETS = 64  # with components of their own, at most


@dataclass(frozen=True, eq=False)
class Proposal:
    """A mixture over (set, normal numbers): K components fitted to clusters of failures, each with a design point."""

    sets: int
    weight: Tensor  # [K] adds up to 1
    owner: Tensor  # [K]
    mean: Tensor  # [K, m]
    factor: Tensor  # [K, m, m] Cholesky factors of the covariances; [K, 0, 0] where none are fitted
    design: Tensor  # [K, m] the failure of each cluster that is likeliest

    @staticmethod
    def fit(failures: Walkers, sets: int, generator: torch.Generator) -> Proposal:
        """Round failures [k], k > 0, given as normal numbers."""
        counts = torch.bincount(failures.owner, minlength=sets)
        chosen = counts.argsort(descending=True, stable=True)[:SETS]
        parts = []
        for number in chosen[counts[chosen] > 0].tolist():
            z = failures.z[failures.owner == number]
            label = clusters(z, CLUSTERS, generator)
            parts += [(number, z[label == c]) for c in range(int(label.max()) + 1) if bool((label == c).any())]
        weight = torch.tensor([float(len(z)) for _, z in parts], dtype=torch.float64)
        design = torch.stack([z[z.square().sum(1).argmin()] for _, z in parts])
        mean = torch.stack([z.mean(0) for _, z in parts])
        fitted = mean.shape[1] <= FEW
        factor = torch.stack([_factor(z) for _, z in parts]) if fitted else torch.zeros(len(parts), 0, 0, dtype=torch.float64)
        owner = torch.tensor([number for number, _ in parts])
        return Proposal(sets, weight / weight.sum(), owner, mean, factor, design)

    @property
    def fitted(self) -> bool:
        return self.factor.shape[1] > 0

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sets [count] and normal numbers [count, m], independent."""
        m = self.mean.shape[1]
        z = torch.randn(count, m, generator=generator, dtype=torch.float64)
        kind = torch.rand(count, generator=generator)
        which = torch.multinomial(self.weight, count, replacement=True, generator=generator)
        owner = torch.where(kind < DEFENSIVE, torch.randint(self.sets, (count,), generator=generator), self.owner[which])
        shifted = (kind >= DEFENSIVE) & ((kind < DEFENSIVE + SHIFTED) if self.fitted else True)
        # Without fitted covariances half of the shifts are to the design points, which suit flat borders, half to the means.
        centre = self.design[which]
        if not self.fitted:
            centre = torch.where((torch.rand(count, 1, generator=generator) < 0.5), centre, self.mean[which])
        z = torch.where(shifted[:, None], z + centre, z)
        index = ((kind >= DEFENSIVE) & ~shifted).nonzero()[:, 0]
        if len(index):
            scale = _chi_square(len(index), generator).div(FREEDOM).rsqrt()
            step = torch.einsum("kij,kj->ki", self.factor[which[index]], z[index] * scale[:, None])
            z = z.index_copy(0, index, self.mean[which[index]] + step)
        return owner, z

    def log_ratio(self, owner: Tensor, z: Tensor) -> Tensor:
        """[k] logarithms of the distribution's density over the mixture's; at most -log(DEFENSIVE)."""
        normal = log_density(z)
        mine = self.owner[None] == owner[:, None]
        shift = [log_density(z[:, None] - centre) for centre in (self.design, self.mean)]
        if self.fitted:
            parts = [(SHIFTED, shift[0]), (1 - DEFENSIVE - SHIFTED, self._log_student(z))]
        else:
            parts = [((1 - DEFENSIVE) / 2, each) for each in shift]
        logs = [torch.where(mine, math.log(share) + self.weight.log() + part, -torch.inf) for share, part in parts]
        base = (math.log(DEFENSIVE / self.sets) + normal)[:, None]
        return normal - math.log(self.sets) - torch.cat([base, *logs], 1).logsumexp(1)

    def _log_student(self, z: Tensor) -> Tensor:
        """[k, K] logarithms of the multivariate Student densities of the fitted components."""
        m = z.shape[1]
        away = z[:, None] - self.mean
        solved = torch.linalg.solve_triangular(self.factor, away[..., None], upper=False)[..., 0]
        scale = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = math.lgamma((FREEDOM + m) / 2) - math.lgamma(FREEDOM / 2) - m / 2 * math.log(FREEDOM * math.pi)
        return constant - scale - (FREEDOM + m) / 2 * torch.log1p(solved.square().sum(-1) / FREEDOM)


def _factor(z: Tensor) -> Tensor:
    """The Cholesky factor [m, m] of the covariance of z [k, m], made wider, and safe where there are few points."""
    k, m = z.shape
    away = z - z.mean(0)
    covariance = away.T @ away / max(k, 1)
    spread = covariance.diagonal().mean().clamp(min=1e-12)
    trust = k / (k + m + 1.0)  # few points say little about a shape
    round_ = spread * torch.eye(m, dtype=z.dtype) if k > 1 else 0.1 * torch.eye(m, dtype=z.dtype)
    mixed = trust * covariance + (1 - trust) * round_ + 1e-6 * spread * torch.eye(m, dtype=z.dtype)
    factor: Tensor = torch.linalg.cholesky(WIDER**2 * mixed)
    return factor


def _chi_square(count: int, generator: torch.Generator) -> Tensor:
    """Draws of the sum of `FREEDOM` squared normal numbers."""
    return torch.randn(count, int(FREEDOM), generator=generator, dtype=torch.float64).square().sum(1)


def clusters(z: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Labels [k] of points z [k, m] by at most so many means: starts far apart, then Lloyd's rounds."""
    k = len(z)
    most = min(most, max(1, k // max(2 * z.shape[1], 5)), k)
    centres = z[torch.randint(k, (1,), generator=generator)]
    while len(centres) < most:
        gap = torch.cdist(z, centres).amin(1)
        if not bool(gap.max() > 0):
            break
        centres = torch.cat([centres, z[gap.argmax()][None]])
    label = torch.cdist(z, centres).argmin(1)
    for _ in range(10):
        sums = torch.zeros_like(centres).index_add(0, label, z)
        counts = torch.bincount(label, minlength=len(centres))
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
        label = torch.cdist(z, centres).argmin(1)
    labels: Tensor = torch.unique(label, return_inverse=True)[1]
    return labels
