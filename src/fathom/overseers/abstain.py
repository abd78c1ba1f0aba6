"""Models that may abstain: one of the outputs says "I do not know", and only acting on a wrong class is a failure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec
from fathom.overseers.misclassification import check_classes, check_outputs, class_name, others


@final
@dataclass(frozen=True, eq=False)
class Abstain(Overseer):
    """A wrong class scores at least as high as the right one and as output `abstain`, for scores y [n, classes].

    A tie is a failure.

    margin = max(y[label], y[abstain]) - the highest other score. Abstaining is never a failure, even where another class would
    have been right; `coverage` says how often the model does act. A set whose label is `abstain` is one to abstain from.
    exact: yes; two rows for every wrong class.

    Raises:
        FathomError: `abstain` is no class, or the only one beside a label; or what `Misclassification` refuses.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    label: Tensor  # [n] int64: the right class of each set
    classes: int  # outputs of the model, `abstain` among them
    abstain: int
    names: tuple[str, ...] = field(default=(), metadata={"fingerprint": False})  # of the classes; () for their numbers

    def __post_init__(self) -> None:
        check_classes("label", self.label, self.classes, self.names)
        if isinstance(self.abstain, bool) or not isinstance(self.abstain, int) or not 0 <= self.abstain < self.classes:
            raise FathomError(f"expected `abstain` in 0 .. {self.classes - 1}, the model's outputs, got {self.abstain!r}")
        if self.classes == 2 and bool((self.label != self.abstain).any()):
            raise FathomError("expected at least 2 classes beside the one that abstains, got 1, which is always right")

    def __str__(self) -> str:
        return "misclassified without abstaining"

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """One subtraction, so its sign is exact in any floating-point type."""
        check_outputs(y.shape[1], self.classes)
        safe = torch.maximum(y.gather(1, self.label[:, None])[:, 0], y[:, self.abstain])
        return safe - self._wrong(y).amax(1)

    def compile(self, network: Network) -> Compiled:
        """A clause for every wrong class, of two rows. Sets of one label share them."""
        check_outputs(network.output_size, self.classes)
        labels, of = torch.unique(self.label, return_inverse=True)
        unit = torch.eye(self.classes, dtype=torch.float64)
        safe = torch.stack([unit[labels], unit[self.abstain].expand(len(labels), -1)], 1)  # [k, 2, classes]
        rows = safe[:, None] - unit[None, :, None]  # [k, classes, 2, classes]
        right = (torch.arange(self.classes) == labels[:, None]) | (torch.arange(self.classes) == self.abstain)
        clause = torch.where(right, -1, torch.arange(self.classes)).repeat_interleave(2, 1)
        rows = rows.flatten(1, 2) * (clause >= 0)[:, :, None]
        return Compiled(network, Spec.make(rows, torch.zeros(clause.shape), clause, of))

    def judgement(self, index: int, y: Tensor) -> str:
        seen = int(y.argmax())
        mine = class_name(int(self.label[index]), self.names)
        return f"{mine}: abstains" if seen == self.abstain else f"{mine} read as {class_name(seen, self.names)}"

    def acts(self, y: Tensor) -> Tensor:
        """Where another class scores at least as high as `abstain`."""
        check_outputs(y.shape[1], self.classes)
        return others(y, torch.full((len(y),), self.abstain)).amax(1) >= y[:, self.abstain]

    def _wrong(self, y: Tensor) -> Tensor:
        return others(others(y, self.label), torch.full((len(y),), self.abstain))
