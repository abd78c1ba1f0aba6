"""Products with a constant matrix of few entries a row and a column: elements are picked, weighed and summed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Sparse(Linear):
    """y_i = sum_k value[i, k] x[index[i, k]] + shift_i, for x [n, in] -> y [n, out].

    The matrix is held a second time by its columns, so that neither direction scatters. Padding has value 0 at any place.
    The stored values are the real ones: whoever bounds may start from rows of them, unrounded.
    """

    index: Tensor  # [out, k] int64, places in x
    value: Tensor  # [out, k]
    back_index: Tensor  # [in, p] int64, places in y
    back_value: Tensor  # [in, p]
    shift: Tensor | None = None  # [out]

    @property
    def accumulation(self) -> int:
        return max(self.index.shape[1], self.back_index.shape[1]) + 1

    @property
    def bias(self) -> Tensor | None:
        return self.shift

    def __call__(self, *x: Tensor) -> Tensor:
        y = _weighed(x[0], self.index, self.value)
        return y if self.shift is None else y + self.shift

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (_weighed(a, self.back_index, self.back_value),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return _weighed(r[0], self.index, self.value.abs())

    def rows(self, index: Tensor) -> Tensor:
        """[*index, in] rows of the matrix."""
        rows = self.value.new_zeros(*index.shape, len(self.back_index))
        return rows.scatter_add(-1, self.index[index], self.value[index])

    @property
    def weight(self) -> Tensor:
        """[out, in] the whole matrix."""
        return self.rows(torch.arange(len(self.index)))


def _weighed(x: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """[..., m] from x [..., k]: for each element of y the few of x that go into it."""
    total = x.index_select(-1, index[:, 0]) * value[:, 0]
    for k in range(1, index.shape[1]):
        total = total + x.index_select(-1, index[:, k]) * value[:, k]
    return total
