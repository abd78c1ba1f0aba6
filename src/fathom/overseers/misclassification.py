"""Misclassification: some class other than the right one scores at least as high."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec


@final
@dataclass(frozen=True, eq=False)
class Misclassification(Overseer):
    """margin = y[label] - max of the other scores, for a classifier's scores y [n, classes]; a tie is a failure.

    Raises:
        FathomError: fewer than two classes, labels that are not int64 [n] in [0, classes), or names of another number.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    label: Tensor  # [n] int64: the right class of each set
    classes: int
    names: tuple[str, ...] = field(default=(), metadata={"fingerprint": False})  # of the classes; () for their numbers

    def __post_init__(self) -> None:
        check_classes("label", self.label, self.classes, self.names)

    def __str__(self) -> str:
        return "misclassified"

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """One subtraction, so its sign is exact in any floating-point type."""
        check_outputs(y.shape[1], self.classes)
        mine = y.gather(1, self.label[:, None])[:, 0]
        return mine - others(y, self.label).amax(1)

    def compile(self, network: Network) -> Compiled:
        """One clause of one row for every other class. Sets of one label share their rows."""
        check_outputs(network.output_size, self.classes)
        rows, of = differences(self.label, self.classes)
        clause = torch.arange(self.classes - 1).expand(len(rows), -1)
        return Compiled(network, Spec.make(rows, torch.zeros(clause.shape), clause, of))

    def judgement(self, index: int, y: Tensor) -> str:
        label = int(self.label[index])
        rival = int(others(y[None], self.label[index : index + 1])[0].argmax())
        seen = rival if bool(y[rival] >= y[label]) else label
        return f"{class_name(label, self.names)} read as {class_name(seen, self.names)}"


def others(y: Tensor, label: Tensor) -> Tensor:
    """Scores [n, classes] with that of the class `label` [n] put at -inf."""
    return y.scatter(1, label[:, None], -torch.inf)


def differences(label: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Rows [k, classes - 1, classes] with values y[c] - y[j], one k for each distinct class c in `label` [n]; and [n] -> k."""
    present = torch.bincount(label, minlength=classes) > 0
    distinct = present.nonzero()[:, 0]
    rival = torch.arange(classes - 1).expand(len(distinct), -1)
    rival = rival + (rival >= distinct[:, None]).to(torch.int64)
    unit = torch.eye(classes, dtype=torch.float64)
    return unit[distinct][:, None] - unit[rival], present.cumsum(0)[label] - 1


def class_name(index: int, names: tuple[str, ...]) -> str:
    """What a person calls a class: its name, or else its number."""
    return names[index] if names else str(index)


def check_classes(word: str, label: Tensor, classes: int, names: tuple[str, ...]) -> None:
    """Refuses class numbers that no classifier of so many classes has.

    Raises:
        FathomError: saying what was expected of the field `word`.
    """
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise FathomError(f"expected `classes` as a whole number, got {classes!r}")
    if classes < 2:
        raise FathomError(f"expected at least 2 classes, got {classes}; judge a single score by linear rules instead")
    if names and len(names) != classes:
        raise FathomError(f"expected {classes} class names or none, got {len(names)}: {names}")
    if not isinstance(label, Tensor):
        raise FathomError(f"expected `{word}` as an int64 tensor [n], got a {type(label).__name__}; torch.as_tensor makes one")
    if label.ndim != 1 or label.dtype != torch.int64:
        raise FathomError(f"expected `{word}` as an int64 tensor [n], got {label.dtype} {list(label.shape)}")
    wrong = ((label < 0) | (label >= classes)).nonzero()[:, 0]
    if len(wrong):
        i = int(wrong[0])
        raise FathomError(
            f"expected `{word}` in 0 .. {classes - 1}, got {int(label[i])} at set {i}; do the labels start at 1, or has the "
            "model another number of classes?"
        )


def check_outputs(outputs: int, classes: int) -> None:
    """Refuses a model that has not one output a class.

    Raises:
        FathomError: the numbers differ.
    """
    if outputs != classes:
        raise FathomError(f"expected a model with one output for each of {classes} classes, got one of {outputs} outputs")
