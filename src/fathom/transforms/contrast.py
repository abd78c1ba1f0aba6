"""Contrast: every pixel multiplied by the same factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from fathom.transforms.canvas import Canvas
from fathom.transforms.transformation import Change, Parameter, Span, require_span


@final
@dataclass(frozen=True)
class Contrast(Change):
    """Pixel values times a factor, cut off at the ends of their range. As kornia.enhance.adjust_contrast."""

    kind: ClassVar[str] = "contrast"
    phrase: ClassVar[str] = "contrast times {}"
    factor: Span

    def __post_init__(self) -> None:
        require_span("factor", self.factor, 0)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("factor", self.factor, 1.0),)

    def change(self, canvas: Canvas, values: Sequence[int], picture: int) -> int:
        return canvas.clipped(canvas.times(picture, values[0]))
