"""An overseer judges (input, output): the margin, how severe a failure is and, where it can, a spec to prove."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from fathom.core.coverage import Coverage
from fathom.core.network import Network
from fathom.core.spec import Spec
from fathom.core.value import take

if TYPE_CHECKING:
    from fathom.core.composed import AllOf, AnyOf


class Severity(enum.Enum):
    """How bad a failure is, in the overseer's own judgement; from the least to the worst."""

    BENIGN = "benign"  # erratic
    SERIOUS = "serious"
    MALIGN = "malign"  # competent pursuit of the wrong goal

    @property
    def rank(self) -> int:
        """0 for the least."""
        return tuple(Severity).index(self)


@dataclass(frozen=True, eq=False)
class Compiled:
    """An overseer as (network, spec): the margin of `spec` over `network(x)` is the overseer's.

    The network extends the one that was given: it has that one's operators themselves, not copies, so that networks of several
    overseers share them (`core.network.share`).

    exact: False where the spec's margin is only a lower bound on the overseer's: proofs carry over, failures may not.
    """

    network: Network
    spec: Spec
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Overseer(ABC):
    """n judges of one kind, one for each set of the region; tensors in its fields have first dimension n.

    `a & b` calls a catastrophe what both do, `a | b` what either does, and `~a` exactly what a does not: see `core.composed`.
    """

    severity: Severity

    @property
    def compilable(self) -> bool:
        """Whether judges of this kind can be compiled, and so proved about; a network may still stand in the way."""
        return True

    @property
    def differentiable(self) -> bool:
        """Whether the margin is computed in torch operations, so that attacks can follow its gradient. False: by value alone."""
        return True

    @property
    def searchable(self) -> bool:
        """Whether it may call a new input a failure. False: only what it was shown before, so that searching is in vain."""
        return True

    def take(self, index: Tensor) -> Self:
        """The judges of the sets at `index`."""
        return take(self, index)

    @abstractmethod
    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """Margins [n] at inputs x [n, d] and the deployed program's outputs y [n, m]; > 0 safe, <= 0 catastrophe.

        NaN where it cannot judge: neither a failure nor its absence, and no composition makes one of it.
        """

    @abstractmethod
    def compile(self, network: Network) -> Compiled:
        """The overseer behind `network`, [n, d] -> [n, m]. A judge of x too gets a network that also emits x.

        Raises:
            NotCompilable: with the reason; the problem can then be attacked and not proved.
        """

    @abstractmethod
    def judgement(self, index: int, y: Tensor) -> str:
        """In a person's words, what output y [m] of set `index` is: "3 read as 8". Without a verdict."""

    def acts(self, y: Tensor) -> Tensor | None:
        """[n] bool: whether the model acts on its outputs y [n, m], or abstains; None where abstaining is not spoken of."""
        return None

    def coverage(self, y: Tensor) -> Coverage | None:
        """On how many of n outputs y [n, m] the model acts; None where abstaining is not spoken of, or there are none."""
        acts = self.acts(y)
        return None if acts is None or not len(y) else Coverage(int(acts.sum()), len(y))

    def troubles(self) -> tuple[str, ...]:
        """Sentences on what kept this overseer from judging so far, for whoever reads the result; none where all went well."""
        return ()

    def severities(self, x: Tensor, y: Tensor) -> Tensor:
        """[n] int64: the rank of the severity of what is a catastrophe at x [n, d], y [n, m]; -1 where nothing is."""
        return torch.where(self.margin(x, y) <= 0, self.severity.rank, -1)

    def __and__(self, other: Overseer) -> AllOf:
        from fathom.core.composed import all_of  # here, since it is made of overseers

        return all_of(self, other) if isinstance(other, Overseer) else NotImplemented

    def __or__(self, other: Overseer) -> AnyOf:
        from fathom.core.composed import any_of

        return any_of(self, other) if isinstance(other, Overseer) else NotImplemented

    def __invert__(self) -> Overseer:
        from fathom.core.composed import opposite

        return opposite(self)
