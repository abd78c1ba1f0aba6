"""What is asked: how likely a draw from a distribution is to fail. Here are the inputs judged, and the passes counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.region import Projectable
from fathom.estimates.distribution import Distribution
from fathom.regions.box import BoxRegion


@dataclass
class Meter:
    """What a method has spent."""

    forward: int = 0  # evaluations of one input
    backward: int = 0  # gradients of one input
    boxes: int = 0  # sub-problems bounded
    unjudged: int = 0  # margins that are not a number, taken for failures by a search


@dataclass(frozen=True, eq=False)
class Question:
    """P(margin <= 0) of a problem's program at draws of a distribution over its deployed region.

    A margin that is not a number (NaN) is no failure and never counted as safe: who counts draws counts it apart, and who
    searches takes it for a failure.
    """

    problem: Problem
    distribution: Distribution
    meter: Meter = field(default_factory=Meter)

    def afresh(self) -> Question:
        """The same question, with nothing spent on it."""
        return Question(self.problem, self.distribution)

    @property
    def guided(self) -> bool:
        """Whether margins can be had from the captured network, a batch at once."""
        return self.problem.provable and self.problem.exact

    @cached_property
    def network(self) -> Network:
        """The captured network in the program's dtype."""
        assert self.problem.network is not None
        return self.problem.network.freeze(self.problem.program.dtype)

    def deployed(self, owner: Tensor, x: Tensor) -> Tensor:
        """Points [k, d] as the program is given them: rounded to its dtype, and back into the region where that left it."""
        x = x.to(self.problem.program.dtype)
        region = self.problem.deployed
        if isinstance(region, BoxRegion) or not isinstance(region, Projectable):  # the ends of boxes are of the dtype already
            return x
        out = (~region.take(owner).contains(x)).nonzero()[:, 0]
        if len(out):
            x = x.index_copy(0, out, region.take(owner[out]).project(x[out][:, None])[:, 0])
        return x

    def judged(self, owner: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Margins [k] of the deployed program at x [k, d] of its dtype, and its outputs [k, m]."""
        self.meter.forward += len(x)
        y = self.problem.program(x).detach().to(torch.float64)
        return self.problem.overseer.take(owner).margin(x.to(torch.float64), y).detach().to(torch.float64), y

    def margins(self, owner: Tensor, x: Tensor) -> Tensor:
        """Margins [k] at points x [k, d]; those that count as failures (NaN among them) are the deployed program's, and -inf for
        NaN.

        Where there is a network, it says which points those may be: in a batch it is much faster than a program that is run
        one input at a time. A point at which the program fails and the network, by rounding, does not is missed.
        """
        x = self.deployed(owner, x)
        if not self.guided:
            margin = self.judged(owner, x)[0]
        else:
            self.meter.forward += len(x)
            assert self.problem.spec is not None
            with torch.no_grad():
                margin = self.problem.spec.take(owner).margin(self.network(x)).to(torch.float64)
            doubtful = (~(margin > 0)).nonzero()[:, 0]
            if len(doubtful):
                margin = margin.index_copy(0, doubtful, self.judged(owner[doubtful], x[doubtful])[0])
        unjudged = margin.isnan()
        self.meter.unjudged += int(unjudged.sum())
        return torch.where(unjudged, -torch.inf, margin)
