"""Several deployed programs that share one flat input, as one program."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fathom.core.network import Port
from fathom.core.program import Program

Affine = tuple[tuple[tuple[int, float], ...], float]
"""Places with their coefficients, and a constant."""


class Part(NamedTuple):
    """One program, and where its input comes from: places in the shared input and, behind it, the outputs of earlier parts."""

    program: Program
    places: Tensor  # [d] int64
    hidden: Program | None  # the same model made to show hidden values, which come behind the outputs


class JointProgram(Program):
    """Outputs are those of all parts end to end, then products, in float64 and a term after another, whatever the batch.

    Each part is run as it is deployed, from its own file. Hidden values are what a copy of the file computes in which they are
    outputs; nothing else is taken from that copy, since optimisations may round differently once a value has to be kept.
    """

    def __init__(self, parts: Sequence[Part], size: int, products: Sequence[tuple[int, ...]], sums: Sequence[Affine]) -> None:
        """`size` is that of the shared input.

        The factors of `products` are places in the parts' outputs, then in that input, then in `sums`, whose terms are at places
        in those outputs and that input.
        """
        self.parts = tuple(parts)
        self.sums = tuple(sums)
        self.products = tuple(products)
        self.dtype = parts[0].program.dtype
        name = str(self.dtype).removeprefix("torch.")
        count = sum(port.size for part in parts for program in (part.program, part.hidden) if program for port in program.outputs)
        self.inputs = (Port("inputs", (size,), 0, name),)
        self.outputs = (Port("outputs", (count + len(products),), 0, name),)
        made_of = [(part.program.digest, part.places.tolist(), part.hidden.digest if part.hidden else "") for part in parts]
        self.digest = hashlib.sha256(repr((size, made_of, self.products, self.sums)).encode()).hexdigest()

    def __call__(self, x: Tensor) -> Tensor:
        known = x
        for part in self.parts:
            given = known[:, part.places]
            shown = [part.program(given)] if part.hidden is None else [part.program(given), part.hidden(given)]
            known = torch.cat([known, *shown], 1)
        y = known[:, x.shape[1] :]
        if not self.products:
            return y
        columns = list(torch.cat([y, x], 1).to(torch.float64).unbind(1))
        for terms, constant in self.sums:
            total = torch.full((len(x),), constant, dtype=torch.float64)
            for place, coefficient in terms:
                total = total + coefficient * columns[place]
            columns.append(total)
        products = [functools.reduce(torch.mul, (columns[place] for place in factors)) for factors in self.products]
        return torch.stack([*columns[: y.shape[1]], *products], 1)
