"""What is not linear or elementwise, written with what is: broadcasting, max-pooling, softmax, normalisation, clipping.

Every function takes the graph, a name, the values it works on and its attributes, and returns the value of the result. The
last node it adds carries exactly `name`, so that a replay can compare it; inner nodes are `name/...`. Axes count from 0 over a
sample's own axes, the batch left out; negative ones count from the end. An operand is a value of the graph or a constant tensor
that broadcasts against samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fathom.capture.graph import Graph, Shape
from fathom.capture.tree import combine
from fathom.core.errors import NotUnderstood
from fathom.ops.batch_norm import BatchScale
from fathom.ops.constant import Constant
from fathom.ops.exp import Exp
from fathom.ops.layout import Reshape, Transpose
from fathom.ops.pick import Gather
from fathom.ops.power import Sqrt, Square
from fathom.ops.product import Product
from fathom.ops.reciprocal import Reciprocal
from fathom.ops.reduce import Reduce
from fathom.ops.relu import Relu
from fathom.ops.scale import Divide, Scale, Shift
from fathom.ops.sigmoid import Erf, Sigmoid, Tanh
from fathom.ops.softplus import Softplus
from fathom.ops.sum import Sum

Operand = int | Tensor
"""A value of the graph (an int), or a constant (a tensor, of the shape of a sample or one that broadcasts to it)."""


def reshape(graph: Graph, name: str, x: int, shape: Sequence[int]) -> int:
    """The same elements in another shape; with the same shape, the identity under a name of its own."""
    return graph.add(name, Reshape(graph.shape(x), tuple(shape)), x)


def constant(graph: Graph, name: str, value: Tensor) -> int:
    """A value that is the same for every sample."""
    return graph.add(name, Constant(graph.shape(0), value), 0)


def expand(graph: Graph, name: str, x: int, shape: Sequence[int]) -> int:
    """x repeated along axes of length 1, and along new axes in front, up to `shape`."""
    before, shape = graph.shape(x), tuple(shape)
    if _broadcast(name, before, shape) != shape:
        raise NotUnderstood(f"node {name!r}: expected a shape that {before} expands to, got {shape}")
    padded = (1,) * (len(shape) - len(before)) + before
    stretched = [axis for axis, (old, new) in enumerate(zip(padded, shape, strict=True)) if old != new]
    x = reshape(graph, f"{name}/axes" if stretched else name, x, padded)
    for axis in stretched:
        last = axis == stretched[-1]
        copies = Gather(axis, torch.zeros(shape[axis], dtype=torch.int64), 1)
        x = graph.add(name if last else f"{name}/axis{axis}", copies, x)
    return x


def add(graph: Graph, name: str, a: Operand, b: Operand) -> int:
    """a + b, broadcast."""
    a, b = (b, a) if isinstance(a, Tensor) else (a, b)
    if isinstance(b, Tensor):
        return graph.add(name, Shift(b), _meet(graph, name, a, b))
    return graph.add(name, Sum((1, 1)), *_both(graph, name, a, b))


def subtract(graph: Graph, name: str, a: Operand, b: Operand) -> int:
    """a - b, broadcast."""
    if isinstance(b, Tensor):
        return graph.add(name, Shift(b, sign=-1), _meet(graph, name, a, b))
    if isinstance(a, Tensor):
        return graph.add(name, Scale(-torch.ones(()), a), _meet(graph, name, b, a))
    return graph.add(name, Sum((1, -1)), *_both(graph, name, a, b))


def multiply(graph: Graph, name: str, a: Operand, b: Operand) -> int:
    """a * b, broadcast; a value by itself is its square."""
    a, b = (b, a) if isinstance(a, Tensor) else (a, b)
    if isinstance(b, Tensor):
        return graph.add(name, Scale(b), _meet(graph, name, a, b))
    if a == b:
        return graph.add(name, Square(), _value(name, a))
    return graph.add(name, Product(), *_both(graph, name, a, b))


def divide(graph: Graph, name: str, a: Operand, b: Operand) -> int:
    """a / b, broadcast; a divisor that is computed must be positive on every region that is to be bounded.

    Raises:
        NotUnderstood: a constant divisor holds a zero.
    """
    if isinstance(b, Tensor):
        if (b == 0).any():
            raise NotUnderstood(f"node {name!r}: expected a divisor without zeros, got one that has {int((b == 0).sum())}")
        return graph.add(name, Divide(b), _meet(graph, name, a, b))
    return multiply(graph, name, a, graph.add(f"{name}/reciprocal", Reciprocal(), b))


def negate(graph: Graph, name: str, x: int) -> int:
    """-x."""
    return graph.add(name, Scale(-torch.ones(())), x)


def maximum(graph: Graph, name: str, a: Operand, b: Operand) -> int:
    """The larger of two, broadcast, as b + relu(a - b): a rectifier, and so split like any other."""
    a, b = (b, a) if isinstance(a, Tensor) else (a, b)
    over = graph.add(f"{name}/over", Relu(), subtract(graph, f"{name}/difference", a, b))
    return add(graph, name, over, b)


def minimum(graph: Graph, name: str, a: Operand, b: Operand) -> int:
    """The smaller of two, broadcast, as b - relu(b - a)."""
    a, b = (b, a) if isinstance(a, Tensor) else (a, b)
    under = graph.add(f"{name}/under", Relu(), subtract(graph, f"{name}/difference", b, a))
    return subtract(graph, name, b, under)


def clip(graph: Graph, name: str, x: int, low: Tensor | None = None, high: Tensor | None = None) -> int:
    """x cut off below at `low` and above at `high`; either may be left out. One rectifier behind the other, so that the
    interval of the result is exact."""
    if low is None and high is None:
        return reshape(graph, name, x, graph.shape(x))
    if low is not None:
        x = maximum(graph, name if high is None else f"{name}/low", x, low)
    return x if high is None else minimum(graph, name, x, high)


def prelu(graph: Graph, name: str, x: int, slope: Tensor) -> int:
    """max(x, 0) + slope min(x, 0), for slopes of any size that broadcast to a sample's shape."""
    positive = graph.add(f"{name}/positive", Relu(), x)
    negative = graph.add(f"{name}/negative", Sum((1, -1)), x, positive)
    return graph.add(name, Sum((1, 1)), positive, multiply(graph, f"{name}/scaled", negative, slope))


