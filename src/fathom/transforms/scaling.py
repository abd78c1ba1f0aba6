"""Scaling about the middle of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from fathom.ops.reciprocal import Reciprocal
from fathom.transforms.canvas import Canvas, Place, moved
from fathom.transforms.transformation import Move, Parameter, Span, require_span

LEAST = 0.01


@final
@dataclass(frozen=True)
class Scaling(Move):
    """By a factor: above 1 what is shown grows. As kornia.geometry.transform.scale."""

    kind: ClassVar[str] = "scale"
    phrase: ClassVar[str] = "scaled by a factor of {}"
    factor: Span

    def __post_init__(self) -> None:
        require_span("factor", self.factor, LEAST)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("factor", self.factor, 1.0),)

    def move(self, canvas: Canvas, values: Sequence[int], place: Place) -> Place:
        inverse = canvas.add(Reciprocal(), values[0])
        return moved(place, column=canvas.times(inverse, place.column), row=canvas.times(inverse, place.row))
