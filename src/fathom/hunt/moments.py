"""Starts from semidefinite programming: moments that a failure's input could have, rounded to points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fathom.attacks.gradient import Gradient
from fathom.bounds.intermediate import tighten
from fathom.bounds.margins import bound_margins
from fathom.core.answer import Answers, Reason
from fathom.core.budget import Budget, Clock, Goal
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.region import Repairable
from fathom.core.solver import Hints, Observer, Solver, ignore
from fathom.hunt.semidefinite import Lifted, relax
from fathom.hunt.semidefinite import Moments as InputMoments

AXES = 2  # of the covariance: the longest


@final
@dataclass(frozen=True)
class Moments(Solver):
    """The gradient attack from points that have the moments of a semidefinite relaxation.

    Requires: a compiled problem of affine layers and rectifiers, bounded inputs, and the solver of the extra `moments`.
    Returns: for each set the best point found, confirmed. `lower` stays -inf: a semidefinite program solved in floating point
        proves nothing here.
    Method: for each set and each of the clauses of least bound, the semidefinite relaxation over the inputs that vary and the
        rectifiers that bounds leave open gives a mean and a covariance of the input. Rounded to points are the mean, the ends
        of its longest axes, and samples of the normal distribution with these moments, all repaired into the set. From there
        the gradient attack goes on.
    Sound? Yes: only `confirm` makes a witness. Complete? No.
    Reference: Raghunathan, Steinhardt and Liang, NeurIPS 2018 (the relaxation); Goemans and Williamson, J. ACM 1995 (rounding
        by a normal distribution).

    Raises (from `solve`):
        FathomError: the solver is missing, a layer is neither affine nor a rectifier, an input is unbounded, or there are more
            variables than `most`.
    """

    seed: int = 0
    clauses: int = 3  # of each set, at most, those of least bound first
    samples: int = 8  # of each distribution
    most: int = 60  # variables of one relaxation: inputs that vary and open rectifiers; 40 take a second, 60 four, 80 fifteen
    attack: Gradient = Gradient(restarts=0, lone=0, full=0)  # from the points

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        clock = budget.start()
        if not problem.provable or problem.network is None:
            outputs = sum(port.size for port in problem.program.outputs)
            none = Answers.none(len(problem), problem.deployed.size, outputs, problem.program.dtype)
            return none.because(Reason.NOT_PROVABLE)
        points = self.starts(problem, clock, hints)
        seconds = None if budget.seconds is None else max(clock.remaining, 0.0)
        given = points if hints.points is None else torch.cat([points, hints.points.to(points.dtype)], 1)
        attack = replace(self.attack, seed=self.seed)
        return replace(attack.solve(problem, budget.part(seconds=seconds), replace(hints, points=given), observe), points=points)

    def starts(self, problem: Problem, clock: Clock, hints: Hints = Hints()) -> Tensor:
        """[n, c, d] the points, in the program's dtype, inside the deployed sets where these repair; NaN rows are none."""
        assert problem.network is not None
        network, generator = problem.network.freeze(torch.float64), torch.Generator().manual_seed(self.seed)
        each = self.clauses * (1 + 2 * AXES + self.samples)
        points = torch.full((len(problem), each, problem.deployed.size), torch.nan, dtype=problem.program.dtype)
        todo = torch.arange(len(problem))
        if hints.answers is not None and clock.budget.goal is Goal.DECIDE:
            todo = todo[~hints.answers.decided]
        for i in todo.tolist():
            if clock.late():
                break
            x = self._of_one(problem.take(torch.tensor([i])), network, clock, generator)
            points[i, : len(x)] = x
        return points

    def _of_one(self, problem: Problem, network: Network, clock: Clock, generator: torch.Generator) -> Tensor:
        """Points [c, d] of the deployed set of a problem of one."""
        assert problem.spec is not None
        region, spec = problem.region, problem.spec
        boxes, reach = tighten(network, region, memory=clock.budget.memory // 4, late=clock.late)
        lower = spec.clauses(bound_margins(network, region, spec, boxes, reach).rows)[0]
        lifted = Lifted.of(network, boxes, self.most)
        parts = [torch.zeros(0, region.size, dtype=torch.float64)]
        for clause in lower.argsort(stable=True)[: self.clauses].tolist():
            if clock.late() or (clock.budget.goal is Goal.DECIDE and not lower[clause] <= 0):  # nothing of it can fail
                break
            mine = spec.clause[spec.of[0]] == clause
            found = relax(lifted, spec.rows[spec.of[0]][mine], spec.offsets[spec.of[0]][mine], clock.remaining)
            if found is not None:
                parts.append(lifted.inputs(self._rounded(found, generator)))
        x = torch.cat(parts)[None].to(problem.program.dtype)
        return (problem.deployed.repair(x) if isinstance(problem.deployed, Repairable) else x)[0]

    def _rounded(self, found: InputMoments, generator: torch.Generator) -> Tensor:
        """Points [1 + 2 axes + samples, v] in the cube: the mean, the ends of the longest axes, and normal samples."""
        length, axis = torch.linalg.eigh(found.spread)
        root = axis * length.clamp(min=0).sqrt()
        ends = root[:, -AXES:].flip(1).T
        drawn = torch.randn(self.samples, len(found.mean), generator=generator, dtype=torch.float64) @ root.T
        return (found.mean + torch.cat([torch.zeros(1, len(found.mean)), ends, -ends, drawn])).clamp(-1, 1)
