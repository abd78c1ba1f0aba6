"""Plausible inputs: the half of a catastrophe that is about x alone. `bad & plausible` is a bad decision on a plausible input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self, final

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.network import Network, fork, identity
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.linear_rules import LinearRules, Numbers, check_spec
from fathom.overseers.models import Model, Source


@final
@dataclass(frozen=True, eq=False)
class Plausible(Overseer):
    """Holds where the input meets its rules.

    That is no failure by itself, so its severity is the least, and what it is joined with has the word.

    margin = that of `spec` over x [n, d], as for `LinearRules`: <= 0 where x is plausible. exact: yes.

    Make it by `Plausible.make`; where a score says what is plausible, see `plausible_where`.

    Raises:
        FathomError: a spec whose rows or offsets are not finite.
    """

    severity: Severity = field(default=Severity.BENIGN, kw_only=True)
    spec: Spec  # over the inputs

    def __post_init__(self) -> None:
        check_spec(self.spec)

    @staticmethod
    def make(
        rows: Numbers,
        offsets: Numbers,
        *,
        clause: Sequence[int] | Tensor | None = None,
        strict: Sequence[bool] | Tensor | None = None,
        sets: int = 1,
    ) -> Plausible:
        """Plausible is where all rows hold; with `clause`, where all of some clause do.

        `Plausible.make([[1.0, -1.0]], [0.0])` says that plausible inputs have x[0] <= x[1]: net pay is at most gross pay.

        Args:
            rows: [R, d]. Row r holds where rows[r] x + offsets[r] <= 0.
            offsets: [R].
            clause: [R] numbers from 0. None: all are one.
            strict: [R]; True for < 0 in place of <= 0. None: none is strict.

        Raises:
            FathomError: as for `LinearRules.make`.
        """
        together = torch.zeros(len(offsets), dtype=torch.int64) if clause is None else clause
        return Plausible(LinearRules.make(rows, offsets, clause=together, strict=strict, sets=sets).spec)

    def __str__(self) -> str:
        return "the input is plausible"

    def take(self, index: Tensor) -> Self:
        return replace(self, spec=LinearRules(self.spec).take(index).spec)

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """In float64; the sign is that of the exact value."""
        self._check(x.shape[1])
        return self.spec.certain_margin(x.to(torch.float64))

    def compile(self, network: Network) -> Compiled:
        self._check(network.input_size)
        rows = torch.nn.functional.pad(self.spec.rows, (network.output_size, 0))
        return Compiled(fork(network, identity(network.inputs)), replace(self.spec, rows=rows))

    def judgement(self, index: int, y: Tensor) -> str:
        return "judged by its input"

    def _check(self, inputs: int) -> None:
        if self.spec.rows.shape[2] != inputs:
            raise FathomError(
                f"expected rules over the {inputs} inputs of this model, got {self.spec.rows.shape[2]} coefficients"
            )


def plausible_where(score: Source | Model, above: float, *, sets: int = 1, name: str = "") -> Overseer:
    """Holds where another model gives the input a score above `above`: a density, an encoder's, a classifier of valid inputs.

    It compiles where that model is captured: proofs and attacks then go through both.

    Args:
        score: of x [n, d], one output.
        name: of a function, by which problems are told apart.
    """
    judged = CheckerNetwork.make(score, above, sees="x", sets=sets, name=name)
    return ~replace(judged, severity=Severity.BENIGN)
