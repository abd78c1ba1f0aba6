"""The amplified adversary: sets are split, bounds say where failures may still hide, and what is found there teaches the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fathom.attacks.board import best_of_each
from fathom.attacks.descent import Candidates, descend
from fathom.attacks.gradient import Gradient
from fathom.attacks.learned import Proposer
from fathom.attacks.moves import inside
from fathom.attacks.objective import Objective, gradient
from fathom.bounds.crown import Crown
from fathom.core.answer import Answers, Cost, Reason
from fathom.core.box import Box
from fathom.core.budget import Budget, Clock, Goal
from fathom.core.confirm import confirm
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore

NOISE = 8  # numbers that a proposer is given besides what it sees
LESSONS = 40  # steps of training on what one level has found


@final
@dataclass(frozen=True)
class Amplified(Solver):
    """Attack, split, bound, and attack where the bound leaves most room; level after level.

    Requires: a captured network with a spec, so that sub-regions can be bounded and gradients followed.
    Returns: for each set the best point found, confirmed. `lower` stays -inf: bounds only steer.
    Method: level 0 is the gradient attack. At every further level each open sub-region is halved along the inputs that the
        margin is steepest in, the halves are bounded, and those that cannot fail are dropped. A level's passes go to the others
        in proportion to the gap between the set's best margin and their bound, as short descents from the minimiser of the
        relaxation, from proposals, and from random points. The proposer learns from the best points of all sub-regions.
    Sound? Yes: only `confirm` makes a witness. Complete? No.
    Reference: Christiano et al., Supervising strong learners by amplifying weak experts, 2018 (the scheme); Bunel et al., Branch
        and bound for piecewise linear neural network verification, JMLR 2020 (the splits).
    """

    seed: int = 0
    levels: int = 3
    halvings: int = 2  # of each sub-region at each level
    passes: int = 400  # of each open set at each level, bounds included
    steps: int = 15  # of each descent
    first: Gradient = Gradient(restarts=2, steps=15, lone=4, full=0)  # level 0

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        clock = budget.start()
        answers = replace(self.first, seed=self.seed).solve(problem, budget, hints, observe)
        if not problem.provable or not len(problem):
            return answers
        box = problem.deployed.box()
        parts = _Parts(torch.arange(len(problem)), box)
        proposer = Proposer(problem.deployed.size, NOISE, 64, self.seed)
        for level in range(1, self.levels + 1):
            answers, parts = self._level(problem, answers, parts, proposer, clock, level)
            observe(answers)
            if clock.over() is not None or not len(parts.owner):
                break
        open_ = (~answers.decided).nonzero()[:, 0]
        return answers.because(clock.over() or Reason.INCOMPLETE, open_)

    def _level(
        self, problem: Problem, answers: Answers, parts: _Parts, proposer: Proposer, clock: Clock, level: int
    ) -> tuple[Answers, _Parts]:
        """Split, bound, attack, learn."""
        spent = answers.cost.forward + answers.cost.backward
        limit = clock.budget.passes
        may = ~answers.decided if clock.budget.goal is Goal.DECIDE else torch.ones(len(problem), dtype=torch.bool)
        parts = parts.take((may & (torch.isfinite(answers.upper)))[parts.owner])
        left = torch.full_like(spent, self.passes) if limit is None else (limit - spent).clamp(min=0, max=self.passes)
        # A sub-region costs a gradient each time it is halved, and a bound and a forward pass for each row in the end.
        each = 3 * (1 << self.halvings) + 2 * self.halvings + _rows(problem) * (1 << self.halvings)
        counts = torch.bincount(parts.owner, minlength=len(problem))
        parts = parts.take((counts * each <= left // 2)[parts.owner])
        if not len(parts.owner):
            return answers, parts
        objective, passes = Objective.of(problem), torch.zeros_like(spent)
        for _ in range(self.halvings):
            slope = parts.slope(problem, objective)
            passes = passes.index_add(0, parts.owner, torch.full_like(parts.owner, 2))
            parts = parts.halved(slope)
        sub = parts.problem(problem)
        seconds = None if clock.budget.seconds is None else max(clock.remaining, 0.0)
        bound = Crown().solve(sub, replace(clock.budget, seconds=seconds, goal=Goal.VALUE, passes=None))
        passes = passes.index_add(0, parts.owner, bound.cost.forward + bound.cost.backward)
        keep = ((bound.lower <= 0) & torch.isfinite(bound.lower) & ~sub.region.empty()).nonzero()[:, 0]
        parts, bound = parts.take(keep), bound.take(keep)
        answers = _merged(problem, answers, parts.owner, bound.found.x, passes)
        if not len(keep) or clock.over() is not None:
            return answers, parts
        found, cost = self._attack(problem, answers, parts, bound, (left - passes).clamp(min=0), proposer, clock, level)
        return _merged(problem, answers, parts.owner, found, cost), parts

    def _attack(
        self,
        problem: Problem,
        answers: Answers,
        parts: _Parts,
        bound: Answers,
        left: Tensor,
        proposer: Proposer,
        clock: Clock,
        level: int,
    ) -> tuple[Tensor, Tensor]:
        """Descents in sub-regions, as many as each gap deserves: the best point of each [k, d], and passes of each set [n]."""
        price, sub = 1 + 2 * (self.steps + 1), parts.problem(problem)
        objective, generator = Objective.of(sub), torch.Generator().manual_seed(self.seed + level)
        slope = parts.slope(problem, Objective.of(problem))
        left = (left - 2 * torch.bincount(parts.owner, minlength=len(problem))).clamp(min=0)
        gap = (answers.upper[parts.owner] - bound.lower).clamp(min=1e-30)
        whole = torch.zeros(len(problem), dtype=torch.float64).index_add(0, parts.owner, gap)
        starts = (left[parts.owner] / price * gap / whole[parts.owner]).floor().to(torch.int64)
        wide = (starts == 0) & (gap >= whole[parts.owner] / torch.bincount(parts.owner, minlength=len(problem))[parts.owner])
        spare = left // price - torch.zeros_like(left).index_add(0, parts.owner, starts)
        starts = starts + (wide & (spare[parts.owner] > _before(parts.owner, wide))).to(torch.int64)
        lane = torch.arange(len(starts)).repeat_interleave(starts)
        turn = _before(lane, torch.ones_like(lane, dtype=torch.bool))
        rows = proposer.rows(sub, slope)
        proposed = inside(sub.deployed, sub.deployed.minimise(rows.detach().double()[:, None])[1], slope.dtype)[:, 0]
        sample = sub.deployed.take(lane).sample(1, generator)[:, 0].to(slope.dtype) if len(lane) else slope[:0]
        relaxed = torch.where(bound.found.known[:, None], bound.found.x, proposed)
        x = torch.where((turn == 0)[:, None], relaxed[lane], torch.where((turn == 1)[:, None], proposed[lane], sample))
        found = Candidates(torch.full_like(slope, torch.nan), slope.new_full((len(slope),), torch.inf))
        for some in torch.split(torch.arange(len(lane)), objective.at_once(clock.budget.memory)):
            if not len(some) or clock.late():
                break
            found = found.best(descend(sub, lane[some], x[some], self.steps, objective=objective, late=clock.late))
        passes, best = (2 + price * starts).to(torch.int64), found.x
        known = ~torch.isnan(best).any(1)
        if bool(known.any()):
            way = best[known].double() - sub.deployed.take(known.nonzero()[:, 0]).box().middle
            for _ in range(0 if clock.late() else LESSONS):
                proposer.learn(proposer.rows(sub.take(known.nonzero()[:, 0]), slope[known]), -way)
        return best, torch.zeros_like(left).index_add(0, parts.owner, passes)


@dataclass(frozen=True, eq=False)
class _Parts:
    """k sub-regions of the sets of a problem."""

    owner: Tensor  # [k]
    box: Box  # [k, d]

    def take(self, which: Tensor) -> _Parts:
        return _Parts(self.owner[which], Box(self.box.lower[which], self.box.upper[which]))

    def problem(self, problem: Problem) -> Problem:
        """Each sub-region as a set of its own."""
        cut = {
            name: getattr(problem, name).restrict(self.owner, self.box.lower, self.box.upper)
            for name in ("written", "deployed", "region")
        }
        return replace(problem.take(self.owner), **cut)

    def slope(self, problem: Problem, objective: Objective) -> Tensor:
        """Gradients [k, d] of the nearest clauses in the middles: two passes each."""
        x = self.box.middle.to(problem.program.dtype).requires_grad_()
        with torch.enable_grad():
            rows = objective.rows(x, self.owner)
            nearest = objective.clauses(rows.detach(), self.owner).argmin(1)
            warmth = torch.zeros(len(x), dtype=x.dtype)
            return gradient(rows, x, objective.members(self.owner, nearest), warmth)

    def halved(self, slope: Tensor) -> _Parts:
        """Halves along the input in which the margin is steepest for its width; the widest, where it is flat."""
        width = self.box.width
        effect = (slope.double().abs() + 0.1 * slope.double().abs().amax(1, keepdim=True)) * width
        axis = torch.where((effect.amax(1) > 0)[:, None], effect, width).argmax(1)
        k = torch.arange(len(axis))
        middle, lower, upper = self.box.middle[k, axis], self.box.lower.clone(), self.box.upper.clone()
        upper[k, axis], lower[k, axis] = middle, middle
        return _Parts(
            torch.cat([self.owner, self.owner]), Box(torch.cat([self.box.lower, lower]), torch.cat([upper, self.box.upper]))
        )


def _rows(problem: Problem) -> int:
    assert problem.spec is not None
    return problem.spec.rows.shape[1]


def _before(owner: Tensor, which: Tensor) -> Tensor:
    """[k] how many of `which` [k] of the same owner come before each."""
    order = owner.argsort(stable=True)
    running = which[order].to(torch.int64).cumsum(0) - which[order].to(torch.int64)
    ranked = owner[order]
    first = torch.searchsorted(ranked, ranked)
    return torch.empty_like(running).scatter(0, order, running - running[first]) if len(owner) else running


def _merged(problem: Problem, answers: Answers, owner: Tensor, x: Tensor, passes: Tensor) -> Answers:
    """The answers with points x [k, d] of the sets `owner` [k], NaN for none, confirmed, and the passes [n] of the search.

    Forward and backward ones are counted together, as forward.
    """
    outputs = sum(port.size for port in problem.program.outputs)
    more = Answers.none(len(problem), problem.deployed.size, outputs, problem.program.dtype)
    known = (~torch.isnan(x).any(1)).nonzero()[:, 0]
    if len(known):
        found = confirm(problem.take(owner[known]), x[known])
        rank = torch.where(found.broken, found.upper.clamp(max=0) - 1, found.upper.clamp(min=0))
        sets, best = best_of_each(owner[known], rank, len(problem))
        rows = {name: getattr(more.found, name).index_copy(0, sets, getattr(found, name)[best]) for name in vars(found)}
        more = replace(more, found=replace(more.found, **rows))
    zero = torch.zeros_like(passes)
    return answers.tighten(replace(more, cost=Cost(zero.double(), passes, zero, zero)).because(Reason.INCOMPLETE))
