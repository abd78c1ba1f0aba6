"""The deployed program behind a transformation of its input."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from fathom.capture.captured import Captured
from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError, NotUnderstood
from fathom.core.network import Network, Port
from fathom.core.program import Program
from fathom.transforms.region import Transformed


class TransformedProgram(Program):
    """A picture transformed in the dtype of the program, and given to the program as it is deployed."""

    def __init__(self, generator: Network, program: Program) -> None:
        self.generator = generator.freeze(program.dtype)
        self.program = program
        self.dtype = program.dtype
        name = str(program.dtype).removeprefix("torch.")
        self.inputs = tuple(Port(port.name, port.shape, port.start, name) for port in generator.inputs)
        self.outputs = program.outputs
        parts = repr(("transformed", self.generator.digest, program.digest))
        self.digest = hashlib.sha256(parts.encode()).hexdigest()

    def seen(self, x: Tensor) -> Tensor:
        """[n, d] what the program is given for x [n, picture, parameters and noise]."""
        with torch.no_grad():
            return self.generator(x)

    def __call__(self, x: Tensor) -> Tensor:
        return self.program(self.seen(x))


def in_front(region: Transformed, captured: Captured) -> Captured:
    """The model with the region's transformations in front of it: its input is what the region is over.

    Raises:
        NotUnderstood: the model is about float32, and the rounding of sines and exponentials is not known.
        FathomError: it does not take one picture of the region's size.
    """
    if captured.network.arithmetic is not Arithmetic.REAL:
        raise NotUnderstood("expected real arithmetic for transformations, whose float32 rounding is not known, got float32")
    if len(captured.program.inputs) != 1 or captured.network.input_size != region.pixels:
        got = ", ".join(f"{port.name} {list(port.shape)}" for port in captured.program.inputs)
        raise FathomError(f"expected a model of one input, a picture {list(region.shape)} like the samples, got {got}")
    generator = region.generator()
    program = TransformedProgram(generator, captured.program)
    behind = program.generator.then(captured.network)
    return Captured(program, Network(behind.nodes, program.inputs, captured.network.outputs))
