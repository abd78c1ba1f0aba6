"""Operators: what the nodes of a network compute, and what is known about it.

An operator is a frozen dataclass; its tensors may be live `nn.Parameter`s, so that bounds can be trained through. It is
either `Linear` (affine and exact under back-propagation) or `Nonlinear` (elementwise, and so relaxed elementwise).
Everything else (max-pooling, softmax, clipping) is rewritten into these at capture. One operator or tight family, one file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from fathom.core.box import Box


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """A function of k tensors [n, *in_i], row by row of the batch, to one tensor [n, *out]."""

    @abstractmethod
    def __call__(self, *x: Tensor) -> Tensor:
        """The value [n, *out]; differentiable; in the dtype of x (weights are cast beforehand: `Network.to`)."""

    @property
    def terms(self) -> int | None:
        """At most how many roundings go into one element as a float32 program computes it from the same weights, each relative to
        the magnitudes that it is a sum of; 0 where it is exact, None where nothing is known. See `core.single`."""
        return None


@dataclass(frozen=True, eq=False)
class Linear(Operator):
    """y = sum_i W_i x_i + bias."""

    @property
    @abstractmethod
    def accumulation(self) -> int:
        """At most how many roundings go into one element of y, or of a transposed row; 0 where W only moves and copies.

        That is the larger of fan-in and fan-out, plus what made the stored weights (a folded factor, say). 0 promises that
        every element of y is a single element of some x, or 0, that none of x is copied twice, and that there is no bias.
        """

    @property
    def copies(self) -> bool:
        """True only if every element of y is a single element of some x, or 0, and there is no bias: a box of x is one of y."""
        return self.accumulation == 0

    @abstractmethod
    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        """Rows over y to rows over each x: [n, rows, *out] -> [n, rows, *in_i], that is a W_i. The bias is no part of it."""

    @abstractmethod
    def magnitude(self, *r: Tensor) -> Tensor:
        """sum_i |W_i| r_i for r_i >= 0, [n, *in_i] -> [n, *out]: how large y - bias can be for |x_i| <= r_i."""

    @property
    def increasing(self) -> bool:
        """True only if no entry of any W_i is negative: then boxes go through end by end, however different in size."""
        return False

    @property
    def spreads(self) -> bool:
        """True for one with many more outputs than inputs, of which it is the inputs' boxes that are worth tightening."""
        return False

    @property
    def bias(self) -> Tensor | None:
        """What y is at x = 0, broadcastable to [*out]; None for zero."""
        return None


@dataclass(frozen=True, eq=False)
class Lines:
    """Two lines that enclose y = f(x_1 .. x_k) on a box, elementwise:

    sum_i lower_slope_i x_i + lower_offset <= y <= sum_i upper_slope_i x_i + upper_offset.

    The inequalities hold for the real function and the numbers exactly as stored: whoever makes lines moves the offsets
    outward by the rounding of their own computation.
    """

    lower_slope: tuple[Tensor, ...]
    lower_offset: Tensor
    upper_slope: tuple[Tensor, ...]
    upper_offset: Tensor


@dataclass(frozen=True, eq=False)
class Nonlinear(Operator):
    """y = f(x_1 .. x_k) elementwise, inputs and output of one shape."""

    @property
    def kink(self) -> float | None:
        """Where a unary f that is linear on either side bends; None for an f that bends everywhere."""
        return None

    @property
    def level(self) -> tuple[int, ...]:
        """The inputs in which its lines have no slope: where these vary, lines close in on f no faster than boxes shrink."""
        return ()

    @abstractmethod
    def interval(self, *x: Box) -> Box:
        """A box that holds f on the given boxes, rounded outward."""

    @abstractmethod
    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """Lines on the given boxes.

        Shapes broadcast: boxes may come as [n, 1, *shape] with a choice of [n, rows, *shape]. Every choice in [0, 1] is
        sound, and the lines are differentiable in it; None asks for the best default.
        """
