"""Matrix products: with a constant on either side, and of two values."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np

from fathom.capture import rewrite
from fathom.capture.graph import Shape
from fathom.capture.onnx_operators.layout import exchanged
from fathom.capture.onnx_table import Array, Call, Value, imports
from fathom.ops.dense import Dense
from fathom.ops.layout import Transpose
from fathom.ops.scale import Scale


@imports("MatMul")
def matmul(call: Call) -> Value:
    """numpy's: over the last axis of the first and the last but one of the second; what is before these broadcasts."""
    return _product(call, call.name, call.operand(0), call.operand(1))


@imports("Gemm")
def gemm(call: Call) -> Value:
    """alpha A B + beta C, with A and B transposed where asked for, and C broadcast."""
    alpha, beta, third = call.attribute("alpha", 1.0), call.attribute("beta", 1.0), call.given(2)
    first, second = _turned(call, 0, "transA"), _turned(call, 1, "transB")
    if alpha == beta == 1 and isinstance(first, Value) and isinstance(second, np.ndarray) and _is_row(third):
        row = np.broadcast_to(np.reshape(third, -1), second.shape[1:])
        dense = call.add(Dense(call.tensor(second.T), call.tensor(row)), _with_axes(call, first, 1))
        return call.settle(dense, (*first.shape[:-1], second.shape[1]))
    if third is None:
        return _scaled(call, call.name, alpha, _product(call, call.step("product"), first, second))
    y = _scaled(call, call.step("alpha"), alpha, _product(call, call.step("product"), first, second))
    shift = _scaled(call, call.step("beta"), beta, call.lifted(2))
    return call.settle(rewrite.add(call.graph, call.name, y.index, shift.index), y.shape)


def _turned(call: Call, place: int, attribute: str) -> Value | Array:
    """A matrix, transposed where the attribute asks for it."""
    operand = call.operand(place)
    if not call.attribute(attribute, 0):
        return operand
    return exchanged(call, operand, (1, 0), f"turned {place}") if isinstance(operand, Value) else operand.T


def _is_row(third: Value | Array | None) -> TypeGuard[Array]:
    """Whether C is a constant that is added to every row alike: what the shift of a dense layer does."""
    return isinstance(third, np.ndarray) and math.prod(third.shape[:-1]) == 1


def _scaled(call: Call, name: str, factor: float, value: Value) -> Value:
    return Value(call.graph.add(name, Scale(call.number(factor)), value.index), value.shape)


def _product(call: Call, name: str, first: Value | Array, second: Value | Array) -> Value:
    """The product of two operands, one of them at least a value, as the node `name`."""
    shape = _shape(first.shape, second.shape)
    if isinstance(first, Value) and isinstance(second, np.ndarray) and math.prod(second.shape[:-2]) == 1:
        matrix = second.reshape(second.shape[-2:] if second.ndim > 1 else (-1, 1))
        return call.settle(call.graph.add(name, Dense(call.tensor(matrix.T)), _with_axes(call, first, 1)), shape)
    if isinstance(second, Value) and isinstance(first, np.ndarray) and math.prod(first.shape[:-2]) == 1:
        weight = Dense(call.tensor(first.reshape(first.shape[-2:] if first.ndim > 1 else (1, -1))))
        return call.settle(_from_the_left(call, name, weight, second), shape)
    left = first if isinstance(first, Value) else call.lifted(0)
    right = second if isinstance(second, Value) else call.lifted(1)
    a, b = _with_axes(call, left, 2, in_front=True), _with_axes(call, right, 2)
    return call.settle(rewrite.matmul(call.graph, name, a, b), shape)


def _from_the_left(call: Call, name: str, weight: Dense, x: Value) -> int:
    """weight x, over the last axis but one of x, by way of transposes."""
    x_index = _with_axes(call, x, 2)
    axes = tuple(range(len(call.graph.shape(x_index))))
    swapped = Transpose((*axes[:-2], axes[-1], axes[-2]))
    turned = call.graph.add(f"{name}/columns", swapped, x_index)
    return call.graph.add(name, swapped, call.graph.add(f"{name}/rows", weight, turned))


def _with_axes(call: Call, value: Value, count: int, *, in_front: bool = False) -> int:
    """A node of at least `count` axes; a vector becomes a matrix of one column, or of one row `in_front`."""
    if len(value.shape) < count:
        (size,) = value.shape
        shape = (1, size) if in_front else (size, 1)
        step = call.step(f"{'row' if in_front else 'column'} {value.index}")
        return rewrite.reshape(call.graph, step, value.index, shape)
    return call.whole(value) if len(call.graph.shape(value.index)) < count else value.index


def _shape(first: Shape, second: Shape) -> Shape:
    """numpy's rule for the shape of a product."""
    rows = first[-2:-1] if len(first) > 1 else ()
    columns = second[-1:] if len(second) > 1 else ()
    return (*np.broadcast_shapes(first[:-2], second[:-2]), *rows, *columns)
