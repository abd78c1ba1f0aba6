"""Arithmetic of two or more operands that broadcast as numpy's do: values, and constants among them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fathom.capture import rewrite
from fathom.capture.graph import Graph
from fathom.capture.onnx_table import Call, Value, imports
from fathom.capture.rewrite import Operand

Binary = Callable[[Graph, str, Operand, Operand], int]
BINARY: dict[str, Binary] = {
    "Add": rewrite.add,
    "Div": rewrite.divide,
    "Mul": rewrite.multiply,
    "Sub": rewrite.subtract,
}
VARIADIC: dict[str, Binary] = {
    "Max": rewrite.maximum,
    "Min": rewrite.minimum,
    "Sum": rewrite.add,
}


@imports(*BINARY)
def binary(call: Call) -> Value:
    shape, operands = call.operands()
    return call.settle(BINARY[call.node.op_type](call.graph, call.name, *operands), shape)


@imports(*VARIADIC)
def variadic(call: Call) -> Value:
    """Two at a time, values before constants, so that each step has a value."""
    shape, operands = call.operands()
    if len(operands) == 1:
        return call.value()
    function = VARIADIC[call.node.op_type]
    ordered = sorted(operands, key=lambda operand: not isinstance(operand, int))
    for k, operand in enumerate(ordered[1:], 2):
        name = call.name if k == len(ordered) else call.step(f"first {k}")
        ordered[0] = function(call.graph, name, ordered[0], operand)
    assert isinstance(ordered[0], int)
    return call.settle(ordered[0], shape)


@imports("Pow")
def power(call: Call) -> Value:
    """A value to a constant power, the same for all elements."""
    x, exponents = call.value(), call.required(1)
    exponent = exponents.reshape(-1)[0].item()
    if (exponents != exponent).any():
        raise call.refuse(f"expected one exponent for all elements, got {exponents.size} different ones")
    y = rewrite.power(call.graph, call.name, x.index, exponent)
    return call.settle(y, np.broadcast_shapes(x.shape, exponents.shape))
