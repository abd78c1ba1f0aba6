"""The table from ONNX operators to small functions, and what such a function is given.

A function that knows an operator is written in a file of `onnx_operators/` and says so by `@imports("Name")`; there is no
other list. ONNX shapes are those at a batch of one; a leading 1 is that batch, and the graph stores values without it.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from fathom.capture.graph import Graph, Shape
from fathom.core.errors import NotUnderstood
from fathom.core.operator import Operator
from fathom.ops.constant import Constant
from fathom.ops.layout import Reshape
from fathom.ops.pick import Pick

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Value:
    """What depends on the model's input: a node of the graph, and its ONNX shape."""

    index: int
    shape: Shape

    @property
    def led(self) -> bool:
        """Whether the ONNX shape begins with the 1 that the graph leaves out."""
        return self.shape[:1] == (1,)


Importer = Callable[["Call"], Value | tuple[Value, ...]]


def imports(*names: str) -> Callable[[Importer], Importer]:
    """Marks a function as the one that imports the ONNX operators of these names."""

    def mark(function: Importer) -> Importer:
        function.__dict__["imports"] = names
        return function

    return mark


@cache
def table() -> dict[str, Importer]:
    """Every importing function of `onnx_operators/`, by ONNX operator.

    Raises:
        ValueError: two functions import one operator.
    """
    room = importlib.import_module("fathom.capture.onnx_operators")
    found: dict[str, Importer] = {}
    for info in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        for function in vars(importlib.import_module(info.name)).values():
            for name in getattr(function, "imports", ()):
                if found.setdefault(name, function) is not function:
                    raise ValueError(f"{name} is imported twice: by {found[name]} and by {function}")
    return found


def stored(shape: Shape) -> Shape:
    """The graph's shape of an ONNX value: without the 1 that it begins with, if it does, but with an axis at least."""
    return (shape[1:] if shape[:1] == (1,) else shape) or (1,)


def described(node: onnx.NodeProto) -> str:
    """A node in an error's words: by its own name, and by what it computes."""
    name = f"{node.name!r} " if node.name else ""
    return f"node {name}({node.op_type}, computing {', '.join(repr(o) for o in node.output)})"


