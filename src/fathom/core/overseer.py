"""An overseer judges (input, output): the margin, how severe a failure is and, where it can, a spec to prove."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from fathom.core.network import Network
from fathom.core.spec import Spec
from fathom.core.value import take


class Severity(enum.Enum):
    """How bad a failure is, in the overseer's own judgement."""

    BENIGN = "benign"  # erratic
    SERIOUS = "serious"
    MALIGN = "malign"  # competent pursuit of the wrong goal


@dataclass(frozen=True, eq=False)
class Compiled:
    """An overseer as (network, spec): the margin of `spec` over `network(x)` is the overseer's.

    exact: False where the spec's margin is only a lower bound on the overseer's: proofs carry over, failures may not.
    """

    network: Network
    spec: Spec
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Overseer(ABC):
    """n judges of one kind, one for each set of the region; tensors in its fields have first dimension n."""

    severity: Severity

    def take(self, index: Tensor) -> Self:
        """The judges of the sets at `index`."""
        return take(self, index)

    @abstractmethod
    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """Margins [n] at inputs x [n, d] and the deployed program's outputs y [n, m]; > 0 safe, <= 0 catastrophe."""

    @abstractmethod
    def compile(self, network: Network) -> Compiled:
        """The overseer behind `network`, [n, d] -> [n, m]. A judge of x too gets a network that also emits x.

        Raises:
            NotCompilable: with the reason; the problem can then be attacked and not proved.
        """

    @abstractmethod
    def judgement(self, index: int, y: Tensor) -> str:
        """In a person's words, what output y [m] of set `index` is: "3 read as 8". Without a verdict."""
