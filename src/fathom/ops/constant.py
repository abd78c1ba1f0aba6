"""A value that does not depend on the input: what a model joins to, or returns beside, the values it computes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Constant(Linear):
    """y = value, whatever x, whose samples have shape `before`."""

    before: tuple[int, ...]
    value: Tensor

    @property
    def terms(self) -> int:
        return 0

    @property
    def accumulation(self) -> int:
        return 1

    @property
    def bias(self) -> Tensor | None:
        return self.value

    @property
    def increasing(self) -> bool:
        return True

    def __call__(self, *x: Tensor) -> Tensor:
        return self.value.expand(x[0].shape[0], *self.value.shape)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.new_zeros(*a.shape[:2], *self.before),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return r[0].new_zeros(r[0].shape[0], *self.value.shape)
