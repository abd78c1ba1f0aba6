"""Blur by a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import ClassVar, final

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.ops.exp import Exp
from fathom.ops.field import Field
from fathom.ops.layout import Reshape
from fathom.ops.pick import Gather
from fathom.ops.power import Square
from fathom.ops.reciprocal import Reciprocal
from fathom.ops.sparse import Sparse
from fathom.ops.sum import Sum
from fathom.transforms.canvas import Canvas, Shape
from fathom.transforms.transformation import Change, Parameter, Span, require_span

LEAST = 0.1  # pixels: the nearest neighbour then weighs e^-50, which changes no float32
MOST_SIZE = 15


@final
@dataclass(frozen=True)
class Blur(Change):
    """A Gaussian of standard deviation sigma, in pixels, over a window of `size` by `size` pixels; beyond the border the picture
    is reflected. As kornia.filters.gaussian_blur2d. A sigma of 0.1 changes nothing.

    The weight at distances (a, b) is w_a w_b, for w_a = e_a / sum of e, e_a = exp(-a^2 / (2 sigma^2)). The sum of the pixels
    that have one weight is linear in the picture; so its product with the weight is all that bends, beside the weights.
    """

    kind: ClassVar[str] = "blur"
    phrase: ClassVar[str] = "blurred with a sigma of {} pixels"
    sigma: Span
    size: int = 5

    def __post_init__(self) -> None:
        require_span("sigma", self.sigma, LEAST, 1e3)
        if self.size % 2 == 0 or not 3 <= self.size <= MOST_SIZE:
            raise FathomError(f"expected size, the side of the window, as an odd number from 3 to {MOST_SIZE}, got {self.size}")

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("sigma", self.sigma, LEAST),)

    def change(self, canvas: Canvas, values: Sequence[int], picture: int) -> int:
        reach, shape = self.size // 2, canvas.shape
        if min(shape[1:]) <= reach:
            raise FathomError(f"expected pictures of more than {reach} pixels a side for a blur of size {self.size}")
        weights = self._weights(canvas, values[0])
        single = [canvas.add(Gather(0, torch.tensor([a]), reach + 1), weights) for a in range(reach + 1)]
        flat = canvas.add(Reshape(shape, (math.prod(shape),)), picture)
        parts = []
        for a, b in combinations_with_replacement(range(reach + 1), 2):
            around = canvas.add(_neighbours(shape, a, b), flat)
            parts.append(canvas.times(around, canvas.times(single[a], single[b])))
        total = canvas.add(Sum((1,) * len(parts)), *parts)
        return canvas.add(Reshape((math.prod(shape),), shape), total)

    def _weights(self, canvas: Canvas, sigma: int) -> int:
        """[reach + 1] the weights at distances 0 .. reach along one axis."""
        distance = torch.arange(self.size // 2 + 1)
        inverse = canvas.add(Reciprocal(), canvas.add(Square(), sigma))
        e = canvas.add(Exp(), canvas.times(inverse, -(distance**2) / 2))
        total = canvas.add(Field(torch.where(distance > 0, 2.0, 1.0)[:, None]), e)
        return canvas.times(e, canvas.add(Reciprocal(), total))


def _neighbours(shape: Shape, a: int, b: int) -> Sparse:
    """For every pixel the sum of those a rows and b columns away, or b rows and a columns; of the picture reflected at its
    border."""
    _, height, width = shape
    places = torch.arange(math.prod(shape)).reshape(shape)
    offsets = {(s * i, t * j) for i, j in ((a, b), (b, a)) for s, t in product((1, -1), repeat=2)}
    columns = []
    for down, right in sorted(offsets):
        rows = _mirrored(torch.arange(height) + down, height)
        columns.append(places[:, rows][:, :, _mirrored(torch.arange(width) + right, width)].flatten())
    index = torch.stack(columns, 1)
    back_index, back_value = _transposed(index, len(places.flatten()))
    return Sparse(index, torch.ones(index.shape), back_index, back_value)


def _mirrored(places: Tensor, count: int) -> Tensor:
    """Places -count + 1 .. 2 count - 2 of a line reflected at the middles of its first and last pixel."""
    places = places.abs()
    return torch.where(places >= count, 2 * (count - 1) - places, places)


def _transposed(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The columns of the matrix whose row i has ones at index[i], those that meet added up: places and values [size, p]."""
    target, order = index.flatten().sort(stable=True)
    source = order // index.shape[1]
    counts = torch.bincount(target, minlength=size)
    rank = torch.arange(len(target)) - (counts.cumsum(0) - counts)[target]
    back_index = torch.zeros(size, int(counts.max()), dtype=torch.int64)
    back_value = torch.zeros(back_index.shape)
    back_index[target, rank], back_value[target, rank] = source, 1.0
    return back_index, back_value
