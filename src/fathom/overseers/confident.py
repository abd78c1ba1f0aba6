"""Confident mistakes: the model acts on a wrong class, and with confidence. Where it is not confident, it abstains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.logic import MOST_NUMBERS
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.rounding import gamma, tiny
from fathom.core.spec import Spec
from fathom.overseers.logits import check_probability, logit, sign_of_confidence
from fathom.overseers.misclassification import check_classes, check_outputs, class_name, differences, others


@final
@dataclass(frozen=True, eq=False)
class Confident(Overseer):
    """A wrong class scores at least as high as any other, and has a softmax of at least `tau`, for scores y [n, classes].

    margin = max(ln(tau / (1 - tau)) - (y_j - log-sum-exp of the other scores), y[label] - y_j), for the highest wrong class j.
    Its sign is exact for the scores and the float64 `tau` as they are stored.
    exact: for two classes only. For more, softmax_j >= tau is compiled to y_j - y_i >= ln(tau / (1 - tau)) for every other class
    i, or for the label alone where those are too many rows: that follows from it, since e^(y_i - y_j) is at most
    (1 - tau) / tau, and holds elsewhere too. Where tau is at most 1 / 2 the logarithm is no gap, and what is left is that j
    scores at least as high as the label. So proofs carry over; the logarithm is irrational, and rounded down.

    Raises:
        FathomError: `tau` is not between 0 and 1; or what `Misclassification` refuses.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    label: Tensor  # [n] int64: the right class of each set
    classes: int
    tau: float
    names: tuple[str, ...] = field(default=(), metadata={"fingerprint": False})  # of the classes; () for their numbers

    def __post_init__(self) -> None:
        check_classes("label", self.label, self.classes, self.names)
        check_probability("tau", self.tau)

    def __str__(self) -> str:
        return f"misclassified with confidence of at least {self.tau:g}"

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """In float64, with more digits where those do not tell."""
        check_outputs(y.shape[1], self.classes)
        y = y.to(torch.float64)
        rival, j = others(y, self.label).max(1)
        return torch.maximum(_shortfall(y, j, self.tau), y.gather(1, self.label[:, None])[:, 0] - rival)

    def compile(self, network: Network) -> Compiled:
        """A clause for every wrong class j, of rows y_i - y_j + gap <= 0. Sets of one label share their rows."""
        check_outputs(network.output_size, self.classes)
        classes, (near, off) = self.classes, logit(self.tau)
        exact = classes == 2
        gap = max(near if exact else math.nextafter(near - off, -math.inf), 0.0)
        to_label, of = differences(self.label, classes)  # [k, classes - 1, classes] of y[label] - y[j]
        rows, clause = to_label, torch.arange(classes - 1).expand(len(to_label), -1)
        # Without a gap, rows beside the label's would add nothing to what holds, and lift the margin above the overseer's.
        if gap > 0 and len(to_label) * (classes - 1) ** 2 * classes <= MOST_NUMBERS:
            every = differences(torch.arange(classes), classes)[0]  # [j, classes - 1, classes] of y[j] - y[i]
            j = (to_label < 0).to(torch.int64).argmax(2)
            rows = -every[j].flatten(1, 2)
            clause = clause.repeat_interleave(classes - 1, 1)
        blur = torch.full(clause.shape, off if exact and near > 0 else 0.0, dtype=torch.float64)
        gaps = torch.full(clause.shape, gap, dtype=torch.float64)
        return Compiled(network, Spec.make(rows, gaps, clause, of, blur=blur), exact)

    def judgement(self, index: int, y: Tensor) -> str:
        seen, mine = int(y.argmax()), class_name(int(self.label[index]), self.names)
        share = y.to(torch.float64).softmax(0)[seen].item()
        return f"{mine} read as {class_name(seen, self.names)} with confidence {share:.3g}"

    def acts(self, y: Tensor) -> Tensor:
        """Where some class has a softmax of at least `tau`."""
        check_outputs(y.shape[1], self.classes)
        return _shortfall(y.to(torch.float64), y.argmax(1), self.tau) <= 0


def _shortfall(y: Tensor, j: Tensor, tau: float) -> Tensor:
    """ln(tau / (1 - tau)) - (y_j - log-sum-exp of the others) [n] for classes j [n]: <= 0 exactly where softmax_j >= tau."""
    near, off = logit(tau)
    rest = y.scatter(1, j[:, None], -torch.inf).logsumexp(1)
    mine = y.gather(1, j[:, None])[:, 0]
    margin = near - (mine - rest)
    size = mine.detach().abs() + rest.detach().abs() + abs(near) + 1
    doubt = off + 8 * gamma(2 * y.shape[1] + 16, y.dtype) * size
    doubtful = (margin.detach().abs() <= doubt) & torch.isfinite(y).all(1)
    signs, least = torch.zeros_like(margin), tiny(y.dtype)
    for i in doubtful.nonzero()[:, 0].tolist():
        signs[i] = -sign_of_confidence(y[i].tolist(), int(j[i]), tau)
    # The value is as computed, its sign as it is.
    sized = torch.where(signs == 0, 0.0, signs * margin.abs().clamp(min=least))
    return torch.where(doubtful, sized, margin)
