"""A checker network: another model that scores what the model did. Model and checker are one graph to search and proof."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.checks import check_number, check_whole
from fathom.core.errors import FathomError
from fathom.core.network import Network, fork, identity
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec
from fathom.overseers.models import Model, Source
from fathom.overseers.tally import UNASKED, Tally

SEES = ("y", "x", "xy")


@final
@dataclass(frozen=True, eq=False)
class CheckerNetwork(Overseer):
    """margin = score - threshold, for the one output of `checker` on y, on x, or on both end to end; a low score is a failure.

    Failures are judged by the checker as it is deployed, its own program in its own precision, on the numbers that the model's
    program gave. exact: yes, where the checker was captured: its network behind the model's, over the real numbers. Not compiled
    for float32 arithmetic, nor where the checker is only a program or a function.

    Make it by `CheckerNetwork.make`.

    Raises:
        FathomError: a threshold that is not finite, or `sees` another word.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    threshold: Tensor  # [n] float64
    sees: str  # "y", "x" or "xy"
    digest: str  # of the checker
    checker: Model = field(metadata={"fingerprint": False})
    tally: Tally = field(default_factory=Tally, metadata=UNASKED)

    def __post_init__(self) -> None:
        if self.sees not in SEES:
            raise FathomError(f"expected `sees` as one of {', '.join(SEES)}, got {self.sees!r}")
        if not bool(torch.isfinite(self.threshold).all()):
            raise FathomError(f"expected a finite threshold, got {self.threshold.tolist()[:5]}")

    @staticmethod
    def make(
        checker: Source | Model,
        threshold: float = 0.0,
        *,
        sees: str = "xy",
        sets: int = 1,
        name: str = "",
        severity: Severity = Severity.SERIOUS,
    ) -> CheckerNetwork:
        """The same checker for every one of `sets` sets.

        Args:
            checker: captured (`fathom.read_onnx`, `fathom.capture_module`): provable. Or a program, or a function: only searched.
                It takes what it sees as one flat vector, x before y: two inputs of a file in that order are one.
            threshold: a score of that or less is a failure.
            name: of a function, by which problems are told apart.
        """
        model = Model.of(checker, name)
        limits = torch.full((check_whole("sets", sets),), check_number("threshold", threshold), dtype=torch.float64)
        return CheckerNetwork(limits, sees, model.digest, model, severity=severity)

    def __str__(self) -> str:
        return "the checker's score of the input is low" if self.sees == "x" else "the checker's score is low"

    @property
    def compilable(self) -> bool:
        return self.checker.network is not None

    @property
    def differentiable(self) -> bool:
        return False  # by itself, since the deployed checker is run; compiled, it is

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """One subtraction in float64, so its sign is that of the deployed checker."""
        score = self.checker(_seen(self.sees, x, y))
        if score.shape[1] != 1:
            raise FathomError(f"expected a checker of one output, its score, got one of {score.shape[1]}")
        return self.tally.counted(score[:, 0] - self.threshold)

    def compile(self, network: Network) -> Compiled:
        checker = self.checker.require_network(network)
        size = {"y": network.output_size, "x": network.input_size, "xy": network.input_size + network.output_size}[self.sees]
        if (checker.input_size, checker.output_size) != (size, 1):
            raise FathomError(
                f"expected a checker of {size} inputs ({', then '.join(self.sees)}) and one output, got one of "
                f"{checker.input_size} inputs and {checker.output_size} outputs"
            )
        if self.sees == "x":
            joint = Network(checker.nodes, network.inputs, checker.outputs)
        else:
            joint = (network if self.sees == "y" else fork(identity(network.inputs), network)).then(checker)
        limits, of = torch.unique(self.threshold, return_inverse=True)
        one = torch.ones(len(limits), 1)
        return Compiled(joint, Spec.make(one[:, None], -limits[:, None], one - 1, of))

    def judgement(self, index: int, y: Tensor) -> str:
        return "judged by the checker"

    def troubles(self) -> tuple[str, ...]:
        return self.tally.troubles("The checker", "gave a score of NaN")


def _seen(sees: str, x: Tensor, y: Tensor) -> Tensor:
    if sees == "xy":
        return torch.cat([x.to(torch.float64), y.to(torch.float64)], 1)
    return x if sees == "x" else y
