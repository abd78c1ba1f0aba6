"""Costly confusions: some classes may be taken for others, and some must not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.checks import as_numbers, check_number
from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec
from fathom.overseers.misclassification import check_classes, check_outputs, class_name


@final
@dataclass(frozen=True, eq=False)
class Confusions(Overseer):
    """The decision, the highest of the scores y [n, classes], costs at least `threshold`; in a tie the costly class counts.

    margin = the highest score of a class that costs less - the highest of those that cost at least as much; +inf where none does.
    exact: yes; a clause for every costly class, with a row for every other.

    `Confusions.make` takes the matrix of costs and the right classes.

    Raises:
        FathomError: costs that are not float64 [n, classes] and finite, a threshold that is no finite number, fewer than two
            classes, a set for which every class is costly, or names of another number.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    label: Tensor  # [n] int64: the right class of each set
    cost: Tensor  # [n, classes] float64: of deciding for a class
    threshold: float
    names: tuple[str, ...] = field(default=(), metadata={"fingerprint": False})  # of the classes; () for their numbers

    def __post_init__(self) -> None:
        if not isinstance(self.cost, Tensor) or self.cost.ndim != 2 or self.cost.dtype != torch.float64:
            got = f"{self.cost.dtype} {list(self.cost.shape)}" if isinstance(self.cost, Tensor) else type(self.cost).__name__
            raise FathomError(f"expected `cost` as a float64 tensor [n, classes], got {got}; make it by Confusions.make")
        check_classes("label", self.label, self.cost.shape[1], self.names)
        if len(self.cost) != len(self.label) or not bool(torch.isfinite(self.cost).all()):
            raise FathomError(f"expected finite costs for each of {len(self.label)} sets, got {len(self.cost)} rows")
        object.__setattr__(self, "threshold", check_number("threshold", self.threshold))  # at NaN nothing would be costly
        never = (self._costly().all(1)).nonzero()[:, 0]
        if len(never):
            raise FathomError(
                f"expected a class that costs less than {self.threshold} for every set, got none at set {int(never[0])}"
            )

    @staticmethod
    def make(
        label: Tensor,
        costs: Tensor,
        threshold: float,
        *,
        names: tuple[str, ...] = (),
        severity: Severity = Severity.SERIOUS,
    ) -> Confusions:
        """From a matrix costs[right class, decision], [classes, classes].

        Raises:
            FathomError: the matrix is not square, or what `Confusions` refuses.
        """
        matrix = as_numbers("costs", costs)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise FathomError(
                f"expected costs [classes, classes], of every decision for every right class, got {list(matrix.shape)}"
            )
        check_classes("label", label, len(matrix), names)
        return Confusions(label, matrix[label], threshold, names, severity=severity)

    def __str__(self) -> str:
        return f"a confusion that costs at least {self.threshold:g}"

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """One subtraction, so its sign is exact in any floating-point type."""
        check_outputs(y.shape[1], self.cost.shape[1])
        costly = self._costly()
        return y.masked_fill(costly, -torch.inf).amax(1) - y.masked_fill(~costly, -torch.inf).amax(1)

    def compile(self, network: Network) -> Compiled:
        """Sets with the same costly classes share their rows."""
        classes = self.cost.shape[1]
        check_outputs(network.output_size, classes)
        costly, of = torch.unique(self._costly(), dim=0, return_inverse=True)
        unit = torch.eye(classes, dtype=torch.float64)
        pair = costly[:, :, None] & ~costly[:, None]  # [k, classes, classes]: decided for the first, where the second is mild
        clause = torch.where(pair, torch.arange(classes)[:, None], -1).flatten(1)
        rows = (unit[None, None] - unit[None, :, None]).expand(len(costly), -1, -1, -1) * pair[..., None]
        return Compiled(network, Spec.make(rows.flatten(1, 2), torch.zeros(clause.shape), clause, of))

    def judgement(self, index: int, y: Tensor) -> str:
        seen = int(y.argmax())
        cost = self.cost[index, seen].item()
        return f"{class_name(int(self.label[index]), self.names)} read as {class_name(seen, self.names)}, which costs {cost:g}"

    def _costly(self) -> Tensor:
        return self.cost >= self.threshold
