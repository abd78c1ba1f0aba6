"""A few coefficients spread over many elements: coordinates of pixels, as combinations of given pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Field(Linear):
    """y = sum_b x_b basis_b, for x [n, B] -> y [n, *shape] with many more elements than B."""

    basis: Tensor  # [B, *shape]

    @property
    def accumulation(self) -> int:
        return max(len(self.basis), self.basis[0].numel())

    @property
    def spreads(self) -> bool:
        return True

    def __call__(self, *x: Tensor) -> Tensor:
        """Term by term, so that a sample is the same in whatever batch it is computed."""
        return _spread(x[0], self.basis)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (torch.matmul(a.flatten(2), self.basis.flatten(1).T),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return _spread(r[0], self.basis.abs())


def _spread(x: Tensor, basis: Tensor) -> Tensor:
    shape = (len(x), *[1] * (basis.ndim - 1))
    total = x[:, 0].reshape(shape) * basis[0]
    for k in range(1, len(basis)):
        total = total + x[:, k].reshape(shape) * basis[k]
    return total
