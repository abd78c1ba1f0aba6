"""Lines for functions that bend one way only: the chord on one side, a tangent on the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines
from fathom.core.rounding import down, gamma, tiny, up


def chord(x: Box, start: Tensor, end: Tensor) -> Tensor:
    """About the slope of the line from (lower, start) to (upper, end); on hair-thin boxes 0, with finite gradients."""
    return (end - start) / (x.upper - x.lower).clamp(min=tiny(x.lower.dtype))


def above(f: Box, slope: Tensor, x: Tensor) -> Tensor:
    """No less than f - slope x, the offset of the line with that slope through (x, f); f given as an enclosure."""
    return _lift(f.upper, slope * x)


def _lift(value: Tensor, product: Tensor) -> Tensor:
    return up(value - product + gamma(2, value.dtype) * (value.abs() + product.abs()) + tiny(value.dtype))


def below(f: Box, slope: Tensor, x: Tensor) -> Tensor:
    """No more than f - slope x; see `above`."""
    return -_lift(-f.lower, -slope * x)


def tangent(f: Box, derivative: Box, at: Tensor, x: Box) -> tuple[Tensor, Tensor]:
    """Slope and offset of a line below a convex f on the boxes x, touching (nearly) at `at`.

    Args:
        f, derivative: enclosures of f and f' at `at`, which may lie outside the boxes if f is convex there too.

    With s the stored slope, f(x) - s x >= f(t) - s t - |f'(t) - s| |x - t| for every x, by convexity.
    """
    slope = derivative.lower / 2 + derivative.upper / 2
    doubt = up(torch.maximum(derivative.upper - slope, slope - derivative.lower))
    reach = up(torch.maximum((x.upper - at).abs(), (at - x.lower).abs()))
    return slope, down(below(f, slope, at) - up(doubt * reach))


def convex(
    f: Callable[[Tensor], Box], derivative: Callable[[Tensor], Box], x: Box, at: Tensor, slopes: tuple[Tensor, Tensor]
) -> Lines:
    """Lines of a convex f on the boxes x: the tangent at `at` below, the chord above.

    `slopes` hold the chord's slope; whatever it was rounded to, a line above both ends is above f.
    """
    low, offset = tangent(f(at), derivative(at), at, x)
    ends = f(x.lower), f(x.upper)
    high = torch.minimum(torch.maximum(chord(x, ends[0].middle, ends[1].middle), slopes[0]), slopes[1])
    over = torch.maximum(above(ends[0], high, x.lower), above(ends[1], high, x.upper))
    return Lines((low,), offset, (high,), over)


def concave(
    f: Callable[[Tensor], Box], derivative: Callable[[Tensor], Box], x: Box, at: Tensor, slopes: tuple[Tensor, Tensor]
) -> Lines:
    """Lines of a concave f: those of -f, turned over. `slopes` [least, greatest] are of f."""
    lines = convex(lambda t: negative(f(t)), lambda t: negative(derivative(t)), x, at, (-slopes[1], -slopes[0]))
    return Lines(
        tuple(-s for s in lines.upper_slope), -lines.upper_offset, tuple(-s for s in lines.lower_slope), -lines.lower_offset
    )


def negative(box: Box) -> Box:
    return Box(-box.upper, -box.lower)


def between(x: Box, share: Tensor | float) -> Tensor:
    """The point `share` of the way from the lower to the upper end, inside the box."""
    return torch.minimum(torch.maximum(x.lower + share * (x.upper - x.lower), x.lower), x.upper)
