"""Misclassification within the k best: the right class is not among the k highest scores."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.logic import MOST_NUMBERS
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec
from fathom.overseers.misclassification import check_classes, check_outputs, class_name, differences, others

MOST_CLAUSES = 1 << 12
"""How many sets of classes that may all beat the right one are told apart."""


@final
@dataclass(frozen=True, eq=False)
class TopK(Overseer):
    """At least `k` other classes score at least as high as the right one, for scores y [n, classes]; so a tie counts against it.

    margin = y[label] - the k-th highest of the other scores; k = 1 is `Misclassification`.
    exact: where the ways to choose k of the other classes are at most `MOST_CLAUSES`; a clause is made for each. Where they are
    more, fewer than k are chosen: if k classes beat the right one, so do some of them. Then proofs carry over.

    Raises:
        FathomError: k is not in 1 .. classes - 1; or what `Misclassification` refuses.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    label: Tensor  # [n] int64: the right class of each set
    classes: int
    k: int
    names: tuple[str, ...] = field(default=(), metadata={"fingerprint": False})  # of the classes; () for their numbers

    def __post_init__(self) -> None:
        check_classes("label", self.label, self.classes, self.names)
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 1 <= self.k < self.classes:
            raise FathomError(f"expected k in 1 .. {self.classes - 1} for {self.classes} classes, got {self.k!r}")

    def __str__(self) -> str:
        return f"not among the {self.k} best"

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """One subtraction, so its sign is exact in any floating-point type."""
        check_outputs(y.shape[1], self.classes)
        rivals = others(y, self.label).topk(self.k, 1).values[:, -1]
        return y.gather(1, self.label[:, None])[:, 0] - rivals

    def compile(self, network: Network) -> Compiled:
        """A clause for every choice of other classes. Sets of one label share their rows."""
        check_outputs(network.output_size, self.classes)
        rows, of = differences(self.label, self.classes)
        chosen = next(k for k in range(self.k, 0, -1) if k == 1 or self._fits(k, len(rows)))
        picks = torch.tensor(list(itertools.combinations(range(self.classes - 1), chosen)))
        clause = torch.arange(len(picks)).repeat_interleave(chosen).expand(len(rows), -1)
        spec = Spec.make(rows[:, picks.flatten()], torch.zeros(clause.shape), clause, of)
        return Compiled(network, spec, exact=chosen == self.k)

    def judgement(self, index: int, y: Tensor) -> str:
        label = int(self.label[index])
        best = ", ".join(class_name(j, self.names) for j in y.topk(self.k).indices.tolist()[:4])
        return f"{class_name(label, self.names)} read as {best}{', ...' if self.k > 4 else ''}"

    def _fits(self, k: int, labels: int) -> bool:
        clauses = math.comb(self.classes - 1, k)
        return clauses <= MOST_CLAUSES and labels * clauses * k * self.classes <= MOST_NUMBERS
