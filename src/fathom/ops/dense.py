"""Dense layers: y = x W^T + b over the last dimension, the rest of the shape carried along."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Dense(Linear):
    """`weight` [out, in], `shift` [out] or None; x [n, ..., in] -> y [n, ..., out]."""

    weight: Tensor
    shift: Tensor | None = None

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
