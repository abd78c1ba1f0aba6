"""A smooth warp: every pixel is displaced by a sum of a few low waves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.ops.pick import Pad
from fathom.transforms.canvas import Canvas, Place
from fathom.transforms.transformation import Move, Parameter, Span, require_span

MOST_MODES = 4


@final
@dataclass(frozen=True)
class Warp(Move):
    """The pixel at column x and row y, from 0, is read at (x, y) plus the sum over k, l = 1 .. modes of

        amplitude_kl sin(pi k (x + 1/2) / width) sin(pi l (y + 1/2) / height),

    with amplitudes of their own for columns and rows, in pixels: an elastic deformation that keeps the border, with as many
    numbers as a search can still branch on. Read by kornia.geometry.transform.remap, align_corners true.
    """

    kind: ClassVar[str] = "warp"
    phrase: ClassVar[str] = "warped with amplitudes of {} pixels"
    amplitude: Span
    modes: int = 1

    def __post_init__(self) -> None:
        require_span("amplitude", self.amplitude)
        if not 1 <= self.modes <= MOST_MODES:
            raise FathomError(f"expected 1 to {MOST_MODES} modes, got {self.modes}; there are 2 modes^2 parameters")

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        waves = [f"{axis}{k}{m}" for axis in "xy" for k in range(1, self.modes + 1) for m in range(1, self.modes + 1)]
        return tuple(Parameter(wave, self.amplitude, 0.0) for wave in waves)

    def words(self, values: Sequence[float]) -> str:
        if not any(values):
            return ""
        return self.phrase.format(", ".join(f"{value:.3g}" for value in values))

    def __str__(self) -> str:
        low, high = self.amplitude
        waves = len(self.parameters)
        return self.phrase.format(f"{low:g} to {high:g}") + f" in {waves} waves"

    def move(self, canvas: Canvas, values: Sequence[int], place: Place) -> Place:
        if not isinstance(place.column, Tensor) or not isinstance(place.row, Tensor):
            raise FathomError(
                "expected a warp as the last of the transformations that move pixels, got another behind it; write the warp last"
            )
        fields = torch.cat([place.fields, self.waves(canvas.shape)])
        more, half = len(fields) - len(place.fields), len(values) // 2
        ends = []
        for start, own in ((values[:half], place.column), (values[half:], place.row)):
            amplitudes = canvas.add(Pad(((len(place.fields), 0),)), canvas.join(start))
            ends.append(canvas.plus(amplitudes, torch.nn.functional.pad(own, (0, more))))
        return replace(place, fields=fields, column=ends[0], row=ends[1])

    def waves(self, shape: tuple[int, int, int]) -> Tensor:
        """[modes^2, height, width] the displacements of amplitude 1."""
        _, height, width = shape
        k = torch.pi * torch.arange(1, self.modes + 1, dtype=torch.float64)[:, None]
        across = (k * (torch.arange(width) + 0.5) / width).sin()
        along = (k * (torch.arange(height) + 0.5) / height).sin()
        return (along[None, :, :, None] * across[:, None, None, :]).flatten(0, 1).to(torch.float32)
