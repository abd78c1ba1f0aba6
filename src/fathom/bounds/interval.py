"""The loosest and cheapest proof: interval arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fathom.bounds.batches import Bound, solve_in_batches
from fathom.core.answer import Answers
from fathom.core.budget import Budget, Clock
from fathom.core.enclosure import enclose
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore


@dataclass(frozen=True)
class Interval(Solver):
    """Interval bound propagation.

    Requires: a compiled problem.
    Returns: lower bounds; the middle of each set, confirmed, as the upper ones.
    Method: midpoint-radius interval evaluation of every node.
    Sound? complete?: sound under `real`; incomplete.
    Reference: Gowal et al., On the effectiveness of interval bound propagation for training verifiably robust models, 2018.
    """

    device: str = "cpu"  # where bounds are computed, as torch calls it

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        return solve_in_batches(problem, budget, hints, observe, self._bound, self.device)

    def _bound(self, problem: Problem, network: Network, clock: Clock) -> Bound:
        assert problem.spec is not None
        box = problem.region.box()
        margin = problem.spec.enclose(enclose(network, box)[-1]).lower
        return Bound(margin, box.middle[:, None], backward=torch.zeros(len(problem), dtype=torch.int64))
