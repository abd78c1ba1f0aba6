"""Backward linear bounds with the default relaxation of every operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fathom.bounds.batches import Bound, solve_in_batches
from fathom.bounds.intermediate import never, tighten
from fathom.bounds.margins import Margins, bound_margins, each_row, promising
from fathom.core.answer import Answers
from fathom.core.budget import Budget, Clock
from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore


@dataclass(frozen=True)
class Crown(Solver):
    """CROWN: one backward pass for the inside of the network, one for the spec.

    Requires: a compiled problem.
    Returns: lower bounds; the minimisers of the relaxation, confirmed, as upper ones.
    Method: every nonlinear operator between two lines; rows of the spec pushed back to the input.
    Sound? complete?: sound under `real`; incomplete, but exact where no relaxation is left.
    Reference: Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018.
    """

    device: str = "cpu"  # where bounds are computed, as torch calls it

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        return solve_in_batches(problem, budget, hints, observe, self._bound, self.device)

    def _bound(self, problem: Problem, network: Network, clock: Clock) -> Bound:
        assert problem.spec is not None
        each, place = each_row(problem.spec)
        margins = crown(replace(problem, spec=each), network, clock.budget.memory // 4, clock.late)
        rows = margins.rows.gather(1, place)
        points = promising(problem.spec, rows, margins.minimisers, place)
        return Bound(problem.spec.combine(rows), points, backward=torch.full((len(problem),), 2))


def crown(problem: Problem, network: Network, memory: int = 1 << 30, late: Callable[[], bool] = never) -> Margins:
    """CROWN margins of every set of a problem, in float64, on its network: frozen, or live to train through.

    With `network = problem.network` the margins are differentiable in the model's parameters, and still rigorous.

    Raises:
        FathomError: the problem has no spec.
    """
    if problem.spec is None:
        raise FathomError(f"expected a problem that can be proved; here {problem.obstacle}")
    network = network.to(torch.float64)
    boxes, reach = tighten(network, problem.region, memory=memory, late=late)
    return bound_margins(network, problem.region, problem.spec, boxes, reach)
