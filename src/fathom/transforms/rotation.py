"""Rotation about the middle of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fathom.ops.sine import Cosine, Sine
from fathom.transforms.canvas import Canvas, Place, moved
from fathom.transforms.transformation import Move, Parameter, Span, require_span


@final
@dataclass(frozen=True)
class Rotation(Move):
    """Counter-clockwise, as one sees the picture. As kornia.geometry.transform.rotate."""

    kind: ClassVar[str] = "rotation"
    phrase: ClassVar[str] = "rotated by {} degrees"
    degrees: Span

    def __post_init__(self) -> None:
        require_span("degrees", self.degrees, -360, 360)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("degrees", self.degrees, 0.0),)

    def move(self, canvas: Canvas, values: Sequence[int], place: Place) -> Place:
        """Rotated back: clockwise."""
        angle = canvas.times(values[0], torch.tensor([math.pi / 180]))
        cosine, sine = canvas.add(Cosine(), angle), canvas.add(Sine(), angle)
        column = canvas.minus(canvas.times(cosine, place.column), canvas.times(sine, place.row))
        row = canvas.plus(canvas.times(sine, place.column), canvas.times(cosine, place.row))
        return moved(place, column=column, row=row)
