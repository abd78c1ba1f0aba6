"""Lines for S-shaped functions: sigmoid, tanh, erf; convex up to 0, concave from there on, turned into themselves about 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines
from fathom.core.rounding import down, up
from fathom.ops.convex import above, chord, negative
from fathom.ops.elementary import widen

Function = Callable[[Tensor], Tensor]

_HALVINGS, _STEPS = 10, 2


@dataclass(frozen=True)
class Curve:
    """An S-shaped f between `least` and 1: f(x) + f(-x) is constant, and f' is even, greatest at 0, and falls on either side."""

    f: Function
    slope: Function  # f'
    bend: Function  # f'', roughly
    f_ulps: float
    slope_ulps: float | Function
    least: float
    saturation: float  # where f is so flat that no tangent point need lie beyond

    def value(self, x: Tensor) -> Box:
        """An enclosure of f."""
        return widen(self.f(x), self.f_ulps).map(lambda y: y.clamp(self.least, 1.0))

    def rise(self, x: Tensor) -> Box:
        """An enclosure of f'."""
        return widen(self.slope(x), self.slope_ulps(x) if callable(self.slope_ulps) else self.slope_ulps)

    def interval(self, x: Box) -> Box:
        """f increases, so the images of the ends."""
        return Box(self.value(x.lower).lower, self.value(x.upper).upper)

    def relax(self, x: Box, choice: Tensor | None) -> Lines:
        """A line above by `_over`, and one below by the same, turned about 0."""
        high, over = _over(self, x, choice)
        low, under = _over(self, negative(x), choice)
        return Lines((low,), down(self.least + 1 - under), (high,), over)


def _over(curve: Curve, x: Box, choice: Tensor | None) -> tuple[Tensor, Tensor]:
    """Slope and offset of a line above f on the boxes.

    The chord where that is above f: on the convex side, and across 0 where f still rises as steeply as the chord at the upper
    end. Elsewhere a tangent on the concave side, `choice` of the way from the first point that will do to the upper end; by
    default midway where all of the box is concave, and the first point where it is not (Zhang et al., Efficient neural network
    robustness certification with general activation functions, NeurIPS 2018). Offsets are derived from the slopes as stored,
    over all points where f - slope x can be greatest, so no error in a tangent point does harm.
    """
    lower, upper = x.lower, x.upper
    lower_end, upper_end = curve.value(lower), curve.value(upper)
    final = curve.rise(upper).lower
    straight = chord(x, lower_end.middle, upper_end.middle)
    straight = torch.maximum(straight, torch.minimum(curve.rise(lower).lower, final))
    straight = torch.minimum(straight, curve.rise(torch.minimum(lower.relu(), upper)).upper)
    concave = lower >= 0
    chord_holds = (upper <= 0) | (~concave & (straight <= final))
    chord_offset = torch.maximum(above(lower_end, straight, lower), above(upper_end, straight, upper))

    first = torch.where(concave, lower, _first_tangent(curve, x))
    share = torch.where(concave, 0.5, 0.0).to(lower.dtype) if choice is None else choice
    at = torch.minimum(first + share * (upper - first), upper).clamp(min=0.0)
    derivative = curve.rise(at)
    slope = derivative.lower / 2 + derivative.upper / 2
    doubt = up(torch.maximum(derivative.upper - slope, slope - derivative.lower))
    reach = up(torch.maximum((upper - at).abs(), (at - lower.relu()).abs()))
    # Greatest on the concave side near the tangent point; on the convex side at an end: at 0, which is on both, or at lower.
    offset = torch.maximum(up(above(curve.value(at), slope, at) + up(doubt * reach)), above(lower_end, slope, lower))
    return torch.where(chord_holds, straight, slope), torch.where(chord_holds, chord_offset, offset)


def _first_tangent(curve: Curve, x: Box) -> Tensor:
    """For boxes across 0, about the least t >= 0 whose tangent is above f at the lower end: it passes through that end.

    Halving and Newton's method find it without a gradient; one step more carries the gradient of the implicit equation.
    """
    lower, upper = x.lower.clamp(max=0.0), x.upper.clamp(min=0.0)
    base = curve.f(lower)

    def excess(t: Tensor) -> Tensor:
        return curve.slope(t) * (t - lower) - (curve.f(t) - base)

    def step(t: Tensor) -> Tensor:
        """The change of t by Newton's method, for a unit of excess."""
        fall = curve.bend(t) * (t - lower)
        return torch.where(fall < -1e-9, -1 / fall.clamp(max=-1e-9), 0.0)

    with torch.no_grad():
        near, far = torch.zeros_like(upper), torch.minimum(upper, -lower).clamp(max=curve.saturation)
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            passes = excess(middle) > 0
            near, far = torch.where(passes, middle, near), torch.where(passes, far, middle)
        start = far
        for _ in range(_STEPS):
            start = torch.minimum(torch.maximum(start + step(start) * excess(start), near), far)
        gain = step(start)
    return torch.minimum((start + gain * excess(start)).clamp(min=0.0), upper)
