"""Batch normalisation with fixed statistics, behind the subtraction of the mean."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fathom.core.operator import Linear


@dataclass(frozen=True, eq=False)
class BatchScale(Linear):
    """y = x * weight / sqrt(variance + epsilon) + shift, channel by channel; x [n, channels, ...].

    The mean is taken away before, by a `Shift` of its own: folded into the shift it could cancel against it, and the relative
    rounding of the difference would have no bound. variance [channels]; weight and shift likewise, or None for 1 and 0.
    `trailing` is the number of axes behind the channels.
    """

    variance: Tensor
    weight: Tensor | None
    shift: Tensor | None
    epsilon: float
    trailing: int

    @property
    def accumulation(self) -> int:
        """Five for the factor (sum, root, quotient, and as much again), two for product and sum."""
        return 7

    @property
    def factor(self) -> Tensor:
        """[channels, 1 ...]; at most three units u off: half of the sum's rounding, the root's, the quotient's."""
        root = (self.variance + self.epsilon).sqrt()
        return self._spread(1 / root if self.weight is None else self.weight / root)

    @property
    def bias(self) -> Tensor | None:
        return None if self.shift is None else self._spread(self.shift)

    def __call__(self, *x: Tensor) -> Tensor:
        y, bias = x[0] * self.factor, self.bias
        return y if bias is None else y + bias

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a * self.factor,)

    def magnitude(self, *r: Tensor) -> Tensor:
        return r[0] * self.factor.abs()

    def _spread(self, channels: Tensor) -> Tensor:
        return channels.reshape(-1, *[1] * self.trailing)