def hard_sigmoid(graph: Graph, name: str, x: int, alpha: float, beta: float) -> int:
    """alpha x + beta, clipped to [0, 1]."""
    line = graph.add(f"{name}/line", Scale(_number(alpha), _number(beta)), x)
    return clip(graph, name, line, _number(0.0), _number(1.0))


def elu(graph: Graph, name: str, x: int, alpha: float = 1.0) -> int:
    """x for x >= 0, alpha (e^x - 1) below."""
    positive = graph.add(f"{name}/positive", Relu(), x)
    negative = graph.add(f"{name}/negative", Sum((1, -1)), x, positive)
    less = graph.add(f"{name}/less", Shift(_number(1.0), sign=-1), graph.add(f"{name}/exp", Exp(), negative))
    return graph.add(name, Sum((1, 1)), positive, multiply(graph, f"{name}/scaled", less, _number(alpha)))


def silu(graph: Graph, name: str, x: int) -> int:
    """x sigmoid(x)."""
    return graph.add(name, Product(), x, graph.add(f"{name}/gate", Sigmoid(), x))


def mish(graph: Graph, name: str, x: int) -> int:
    """x tanh(softplus(x))."""
    gate = graph.add(f"{name}/gate", Tanh(), graph.add(f"{name}/softplus", Softplus(), x))
    return graph.add(name, Product(), x, gate)


def gelu(graph: Graph, name: str, x: int) -> int:
    """x Phi(x), with the normal distribution function Phi by the error function."""
    # 1 / sqrt(2) is irrational: two roundings, of the root and of the quotient.
    scaled = graph.add(f"{name}/scaled", Scale(_number(1 / math.sqrt(2)), roundings=2), x)
    return _half_gate(graph, name, x, graph.add(f"{name}/erf", Erf(), scaled))


