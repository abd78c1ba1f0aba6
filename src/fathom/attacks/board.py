"""The board of a running search: the best point of every set, which sets are still open, and what each has cost."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fathom.core.answer import Answers, Cost, Reason
from fathom.core.budget import Budget, Goal
from fathom.core.confirm import confirm
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer


class Board:
    """Changes as the search goes on; one call of `solve` makes it and throws it away.

    Margins noted here are the search's own, and only steer it. A point that looks like a failure is put before `confirm`;
    if that does not agree (a rounding failure, say), the set stays open, and the next candidate must be clearly worse.
    """

    def __init__(self, problem: Problem, budget: Budget, hints: Hints, observe: Observer) -> None:
        n = len(problem)
        self.problem, self.clock, self.observe = problem, budget.start(), observe
        self.answers = Answers.none(n, *_sizes(problem))
        self.decide = budget.goal is Goal.DECIDE
        self.open = torch.ones(n, dtype=torch.bool)
        if hints.answers is not None and self.decide:
            self.open &= ~hints.answers.decided
        self.margins = torch.full((n,), torch.inf, dtype=problem.program.dtype)
        self.points = torch.full((n, problem.deployed.size), torch.nan, dtype=problem.program.dtype)
        least = torch.finfo(problem.program.dtype).tiny
        self.bar = torch.full((n,), least, dtype=problem.program.dtype)  # a margin below this is put before `confirm`
        self.fresh = torch.zeros(n, dtype=torch.bool)  # the best point was not put before `confirm` yet
        self.given = _given_points(hints, problem)  # [n, k, d]
        self.forward = torch.zeros(n, dtype=torch.int64)
        self.backward = torch.zeros(n, dtype=torch.int64)

    def going(self) -> Tensor:
        """The sets [k] that are open, may spend a pass, and have no candidate waiting for `confirm`."""
        if self.clock.over():
            return torch.zeros(0, dtype=torch.int64)
        return (self.open & self._afford(torch.ones_like(self.forward)) & ~self._waiting()).nonzero()[:, 0]

    def left(self, most: int) -> int:
        """How many passes, at most so many, every set of `going` can still pay."""
        limit, sets = self.clock.budget.passes, self.going()
        return most if limit is None or not len(sets) else min(most, limit - int((self.forward + self.backward)[sets].max()))

    def book(self, owner: Tensor, *, backward: bool) -> Tensor:
        """Books one evaluation for every search [L] of a set that can still pay; [L] says which those are."""
        counts = torch.bincount(owner, minlength=len(self.open))
        paid = self._afford(2 * counts if backward else counts)
        self.forward += counts * paid
        self.backward += counts * (paid & backward)
        return paid[owner]

    def keep(self, owner: Tensor, x: Tensor, margin: Tensor) -> Tensor:
        """Which searches [L] go on, after the best points x [L, d] and margins [L] they have seen; and books their next step.

        Once one search of a set has found a failure, all searches of that set stop, until `settle`.
        """
        if self.decide:
            hit = margin < self.bar[owner]
            self.note(owner[hit], x[hit], margin[hit])
        keep = (self.open & ~self._waiting())[owner] & (self.clock.over() is None)
        going = keep.nonzero()[:, 0]
        keep[going] = self.book(owner[going], backward=True)
        self.note(owner[~keep], x[~keep], margin[~keep])
        return keep

    def note(self, owner: Tensor, x: Tensor, margin: Tensor) -> None:
        """Keeps, for every set, the best of its points x [L, d] that lies inside the deployed set."""
        better = (margin < self.margins[owner]).nonzero()[:, 0]
        if not len(better):
            return
        better = better[self.problem.deployed.take(owner[better]).contains(x[better])]
        sets, at = best_of_each(owner[better], margin[better], len(self.open))
        lanes = better[at]
        self.margins[sets], self.points[sets], self.fresh[sets] = margin[lanes], x[lanes], True

    def settle(self, *, everything: bool = False) -> None:
        """Puts new best points before `confirm`: those below the bar or, on request or to tighten a bracket, all."""
        worth = self.margins < torch.inf if everything or not self.decide else self.margins < self.bar
        sets = (self.fresh & worth).nonzero()[:, 0]
        if not len(sets):
            return
        found = confirm(self.problem.take(sets), self.points[sets])
        part = replace(Answers.none(len(sets), *_sizes(self.problem)), found=found)
        self.answers = self.answers.put(sets, part)
        self.fresh[sets] = False
        self.bar[sets] = torch.minimum(self.bar[sets], 2 * self.margins[sets].clamp(max=0))
        if self.decide:
            self.open &= ~self.answers.broken
        self.observe(self.current())

    def current(self) -> Answers:
        """The answers so far, with what they cost."""
        passes = (self.forward + self.backward).to(torch.float64)
        seconds = self.clock.elapsed * passes / passes.sum().clamp(min=1)
        return replace(
            self.answers, cost=Cost(seconds, self.forward.clone(), self.backward.clone(), torch.zeros_like(self.forward))
        )

    def finish(self) -> Answers:
        """The answers, every best point confirmed, each with the reason why its search stopped."""
        self.settle(everything=True)
        broke = ~self._afford(2 * torch.ones_like(self.forward))
        answers = self.current().because(self.clock.over() or Reason.INCOMPLETE).because(Reason.PASSES, broke.nonzero()[:, 0])
        return answers.because(Reason.DECIDED, (self.answers.broken | ~self.open).nonzero()[:, 0])

    def _afford(self, passes: Tensor) -> Tensor:
        limit = self.clock.budget.passes
        if limit is None:
            return torch.ones_like(self.open)
        return self.forward + self.backward + passes <= limit

    def _waiting(self) -> Tensor:
        return self.fresh & (self.margins < self.bar) & self.decide


def best_of_each(owner: Tensor, margin: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The sets [k] of n that occur in owner [L], and where in `margin` [L] the least of each is; the first of equals."""
    order = margin.argsort(stable=True)
    first = torch.full((n,), len(order)).scatter_reduce(0, owner[order], torch.arange(len(order)), "amin")
    sets = (first < len(order)).nonzero()[:, 0]
    return sets, order[first[sets]]


def turns(owner: Tensor) -> Tensor:
    """[k] how many of the same owner [k] come before each."""
    order = owner.argsort(stable=True)
    ranked = owner[order]
    return torch.empty_like(order).scatter(0, order, torch.arange(len(order)) - torch.searchsorted(ranked, ranked))


def of_each(owner: Tensor, points: Tensor, n: int) -> Tensor:
    """[n, c, d] the points [k, d] of each of n sets, those of the sets `owner` [k], in the order given; NaN rows are none."""
    turn = turns(owner)
    most = int(turn.max()) + 1 if len(turn) else 0
    return points.new_full((n, most, points.shape[1]), torch.nan).index_put((owner, turn), points)


def _sizes(problem: Problem) -> tuple[int, int, torch.dtype]:
    return problem.deployed.size, sum(port.size for port in problem.program.outputs), problem.program.dtype


def _given_points(hints: Hints, problem: Problem) -> Tensor:
    """[n, k, d] the points that others found; NaN for none."""
    points = torch.zeros(len(problem), 0, problem.deployed.size) if hints.points is None else hints.points
    if hints.answers is not None and bool(hints.answers.found.known.any()):
        points = torch.cat([hints.answers.found.x[:, None].to(points.dtype), points], 1)
    return points.to(problem.program.dtype)
