"""What `Resample` promises: the rational value of the interpolation, held by its interval and its planes."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.operator import Lines
from fathom.ops.resample import Resample

SHAPE = (2, 3, 4)  # channels, height, width
READ = Resample()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(picture: Tensor, channel: int, column: Fraction, row: Fraction) -> Fraction:
    """By the formula, in rational arithmetic."""
    _, height, width = SHAPE
    total = Fraction(0)
    for k, l in itertools.product(range(height), range(width)):  # noqa: E741
        share = max(Fraction(0), 1 - abs(column - l)) * max(Fraction(0), 1 - abs(row - k))
        total += share * Fraction(picture[channel, k, l].item())
    return total


def boxes(seed: int, count: int = 12) -> tuple[Box, Box, Box]:
    """Places inside, across, on and far beyond the border; of no width, of an ulp, within a cell, and across several."""
    g = generator(seed)
    shape = (count, *SHAPE)
    ends = []
    for size in (SHAPE[2], SHAPE[1]):
        start = torch.rand(shape, generator=g, dtype=torch.float64) * (size + 4) - 3
        whole = torch.rand(shape, generator=g) < 0.3
        start = torch.where(whole, start.round(), start)
        widths = torch.tensor([0.0, 1e-300, 1e-16, 1e-9, 1e-3, 0.4, 1.0, 2.7, 50.0, 1e6], dtype=torch.float64)
        width = widths[torch.randint(0, len(widths), shape, generator=g)]
        start = torch.where(torch.rand(shape, generator=g) < 0.1, start - 1e6, start)
        ends.append(Box(start, start + width))
    picture = torch.randn(shape, generator=g, dtype=torch.float64) * 10 ** torch.randint(-3, 3, shape, generator=g)
    picture = torch.where(torch.rand(shape, generator=g) < 0.3, 0.0, picture)
    thick = torch.rand(shape, generator=g, dtype=torch.float64) * torch.tensor([0.0, 1e-9, 0.5], dtype=torch.float64)[
        torch.arange(count) % 3
    ].reshape(-1, 1, 1, 1)
    return ends[0], ends[1], Box(picture, picture + thick)


def inside(box: Box, g: torch.Generator) -> Tensor:
    """A point: an end, a whole number between, or any."""
    share = torch.rand(box.lower.shape, generator=g, dtype=torch.float64)
    x = box.lower + share * box.width
    x = torch.where(torch.rand(x.shape, generator=g) < 0.3, x.round(), x)
    kind = torch.rand(x.shape, generator=g)
    x = torch.where(kind < 0.15, box.lower, torch.where(kind > 0.85, box.upper, x))
    return torch.minimum(torch.maximum(x, box.lower), box.upper)


def values(column: Tensor, row: Tensor, picture: Tensor) -> list[tuple[tuple[int, ...], Fraction]]:
    found = []
    for n, c, i, j in itertools.product(*map(range, column.shape)):
        at = (n, c, i, j)
        found.append((at, exact(picture[n], c, Fraction(column[at].item()), Fraction(row[at].item()))))
    return found


def test_it_is_the_formula() -> None:
    column, row, picture = boxes(0)
    y = READ(column.lower, row.lower, picture.lower)
    size = picture.magnitude.flatten(1).amax(1)
    for at, value in values(column.lower, row.lower, picture.lower):
        assert abs(Fraction(y[at].item()) - value) <= Fraction(1, 2**49) * Fraction(size[at[0]].item())


@pytest.mark.parametrize("choice", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_interval_and_planes_hold_the_rational_value(seed: int, choice: float | None) -> None:
    column, row, picture = boxes(seed)
    g = generator(100 + seed)
    held = READ.interval(column, row, picture)
    share = None if choice is None else torch.full_like(column.lower, choice)
    lines = READ.relax(column, row, picture, choice=share)
    assert all(torch.isfinite(part).all() for part in (held.lower, held.upper, *lines.lower_slope, lines.lower_offset))
    for _ in range(3):
        u, v, p = inside(column, g), inside(row, g), inside(picture, g)
        for at, value in values(u, v, p):
            assert held.lower[at].item() <= value <= held.upper[at].item()
            terms = [Fraction(slope[at].item()) * Fraction(x[at].item()) for slope, x in zip(lines.lower_slope, (u, v, p))]
            assert Fraction(lines.lower_offset[at].item()) + sum(terms) <= value
            terms = [Fraction(slope[at].item()) * Fraction(x[at].item()) for slope, x in zip(lines.upper_slope, (u, v, p))]
            assert value <= Fraction(lines.upper_offset[at].item()) + sum(terms)


def gap(lines: Lines) -> Tensor:
    return lines.upper_offset - lines.lower_offset


@pytest.mark.parametrize(
    ("start", "width"), [(0.5, 0.4), (0.5, 0.6), (0.5, 2.0), (-1.7, 1.0), (-3.0, 4.2), (1.0, 1.0), (1.9, 3.0)]
)
def test_no_bend_inside_a_box_is_missed(start: float, width: float) -> None:
    """Boxes of one size alone in a batch, on pictures that go up and down at every pixel, at every whole number inside."""
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0], [1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    for picture in (signs.expand(1, *SHAPE), -signs.expand(1, *SHAPE)):
        box = Box(torch.full_like(picture, start), torch.full_like(picture, start + width))
        held = READ.interval(box, box, Box(picture, picture))
        lines = READ.relax(box, box, Box(picture, picture), choice=None)
        whole = [float(k) for k in range(-4, 7) if start <= k <= start + width]
        for u, v in itertools.product([start, start + width / 3, start + width, *whole], repeat=2):
            column, row = torch.full_like(picture, u), torch.full_like(picture, v)
            y = READ(column, row, picture)
            plane = lines.lower_slope[0] * column + lines.lower_slope[1] * row
            assert (held.lower <= y + 1e-12).all() and (y <= held.upper + 1e-12).all()
            assert (plane + lines.lower_offset <= y + 1e-12).all() and (y <= plane + lines.upper_offset + 1e-12).all()
    assert (held.upper - held.lower).max() <= 2 + 1e-9


def test_planes_are_exact_where_the_picture_is_flat_and_tighten_as_the_square_of_the_width_inside_a_cell() -> None:
    """Where hats were relaxed one by one, a picture of one grey would look as if it moved."""
    zero = torch.zeros(1, *SHAPE, dtype=torch.float64)
    column, row = Box(zero + 0.4, zero + 2.6), Box(zero + 0.1, zero + 1.9)
    grey = Box(zero + 0.7, zero + 0.7)
    assert gap(READ.relax(column, row, grey, choice=None)).max() < 1e-13
    picture = torch.rand(1, *SHAPE, generator=generator(1), dtype=torch.float64)
    gaps = []
    for width in (0.4, 0.2, 0.1):
        box = Box(zero + 1.3, zero + 1.3 + width)
        gaps.append(gap(READ.relax(box, box, Box(picture, picture), choice=None)).max().item())
    assert gaps[1] < 0.26 * gaps[0] and gaps[2] < 0.26 * gaps[1]


def test_planes_of_rows_are_those_of_each_alone_with_finite_gradients() -> None:
    column, row, picture = (box.map(lambda t: t[:, None].clone().requires_grad_()) for box in boxes(5))
    n = len(column)
    choice = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64).reshape(1, 3, 1, 1, 1).repeat(n, 1, *SHAPE).requires_grad_()
    lines = READ.relax(column, row, picture, choice=choice)
    alone = READ.relax(column, row, picture, choice=choice[:, 1:2])
    for part, one in zip((*lines.lower_slope, lines.upper_offset), (*alone.lower_slope, alone.upper_offset)):
        assert torch.equal(part[:, 1:2], one)
    total = sum((part.sum() for part in (*lines.lower_slope, lines.lower_offset, lines.upper_offset)), start=choice.sum() * 0)
    for gradient in torch.autograd.grad(total, [choice, column.lower, row.upper, picture.lower], allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


def test_places_that_are_no_numbers_or_infinite_break_nothing() -> None:
    picture = torch.rand(1, *SHAPE)
    far = torch.full_like(picture, math.inf)
    assert (READ(far, -far, picture) == 0).all()
    assert READ(torch.full_like(picture, math.nan), picture, picture).isnan().all()
