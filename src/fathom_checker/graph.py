"""Nodes of an ONNX graph, and the operators that only move elements: of constants, or of arrays of elements' numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fathom_checker.numbers import Array
from fathom_checker.reading import MOST_ELEMENTS, Malformed


class Node:
    """A node's attributes, each of which has to be asked for, and its inputs: constants and variables, by their names."""

    def __init__(self, proto: onnx.NodeProto, constants: Mapping[str, Array], variables: Mapping[str, Array]) -> None:
        self.op, self.inputs, self.output = proto.op_type, list(proto.input), proto.output[0]
        self.constants, self.variables = constants, variables
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        if proto.domain not in ("", "ai.onnx") or any(proto.output[1:]):
            raise self.unknown("another domain than ONNX's own, or more than one output,")
        for name in {*self.inputs, self.output} - {""}:
            if (name in constants or name in variables) == (name == self.output):
                raise self.unknown(f"a tensor {name!r} that is made twice, or not before it is read,")

    def unknown(self, what: str) -> Malformed:
        return Malformed(f"node {self.output!r} ({self.op}): {what} is not understood")

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.pop(name, default)

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] != ""

    def is_constant(self, index: int) -> bool:
        return self.has(index) and self.inputs[index] in self.constants

    def constant(self, index: int) -> Array:
        if not self.is_constant(index):
            raise self.unknown(f"an input number {index} that is no constant")
        return self.constants[self.inputs[index]]

    def variable(self, index: int = 0) -> Array:
        return self.variables[self.inputs[index]]

    def integers(self, index: int, name: str, default: Any) -> Any:
        """Whole numbers from an attribute, or in later opsets from an input; the default where there are neither."""
        values = self.attribute(name, self.constant(index).reshape(-1) if self.has(index) else default)
        return default if values is None else tuple(operator.index(value) for value in values)


def tensor(proto: onnx.TensorProto) -> Array:
    if proto.data_location == onnx.TensorProto.EXTERNAL or proto.external_data:
        raise Malformed(f"the tensor {proto.name!r} is in another file, which no digest covers")
    try:
        return numpy_helper.to_array(proto)
    except Exception as reason:  # damaged data raise many kinds
        raise Malformed(f"the tensor {proto.name!r} is damaged ({reason})") from reason


def padded(node: Node, x: Array, first: int, pads: Sequence[int]) -> Array:
    """With -1 before and after along the axes from the first one on."""
    pairs = [(0, 0)] * first + list(zip(pads, pads[len(pads) // 2 :]))
    size = math.prod(n + sum(pair) for n, pair in zip(x.shape, pairs))
    if 2 * (x.ndim - first) != len(pads) or min(pads, default=0) < 0 or size > MOST_ELEMENTS:
        raise node.unknown(f"padding of {x.shape} by {pads}")
    return np.pad(x, pairs, constant_values=-1)


def _reshape(node: Node, x: Array) -> Array:
    if node.attribute("allowzero", 0):
        raise node.unknown("allowzero")
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(node.integers(1, "shape", None))])


def _slice(node: Node, x: Array) -> Array:
    starts, ends = node.integers(1, "starts", ()), node.integers(2, "ends", ())
    axes, steps = node.integers(3, "axes", range(len(starts))), node.integers(4, "steps", (1,) * len(starts))
    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise node.unknown("a step below 1")
        where[axis] = slice(start, end, step)
    return x[tuple(where)]


def _dropout(node: Node, x: Array) -> Array:
    node.attribute("ratio", 0.5), node.attribute("seed", 0)
    if node.has(2) and node.constant(2).any():
        raise node.unknown("a Dropout that trains")
    return x


MOVES: dict[str, Callable[[Node, Array], Array]] = {
    "Identity": lambda node, x: x,
    "Dropout": _dropout,
    "Flatten": lambda node, x: x.reshape(math.prod(x.shape[: node.attribute("axis", 1)]), -1),
    "Reshape": _reshape,
    "Squeeze": lambda node, x: x.squeeze(node.integers(1, "axes", None)),
    "Unsqueeze": lambda node, x: np.expand_dims(x, node.integers(1, "axes", ())),
    "Transpose": lambda node, x: x.transpose(node.attribute("perm", range(x.ndim)[::-1])),
    "Gather": lambda node, x: np.take(x, node.constant(1), axis=node.attribute("axis", 0)),
    "Slice": _slice,
}
