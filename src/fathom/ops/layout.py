"""Layout: elements renamed, in the same order (Reshape) or with axes exchanged (Transpose). Nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Reshape(Linear):
    """Samples of shape `before` read as `after`; also Flatten, Squeeze, Unsqueeze, Identity."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def terms(self) -> int:
        return 0

    @property
    def accumulation(self) -> int:
        return 0

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].reshape(x[0].shape[0], *self.after)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.reshape(*a.shape[:2], *self.before),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)


@dataclass(frozen=True, eq=False)
class Transpose(Linear):
    """Axis k of a sample of y is axis `order[k]` of x."""

    order: tuple[int, ...]

    @property
    def terms(self) -> int:
        return 0

    @property
    def accumulation(self) -> int:
        return 0

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].permute(0, *(axis + 1 for axis in self.order))

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return (a.permute(0, 1, *(axis + 2 for axis in back)),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)