@dataclass(frozen=True, eq=False)
class Call:
    """One node being imported: its inputs, its attributes, and the graph to add to."""

    graph: Graph
    node: onnx.NodeProto
    opset: int
    inputs: tuple[Value | Array | None, ...]  # None: an optional input that is not there
    dtype: torch.dtype
    batched: bool  # the model's batch is symbolic, so the leading 1 stands for many samples that must not mix
    output: int = 0  # which of the node's outputs is being made
    wholes: dict[int, int] = field(default_factory=dict)  # what `whole` has made, by value

    @property
    def name(self) -> str:
        """The name of the output, which the last node added for it carries."""
        return str(self.node.output[self.output])

    def of_output(self, output: int) -> Call:
        """The same call, for another of its outputs."""
        return replace(self, output=output)

    def refuse(self, why: str) -> NotUnderstood:
        """An error that names the node, for the caller to raise."""
        return NotUnderstood(f"{described(self.node)}: {why}")

    # Inputs.

    def given(self, place: int) -> Value | Array | None:
        """Input number `place`, or None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def value(self, place: int = 0) -> Value:
        """Input number `place`, which must depend on the model's input."""
        value = self.given(place)
        if not isinstance(value, Value):
            raise self.refuse(f"expected input {place} to depend on the model's input, got a constant")
        return value

    def constant(self, place: int) -> Array | None:
        """Input number `place`, which must not depend on the model's input; None where it is left out."""
        value = self.given(place)
        if isinstance(value, Value):
            raise self.refuse(
                f"expected input {place} ({self.node.input[place]!r}) to be a constant, got one computed from the model's input; "
                "export the model with fixed shapes and weights"
            )
        return value

    def required(self, place: int) -> Array:
        """Input number `place`: a constant that must be there."""
        value = self.constant(place)
        if value is None:
            raise self.refuse(f"expected an input number {place}, got only {len(self.node.input)} inputs")
        return value

    def operand(self, place: int) -> Value | Array:
        """Input number `place`, a value or a constant, which must be there."""
        value = self.given(place)
        return value if isinstance(value, Value) else self.required(place)

    def operands(self) -> tuple[Shape, list[int | Tensor]]:
        """All inputs, to be broadcast: the ONNX shape they make, and nodes or constants that broadcast in the graph.

        Shapes meet at their last axes, and what the graph leaves out is the first 1 of the longest: so stored shapes broadcast
        to the stored result.
        """
        given = [self.operand(place) for place in range(len(self.node.input))]
        shape = tuple(np.broadcast_shapes(*(operand.shape for operand in given)))
        for value in given:
            if isinstance(value, Value) and len(value.shape) == len(shape) and value.led and shape[0] != 1:
                self.alone(value, 0)
        return shape, [operand.index if isinstance(operand, Value) else self.aligned(operand, shape) for operand in given]

    def aligned(self, constant: Array, shape: Shape) -> Tensor:
        """A constant that broadcasts against an ONNX shape, as one that broadcasts against the stored shape."""
        tensor = self.tensor(constant)
        return tensor[0] if tensor.ndim == len(shape) and shape[:1] == (1,) else tensor

    def weight(self, place: int) -> Tensor:
        """Input number `place` as a tensor of the model's dtype; a constant that must be there."""
        return self.tensor(self.required(place))

    def lifted(self, place: int) -> Value:
        """Input number `place` as a value, even if it is a constant."""
        value = self.given(place)
        if isinstance(value, Value):
            return value
        constant = self.tensor(self.required(place))
        shape = tuple(constant.shape)
        operator = Constant(self.graph.shape(0), constant.reshape(stored(shape)))
        return Value(self.add(operator, 0, step=f"constant {place}"), shape)

    def tensor(self, value: Array) -> Tensor:
        """A constant as a tensor of the model's dtype."""
        return torch.from_numpy(np.array(value)).to(self.dtype)

    def number(self, value: float) -> Tensor:
        """A number of the model's dtype."""
        return torch.tensor(value, dtype=self.dtype)

    # Attributes. onnxruntime has loaded the model, so they have the types that their operators ask for.

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute called `name`, text decoded."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def integers(self, name: str, place: int) -> list[int] | None:
        """The attribute `name` of older operator sets, or the constant input `place` of newer ones; None for neither."""
        value = self.attribute(name)
        if value is None:
            value = self.constant(place)
        return None if value is None else [int(v) for v in np.reshape(value, -1)]

    # Results.

    def step(self, step: str) -> str:
        """The name of a node on the way to the output; of the output itself for ""."""
        return f"{self.name}/{step}" if step else self.name

    def add(self, operator: Operator, *values: int, step: str = "") -> int:
        """Append a node, named after the call; `step` tells several nodes of one call apart."""
        return self.graph.add(self.step(step), operator, *values)

    def settle(self, index: int, shape: Shape) -> Value:
        """A node whose elements are in the order of ONNX shape `shape`, as a value of that shape."""
        have, want = self.graph.shape(index), stored(shape)
        if have == want:
            return Value(index, shape)
        if math.prod(have) != math.prod(want):
            raise self.refuse(f"expected {math.prod(want)} elements for shape {shape}, got {math.prod(have)}")
        return Value(self.graph.add(f"{self.graph.nodes[index].name}/as {want}", Reshape(have, want), index), shape)

    def alone(self, value: Value, axis: int) -> None:
        """Refuse to work along the axis that stands for many samples."""
        if axis == 0 and value.led and self.batched:
            raise self.refuse(
                "it works along axis 0, the batch, and so mixes samples; export the model with a batch of 1 to treat that axis "
                "like any other"
            )

    def whole(self, value: Value) -> int:
        """The value with its leading 1 as an axis like any other, for operators that work along it."""
        self.alone(value, 0)
        if self.graph.shape(value.index) == value.shape:
            return value.index
        if value.index not in self.wholes:
            reshape = Reshape(stored(value.shape), value.shape)
            self.wholes[value.index] = self.add(reshape, value.index, step=f"whole {value.index}")
        return self.wholes[value.index]

    def along(self, axis: int, *values: Value) -> tuple[int, list[int], Shape]:
        """Values to be worked on along one ONNX axis: the axis in the graph, the nodes, and what ONNX shapes have before it."""
        rank = len(values[0].shape)
        if any(len(value.shape) != rank for value in values) or not -rank <= axis < rank:
            raise self.refuse(f"expected values of one rank that have an axis {axis}, got shapes {[v.shape for v in values]}")
        axis %= rank
        if axis and all(value.led for value in values):
            return axis - 1, [v.index for v in values], (1,)
        return axis, [self.whole(value) for value in values], ()

    def picture(self, place: int = 0) -> Value:
        """Input number `place`, which must have a batch and a channel axis in front: for convolutions and pooling."""
        value = self.value(place)
        if not value.led or len(value.shape) < 3:
            raise self.refuse(f"expected an input of shape [1, channels, ...], got {list(value.shape)}; export with a batch of 1")
        return value

    def move(self, value: Value, places: Array, axes: Sequence[int] = ()) -> Value:
        """Elements moved: `places`, of the new ONNX shape, holds where in the value each comes from.

        Every layout operator is numpy's, on `self.places(value)`. What keeps the order is a Reshape, or nothing. `axes` are
        those along which elements are left out or repeated.
        """
        shape = tuple(places.shape)
        if np.array_equal(places.reshape(-1), np.arange(math.prod(value.shape))):
            return self.reshape(value, shape)
        for axis in axes:
            self.alone(value, axis)
        index = torch.from_numpy(np.ascontiguousarray(places.reshape(stored(shape)), dtype=np.int64))
        return Value(self.add(Pick(stored(value.shape), index), value.index), shape)

    def reshape(self, value: Value, shape: Sequence[int], step: str = "") -> Value:
        """The same elements in another ONNX shape."""
        shape = tuple(int(s) for s in shape)
        if stored(shape) == stored(value.shape):
            return Value(value.index, shape)
        return Value(self.add(Reshape(stored(value.shape), stored(shape)), value.index, step=step), shape)

    def broadcast(self, value: Value, shape: Shape) -> Value:
        """A value repeated along the axes where `shape`, by numpy's rules, asks for it."""
        grown = [0] if len(shape) == len(value.shape) and shape[:1] != value.shape[:1] else []
        return self.move(value, np.broadcast_to(self.places(value), shape), grown)

    def places(self, value: Value) -> Array:
        """Where each element of a value is, in its ONNX shape: what `move` is told about."""
        return np.arange(math.prod(value.shape)).reshape(value.shape)
