"""What every operator promises, checked for all that discovery finds. One without instances here fails.

Linear operators are compared with their own matrix in rational arithmetic, nonlinear ones with 60 digits of mpmath; the boxes
are chosen to be nasty: of one point, hair-thin, vast, touching and straddling the places where a function bends.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import mpmath
import pytest
import torch
from torch import Tensor

import fathom.ops
from fathom.core import network as core_network
from fathom.core.box import Box
from fathom.core.discover import discover
from fathom.core.enclosure import image
from fathom.core.errors import FathomError, NotUnderstood
from fathom.core.operator import Linear, Lines, Nonlinear
from fathom.core.value import fingerprint, floats_to, map_tensors
from fathom.ops.batch_norm import BatchScale
from fathom.ops.constant import Constant
from fathom.ops.conv import Conv, ConvTranspose
from fathom.ops.dense import Dense, LeftDense
from fathom.ops.exp import Exp, Log
from fathom.ops.field import Field
from fathom.ops.layout import Reshape, Transpose
from fathom.ops.pick import Concat, Gather, Pad, Pick
from fathom.ops.power import Sqrt, Square
from fathom.ops.product import Product
from fathom.ops.reciprocal import Reciprocal
from fathom.ops.reduce import Reduce
from fathom.ops.relu import Abs, LeakyRelu, Relu
from fathom.ops.scale import Divide, Scale, Shift
from fathom.ops.sigmoid import Erf, Sigmoid, Tanh
from fathom.ops.sine import Cosine, Sine
from fathom.ops.softplus import Softplus
from fathom.ops.sparse import Sparse
from fathom.ops.sum import Sum

mpmath.mp.dps = 60
UNIT = Fraction(1, 2**53)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers of both signs and of sizes from 1e-3 to 1e3, held in float32 as files hold them."""
    g = generator(seed)
    size = 10 ** (torch.rand(shape, generator=g) * 6 - 3)
    return size * (torch.randint(0, 2, shape, generator=g) * 2 - 1)


# --- linear operators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """An operator, its inputs' per-sample shapes, and for one whose stored numbers are not its matrix, its exact factor."""

    operator: Linear
    shapes: tuple[tuple[int, ...], ...]
    factor: Callable[[], mpmath.matrix] | None = None  # exact value of every entry that is not 0, one per output element


