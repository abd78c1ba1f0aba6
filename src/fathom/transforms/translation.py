"""Translation by whole pixels and parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fathom.transforms.canvas import Canvas, Place, moved
from fathom.transforms.transformation import Move, Parameter, Span, require_span


@final
@dataclass(frozen=True)
class Translation(Move):
    """To the right by x and down by y, in pixels. As kornia.geometry.transform.translate."""

    kind: ClassVar[str] = "translation"
    phrase: ClassVar[str] = "translated by ({}, {}) pixels"
    x: Span
    y: Span

    def __post_init__(self) -> None:
        require_span("x", self.x)
        require_span("y", self.y)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return Parameter("x", self.x, 0.0), Parameter("y", self.y, 0.0)

    def move(self, canvas: Canvas, values: Sequence[int], place: Place) -> Place:
        """What is here now was further to the left, and further up."""
        one = torch.zeros(len(place.fields))
        one[2] = -1.0
        x, y = (canvas.times(value, one) for value in values)
        return moved(place, column=canvas.plus(x, place.column), row=canvas.plus(y, place.row))
