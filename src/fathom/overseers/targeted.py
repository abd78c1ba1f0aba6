"""A targeted failure: one given class, and no other, is what must never be predicted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec
from fathom.overseers.misclassification import check_classes, check_outputs, class_name, differences, others


@final
@dataclass(frozen=True, eq=False)
class Targeted(Overseer):
    """margin = max of the other scores - y[target], for scores y [n, classes]; the target in a tie for the top is a failure.

    Raises:
        FathomError: fewer than two classes, targets that are not int64 [n] in [0, classes), or names of another number.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    target: Tensor  # [n] int64: the class that must not be predicted
    classes: int
    names: tuple[str, ...] = field(default=(), metadata={"fingerprint": False})  # of the classes; () for their numbers

    def __post_init__(self) -> None:
        check_classes("target", self.target, self.classes, self.names)

    def __str__(self) -> str:
        return "read as the target"

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """One subtraction, so its sign is exact in any floating-point type."""
        check_outputs(y.shape[1], self.classes)
        return others(y, self.target).amax(1) - y.gather(1, self.target[:, None])[:, 0]

    def compile(self, network: Network) -> Compiled:
        """One clause: every other class scores no more than the target. Sets of one target share their rows."""
        check_outputs(network.output_size, self.classes)
        rows, of = differences(self.target, self.classes)
        one = torch.zeros(rows.shape[:2])
        return Compiled(network, Spec.make(-rows, offsets=one, clause=one, of=of))

    def judgement(self, index: int, y: Tensor) -> str:
        target = int(self.target[index])
        rival = int(others(y[None], self.target[index : index + 1])[0].argmax())
        seen = target if bool(y[target] >= y[rival]) else rival
        return f"read as {class_name(seen, self.names)}, where {class_name(target, self.names)} is the target"
