"""What a VNN-LIB 2 query declares: networks, their tensors, and how those lie in the flat vectors that a problem is about."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from fathom.capture.vnnlib.formula import Coefficient, Variable

MOST_MONOMIALS = 1 << 14
"""Products that are constrained: each is an output of the network, so whoever needs more would wait for ever."""

REAL = "real"
"""The element type that leaves the arithmetic to the prover."""


class Tensor(NamedTuple):
    """One declared variable. Its elements are `start`, `start` + 1, ... of all inputs, or of all outputs and hidden values."""

    kind: str  # "input", "hidden" or "output"
    name: str
    dtype: str  # "real", "float32" or "float64"
    shape: tuple[int, ...]
    onnx: str  # of a hidden one: what the model calls it
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def element(self, offset: int) -> str:
        """The element at a row-major offset, as the query writes it: X[0,3], or X where there are no dimensions."""
        indices = []
        for size in reversed(self.shape):
            offset, index = divmod(offset, size)
            indices.append(str(index))
        return f"{self.name}[{','.join(reversed(indices))}]" if indices else self.name


class Equivalence(NamedTuple):
    """(equal-to other): the same model; (isomorphic-to other): a model of the same graph, with weights of its own."""

    kind: str  # "equal-to" or "isomorphic-to"
    other: str


class Declaration(NamedTuple):
    """One declared network."""

    name: str
    equivalence: Equivalence | None
    inputs: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All, in the order in which they are declared."""
        yield from (*self.inputs, *self.hidden, *self.outputs)


class Sum(NamedTuple):
    """An affine term over declared variables that is a factor of a product; float64 holds its numbers exactly."""

    coefficients: tuple[tuple[Variable, Coefficient], ...]
    constant: Coefficient


class Query(NamedTuple):
    """The declarations of a file, and the products in its constraints.

    The flat inputs are the inputs of all networks end to end; the flat outputs are, network by network, outputs and then hidden
    values, and behind all those the products that the constraints are made of. Inputs that the query says to be equal are one
    variable, and one that equals an output of an earlier network is none: so `columns` says what every flat input is, as
    variable i >= 0 of the problem, or as ~j for flat output j.
    """

    networks: tuple[Declaration, ...]
    columns: tuple[Variable, ...]
    monomials: tuple[tuple[Variable, ...], ...]  # products of two variables or more, ascending
    sums: tuple[Sum, ...]  # of which those are made too: sum k is the variable ~(outputs + MOST_MONOMIALS + k)

    @property
    def inputs(self) -> int:
        """How many inputs the problem has."""
        return max(self.columns) + 1

    @property
    def outputs(self) -> int:
        """How many flat outputs there are, without monomials."""
        return sum(t.size for network in self.networks for t in (*network.outputs, *network.hidden))

    def called(self, variable: Variable) -> str:
        """A variable as the query writes it."""
        if ~variable >= self.outputs + MOST_MONOMIALS:
            coefficients, constant = self.sums[~variable - self.outputs - MOST_MONOMIALS]
            return " ".join(["(+", *(f"(* {c} {self.called(v)})" for v, c in coefficients), f"{constant})"])
        if ~variable >= self.outputs:
            return " ".join(["(*", *map(self.called, self.monomials[~variable - self.outputs])]) + ")"
        place = self.columns.index(variable) if variable >= 0 else ~variable
        for tensor in (tensor for network in self.networks for tensor in network.tensors):
            if (tensor.kind == "input") == (variable >= 0) and tensor.start <= place < tensor.start + tensor.size:
                return tensor.element(place - tensor.start)
        raise AssertionError(f"no variable {variable}")
