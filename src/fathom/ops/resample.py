"""Pictures read between their pixels: what rotations, translations and warps end in."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines, Nonlinear
from fathom.core.rounding import down, gamma, tiny, up
from fathom.ops.convex import chord

ROUNDINGS = 24  # in one value less a plane, beside its neighbours' magnitudes: fewer than half of that


@dataclass(frozen=True, eq=False)
class Resample(Nonlinear):
    """y[c, i, j] = the picture x_3[c] at column x_1[c, i, j] and row x_2[c, i, j], by bilinear interpolation, 0 outside.

    All three inputs and y are [n, channels, height, width]; whole numbers are the middles of pixels (`align_corners` of torch's
    grid_sample), and the picture falls to 0 within one pixel of its border. As a function of column and row it is

        sum over pixels (k, l) of x_3[c, k, l] max(0, 1 - |column - l|) max(0, 1 - |row - k|),

    which is bilinear between whole numbers. So on a box it less any plane is extreme at a corner of one of the cells that the
    whole numbers cut the box into: interval and planes are read off there, and are as tight as parallel planes of that slope can
    be. The picture is read elsewhere than at [c, i, j], so planes have no slope in it: what it may vary by goes into the offsets.
    """

    @property
    def level(self) -> tuple[int, ...]:
        return (2,)

    def __call__(self, *x: Tensor) -> Tensor:
        return _read(x[2], x[0], x[1])

    def interval(self, *x: Box) -> Box:
        column, row, picture = x[0], x[1], _once(x[2])
        zero = torch.zeros_like(column.lower)
        return _extremes(column, row, picture, (zero, zero))

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        """Parallel planes with the slopes of chords across the box: along column at `choice` of the way between the least and
        the greatest row, and the same the other way; midway by default. Inside one cell these are McCormick's."""
        column, row, picture = x[0], x[1], _once(x[2])
        slopes = _slopes(column, row, picture.middle, 0.5 if choice is None else choice)
        rest = _extremes(column, row, picture, slopes)
        slope = (*slopes, torch.zeros_like(slopes[0]))
        return Lines(slope, rest.lower, slope, rest.upper)


def _once(picture: Box) -> Box:
    """A box of one point as such: its ends are one tensor, and are read once."""
    return Box(picture.lower, picture.lower) if torch.equal(picture.lower, picture.upper) else picture


def _extremes(column: Box, row: Box, picture: Box, slopes: tuple[Tensor, Tensor]) -> Box:
    """What the value less the plane of these slopes may be, from all corners of all cells."""
    low, high = None, None
    for u, v in product(_ticks(column, picture.lower.shape[-1]), _ticks(row, picture.lower.shape[-2])):
        value, size = _values(picture, u, v)
        terms = slopes[0] * u, slopes[1] * v
        lost = _lost(size + terms[0].abs() + terms[1].abs())
        under, over = value.lower - terms[0] - terms[1] - lost, value.upper - terms[0] - terms[1] + lost
        low = under if low is None else torch.minimum(low, under)
        high = over if high is None else torch.maximum(high, over)
    assert low is not None and high is not None
    return Box(down(low), up(high))


def _read(picture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The picture [..., h, w] at columns u and rows v [..., h, w]."""
    total = None
    for corner, share in _corners(picture, u, v):
        total = share * corner if total is None else total + share * corner
    assert total is not None
    return total


def _corners(picture: Tensor, u: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The four pixels round each place, 0 outside the picture, and their shares; one unit in the last place of 1 off, at most."""
    height, width = picture.shape[-2:]
    u, v = u.clamp(-1, width), v.clamp(-1, height)
    left, top = u.detach().floor(), v.detach().floor()
    right, below = u - left, v - top
    found = []
    for row, part in ((top, 1 - below), (top + 1, below)):
        for column, share in ((left, 1 - right), (left + 1, right)):
            found.append((_pixel(picture, column, row), part * share))
    return found


def _pixel(picture: Tensor, column: Tensor, row: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = torch.where(inside, row * width + column, 0.0).long()  # also where a place is no number: its share is none either
    pixels = picture.expand(index.shape).flatten(-2).gather(-1, index.flatten(-2)).reshape(index.shape)
    return torch.where(inside, pixels, 0.0)


def _values(picture: Box, u: Tensor, v: Tensor) -> tuple[Box, Tensor]:
    """About the least and the greatest value at a place, as shares are not negative, and the sum of its pixels' magnitudes."""
    lower = _corners(picture.lower, u, v)
    upper = lower if picture.lower is picture.upper else _corners(picture.upper, u, v)
    least = torch.stack([share * pixel for pixel, share in lower]).sum(0)
    most = torch.stack([share * pixel for pixel, share in upper]).sum(0)
    size = torch.stack([torch.maximum(p.abs(), q.abs()) for (p, _), (q, _) in zip(lower, upper, strict=True)]).sum(0)
    return Box(least, most), size


def _lost(size: Tensor) -> Tensor:
    """At most what rounding takes from a value less a plane; `size` is the sum of all magnitudes in it."""
    return (gamma(ROUNDINGS, size.dtype) * size + tiny(size.dtype)).detach()


def _ticks(x: Box, count: int) -> list[Tensor]:
    """The ends of the boxes and the whole numbers between them, from -1 to `count`, where the picture bends; ends stand in where
    a box has fewer."""
    start = x.lower.detach().floor().clamp(-2, count)
    stop = x.upper.detach().ceil().clamp(-1, count + 1)
    most = int((stop - start).max()) - 1 if start.numel() else 0
    between = [torch.minimum(torch.maximum(start + k, x.lower), x.upper) for k in range(1, most + 1)]
    return [x.lower, *between, x.upper]


def _slopes(column: Box, row: Box, picture: Tensor, share: Tensor | float) -> tuple[Tensor, Tensor]:
    """Of chords across boxes; never more than a picture can rise, whatever became of a chord across a hair-thin box."""
    ends = [(i, j, u, v) for i, u in enumerate((column.lower, column.upper)) for j, v in enumerate((row.lower, row.upper))]
    at = {(i, j): _read(picture, u, v) for i, j, u, v in ends}
    steepest = 2 * picture.detach().abs().amax((-2, -1), keepdim=True)
    across = [chord(column, at[0, j], at[1, j]).maximum(-steepest).minimum(steepest) for j in (0, 1)]
    along = [chord(row, at[i, 0], at[i, 1]).maximum(-steepest).minimum(steepest) for i in (0, 1)]
    return across[0] + share * (across[1] - across[0]), along[0] + share * (along[1] - along[0])
