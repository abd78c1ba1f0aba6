"""Elementwise arithmetic with constants: multiply, divide, add. Constants broadcast to the sample's shape, never beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class Scale(Linear):
    """y = x * factor + shift; `roundings` is how many went into making the stored factor."""

    factor: Tensor
    shift: Tensor | None = None
    roundings: int = 0

    @property
    def terms(self) -> int | None:
        """None for a factor that is not the program's own."""
        return None if self.roundings else 1 + (self.shift is not None)

    @property
    def accumulation(self) -> int:
        return 2 + self.roundings

    @property
    def bias(self) -> Tensor | None:
        return self.shift

    def __call__(self, *x: Tensor) -> Tensor:
        y = x[0] * self.factor
        return y if self.shift is None else y + self.shift

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a * self.factor,)

    def magnitude(self, *r: Tensor) -> Tensor:
        return r[0] * self.factor.abs()


@dataclass(frozen=True, eq=False)
class Divide(Linear):
    """y = x / divisor; no zeros in it."""

    divisor: Tensor

    @property
    def terms(self) -> int | None:
        """Two, since it may multiply by the reciprocal; None where that may be subnormal or overflow."""
        size = self.divisor.abs()
        return 2 if bool(((size >= 2.0**-125) & (size <= 2.0**125)).all()) else None

    @property
    def accumulation(self) -> int:
        return 1

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0] / self.divisor

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a / self.divisor,)

    def magnitude(self, *r: Tensor) -> Tensor:
        return r[0] / self.divisor.abs()


@dataclass(frozen=True, eq=False)
class Shift(Linear):
    """y = x + sign * offset."""

    offset: Tensor
    sign: int = 1

    @property
    def terms(self) -> int:
        return 1

    @property
    def accumulation(self) -> int:
        return 1

    @property
    def bias(self) -> Tensor | None:
        return self.sign * self.offset

    @property
    def increasing(self) -> bool:
        return True

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0] + self.sign * self.offset

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a,)

    def magnitude(self, *r: Tensor) -> Tensor:
        return r[0]
