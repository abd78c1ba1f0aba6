"""Products with a constant matrix: on the right of the samples' last axis, or on the left of their last two."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Dense(Linear):
    """y = x W^T + shift: `weight` [out, in], `shift` [out] or None; x [n, ..., in] -> y [n, ..., out].

    The stored weights are the real ones: whoever bounds may start from rows of them, unrounded.
    """

    weight: Tensor
    shift: Tensor | None = None

    @property
    def terms(self) -> int:
        return self.weight.shape[1] + (self.shift is not None)

    @property
    def accumulation(self) -> int:
        return max(self.weight.shape) + 1

    @property
    def bias(self) -> Tensor | None:
        return self.shift

    def __call__(self, *x: Tensor) -> Tensor:
        y = x[0] @ self.weight.T
        return y if self.shift is None else y + self.shift

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a @ self.weight,)

    def magnitude(self, *r: Tensor) -> Tensor:
        return r[0] @ self.weight.abs().T

    def rows(self, index: Tensor) -> Tensor:
        """[*index, in] rows of the matrix."""
        return self.weight[index]


@dataclass(frozen=True, eq=False)
class LeftDense(Linear):
    """y = W x: `weight` [out, in]; x [n, ..., in, columns] -> y [n, ..., out, columns]."""

    weight: Tensor

    @property
    def terms(self) -> int:
        return self.weight.shape[1]

    @property
    def accumulation(self) -> int:
        return max(self.weight.shape)

    def __call__(self, *x: Tensor) -> Tensor:
        if x[0].ndim < 3:
            raise ValueError("LeftDense takes samples of two axes or more")
        return self.weight @ x[0]

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self.weight.T @ a,)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self.weight.abs() @ r[0]
