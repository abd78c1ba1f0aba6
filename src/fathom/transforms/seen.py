"""Judges of pictures, asked about what is done to them: they see the picture that the model sees, and not the parameters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

from torch import Tensor

from fathom.core.composed import Wrapped
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer
from fathom.transforms.program import TransformedProgram


@final
@dataclass(frozen=True, eq=False)
class Seen(Wrapped):
    """As another overseer judges the picture that comes out of a generator, and the model's output there.

    A rule over x, a reference, a checker or a program takes pictures of the model's size. The problem's own inputs are the
    picture that goes in, the parameters and the noise.

    exact: where the other is.
    """

    program: TransformedProgram = field(metadata={"fingerprint": False})  # the problem's own, whose digest stands for it
    model: Network = field(metadata={"fingerprint": False})  # of the picture alone

    @staticmethod
    def of(overseer: Overseer, program: TransformedProgram, model: Network) -> Seen:
        """`overseer` for the problem of a program behind a transformation."""
        return Seen(overseer, program, model, severity=overseer.severity)

    def __str__(self) -> str:
        return str(self.inner)

    def take(self, index: Tensor) -> Seen:
        return replace(self, inner=self.inner.take(index))

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner.margin(self._picture(x), y)

    def compile(self, network: Network) -> Compiled:
        """The overseer behind the model alone, and the generator in front of both."""
        compiled = self.inner.compile(self.model)
        return replace(compiled, network=self.program.generator.then(compiled.network))

    def severities(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner.severities(self._picture(x), y)

    def _picture(self, x: Tensor) -> Tensor:
        """[n, pixels] in the dtype of the program."""
        return self.program.generator(x.to(self.program.dtype))


def judge_of_picture(overseer: Overseer) -> Overseer:
    """The judge of what a model is given, whatever is done before to what comes in."""
    return overseer.inner if isinstance(overseer, Seen) else overseer