def gelu_tanh(graph: Graph, name: str, x: int) -> int:
    """The usual approximation x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    cube = graph.add(f"{name}/cube", Product(), x, graph.add(f"{name}/square", Square(), x))
    inner = graph.add(f"{name}/inner", Sum((1, 1)), x, multiply(graph, f"{name}/small", cube, _number(0.044715)))
    scaled = graph.add(f"{name}/scaled", Scale(_number(math.sqrt(2 / math.pi)), roundings=3), inner)
    return _half_gate(graph, name, x, graph.add(f"{name}/tanh", Tanh(), scaled))


def _half_gate(graph: Graph, name: str, x: int, gate: int) -> int:
    """x (1 + gate) / 2."""
    return graph.add(name, Product(), x, graph.add(f"{name}/gate", Scale(_number(0.5), _number(0.5)), gate))


def power(graph: Graph, name: str, x: int, exponent: float) -> int:
    """x to a constant power: a whole number from -8 to 8 but 0, or 1/2 or -1/2.

    Raises:
        NotUnderstood: another exponent.
    """
    if exponent in (-0.5, *range(-8, 0)):
        return graph.add(name, Reciprocal(), power(graph, f"{name}/inverse", x, -exponent))
    if exponent == 0.5:
        return graph.add(name, Sqrt(), x)
    if exponent == 1:
        return reshape(graph, name, x, graph.shape(x))
    if exponent in range(2, 9, 2):
        half = x if exponent == 2 else power(graph, f"{name}/half", x, exponent / 2)
        return graph.add(name, Square(), half)
    if exponent in range(3, 9, 2):
        return graph.add(name, Product(), x, power(graph, f"{name}/even", x, exponent - 1))
    raise NotUnderstood(f"node {name!r}: expected a whole exponent from -8 to 8, 1/2 or -1/2, got {exponent!r}")


def reduce_sum(graph: Graph, name: str, x: int, axes: Sequence[int], *, keep: bool) -> int:
    """The sum over axes; `keep` leaves them with length 1."""
    return _reduce(graph, name, x, axes, keep=keep, mean=False)


def reduce_mean(graph: Graph, name: str, x: int, axes: Sequence[int], *, keep: bool) -> int:
    """The mean over axes; `keep` leaves them with length 1."""
    return _reduce(graph, name, x, axes, keep=keep, mean=True)


def global_average_pool(graph: Graph, name: str, x: int) -> int:
    """The mean over all axes but the first, the channels; the axes stay with length 1."""
    return reduce_mean(graph, name, x, range(1, len(graph.shape(x))), keep=True)


def _reduce(graph: Graph, name: str, x: int, axes: Sequence[int], *, keep: bool, mean: bool) -> int:
    shape = graph.shape(x)
    axes = positive_axes(name, shape, axes)
    count = math.prod(shape[axis] for axis in axes) if mean else 1
    operator = Reduce(shape, axes, count)
    if not keep:
        return graph.add(name, operator, x)
    return reshape(graph, name, graph.add(f"{name}/sum", operator, x), _kept(shape, axes))


def batch_norm(
    graph: Graph,
    name: str,
    x: int,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    shift: Tensor | None = None,
    epsilon: float = 1e-5,
) -> int:
    """Batch normalisation with fixed statistics over the first axis of a sample, the channels."""
    trailing = len(graph.shape(x)) - 1
    centred = graph.add(f"{name}/centred", Shift(mean.reshape(-1, *[1] * trailing), sign=-1), x)
    return graph.add(name, BatchScale(variance, weight, shift, epsilon, trailing), centred)


def layer_norm(
    graph: Graph,
    name: str,
    x: int,
    axes: Sequence[int],
    weight: Tensor | None = None,
    shift: Tensor | None = None,
    epsilon: float = 1e-5,
) -> int:
    """Each sample less its mean over `axes`, over its standard deviation, times `weight`, plus `shift`."""
    centred = subtract(graph, f"{name}/centred", x, reduce_mean(graph, f"{name}/mean", x, axes, keep=True))
    spread = reduce_mean(graph, f"{name}/variance", graph.add(f"{name}/square", Square(), centred), axes, keep=True)
    root = graph.add(f"{name}/root", Sqrt(), graph.add(f"{name}/epsilon", Shift(_number(epsilon)), spread))
    inverse = expand(graph, f"{name}/inverse", graph.add(f"{name}/reciprocal", Reciprocal(), root), graph.shape(x))
    if weight is None and shift is None:
        return graph.add(name, Product(), centred, inverse)
    normal = graph.add(f"{name}/normal", Product(), centred, inverse)
    return graph.add(name, Scale(torch.ones(()) if weight is None else weight, shift), normal)


def softmax(graph: Graph, name: str, x: int, axis: int) -> int:
    """e^x_i / sum_j e^x_j along an axis, as sigmoid(x_i - log sum over j != i of e^x_j): exact, and never out of (0, 1)."""
    rest = _log_sum_of_others(graph, name, x, axis)
    if rest is None:
        return constant(graph, name, torch.ones(graph.shape(x)))
    return graph.add(name, Sigmoid(), graph.add(f"{name}/lead", Sum((1, -1)), x, rest))


def log_softmax(graph: Graph, name: str, x: int, axis: int) -> int:
    """The logarithm of the softmax, as -softplus((log sum over j != i of e^x_j) - x_i)."""
    rest = _log_sum_of_others(graph, name, x, axis)
    if rest is None:
        return constant(graph, name, torch.zeros(graph.shape(x)))
    return negate(graph, name, graph.add(f"{name}/bent", Softplus(), graph.add(f"{name}/lag", Sum((1, -1)), rest, x)))


def reduce_log_sum_exp(graph: Graph, name: str, x: int, axes: Sequence[int], *, keep: bool) -> int:
    """log of the sum of e^x over axes; `keep` leaves them with length 1."""
    shape = graph.shape(x)
    table, after = groups(shape, positive_axes(name, shape, axes), keep=keep)
    return combine(graph, name, x, table, after, Softplus())


def _log_sum_of_others(graph: Graph, name: str, x: int, axis: int) -> int | None:
    """For each element the log of the sum of e^x over the others along the axis, in the shape of x; None if there are none."""
    shape = graph.shape(x)
    (axis,) = positive_axes(name, shape, [axis])
    count = shape[axis]
    if count == 1:
        return None
    lines = torch.arange(math.prod(shape)).reshape(shape).movedim(axis, -1)
    # Rows keep their own place as a hole, so that they share nearly all pairs of the tree.
    table = lines.unsqueeze(-2).expand(*lines.shape, count).masked_fill(torch.eye(count, dtype=torch.bool), -1)
    table = table.movedim(-2, axis).reshape(-1, count)
    return combine(graph, f"{name}/rest", x, table, shape, Softplus())


def matmul(graph: Graph, name: str, a: int, b: int) -> int:
    """The matrix product of two values of two axes or more, the leading ones broadcast: products, summed.

    Raises:
        NotUnderstood: shapes that have no matrix product, or values of fewer than two axes.
    """
    left, right = graph.shape(a), graph.shape(b)
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise NotUnderstood(f"node {name!r}: expected samples [..., m, k] and [..., k, p] to multiply, got {left} and {right}")
    order = (*range(len(right) - 2), len(right) - 1, len(right) - 2)
    columns = graph.add(f"{name}/columns", Transpose(order), b)
    rows = reshape(graph, f"{name}/left", a, (*left[:-1], 1, left[-1]))
    columns = reshape(graph, f"{name}/right", columns, (*right[:-2], 1, right[-1], right[-2]))
    terms = multiply(graph, f"{name}/terms", rows, columns)
    return graph.add(name, Reduce(graph.shape(terms), (len(graph.shape(terms)) - 1,)), terms)


def positive_axes(name: str, shape: Shape, axes: Sequence[int]) -> tuple[int, ...]:
    """Axes of a sample counted from 0, sorted.

    Raises:
        NotUnderstood: an axis that the sample does not have, or one that is given twice.
    """
    positive = sorted(axis + len(shape) if axis < 0 else axis for axis in axes)
    if len(set(positive)) != len(positive) or any(not 0 <= axis < len(shape) for axis in positive):
        raise NotUnderstood(f"node {name!r}: expected distinct axes of a sample of shape {shape}, got {list(axes)}")
    return tuple(positive)


def groups(shape: Shape, axes: Sequence[int], *, keep: bool) -> tuple[Tensor, Shape]:
    """A table [results, elements] of flat places that a reduction over axes brings together; and the shape of the results."""
    others = [axis for axis in range(len(shape)) if axis not in axes]
    places = torch.arange(math.prod(shape)).reshape(shape).permute(*others, *axes)
    table = places.reshape(-1, math.prod(shape[axis] for axis in axes))
    return table, _kept(shape, axes) if keep else tuple(shape[axis] for axis in others)


def _kept(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(1 if axis in axes else length for axis, length in enumerate(shape))


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _broadcast(name: str, *shapes: Shape) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise NotUnderstood(f"node {name!r}: expected per-sample shapes that broadcast, got {list(shapes)}") from None


def _value(name: str, operand: Operand) -> int:
    if isinstance(operand, Tensor):
        raise NotUnderstood(f"node {name!r}: expected a value that depends on the input, got only constants; fold them first")
    return operand


def _meet(graph: Graph, name: str, value: Operand, with_constant: Tensor) -> int:
    """The value, expanded where broadcasting against the constant makes it larger."""
    value = _value(name, value)
    shape = _broadcast(name, graph.shape(value), tuple(with_constant.shape))
    return value if shape == graph.shape(value) else expand(graph, f"{name}/expanded", value, shape)


def _both(graph: Graph, name: str, a: Operand, b: Operand) -> tuple[int, int]:
    """Two values, each expanded to their common shape where it has another."""
    a, b = _value(name, a), _value(name, b)
    shape = _broadcast(name, graph.shape(a), graph.shape(b))
    left = a if graph.shape(a) == shape else expand(graph, f"{name}/left", a, shape)
    return left, b if graph.shape(b) == shape else expand(graph, f"{name}/right", b, shape)
