"""Sine and cosine, which rotations are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.core.rounding import up
from fathom.ops.convex import above, between, chord, negative
from fathom.ops.elementary import ULPS, require, widen

TURN = 2 * math.pi
MOST = 1e6  # radians: beyond, the places of the crests are known too badly to be of use


@dataclass(frozen=True, eq=False)
class Sine(Nonlinear):
    """sin x, for x in radians."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].sin()

    def interval(self, *x: Box) -> Box:
        """sin x = -sin(-x)."""
        _near(x[0])
        return Box(-_SINE.highest(negative(x[0])), _SINE.highest(x[0]))

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """A line above, and one below by the same, turned about 0; see `_Wave.over`."""
        _near(x[0])
        high, over = _SINE.over(x[0], choice)
        low, under = _SINE.over(negative(x[0]), choice)
        return Lines((low,), -under, (high,), over)


@dataclass(frozen=True, eq=False)
class Cosine(Nonlinear):
    """cos x, for x in radians."""

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0].cos()

    def interval(self, *x: Box) -> Box:
        _near(x[0])
        return Box(-_TROUGHS.highest(x[0]), _COSINE.highest(x[0]))

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """A line above, and one below by that above -cos x; see `_Wave.over`."""
        _near(x[0])
        high, over = _COSINE.over(x[0], choice)
        low, under = _TROUGHS.over(x[0], choice)
        return Lines((-low,), -under, (high,), over)


@dataclass(frozen=True)
class _Wave:
    """f(x) = cos(x - crest), in functions that torch has."""

    f: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    crest: float

    def value(self, x: Tensor) -> Box:
        return widen(self.f(x), ULPS["sin"]).map(lambda y: y.clamp(-1.0, 1.0))

    def highest(self, x: Box) -> Tensor:
        """No less than the greatest value on the boxes: 1 where they may hold a crest, else that at an end."""
        first, last = _turns(x, torch.full_like(x.lower, self.crest))
        return torch.where(first <= last, 1.0, torch.maximum(self.value(x.lower).upper, self.value(x.upper).upper))

    def over(self, x: Box, choice: Tensor | None) -> tuple[Tensor, Tensor]:
        """Slope and offset of a line above f on the boxes.

        By default the slope of the chord: a tangent parallel to it where f is concave, the chord itself where f is convex. Where
        all of the box is concave, `choice` has the line touch so far of the way from the lower end to the upper.

        The offset is the greatest f(x) - s x, for the slope s as stored. Where f <= 0 that is convex: greatest at an end of the
        box, or where f is 0. Each stretch of f >= 0 is concave: greatest at an end of the box, or where the slope is s, if that
        is inside: at t = crest - asin s plus whole turns. Of several such t an outermost one is worst, since their values differ
        by s times whole turns. Of the t computed, the tangent is above its whole stretch, by concavity: f(x) - s x <= f(t) - s t
        + |f'(t) - s| |x - t|, where |x - t| < 4. Rounding may have moved t out of the stretch by `_doubt`, where the second
        derivative is at most that doubt: 8 times the doubt, more than doubt (x - t)^2 / 2, is added for it.
        """
        lower, upper = x.lower, x.upper
        slope = chord(x, self.f(lower), self.f(upper)).clamp(-1.0, 1.0)
        if choice is not None:
            concave = (torch.minimum(self.f(lower), self.f(upper)) >= 0) & (upper - lower < math.pi)
            slope = torch.where(concave, self.slope(between(x, choice)), slope)
        with torch.no_grad():  # f - s x is flat at t: to first order a change of t changes nothing
            place = self.crest - slope.asin()
            turns = _turns(x, place)
        offset = torch.maximum(above(self.value(lower), slope, lower), above(self.value(upper), slope, upper))
        for turn in turns:
            with torch.no_grad():
                at = place + TURN * turn
                derivative = widen(self.slope(at), ULPS["sin"])
                steep = torch.maximum(derivative.upper - slope, slope - derivative.lower)
                slack = up(up(4 * up(steep)) + 8 * _doubt(x))
            top = up(above(self.value(at), slope, at) + slack)
            offset = torch.where(turns[0] <= turns[1], torch.maximum(offset, top), offset)
        return slope, offset


_SINE = _Wave(torch.sin, torch.cos, math.pi / 2)
_COSINE = _Wave(torch.cos, lambda x: -x.sin(), 0.0)
_TROUGHS = _Wave(lambda x: -x.cos(), torch.sin, math.pi)


def _turns(x: Box, place: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last whole number k with place + 2 pi k in the boxes, or so near that rounding hides it."""
    doubt = _doubt(x)
    return ((x.lower - doubt - place) / TURN).ceil(), ((x.upper + doubt - place) / TURN).floor()


def _doubt(x: Box) -> Tensor:
    """More than all that is lost in computing a place, a number of turns, and the place after so many turns."""
    return (64 * torch.finfo(x.lower.dtype).eps * (x.magnitude + 8)).detach()


def _near(x: Box) -> None:
    require(x.magnitude <= MOST, x, f"angles of at most {MOST:.0e} radians")
