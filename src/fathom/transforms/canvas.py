"""What transformations draw their networks on: pictures, numbers that the adversary chooses, and the places of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.capture import rewrite
from fathom.capture.graph import Graph
from fathom.capture.rewrite import Operand
from fathom.core.operator import Operator
from fathom.ops.field import Field
from fathom.ops.pick import Concat, Gather
from fathom.ops.resample import Resample

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True, eq=False)
class Place:
    """For every pixel, the column and the row at which the picture before is read, from the middle of the picture.

    Both are sums of given fields with few coefficients, [B] each, which may depend on parameters. At first every pixel is read
    where it is.
    """

    fields: Tensor  # [B, height, width]: column, row, 1, and those of a warp
    column: Operand  # [B]
    row: Operand  # [B]


class Canvas:
    """A network being drawn, from a picture and q parameters to a picture."""

    def __init__(self, shape: Shape, parameters: int, ends: tuple[Tensor, Tensor] | None, *, noise: bool) -> None:
        """`ends`: what pixel values are cut off at, [channels, height, width]; `noise`: a third input is added at the end."""
        inputs = [("picture", shape), ("parameters", (parameters,)), *([("noise", shape)] if noise else [])]
        self.graph = Graph(inputs)
        self.shape, self.ends, self.noise = shape, ends, noise
        self.count = parameters
        self._names = 0

    @property
    def picture(self) -> int:
        return self.graph.input("picture")

    def _name(self) -> str:
        self._names += 1
        return f"transform/{self._names}"

    def parameter(self, index: int) -> int:
        """The parameter at `index`, [1]."""
        return self.add(Gather(0, torch.tensor([index]), self.count), self.graph.input("parameters"))

    def join(self, values: Sequence[int]) -> int:
        """Vectors end to end."""
        return self.add(Concat(0, tuple(self.graph.shape(value)[0] for value in values)), *values)

    def add(self, operator: Operator, *inputs: int) -> int:
        return self.graph.add(self._name(), operator, *inputs)

    def times(self, a: Operand, b: Operand) -> int:
        return rewrite.multiply(self.graph, self._name(), a, b)

    def plus(self, a: Operand, b: Operand) -> int:
        return rewrite.add(self.graph, self._name(), a, b)

    def minus(self, a: Operand, b: Operand) -> int:
        return rewrite.subtract(self.graph, self._name(), a, b)

    def clipped(self, picture: int) -> int:
        """Pixel values cut off at the ends of their range, where there is one."""
        if self.ends is None:
            return picture
        return rewrite.clip(self.graph, self._name(), picture, *self.ends)

    def still(self) -> Place:
        """Every pixel read where it is."""
        _, height, width = self.shape
        column = (torch.arange(width) - (width - 1) / 2).expand(height, width)
        row = (torch.arange(height) - (height - 1) / 2)[:, None].expand(height, width)
        fields = torch.stack([column, row, torch.ones(height, width)])
        return Place(fields, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))

    def read(self, picture: int, place: Place) -> int:
        """The picture read at other places: bilinear between pixels, 0 outside."""
        _, height, width = self.shape
        field = Field(place.fields[:, None].expand(-1, *self.shape).contiguous())
        middle = torch.zeros(2, len(place.fields))
        middle[:, 2] = torch.tensor([(width - 1) / 2, (height - 1) / 2])
        where = [self.plus(self._value(part), middle[k]) for k, part in enumerate((place.column, place.row))]
        return self.add(Resample(), *(self.add(field, part) for part in where), picture)

    def _value(self, part: Operand) -> int:
        return rewrite.constant(self.graph, self._name(), part) if isinstance(part, Tensor) else part


def moved(place: Place, *, column: Operand, row: Operand) -> Place:
    """The same fields with other coefficients."""
    return replace(place, column=column, row=row)
