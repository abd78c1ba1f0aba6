"""The builder of networks that every frontend shares: add operators by name, get their shapes, finish."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.core.errors import FathomError, NotUnderstood
from fathom.core.network import Join, Network, Node, Port, Select
from fathom.core.operator import Operator
from fathom.core.value import floats_to, map_tensors

Shape = tuple[int, ...]

INPUT, OUTPUT = "(input)", "(output)"
"""Names of the flat input and output: in brackets, since models like to call their own values input and output."""

_PROBE = 0  # batch size of the shape inference: nothing is computed, and no dimension of a sample is 0


class Graph:
    """A network being built. A value is the place of its node; its shape is that of one sample, without the batch."""

    def __init__(self, inputs: Sequence[tuple[str, Shape]], dtypes: Sequence[str] | None = None) -> None:
        """Start with the model's named inputs, laid end to end in the flat input.

        Args:
            inputs: name and per-sample shape of each.
            dtypes: the dtype name of each as the original declares it; float32 by default.

        Raises:
            FathomError: two inputs of one name.
        """
        dtypes = ["float32"] * len(inputs) if dtypes is None else dtypes
        ports, start = [], 0
        for (name, shape), dtype in zip(inputs, dtypes, strict=True):
            ports.append(Port(name, tuple(shape), start, dtype))
            start += ports[-1].size
        self.ports = tuple(ports)
        self.nodes = [Node(INPUT, None, (), (start,))]
        self._names = {INPUT: 0}
        for port in ports:
            self.add(port.name, Select(port.start, port.shape, start), 0)

    def input(self, name: str) -> int:
        """The value of the input called `name`.

        Raises:
            FathomError: there is none of that name.
        """
        if not any(port.name == name for port in self.ports):
            raise FathomError(f"expected an input, one of {', '.join(p.name for p in self.ports)}, got {name!r}")
        return self._names[name]

    def shape(self, value: int) -> Shape:
        """The per-sample shape of a value."""
        return self.nodes[value].shape

    def add(self, name: str, operator: Operator, *inputs: int) -> int:
        """Append `operator` applied to earlier values; its shape is inferred without computing anything.

        Raises:
            NotUnderstood: the operator does not take values of these shapes, or mixes samples of a batch.
            FathomError: the name is taken.
        """
        if name in self._names:
            raise FathomError(f"expected a new name for a {type(operator).__name__} node, got {name!r}, which exists already")
        shape = self._infer(name, operator, inputs)
        self.nodes.append(Node(name, operator, inputs, shape))
        self._names[name] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def _infer(self, name: str, operator: Operator, inputs: tuple[int, ...]) -> Shape:
        shapes = [self.shape(i) for i in inputs]
        # An empty batch, and not the meta device: that imports torch's compiler, which takes seconds.
        single = map_tensors(operator, lambda t: floats_to(torch.float32)(t.detach()))
        try:
            with torch.no_grad():
                y: Tensor = single(*(torch.empty(_PROBE, *s, dtype=torch.float32) for s in shapes))
        except (RuntimeError, IndexError, ValueError, TypeError) as problem:
            raise NotUnderstood(
                f"node {name!r}: expected inputs that {type(operator).__name__} takes, got per-sample shapes {shapes}: {problem}"
            ) from problem
        if y.ndim < 1 or y.shape[0] != _PROBE:
            raise NotUnderstood(
                f"node {name!r}: expected {type(operator).__name__} to treat each sample alone, got shape {tuple(y.shape)} from "
                f"a batch of {_PROBE} of {shapes}; models that mix samples of a batch are not supported"
            )
        return tuple(y.shape[1:])

    def finish(self, outputs: Sequence[tuple[str, int]], dtypes: Sequence[str] | None = None) -> Network:
        """The network whose outputs are these named values; what they do not need is left out.

        Args:
            outputs: name and value of each.
            dtypes: the dtype name of each as the original declares it; float32 by default.
        """
        dtypes = ["float32"] * len(outputs) if dtypes is None else dtypes
        ports, start = [], 0
        for (name, value), dtype in zip(outputs, dtypes, strict=True):
            ports.append(Port(name, self.shape(value), start, dtype))
            start += ports[-1].size
        ends = tuple(value for _, value in outputs)
        order = sorted({0} | self._needed(ends))
        place = {old: new for new, old in enumerate(order)}
        nodes = [Node(n.name, n.operator, tuple(place[i] for i in n.inputs), n.shape) for n in (self.nodes[old] for old in order)]
        nodes.append(Node(OUTPUT, Join(tuple(self.shape(i) for i in ends)), tuple(place[i] for i in ends), (start,)))
        return Network(tuple(nodes), self.ports, tuple(ports))

    def _needed(self, ends: Sequence[int]) -> set[int]:
        needed: set[int] = set()
        todo = list(ends)
        while todo:
            i = todo.pop()
            if i not in needed:
                needed.add(i)
                todo.extend(self.nodes[i].inputs)
        return needed
