"""Brightness: the same amount added to every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from fathom.transforms.canvas import Canvas
from fathom.transforms.transformation import Change, Parameter, Span, require_span


@final
@dataclass(frozen=True)
class Brightness(Change):
    """Pixel values plus a number, cut off at the ends of their range. As kornia.enhance.adjust_brightness."""

    kind: ClassVar[str] = "brightness"
    phrase: ClassVar[str] = "brightness changed by {}"
    added: Span

    def __post_init__(self) -> None:
        require_span("added", self.added)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("added", self.added, 0.0),)

    def change(self, canvas: Canvas, values: Sequence[int], picture: int) -> int:
        return canvas.clipped(canvas.plus(picture, values[0]))
