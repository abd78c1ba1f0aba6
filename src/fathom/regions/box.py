"""Boxes: every input between two numbers of its own. The input sets of VNN-LIB, and the sub-regions of branch and bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.region import Projectable, Region
from fathom.core.rounding import dot_down


@final
@dataclass(frozen=True, eq=False)
class BoxRegion(Projectable):
    """lower <= x <= upper, elementwise. A set whose ends cross in some input is empty: it contains nothing.

    Raises:
        FathomError: the ends are not finite float64 tensors of one shape [n, d].
    """

    lower: Tensor  # [n, d] float64
    upper: Tensor  # [n, d] float64

    def __post_init__(self) -> None:
        check_matrices(lower=self.lower, upper=self.upper)

    def __str__(self) -> str:
        widths = self.upper - self.lower
        span = f", widths {widths.min().item():.4g} to {widths.max().item():.4g}" if widths.numel() else ""
        return f"a box of {self.size} inputs{span}"

    def rounded(self, dtype: torch.dtype) -> BoxRegion:
        return BoxRegion(self.lower.to(dtype).to(torch.float64), self.upper.to(dtype).to(torch.float64))

    def hull(self, other: Region) -> BoxRegion:
        joint = self.box().hull(other.box())
        return BoxRegion(joint.lower, joint.upper)

    def box(self) -> Box:
        return Box(self.lower, self.upper)

    def contains(self, x: Tensor) -> Tensor:
        return self.box().contains(x.to(torch.float64))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return sample_box(self.box(), count, generator)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The vertex against the signs of a; its value with the rounding of the dot product subtracted."""
        a = a.to(torch.float64)
        vertex = torch.where(a > 0, self.lower[:, None], self.upper[:, None])
        return dot_down(a, vertex), vertex

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> BoxRegion:
        part = self.box().take(owner).intersect(Box(lower, upper))
        return BoxRegion(part.lower, part.upper)

    def project(self, x: Tensor) -> Tensor:
        """Clamped to the ends rounded inward in the dtype of x, so that `contains` holds wherever the set has such a point."""
        return clamp(x, inward(self.box(), x.dtype))


def check_matrices(**parts: Tensor) -> None:
    """Refuses tensors that are not finite float64 matrices of one shape [n, d].

    Raises:
        FathomError: with the name of the part that is not.
    """
    shape = next(iter(parts.values())).shape
    for name, part in parts.items():
        if part.ndim != 2 or part.shape != shape or part.dtype != torch.float64:
            raise FathomError(
                f"expected `{name}` as a float64 tensor [n, d] of the shape of the other parts, {list(shape)}, got "
                f"{part.dtype} {list(part.shape)}; flatten each sample and call .to(torch.float64)"
            )
        if not bool(torch.isfinite(part).all()):
            raise FathomError(
                f"expected finite numbers in `{name}`, got {part[~torch.isfinite(part)][0].item()}; bound every input"
            )


def clamp(x: Tensor, box: Box) -> Tensor:
    """The points of boxes [n, d] nearest to x [n, ..., d], in the dtype of x."""
    lower, upper = (per_set(end.to(x.dtype), x) for end in (box.lower, box.upper))
    return torch.maximum(torch.minimum(x, upper), lower)


def inward(box: Box, dtype: torch.dtype) -> Box:
    """The largest boxes with ends in `dtype` that float64 boxes hold; crossed where they hold no such number."""
    if dtype == torch.float64:
        return box
    lower, upper = box.lower.to(dtype), box.upper.to(dtype)
    infinity = torch.full_like(lower, torch.inf)
    lower = torch.where(lower.to(torch.float64) < box.lower, torch.nextafter(lower, infinity), lower)
    return Box(lower, torch.where(upper.to(torch.float64) > box.upper, torch.nextafter(upper, -infinity), upper))


def per_set(value: Tensor, x: Tensor) -> Tensor:
    """One row a set, [n, d], shaped so that it broadcasts with x [n, ..., d]."""
    return value.reshape(value.shape[0], *[1] * (x.ndim - 2), value.shape[1])


def in_rows(x: Tensor) -> Tensor:
    """Points [n, ..., d] as float64 [n, k, d], also where n is 0."""
    return x.detach().to(torch.float64).reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def sample_box(box: Box, count: int, generator: torch.Generator) -> Tensor:
    """Points [n, count, d] of boxes [n, d]: uniform in a box of one to three times the size, pressed back into the box.

    So some are uniform inside, and some have many inputs at their ends, where worst cases like to be.
    """
    shape = (len(box), count)
    size = 1 + 2 * torch.rand(*shape, 1, generator=generator, dtype=torch.float64)
    place = torch.rand(*shape, box.lower.shape[1], generator=generator, dtype=torch.float64)
    place = (0.5 + (place - 0.5) * size).clamp(0, 1)
    return clamp(box.lower[:, None] + place * box.width[:, None], box)
