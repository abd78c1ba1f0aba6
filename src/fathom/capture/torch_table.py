"""The table from aten operators to small functions, and what such a function is given.

A function that knows an operator is written in a file of `torch_operators/` and says so by `@imports("name")`; there is no
other list. Names are those of aten without namespace and overload: `relu` for aten.relu.default.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from fathom.capture.graph import Graph, Shape
from fathom.capture.rewrite import Operand
from fathom.core.errors import NotUnderstood
from fathom.core.operator import Operator
from fathom.ops.layout import Reshape

BATCH = 7
"""The batch size that stands for every other while a graph is translated; sizes are computed with it."""


@dataclass(frozen=True)
class Value:
    """What depends on the module's input: a node of the graph, and torch's shape of it without axis 0, the batch.

    The graph has the same shape, but (1,) for torch's (): every value there has an axis.
    """

    index: int
    shape: Shape


Importer = Callable[..., Any]
F = TypeVar("F", bound=Importer)


def imports(*names: str, layout: bool = False) -> Callable[[F], F]:
    """Marks a function as the one that translates the aten operators of these names.

    It is called with the `Call` and then exactly as aten's operator is, the values that depend on the input as `Value`.
    `layout` operators only move elements, and may be told sizes, that of the batch too.
    """

    def mark(function: F) -> F:
        function.__dict__.update(imports=names, layout=layout)
        return function

    return mark


@cache
def table() -> dict[str, Importer]:
    """Every function of `torch_operators/`, by aten operator.

    Raises:
        ValueError: two functions translate one operator.
    """
    room = importlib.import_module("fathom.capture.torch_operators")
    found: dict[str, Importer] = {}
    for info in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        for function in vars(importlib.import_module(info.name)).values():
            for name in getattr(function, "imports", ()):
                if found.setdefault(name, function) is not function:
                    raise ValueError(f"{name} is translated twice: by {found[name]} and by {function}")
    return found


def packet(target: Any) -> str:
    """The name of an operator: `relu` of aten.relu.default; with its namespace where that is not aten."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).removeprefix("aten::")
    return str(getattr(target, "__name__", target))


