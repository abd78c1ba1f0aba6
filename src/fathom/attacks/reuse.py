"""Failures used again: the way from a set's centre to its failure, tried from the centres of the other sets.

Changes that break many inputs at once are common: Moosavi-Dezfooli et al., Universal adversarial perturbations, CVPR 2017. And
what breaks one model often breaks another: Szegedy et al., Intriguing properties of neural networks, ICLR 2014.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fathom.core.answer import Answers, Cost, Reason
from fathom.core.budget import Budget
from fathom.core.confirm import confirm
from fathom.core.problem import Problem
from fathom.core.region import Repairable
from fathom.core.value import join

CARRIED = 16  # ways of other sets that are tried on each
AT_ONCE = 4096  # inputs given to the program
KEPT = 3  # of the points tried on a set, the best, for who searches on from them


def reuse(problem: Problem, x: Tensor, broken: Tensor, sets: Tensor, budget: Budget, seed: int = 0) -> Answers:
    """Try the failures of some sets on others, one forward pass each.

    Args:
        x: [n, d] the inputs that fail, in the rows `broken` [b]; at most `CARRIED` of them, drawn at random, are tried.
        sets: [k] where; at least one. Those of a region that repairs no point are left alone.

    Returns:
        Answers of the k sets, with the best points tried on each.
    """
    clock, parts = budget.start(), []
    some = broken[torch.randperm(len(broken), generator=torch.Generator().manual_seed(seed))[:CARRIED]]
    ways = x[some].to(torch.float64) - problem.deployed.take(some).centres()
    for part in torch.split(sets, max(1, budget.memory // (64 * ways.numel()))):
        left = budget.part(seconds=None if budget.seconds is None else max(clock.remaining, 0.0))
        parts.append(attempt(problem.take(part), carried(problem.take(part), ways), left))
    return join(parts[0], *parts[1:])


def carried(problem: Problem, ways: Tensor) -> Tensor:
    """Points [n, w, d] of the deployed sets: ways [w, d] from each centre, brought into the set; none where it repairs none."""
    region, dtype = problem.deployed, problem.program.dtype
    if not isinstance(region, Repairable) or not len(ways):
        return torch.zeros(len(problem), 0, region.size, dtype=dtype)
    return region.repair((region.centres()[:, None] + ways).to(dtype))


def nearest(problem: Problem, points: Tensor, count: int) -> Tensor:
    """Points [n, count, d] of the deployed sets: for each, those of inputs [w, d] found elsewhere that are nearest to its centre.

    That is how failures of another model find the case that they belong to: the same sample has the same centre.
    """
    region, dtype = problem.deployed, problem.program.dtype
    if not isinstance(region, Repairable) or not len(points):
        return torch.zeros(len(problem), 0, region.size, dtype=dtype)
    far = torch.cdist(region.centres(), points.to(torch.float64), compute_mode="donot_use_mm_for_euclid_dist")
    at = far.topk(min(count, len(points)), largest=False).indices
    return region.repair(points.to(dtype)[at])


def attempt(problem: Problem, points: Tensor, budget: Budget) -> Answers:
    """Give points [n, k, d], NaN for none, to the deployed program, one forward pass each, and confirm the best of each set.

    Returns:
        The answers, with the `KEPT` best points of each set.
    """
    clock, (n, _, d) = budget.start(), points.shape
    points = points.to(problem.program.dtype)[:, : budget.passes]
    margins = torch.full(points.shape[:2], torch.inf, dtype=torch.float64)
    tried = torch.zeros(points.shape[:2], dtype=torch.bool)
    for lanes in torch.split((~torch.isnan(points).any(2)).nonzero(), AT_ONCE):
        if not len(lanes) or clock.over() is not None:
            break
        owner, place = lanes.T
        x = points[owner, place]
        margin = problem.overseer.take(owner).margin(x.to(torch.float64), problem.program(x).to(torch.float64))
        margins[owner, place] = margin.to(torch.float64).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        tried[owner, place] = True
    order = margins.argsort(stable=True, dim=1)[:, :KEPT]
    known = tried.gather(1, order) & (margins.gather(1, order) < torch.inf)
    best = torch.full((n, KEPT, d), torch.nan, dtype=points.dtype)
    best[:, : order.shape[1]] = torch.where(known[..., None], points[torch.arange(n)[:, None], order], torch.nan)
    none = Answers.none(n, d, sum(port.size for port in problem.program.outputs), points.dtype)
    cost = Cost.zero(n).spend(clock.elapsed, forward=tried.sum(1))
    return replace(none, found=confirm(problem, best[:, 0]), cost=cost, points=best).because(Reason.INCOMPLETE)
