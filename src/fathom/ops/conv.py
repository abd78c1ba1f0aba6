"""Convolutions over the trailing one or two axes, and their transposed form; direct or matrix-product kernels are assumed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fathom.core.operator import Linear

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Conv(Linear):
    """y = weight * pad(x) + shift.

    weight [out, in / groups, *kernel], shift [out] or None; x [n, in, *size] -> y [n, out, *]. `padding` is a pair
    (before, after) for each spatial axis. `roundings` is how many went into making one stored weight or shift.
    """

    weight: Tensor
    shift: Tensor | None
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int = 1
    roundings: int = 0

    @property
    def terms(self) -> int | None:
        """None for weights that are not the program's own."""
        return None if self.roundings else self.weight[0].numel() + (self.shift is not None)

    @property
    def accumulation(self) -> int:
        return _accumulation(self.weight, self.groups) + self.roundings

    @property
    def bias(self) -> Tensor | None:
        return _bias(self.shift, len(self.size))

    def __call__(self, *x: Tensor) -> Tensor:
        return self._apply(x[0], self.weight, self.shift)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        kernel = self.weight.shape[2:]
        if a.dtype == torch.float32 and self._interleaves:
            rows = self._interleaved(a.flatten(0, 1))
            return (rows.reshape(*a.shape[:2], *rows.shape[1:]),)
        # What the strides left over at the end of each padded axis: zeros in the row.
        rest = [
            (size + sum(pad) - dilation * (k - 1) - 1) % stride
            for size, pad, dilation, k, stride in zip(self.size, self.padding, self.dilation, kernel, self.stride, strict=True)
        ]
        convolve = functional.conv_transpose2d if len(kernel) == 2 else functional.conv_transpose1d
        rows = convolve(
            a.flatten(0, 1), self.weight, stride=self.stride, output_padding=rest, groups=self.groups, dilation=self.dilation
        )
        rows = functional.pad(rows, _counts(self.padding, -1))
        return (rows.reshape(*a.shape[:2], *rows.shape[1:]),)

    @property
    def _interleaves(self) -> bool:
        """Whether the transposed convolution is so many plain ones, each of one phase of the strides."""
        strides, kernel = set(self.stride), self.weight.shape[2:]
        plain = len(kernel) == 2 and len(strides) == 1 and self.groups == 1 and set(self.dilation) == {1}
        return plain and self.stride[0] > 1 and all(k % self.stride[0] == 0 for k in kernel)

    def _interleaved(self, a: Tensor) -> Tensor:
        """The transposed convolution of rows a [n, out, *], twice as fast in float32 as the library's own: every phase of the
        strides sees its own part of the kernel, and the results are interleaved."""
        s, (count, into) = self.stride[0], self.weight.shape[:2]
        tall, wide = (k // s for k in self.weight.shape[2:])
        parts = self.weight.reshape(count, into, tall, s, wide, s).permute(1, 3, 5, 0, 2, 4).flip(4, 5)
        y = functional.conv2d(a, parts.reshape(into * s * s, count, tall, wide), padding=(tall - 1, wide - 1))
        y = functional.pixel_shuffle(y, s)
        (top, _), (left, _) = self.padding
        high, across = self.size
        # What the strides left over at the end of each padded axis: zeros in the row.
        return functional.pad(y, (-left, left + across - y.shape[3], -top, top + high - y.shape[2]))

    def magnitude(self, *r: Tensor) -> Tensor:
        return self._apply(r[0], self.weight.abs(), None)

    def _apply(self, x: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"Conv made for inputs of size {self.size}, got {tuple(x.shape[2:])}")
        convolve = functional.conv2d if len(self.size) == 2 else functional.conv1d
        padded = functional.pad(x, _counts(self.padding, 1))
        return convolve(padded, weight, shift, self.stride, dilation=self.dilation, groups=self.groups)


@dataclass(frozen=True, eq=False)
class ConvTranspose(Linear):
    """The transposed convolution: every element of x spreads `weight` over y, and `padding` is cut off its rim.

    weight [in, out / groups, *kernel], shift [out] or None; x [n, in, *size] -> y [n, out, *]. `output_padding` lengthens y
    at the end of each axis. `roundings` as for `Conv`.
    """

    weight: Tensor
    shift: Tensor | None
    stride: tuple[int, ...]
    padding: Pairs
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    roundings: int = 0

    @property
    def accumulation(self) -> int:
        return _accumulation(self.weight, self.groups) + self.roundings

    @property
    def bias(self) -> Tensor | None:
        return _bias(self.shift, len(self.stride))

    def __call__(self, *x: Tensor) -> Tensor:
        y = self._apply(x[0], self.weight)
        bias = self.bias
        return y if bias is None else y + bias

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        convolve = functional.conv2d if len(self.stride) == 2 else functional.conv1d
        rows = functional.pad(a.flatten(0, 1), _counts(self._rim(), -1))
        rows = convolve(rows, self.weight, None, self.stride, dilation=self.dilation, groups=self.groups)
        return (rows.reshape(*a.shape[:2], *rows.shape[1:]),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self._apply(r[0], self.weight.abs())

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        convolve = functional.conv_transpose2d if len(self.stride) == 2 else functional.conv_transpose1d
        y = convolve(x, weight, stride=self.stride, groups=self.groups, dilation=self.dilation)
        return functional.pad(y, _counts(self._rim(), 1))

    def _rim(self) -> Pairs:
        """How much to add to either end of each axis of the whole spread: mostly negative."""
        return tuple((-before, more - after) for (before, after), more in zip(self.padding, self.output_padding, strict=True))


def _accumulation(weight: Tensor, groups: int) -> int:
    """The larger of fan-in and fan-out, and the addition of the shift."""
    kernel = weight[0, 0].numel()
    return max(weight.shape[0] // groups, weight.shape[1]) * kernel + 1


def _bias(shift: Tensor | None, axes: int) -> Tensor | None:
    return None if shift is None else shift.reshape(-1, *[1] * axes)


def _counts(padding: Pairs, sign: int) -> list[int]:
    """`padding` as `functional.pad` wants it: last axis first."""
    return [sign * count for pair in reversed(padding) for count in pair]