def leaves(value: Any) -> Iterator[Any]:
    """What nested lists, tuples and dictionaries hold."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(tuple(value.values()))
    else:
        yield value


@dataclass(frozen=True, eq=False)
class Call:
    """One aten node being translated, and the graph to add to."""

    graph: Graph
    node: fx.Node
    name: str  # which the last node added for this call carries
    dtype: torch.dtype  # of what it computes

    def refuse(self, why: str, remedy: str = "such a model is not supported") -> NotUnderstood:
        """An error that names the node, its operator and the line of the module, for the caller to raise."""
        return NotUnderstood(f"node {self.name!r} ({self.node.target}{source_line(self.node)}): {why}; {remedy}")

    # Arguments.

    def value(self, argument: Any) -> Value:
        """An argument that must depend on the module's input."""
        if not isinstance(argument, Value):
            raise self.refuse(f"expected an argument that depends on the input, got {_kind(argument)}")
        return argument

    def weight(self, argument: Any) -> Tensor:
        """A tensor that must not depend on the module's input: a parameter, perhaps live, or a constant."""
        if not isinstance(argument, Tensor):
            raise self.refuse(f"expected weights that do not depend on the input, got {_kind(argument)}")
        return argument

    def number(self, argument: Any) -> float:
        """A number as the module's own dtype holds it, since that is what the module computes with."""
        if isinstance(argument, Value | Tensor):
            raise self.refuse(f"expected a plain number, got {_kind(argument)}")
        return float(torch.tensor(argument, dtype=self.dtype))

    def sample(self, constant: Tensor, rank: int) -> Tensor:
        """A constant that meets values with `rank` sample axes, seen as what it is for one sample; a view, so it stays live.

        A constant of another type is rounded to that of the result, as torch does where they meet.
        """
        constant = constant.to(self.dtype)
        if constant.ndim <= rank:
            return constant
        if constant.ndim > rank + 1 or (constant.shape[0] != 1 and not _repeats(constant)):
            raise self.refuse(f"got a constant of shape {list(constant.shape)}, which differs between samples of a batch")
        return constant[0]

    def operand(self, argument: Any, rank: int) -> Operand:
        """A value, a constant or a plain number, as the rewrites take it, where samples have `rank` axes."""
        if isinstance(argument, Value):
            return argument.index
        if isinstance(argument, Tensor):
            return self.sample(argument, rank)
        return torch.tensor(argument, dtype=self.dtype)

    def operands(self, *arguments: Any) -> tuple[Operand, ...]:
        """Operands that are to be broadcast against one another."""
        rank = max(len(argument.shape) for argument in arguments if isinstance(argument, Value))
        return tuple(self.operand(argument, rank) for argument in arguments)

    def axis(self, value: Value, dimension: int) -> int:
        """The axis of a sample that torch calls `dimension`, which counts the batch."""
        rank = len(value.shape) + 1
        if dimension % rank == 0:
            raise self.refuse("it works along axis 0, the batch, and so mixes samples", "let the model treat each sample alone")
        return dimension % rank - 1

    def axes(self, value: Value, dimensions: Any) -> tuple[int, ...]:
        """The sample's axes of several dimensions; None or none stand for all of torch's, and so for the batch too."""
        if dimensions is None or (not isinstance(dimensions, int) and not len(dimensions)):
            raise self.refuse("it works along every axis, the batch too", "name the axes, and leave axis 0 out")
        given = [dimensions] if isinstance(dimensions, int) else dimensions
        return tuple(sorted(self.axis(value, dimension) for dimension in given))

    # Results.

    def add(self, operator: Operator, *values: Value, step: str = "") -> Value:
        """Append a node, named after the call; `step` tells several nodes of one call apart."""
        return self.at(self.graph.add(self.step(step), operator, *(value.index for value in values)))

    def rewrite(self, function: Callable[..., int], *arguments: Any, **options: Any) -> Value:
        """What a rewrite makes, under the call's name."""
        return self.at(function(self.graph, self.name, *arguments, **options))

    def step(self, step: str) -> str:
        """The name of a step of the call; of its last one, for ""."""
        return f"{self.name}/{step}" if step else self.name

    def at(self, index: int) -> Value:
        """A node of the graph as a value, of torch's shape."""
        shape = self.graph.shape(index)
        computed = next((part for part in leaves(self.node.meta.get("val")) if isinstance(part, Tensor)), None)
        return Value(index, () if shape == (1,) and computed is not None and computed.ndim == 1 else shape)

    def reshape(self, value: Value, shape: Shape, step: str = "") -> Value:
        """The same elements as samples of another shape; the same node where that is its shape already."""
        before, after = self.graph.shape(value.index), shape or (1,)
        if before == after:
            return Value(value.index, shape)
        return Value(self.graph.add(self.step(step), Reshape(before, after), value.index), shape)

    def reduce(self, function: Callable[..., int], value: Value, axes: Shape, *, keep: bool) -> Value:
        """A rewrite that reduces axes; where it leaves none, one of length 1 stays in the graph."""
        if keep or len(axes) < len(value.shape):
            return self.rewrite(function, value.index, axes, keep=keep)
        kept = function(self.graph, self.step("kept"), value.index, axes, keep=True)
        return self.reshape(Value(kept, self.graph.shape(kept)), ())


def _repeats(constant: Tensor) -> bool:
    """Whether a constant with a batch axis is the same for every sample."""
    return constant.shape[0] == BATCH and bool((constant == constant[:1]).all())


def _kind(argument: Any) -> str:
    if isinstance(argument, Value):
        return "a value computed from it"
    return f"a constant of shape {list(argument.shape)}" if isinstance(argument, Tensor) else repr(argument)


def source_line(node: fx.Node) -> str:
    """Where in the module's source a node comes from, as ' at file:line, code'; nothing where export does not say."""
    frames = [frame for frame in (node.meta.get("stack_trace") or "").split('File "')[1:] if "/torch/" not in frame.split('"')[0]]
    if not frames:
        return ""
    place, _, code = frames[-1].partition("\n")
    file, _, rest = place.partition('", line ')
    line = code.strip().splitlines()
    return f" at {file}:{rest.partition(',')[0]}, {line[0]!r}" if line else f" at {file}:{rest.partition(',')[0]}"
