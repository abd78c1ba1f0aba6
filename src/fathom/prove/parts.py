"""Sets that are not convex, searched part by part: a patch at each of its places, a finite set point by point.

A bound sees of a set what its linear minimisation oracle sees, which is no more than the convex hull. Where the set is a union of
convex ones, branch and bound on each of them has no such gap. Of a union of other kinds it takes the members, one kind at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fathom.attacks.board import best_of_each
from fathom.core.answer import REASONS, Answers, Cost, Reason
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.solver import Hints, Observer, Solver
from fathom.prove.starts import Starts
from fathom.regions.union import Union

MOST_PARTS = 4096
"""Of one set. More are left to relaxations of the hull."""

AT_ONCE = 256

Piece = tuple[Tensor, Callable[[Tensor], Problem]]
"""The sets [k] that parts are of, and from some of 0 to k - 1 to the problem of these parts."""


def solve_parts(
    solver: Solver, problem: Problem, parts: Region, owner: Tensor, budget: Budget, hints: Hints, observe: Observer
) -> Answers:
    """Answers for the sets of a problem from a solver's answers for their parts.

    Args:
        parts: k convex sets.
        owner: [k] the set of the problem that each is a part of.

    Returns:
        As `solver` would: a set's lower bound is the least of its parts', once all have been looked at; one broken part is
        enough for the goal `decide`, and the others are then left.
    """

    def piece(chunk: Tensor) -> Piece:
        return owner[chunk], lambda keep: _part(problem.take(owner[chunk[keep]]), parts.take(chunk[keep]))

    return _solve(
        solver, problem, [piece(chunk) for chunk in torch.split(torch.arange(len(owner)), AT_ONCE)], budget, hints, observe
    )


def solve_members(solver: Solver, problem: Problem, budget: Budget, hints: Hints, observe: Observer) -> Answers:
    """The same for a problem over a `Union`, from a solver's answers for its members, whatever their kinds."""
    region, deployed = problem.region, problem.deployed
    assert isinstance(region, Union) and isinstance(deployed, Union)

    def piece(member: Region, given: Region) -> Piece:
        sets = (~member.empty()).nonzero()[:, 0]

        def make(keep: Tensor) -> Problem:
            return replace(problem.take(sets[keep]), region=member.take(sets[keep]), deployed=given.take(sets[keep]))

        return sets, make

    pieces = [piece(*pair) for pair in zip(region.members, deployed.members, strict=True)]
    return _solve(solver, problem, pieces, budget, hints, observe)


def _solve(solver: Solver, problem: Problem, pieces: Sequence[Piece], budget: Budget, hints: Hints, observe: Observer) -> Answers:
    """Answers for the sets from those for all pieces of them."""
    clock, n = budget.start(), len(problem)
    outputs = sum(port.size for port in problem.program.outputs)
    known = hints.answers or Answers.none(n, problem.region.size, outputs, problem.program.dtype)
    standing = Answers(known.lower, known.found, torch.full_like(known.reason, REASONS.index(Reason.DECIDED)), Cost.zero(n))
    least = torch.full((n,), torch.inf, dtype=torch.float64)
    open_ = torch.zeros(n, dtype=torch.int64)
    for sets, _ in pieces:
        open_ = open_.index_add(0, sets, torch.ones_like(sets))
    starts = Starts.none(problem.region.size)
    for k, (sets, make) in enumerate(pieces):
        stop = clock.over()
        if stop is not None:
            standing = standing.because(stop, ((open_ > 0) & ~standing.decided).nonzero()[:, 0])
            break
        keep = torch.arange(len(sets))
        if budget.goal is Goal.DECIDE:
            keep = keep[~standing.decided[sets]]
        if not len(keep):
            continue
        sets = sets[keep]
        seconds = None if budget.seconds is None else clock.remaining / (len(pieces) - k)
        found = solver.solve(make(keep), replace(budget, seconds=seconds), Hints())
        starts = starts.worst(_starts(sets, found))
        least = least.scatter_reduce(0, sets, found.lower, "amin")
        open_ = open_.index_add(0, sets, -torch.ones_like(sets))
        standing = _merged(standing, sets, found)
        whole = torch.where(open_ == 0, torch.fmax(least, standing.lower), standing.lower)
        standing = standing.tighten(replace(standing, lower=whole, cost=Cost.zero(n)))
        observe(standing)
    return replace(standing, points=starts.of_sets(n, problem.program.dtype))


def _starts(sets: Tensor, found: Answers) -> Starts:
    """The points that searches of parts [k] of the sets `sets` [k] hand on."""
    if found.points is None:
        return Starts.none(found.found.x.shape[1])
    part, place = (~torch.isnan(found.points).any(2)).nonzero().T
    return Starts.at(sets[part], found.lower[part], found.points[part, place])


def _part(problem: Problem, region: Region) -> Problem:
    """The problem of parts of its sets: points elsewhere in a set are no points of a part, whose bound may lie above theirs."""
    box = region.box()
    inside = problem.deployed.restrict(torch.arange(len(problem)), box.lower, box.upper)
    return replace(problem, region=region, deployed=inside)


def _merged(standing: Answers, sets: Tensor, found: Answers) -> Answers:
    """With the best points of parts [k] of the sets `sets` [k], why they stand open, and what they cost."""
    n = len(standing)
    upper = found.upper
    worst = torch.where(found.broken, upper.clamp(max=0) - 1, upper.clamp(min=0))
    index, at = best_of_each(sets, worst, n)
    spread = Answers.none(n, standing.found.x.shape[1], standing.found.y.shape[1], standing.found.x.dtype)
    points = spread.put(index, replace(found.take(at), lower=torch.full_like(found.lower[at], -torch.inf))).found
    unsure = (~found.decided).nonzero()[:, 0]
    reason = standing.reason.index_copy(0, sets[unsure], found.reason[unsure])
    cost = Cost(
        *(
            torch.zeros_like(getattr(standing.cost, name)).index_add(0, sets, getattr(found.cost, name))
            for name in Cost.__dataclass_fields__
        )
    )
    return standing.tighten(Answers(torch.full_like(standing.lower, -torch.inf), points, reason, cost))
