"""Backward linear bounds with the free parameters of the relaxations optimised, row by row of the spec."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fathom.bounds.backward import Reach
from fathom.bounds.batches import Bound, solve_in_batches
from fathom.bounds.inside import initial_choices, optimised
from fathom.bounds.intermediate import tighten
from fathom.bounds.margins import bound_margins, each_row, promising
from fathom.bounds.sharpen import sharpen
from fathom.core.answer import Answers
from fathom.core.ascent import Ascent
from fathom.core.box import Box
from fathom.core.budget import Budget, Clock
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore


@dataclass(frozen=True)
class AlphaCrown(Solver):
    """CROWN with optimised relaxations.

    Requires: a compiled problem.
    Returns: lower bounds, never below CROWN's on the same inside; the minimisers of the best relaxation, confirmed, as upper
        ones.
    Method: the inside of the network is bounded once, with optimised choices too where that is asked for. Then projected
        Adam on the choices of every relaxation, separately for each row of the spec. Every iterate is rigorous, so the best one
        counts.
    Sound? complete?: sound under `real`; incomplete.
    Reference: Xu et al., Fast and complete: enabling complete verification with rapid and massively parallel incomplete
        verifiers, ICLR 2021.
    """

    steps: int = 20
    rate: float = 0.25
    inner_steps: int = 0  # of ascent on every bound of the inside
    device: str = "cpu"  # where bounds are computed, as torch calls it

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        return solve_in_batches(problem, budget, hints, observe, self._bound, self.device)

    def _bound(self, problem: Problem, network: Network, clock: Clock) -> Bound:
        assert problem.spec is not None
        boxes, reach = self._inside(network, problem, clock)
        each, place = each_row(problem.spec)
        first = bound_margins(network, problem.region, each, boxes, reach, keep=True)
        choices = initial_choices(network, boxes, first.bound.met)
        rows, minimisers = first.rows.detach(), first.minimisers.detach()
        ascent = Ascent([(choice, self.rate, 0.0, 1.0) for choice in choices.values()])
        while (
            choices
            and ascent.time < self.steps
            and clock.over() is None
            and bool((problem.spec.combine(rows.gather(1, place)) <= 0).any())
        ):
            now = bound_margins(network, problem.region, each, boxes, reach, choices)
            better = now.rows.detach() > rows
            rows = torch.where(better, now.rows.detach(), rows)
            minimisers = torch.where(better.unsqueeze(2), now.minimisers.detach(), minimisers)
            ascent.step(now.rows.sum())
        rows = rows.gather(1, place)
        points = promising(problem.spec, rows, minimisers, place)
        return Bound(problem.spec.combine(rows), points, backward=torch.full((len(problem),), 2 + ascent.time))

    def _inside(self, network: Network, problem: Problem, clock: Clock) -> tuple[list[Box], Reach]:
        memory = clock.budget.memory // 4
        operators = [node.operator for node in network.nodes]
        if not self.inner_steps:
            return tighten(network, problem.region, memory=memory, late=clock.late)
        if any(isinstance(operator, Nonlinear) and operator.kink is None for operator in operators):
            bound = optimised(network, problem.region, self.inner_steps, memory, clock.late, lambda: _half_gone(clock))
            return tighten(network, problem.region, memory=memory, late=clock.late, bound=bound)
        sharp = sharpen(network, problem.region, steps=self.inner_steps, memory=memory, late=clock.late)
        return sharp.boxes, sharp.reach


def _half_gone(clock: Clock) -> bool:
    """Whether what is left of the time is needed for plain passes, and for the ascent at the end."""
    return clock.late() or clock.elapsed > clock.remaining
