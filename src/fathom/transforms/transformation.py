"""What a transformation is: parameters with names, units and ranges, and the piece of a network that does it.

A transformation moves the places at which a picture is read (`Move`), or computes another picture from it (`Change`). Its fields
are the settings that a user writes: a range [low, high] for each parameter, or one number for both, and whatever else it needs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from numpy import float32

from fathom.core.errors import FathomError
from fathom.transforms.canvas import Canvas, Place

Span = tuple[float, float]
"""The least and the greatest value of a parameter."""


@dataclass(frozen=True)
class Parameter:
    """A number that the adversary chooses."""

    name: str  # "degrees", as its setting is called
    span: Span
    identity: float  # the value that changes nothing

    def still(self, value: float) -> bool:
        """Whether a value changes nothing: it is the identity, perhaps rounded to a program's float32."""
        return value in (self.identity, float32(self.identity).item())


@dataclass(frozen=True)
class Transformation(ABC):
    """One step from picture to picture. Subclasses are frozen dataclasses; `kind` is their name in settings.

    Raises:
        FathomError: a range that is none, or that the transformation has no meaning for.
    """

    kind: ClassVar[str]
    phrase: ClassVar[str]  # in words, with a place for each parameter: "rotated by {} degrees"

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """In the order in which their values come."""

    def words(self, values: Sequence[float]) -> str:
        """What these values do to a picture; "" where they change nothing."""
        if all(parameter.still(value) for value, parameter in zip(values, self.parameters, strict=True)):
            return ""
        return self.phrase.format(*(f"{value:.3g}" for value in values))

    def __str__(self) -> str:
        return self.phrase.format(*(_between(parameter.span) for parameter in self.parameters))


@dataclass(frozen=True)
class Move(Transformation):
    """One that reads the picture at other places. Moves that stand together are put together, and the picture is read once."""

    @abstractmethod
    def move(self, canvas: Canvas, values: Sequence[int], place: Place) -> Place:
        """Where in the picture before this step what is at `place` after it comes from."""


@dataclass(frozen=True)
class Change(Transformation):
    """One that computes new pixel values."""

    @abstractmethod
    def change(self, canvas: Canvas, values: Sequence[int], picture: int) -> int:
        """The picture [channels, height, width] after this step."""


def require_span(what: str, span: Span, least: float = -math.inf, most: float = math.inf) -> None:
    """Refuses a range that is empty, not finite, or not within [least, most].

    Raises:
        FathomError: with what was given.
    """
    if not (isinstance(span, tuple) and len(span) == 2):
        raise FathomError(f"expected {what} as a range (low, high), got {span!r}")
    low, high = span
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise FathomError(f"expected {what} as two finite numbers, the lesser first, got [{low:g}, {high:g}]")
    if low < least or high > most:
        within = f"in [{least:g}, {most:g}]" if most < math.inf else f"of at least {least:g}"
        raise FathomError(f"expected {what} {within}, got [{low:g}, {high:g}]")


def _between(span: Span) -> str:
    return f"{span[0]:g}" if span[0] == span[1] else f"{span[0]:g} to {span[1]:g}"
