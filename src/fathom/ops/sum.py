"""Sums and differences of values of one shape: residual connections, a - b."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Sum(Linear):
    """y = sum_i signs_i x_i, signs 1 or -1."""

    signs: tuple[int, ...]

    @property
    def terms(self) -> int:
        return len(self.signs) - 1

    @property
    def accumulation(self) -> int:
        return len(self.signs)

    @property
    def increasing(self) -> bool:
        return min(self.signs) > 0

    def __call__(self, *x: Tensor) -> Tensor:
        if len(x) != len(self.signs) or any(value.shape != x[0].shape for value in x):
            raise ValueError(f"Sum takes {len(self.signs)} values of one shape, got {[tuple(v.shape[1:]) for v in x]}")
        total = x[0] if self.signs[0] > 0 else -x[0]
        for sign, value in zip(self.signs[1:], x[1:], strict=True):
            total = total + value if sign > 0 else total - value
        return total

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return tuple(a if sign > 0 else -a for sign in self.signs)

    def magnitude(self, *r: Tensor) -> Tensor:
        total = r[0]
        for value in r[1:]:
            total = total + value
        return total