def _conv(kernel: tuple[int, ...], size: tuple[int, ...], stride: int, pads: tuple[int, int], dilation: int, groups: int) -> Case:
    axes = len(kernel)
    weight = random((4, 4 // groups, *kernel), 1)
    operator = Conv(weight, random((4,), 2), size, (stride,) * axes, (pads,) * axes, (dilation,) * axes, groups)
    return Case(operator, ((4, *size),))


def _conv_transpose(
    kernel: tuple[int, ...], size: tuple[int, ...], stride: int, pads: tuple[int, int], more: int, dilation: int, groups: int
) -> Case:
    axes = len(kernel)
    weight = random((4, 2, *kernel), 1)
    operator = ConvTranspose(
        weight, random((2 * groups,), 2), (stride,) * axes, (pads,) * axes, (more,) * axes, (dilation,) * axes, groups
    )
    return Case(operator, ((4, *size),))


def _divide(divisor: Tensor, shape: tuple[int, ...]) -> Case:
    exact = [Fraction(1) / Fraction(d) for d in divisor.expand(shape).flatten().tolist()]
    return Case(Divide(divisor), (shape,), lambda: exact)


def _batch_scale(*, affine: bool) -> Case:
    variance = random((3,), 3).abs()
    weight, shift = (random((3,), 4), random((3,), 5)) if affine else (None, None)
    epsilon = 1e-5

    def exact() -> list[Fraction]:
        factors = []
        for channel in range(3):
            root = mpmath.sqrt(mpmath.mpf(variance[channel].item()) + mpmath.mpf(epsilon))
            value = mpmath.mpf(1.0 if weight is None else weight[channel].item()) / root
            factors += [Fraction(*_ratio(value))] * 4
        return factors

    return Case(BatchScale(variance, weight, shift, epsilon, 2), ((3, 2, 2),), exact)


def _ratio(value: mpmath.mpf) -> tuple[int, int]:
    """An mpf as a fraction: it is one, with a power of two below."""
    mantissa, exponent = int(value.man), int(value.exp)
    sign = -1 if value < 0 else 1
    return (sign * mantissa * 2**exponent, 1) if exponent >= 0 else (sign * mantissa, 2**-exponent)


LINEAR: dict[str, list[Case]] = {
    "Dense": [
        Case(Dense(random((3, 5), 1), random((3,), 2)), ((5,),)),
        Case(Dense(random((5, 2), 1)), ((4, 2),)),
        Case(Dense(random((1, 6), 1), random((1,), 2)), ((6,),)),
    ],
    "Sparse": [
        Case(
            Sparse(
                torch.tensor([[2, 0], [1, 0], [2, 0]]),
                torch.tensor([[0.3, -1.7], [2.0, 0.0], [-0.1, 0.0]], dtype=torch.float64),
                torch.tensor([[0, 0], [1, 0], [0, 2], [0, 0]]),
                torch.tensor([[-1.7, 0.0], [2.0, 0.0], [0.3, -0.1], [0.0, 0.0]], dtype=torch.float64),
                random((3,), 2),
            ),
            ((4,),),
        )
    ],
    "LeftDense": [Case(LeftDense(random((3, 5), 1)), ((5, 2),)), Case(LeftDense(random((3, 5), 1)), ((2, 5, 2),))],
    "Conv": [
        _conv((3,), (7,), 2, (1, 0), 1, 1),
        _conv((2,), (7,), 3, (0, 2), 2, 2),
        _conv((3, 2), (5, 6), 2, (1, 1), 1, 1),
        _conv((2, 2), (5, 6), 1, (0, 1), 2, 4),
        _conv((3, 3), (6, 5), 3, (2, 1), 1, 2),
        Case(Conv(random((2, 1, 1, 1), 1), None, (3, 3), (2, 2), ((0, 0), (0, 0)), (1, 1)), ((1, 3, 3),)),
    ],
    "ConvTranspose": [
        _conv_transpose((3,), (4,), 2, (1, 0), 1, 1, 1),
        _conv_transpose((3, 2), (3, 4), 2, (1, 1), 1, 1, 2),
        _conv_transpose((2, 2), (3, 2), 3, (0, 1), 2, 1, 1),
        _conv_transpose((3, 3), (2, 3), 2, (0, 0), 1, 2, 4),
    ],
    "Scale": [
        Case(Scale(random((3, 1), 1), random((2,), 2)), ((3, 2),)),
        Case(Scale(random((), 1)), ((),)),
        Case(Scale(-torch.ones(()), random((3,), 2)), ((3,),)),
    ],
    "Divide": [_divide(random((3, 1), 1), (3, 2)), _divide(torch.tensor(7.0), (4,))],
    "Shift": [Case(Shift(random((3, 1), 1)), ((3, 2),)), Case(Shift(random((2,), 1), sign=-1), ((3, 2),))],
    "Sum": [Case(Sum((1, -1)), ((3,), (3,))), Case(Sum((-1, 1, 1)), ((2, 2),) * 3), Case(Sum((1, 1)), ((2,), (2,)))],
    "Reshape": [Case(Reshape((2, 3), (3, 1, 2)), ((2, 3),)), Case(Reshape((), (1,)), ((),))],
    "Transpose": [Case(Transpose((2, 0, 1)), ((2, 3, 4),)), Case(Transpose((1, 0)), ((2, 3),))],
    "Gather": [
        Case(Gather(1, torch.tensor([2, 0]), 3), ((2, 3),)),
        Case(Gather(0, torch.tensor([1, 1, 0, 1]), 2), ((2, 3),)),
        Case(Gather(0, torch.tensor([0, 0]), 1), ((1,),)),
    ],
    "Pick": [
        Case(Pick((2, 3), torch.tensor([[5, 0], [2, 1]])), ((2, 3),)),
        Case(Pick((4,), torch.tensor([3, 3, 1])), ((4,),)),
        Case(Pick((), torch.tensor([0])), ((),)),
    ],
    "Pad": [Case(Pad(((1, 0), (0, 2))), ((2, 2, 2),)), Case(Pad(((-1, 2),)), ((4,),))],
    "Concat": [Case(Concat(0, (2, 1)), ((2, 2), (1, 2))), Case(Concat(1, (2, 1, 3)), ((2, 2), (2, 1), (2, 3)))],
    "Reduce": [
        Case(Reduce((2, 3), (1,)), ((2, 3),)),
        Case(Reduce((2, 3, 2), (0, 2)), ((2, 3, 2),)),
        Case(Reduce((2, 4), (1,), 1), ((2, 4),)),
        Case(Reduce((3, 2), (0,), 3), ((3, 2),), lambda: [Fraction(1, 3)] * 2),
        Case(Reduce((3,), ()), ((3,),)),
    ],
    "Field": [Case(Field(random((3, 2, 4), 1)), ((3,),)), Case(Field(random((2, 1), 1)), ((2,),))],
    "Constant": [Case(Constant((4,), random((2, 3), 1)), ((4,),))],
    "BatchScale": [_batch_scale(affine=True), _batch_scale(affine=False)],
    "Select": [Case(core_network.Select(1, (2, 2), 6), ((6,),))],
    "Join": [Case(core_network.Join(((2, 2), (), (3,))), ((2, 2), (), (3,)))],
}
LINEAR_CASES = [pytest.param(case, id=f"{name}-{k}") for name, cases in LINEAR.items() for k, case in enumerate(cases)]


def double(operator: Linear) -> Linear:
    return map_tensors(operator, floats_to(torch.float64))


def matrix(case: Case) -> list[list[Fraction]]:
    """The real W [outputs][all inputs], exactly: rows of the identity pushed back, which rounds nothing but derived factors."""
    operator = double(case.operator)
    shape = operator(*(torch.zeros(1, *s, dtype=torch.float64) for s in case.shapes)).shape[1:]
    size = math.prod(shape)
    parts = operator.transpose(torch.eye(size, dtype=torch.float64).reshape(1, size, *shape))
    rows = torch.cat([part.reshape(size, -1) for part in parts], 1).tolist()
    if case.factor is None:
        return [[Fraction(w) for w in row] for row in rows]
    factors = case.factor()
    for row, factor in zip(rows, factors, strict=True):
        assert all(w == 0 or abs(Fraction(w) - factor) <= operator.accumulation * UNIT * abs(factor) for w in row)
    return [[factor if w else Fraction(0) for w in row] for row, factor in zip(rows, factors, strict=True)]


def bias_of(operator: Linear, shape: tuple[int, ...]) -> list[Fraction]:
    zero = torch.zeros(shape, dtype=torch.float64)
    return [Fraction(b) for b in (zero if operator.bias is None else zero + operator.bias).flatten().tolist()]


def cut(flat: Tensor, shapes: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
    """[n, all inputs] to one tensor [n, *shape] for each input."""
    parts = flat.split([math.prod(s) for s in shapes], 1)
    return tuple(part.reshape(len(flat), *s) for part, s in zip(parts, shapes, strict=True))


def test_every_operator_has_instances_here() -> None:
    found = discover(fathom.ops, Linear).keys() | discover(fathom.ops, Nonlinear).keys()
    missing = found - LINEAR.keys() - NONLINEAR.keys() - ELSEWHERE
    assert not missing, f"give {sorted(missing)} instances in the tables of this file"
    for name, cases in LINEAR.items():
        assert all(type(case.operator).__name__ == name for case in cases)
    for name, functions in NONLINEAR.items():
        assert all(type(function.operator).__name__ == name for function in functions)


@pytest.mark.parametrize("case", LINEAR_CASES)
def test_linear_is_its_matrix_up_to_the_roundings_it_counts(case: Case) -> None:
    """Forward, transposed and in magnitude, batch by batch and row by row; in rational arithmetic, without tolerance."""
    operator, w = double(case.operator), matrix(case)
    inputs, outputs = len(w[0]), len(w)
    share = operator.accumulation * UNIT * (1 + Fraction(1, 10**9))
    x = random((3, inputs), 11).double()
    y = operator(*cut(x, case.shapes))
    bias = bias_of(operator, tuple(y.shape[1:]))
    assert y.shape[0] == 3
    assert torch.equal(
        operator(*cut(torch.zeros_like(x), case.shapes)).flatten(), torch.tensor([float(b) for b in bias] * 3).double()
    )
    for xs, ys in zip(x.tolist(), y.reshape(3, -1).tolist(), strict=True):
        for row, b, got in zip(w, bias, ys, strict=True):
            terms = [p * Fraction(q) for p, q in zip(row, xs, strict=True) if p]
            assert abs(Fraction(got) - sum(terms) - b) <= share * (sum(map(abs, terms)) + abs(b))
    a = random((2, 3, outputs), 12).double()
    back = torch.cat([part.reshape(2, 3, -1) for part in operator.transpose(a.reshape(2, 3, *y.shape[1:]))], 2)
    for rows, gots in zip(a.reshape(6, -1).tolist(), back.reshape(6, -1).tolist(), strict=True):
        for j, got in enumerate(gots):
            terms = [w[i][j] * Fraction(q) for i, q in enumerate(rows) if w[i][j]]
            assert abs(Fraction(got) - sum(terms)) <= share * sum(map(abs, terms))
    r = operator.magnitude(*cut(x.abs(), case.shapes)).reshape(3, -1).expand(3, outputs)
    expected = [[float(sum(abs(p) * Fraction(q) for p, q in zip(row, xs, strict=True))) for row in w] for xs in x.abs().tolist()]
    torch.testing.assert_close(r, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("case", LINEAR_CASES)
def test_linear_flags_are_true(case: Case) -> None:
    operator, w = double(case.operator), matrix(case)
    if operator.accumulation == 0:
        assert operator.bias is None
        assert {entry for row in w for entry in row} <= {0, 1}
        assert all(sum(row) <= 1 for row in w)
        assert all(sum(column) <= 1 for column in zip(*w, strict=True))
    if operator.copies:
        assert operator.bias is None
        assert all(set(row) <= {0, 1} and sum(row) <= 1 for row in w)
    if operator.increasing:
        assert all(entry >= 0 for row in w for entry in row)


@pytest.mark.parametrize("case", LINEAR_CASES)
@pytest.mark.parametrize("width", [0.0, 1e-14, 1.0, 1e8])
def test_linear_image_holds_the_real_image(case: Case, width: float) -> None:
    """At the corners that are extreme for each output, and inside; against rational arithmetic."""
    operator, w = double(case.operator), matrix(case)
    middle = random((2, len(w[0])), 21).double()
    box = Box(middle, middle + width * torch.rand(middle.shape, generator=generator(22), dtype=torch.float64))
    held = image(operator, tuple(map(Box, cut(box.lower, case.shapes), cut(box.upper, case.shapes))))
    bias = bias_of(operator, tuple(held.lower.shape[1:]))
    assert torch.isfinite(held.width).all()
    for lows, highs, downs, ups in zip(
        box.lower.tolist(),
        box.upper.tolist(),
        held.lower.reshape(2, -1).tolist(),
        held.upper.reshape(2, -1).tolist(),
        strict=True,
    ):
        for row, b, least, most in zip(w, bias, downs, ups, strict=True):
            ends = [(p * Fraction(low), p * Fraction(high)) for p, low, high in zip(row, lows, highs, strict=True) if p]
            assert Fraction(least) <= sum(map(min, ends)) + b
            assert sum(map(max, ends)) + b <= Fraction(most)


@pytest.mark.parametrize("case", LINEAR_CASES)
def test_linear_weights_may_be_live(case: Case) -> None:
    live = map_tensors(case.operator, lambda t: t.clone().requires_grad_(t.is_floating_point()))
    weights = [v for f in dataclasses.fields(live) if isinstance(v := getattr(live, f.name), Tensor) and v.requires_grad]
    x = cut(torch.ones(2, sum(math.prod(s) for s in case.shapes)), case.shapes)
    y = live(*x)
    total = y.square().sum() + sum(part.square().sum() for part in live.transpose(torch.ones_like(y)[:, None]))
    if weights:
        total.backward()
    assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in weights)
    assert len(fingerprint(case.operator)) == 64


# --- nonlinear operators --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """An operator, the real function it stands for, and where the box ends that it is tried on lie."""

    operator: Nonlinear
    real: Callable[..., mpmath.mpf]
    low: float = -1e4
    high: float = 1e4
    refused: tuple[tuple[float, float], ...] = ()  # boxes that it must not accept


NONLINEAR: dict[str, list[Function]] = {
    "Relu": [Function(Relu(), lambda x: max(x, 0))],
    "LeakyRelu": [
        Function(LeakyRelu(0.1), lambda x: x if x > 0 else mpmath.mpf(0.1) * x),
        Function(LeakyRelu(0.0), lambda x: max(x, 0)),
        Function(LeakyRelu(1.0), lambda x: x),
    ],
    "Abs": [Function(Abs(), abs)],
    "Sigmoid": [Function(Sigmoid(), lambda x: 1 / (1 + mpmath.exp(-x)))],
    "Tanh": [Function(Tanh(), mpmath.tanh)],
    "Erf": [Function(Erf(), mpmath.erf)],
    "Softplus": [Function(Softplus(), lambda x: mpmath.log1p(mpmath.exp(x)))],
    "Exp": [Function(Exp(), mpmath.exp, high=300.0, refused=((0.0, 400.0),))],
    "Log": [Function(Log(), mpmath.log, low=1e-30, refused=((0.0, 1.0), (-1.0, 1.0), (-2.0, -1.0)))],
    "Reciprocal": [Function(Reciprocal(), lambda x: 1 / x, low=1e-30, refused=((0.0, 1.0), (-1.0, 1.0), (-2.0, -1.0)))],
    "Square": [Function(Square(), lambda x: x * x)],
    "Sqrt": [Function(Sqrt(), mpmath.sqrt, low=0.0, refused=((-1e-9, 1.0),))],
    "Product": [Function(Product(), lambda x, y: x * y)],
    "Sine": [Function(Sine(), mpmath.sin, refused=((0.0, 2e6),))],
    "Cosine": [Function(Cosine(), mpmath.cos, refused=((-2e6, 0.0),))],
}
ELSEWHERE = {"Resample"}  # not elementwise in all it reads: tests/contracts/test_resample.py
FUNCTIONS = [pytest.param(f, id=f"{name}-{k}") for name, functions in NONLINEAR.items() for k, f in enumerate(functions)]
ENDS = [0.0, 1e-320, 1e-300, 1e-30, 1e-12, 1e-6, 1e-3, 0.5, 1.0, 5.0, 12.0, 45.0, 300.0, 709.0, 1e4]
CHOICES = [None, 0.0, 1.0, 0.3, 0.97]


def nasty_boxes(function: Function) -> Box:
    """[n] boxes between all ends of the function's domain, of one point, and of a few units in the last place."""
    ends = sorted(
        {s * e for e in (*ENDS, function.low, function.high) for s in (1, -1) if function.low <= s * e <= function.high}
    )
    pairs = [(a, b) for i, a in enumerate(ends) for b in ends[i:]]
    for end in ends:
        next_up = math.nextafter(end, math.inf)
        pairs += [(end, min(next_up, function.high)), (end, min(end + abs(end) * 1e-15, function.high))]
        pairs += [(end, min(end + w, function.high)) for w in (1e-300, 1e-17, 1e-12, 1e-8)]
    g = generator(5)
    low, high = max(function.low, -8.0), min(function.high, 8.0)
    some = (torch.rand(60, 2, generator=g, dtype=torch.float64) * (high - low) + low).sort(1).values
    return Box(*torch.cat([torch.tensor(pairs, dtype=torch.float64), some]).unbind(1))


def tried_boxes(function: Function) -> tuple[Box, ...]:
    """Nasty boxes for each argument; for several, met at random."""
    boxes = nasty_boxes(function)
    if not isinstance(function.operator, Product):
        return (boxes,)
    order = torch.randperm(len(boxes), generator=generator(6))
    return boxes, boxes.take(order)


def points(boxes: tuple[Box, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Points [n] of the boxes: all corners, then some inside."""
    if len(boxes) == 1:
        yield from ((boxes[0].lower,), (boxes[0].upper,), (boxes[0].middle,))
    else:
        for p in (boxes[0].lower, boxes[0].upper):
            yield from ((p, boxes[1].lower), (p, boxes[1].upper))
    g = generator(7)
    for _ in range(3):
        yield tuple(at(box, torch.rand(len(box), generator=g, dtype=torch.float64) ** 3) for box in boxes)


def at(box: Box, share: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(box.lower + share * (box.upper - box.lower), box.lower), box.upper)


def worst_point(boxes: tuple[Box, ...], lines: Lines, operator: Nonlinear, *, upper: bool) -> tuple[Tensor, ...]:
    """The points [n] of a fine grid where the line and the function, as floats, are nearest, or cross most."""
    shares = torch.linspace(0, 1, 201, dtype=torch.float64)
    grid = [at(Box(box.lower[:, None], box.upper[:, None]), shares) for box in boxes]
    if len(grid) == 2:
        grid[1] = grid[1].roll(67, 1)
    slopes, offset = (lines.upper_slope, lines.upper_offset) if upper else (lines.lower_slope, lines.lower_offset)
    line = sum((s[:, None] * x for s, x in zip(slopes, grid, strict=True)), start=offset[:, None])
    gap = line - operator(*grid) if upper else operator(*grid) - line
    nearest = gap.argmin(1, keepdim=True)
    return tuple(x.gather(1, nearest)[:, 0] for x in grid)


def reals(*values: Tensor) -> Iterator[tuple[mpmath.mpf, ...]]:
    yield from zip(*([mpmath.mpf(v) for v in value.tolist()] for value in values), strict=True)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_interval_holds_the_function(function: Function) -> None:
    boxes = tried_boxes(function)
    held = function.operator.interval(*boxes)
    assert torch.isfinite(held.lower).all()
    assert torch.isfinite(held.upper).all()
    extra = (tuple(at(box, box.lower * 0) if (box.lower > 0).all() else box.lower.relu().minimum(box.upper) for box in boxes),)
    for x in (*points(boxes), *extra):
        for low, high, *values in reals(held.lower, held.upper, *x):
            y = function.real(*values)
            assert low <= y <= high, f"{function.operator} at {values}: {y} outside [{low}, {high}]"


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("choice", CHOICES)
def test_lines_hold_the_function(function: Function, choice: float | None) -> None:
    boxes = tried_boxes(function)
    share = None if choice is None else torch.full((len(boxes[0]),), choice, dtype=torch.float64)
    lines = function.operator.relax(*boxes, choice=share)
    parts = [*lines.lower_slope, lines.lower_offset, *lines.upper_slope, lines.upper_offset]
    assert all(torch.isfinite(part).all() for part in parts)
    parts = [part.expand(len(boxes[0])) for part in parts]
    lines = Lines(tuple(parts[: len(boxes)]), parts[len(boxes)], tuple(parts[len(boxes) + 1 : -1]), parts[-1])
    extreme = [worst_point(boxes, lines, function.operator, upper=side) for side in (False, True)]
    k = len(boxes)
    for x in (*points(boxes), *extreme):
        for row in reals(*parts, *x):
            low_slope, low, high_slope, high, values = row[:k], row[k], row[k + 1 : 2 * k + 1], row[2 * k + 1], row[2 * k + 2 :]
            y = function.real(*values)
            below = low + sum(s * v for s, v in zip(low_slope, values, strict=True))
            above = high + sum(s * v for s, v in zip(high_slope, values, strict=True))
            assert below <= y, f"{function.operator} at {values}, choice {choice}: the lower line is {below - y} above"
            assert y <= above, f"{function.operator} at {values}, choice {choice}: the upper line is {y - above} below"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_lines_broadcast_and_their_gradients_are_finite(function: Function) -> None:
    """Boxes [n, 1, 1] with choices [n, rows, 1]: each row as if alone; no gradient is NaN, not even on the nastiest boxes."""
    boxes = tuple(box.map(lambda t: t[:, None, None].clone().requires_grad_()) for box in tried_boxes(function))
    n = len(boxes[0])
    choice = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)[None, :, None].repeat(n, 1, 1).requires_grad_()
    lines = function.operator.relax(*boxes, choice=choice)
    parts = [*lines.lower_slope, lines.lower_offset, *lines.upper_slope, lines.upper_offset]
    for part in parts:
        part.expand(n, 3, 1)
    alone = function.operator.relax(*boxes, choice=choice[:, 1:2])
    for part, single in zip(parts, [*alone.lower_slope, alone.lower_offset, *alone.upper_slope, alone.upper_offset], strict=True):
        assert torch.equal(part.expand(n, 3, 1)[:, 1:2], single.expand(n, 1, 1))
    free = [choice, *(end for box in boxes for end in (box.lower, box.upper))]
    total = sum((part.expand(n, 3, 1).sum() for part in parts), start=choice.sum() * 0)
    held = function.operator.interval(*boxes)
    for what in (total, held.lower.sum() + held.upper.sum()):
        for gradient in torch.autograd.grad(what, free, allow_unused=True, retain_graph=True):
            assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_lines_are_tight_on_narrow_boxes(function: Function) -> None:
    """A sound line that is far away is no use: a function that bends gets lines whose gap shrinks as the square of the width."""
    low, high = max(function.low, -3.0), min(function.high, 3.0)
    low = low if low <= 0 and not isinstance(function.operator, Sqrt) else 0.5
    start = torch.linspace(low, high - 2e-3, 300, dtype=torch.float64)
    kink = function.operator.kink
    if kink is not None:
        start = start[(start > kink + 1e-9) | (start < kink - 2e-3)]
    box = Box(start, start + 1e-3)
    boxes = (box, box) if isinstance(function.operator, Product) else (box,)
    for choice in (None, 0.0, 0.5, 1.0):
        lines = function.operator.relax(*boxes, choice=None if choice is None else torch.full_like(start, choice))
        for end in (box.lower, box.upper):
            below = sum((s * end for s in lines.lower_slope), start=lines.lower_offset)
            above = sum((s * end for s in lines.upper_slope), start=lines.upper_offset)
            assert ((above - below) <= (1e-4 if kink is None else 1e-14)).all()
    for x in (box.lower, box.upper):
        one = function.operator.interval(*(Box(x, x) for _ in boxes))
        assert (one.width <= 1e-13 * (1 + one.upper.abs())).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_boxes_outside_the_domain_are_refused(function: Function) -> None:
    for low, high in function.refused:
        box = Box(torch.tensor([[1.0, low]]).double(), torch.tensor([[1.0, high]]).double())
        with pytest.raises(FathomError, match=r"expected .*, got values in .* at position \(0, 1\)"):
            function.operator.interval(box)
        with pytest.raises(FathomError, match="position"):
            function.operator.relax(box, choice=None)


def test_leaky_slopes_outside_the_unit_interval_are_refused() -> None:
    for slope in (-0.1, 1.1, math.nan):
        with pytest.raises(NotUnderstood, match="prelu"):
            LeakyRelu(slope)


def test_s_shaped_lines_are_the_best_tangents() -> None:
    """Across 0, with the default choice, the line above touches both the lower end and the curve: no other has less slope."""
    lower, upper = torch.tensor([-1.0, -3.0, -8.0, -0.2]).double(), torch.tensor([4.0, 6.0, 9.0, 1.0]).double()
    for operator in (Sigmoid(), Tanh(), Erf()):
        lines = operator.relax(Box(lower, upper), choice=None)
        (slope,), offset = lines.upper_slope, lines.upper_offset
        torch.testing.assert_close(slope * lower + offset, operator(lower), rtol=0, atol=1e-9)
        grid = at(Box(lower[:, None], upper[:, None]), torch.linspace(0, 1, 5001).double())
        gap = slope[:, None] * grid + offset[:, None] - operator(grid)
        assert (torch.where(grid > 0, gap, 1.0).amin(1) < 1e-6).all()


def test_gradient_of_the_first_tangent_is_that_of_finite_differences() -> None:
    """Bounds are trained through lines, so the tangent point's own movement must be in the gradient."""
    for operator in (Sigmoid(), Tanh(), Erf()):
        for low, high in pairwise([-2.0, 3.0, -0.7, 2.0]):
            if low > high:
                continue
            end = torch.tensor([low], dtype=torch.float64, requires_grad=True)
            upper = torch.tensor([high], dtype=torch.float64)

            def slope(lower: Tensor, operator: Nonlinear = operator, upper: Tensor = upper) -> Tensor:
                return operator.relax(Box(lower, upper), choice=None).upper_slope[0].sum()

            (gradient,) = torch.autograd.grad(slope(end), end)
            difference = (slope(end.detach() + 1e-4) - slope(end.detach() - 1e-4)) / 2e-4
            torch.testing.assert_close(gradient[0], difference, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("operator", [Sine(), Cosine()])
def test_waves_are_bounded_at_and_round_every_crest(operator: Nonlinear) -> None:
    """Boxes that begin, end or lie at the quarters of a turn, give or take a few units in the last place, up to many turns."""
    quarter = mpmath.pi / 2
    g = generator(3)
    starts = [float(quarter * k) for k in (-400001, -4000, -9, -4, -3, -2, -1, 0, 1, 2, 3, 4, 7, 1000, 400003)]
    ends = []
    for start in starts:
        near = [start, math.nextafter(start, math.inf), math.nextafter(start, -math.inf), start + 1e-9, start - 1e-9]
        ends += [(a, a + w) for a in near for w in (0.0, 1e-15 * abs(a), 1e-9, 1e-3, 0.5, 1.6, 3.2, 4.8, 6.3, 20.0)]
        ends += [(a - w, a) for a in near for w in (1e-9, 1e-3, 0.5, 1.6, 3.2)]
    box = Box(*torch.tensor(ends, dtype=torch.float64).unbind(1))
    real = mpmath.sin if isinstance(operator, Sine) else mpmath.cos
    held = operator.interval(box)
    for choice in (None, 0.0, 0.5, 1.0):
        lines = operator.relax(box, choice=None if choice is None else torch.full_like(box.lower, choice))
        gap = (lines.upper_slope[0] - lines.lower_slope[0]) * box.middle + lines.upper_offset - lines.lower_offset
        assert (gap <= 4 + 2 * box.width).all()
        for share in (0.0, 1.0, 0.5, *torch.rand(5, generator=g).tolist()):
            x = at(box, torch.full_like(box.lower, share))
            quarters = [k * quarter for k in (x / float(quarter)).round().tolist()]
            rows = reals(box.lower, box.upper, held.lower, held.upper, *lines.lower_slope, lines.lower_offset)
            more = reals(*lines.upper_slope, lines.upper_offset, x)
            for (low, high, least, most, s, b), (t, c, value), special in zip(rows, more, quarters, strict=True):
                for point in (value, special if low <= special <= high else value):
                    y = real(point)
                    assert least <= y <= most
                    assert s * point + b <= y <= t * point + c, f"{operator} at {point} in [{low}, {high}], choice {choice}"


@pytest.mark.parametrize(
    ("stride", "kernel", "padding", "size"),
    [
        (2, (4, 4), ((1, 1), (1, 1)), (8, 8)),
        (2, (4, 4), ((1, 2), (2, 0)), (9, 7)),
        (2, (4, 2), ((1, 0), (0, 1)), (8, 9)),
        (3, (3, 3), ((1, 1), (0, 2)), (10, 11)),
        (4, (4, 8), ((2, 0), (3, 3)), (13, 12)),
    ],
)
def test_a_transposed_convolution_by_phases_of_its_strides_is_the_librarys(
    stride: int, kernel: tuple[int, int], padding: tuple[tuple[int, int], tuple[int, int]], size: tuple[int, int]
) -> None:
    g = torch.Generator().manual_seed(stride)
    weight = torch.randint(-4, 5, (5, 3, *kernel), generator=g).float()
    one = Conv(weight, None, size, (stride, stride), padding, (1, 1))
    two = Conv(weight.double(), None, size, (stride, stride), padding, (1, 1))
    shape = one(torch.zeros(1, 3, *size)).shape[1:]
    a = torch.randint(-4, 5, (2, 4, *shape), generator=g).float()
    assert one._interleaves
    assert torch.equal(one.transpose(a)[0].double(), two.transpose(a.double())[0])
