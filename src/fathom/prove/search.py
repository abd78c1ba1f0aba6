"""The search that every kind of splitting shares: a frontier of open leaves, bounded in batches, worst first.

The bracket of a set is always [least bound over its open and closed leaves, best point found], so the search may stop at any
time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from fathom.attacks.descent import descend
from fathom.attacks.objective import Objective
from fathom.core.answer import REASONS, Answers, Cost, Reason, Witnesses
from fathom.core.budget import Budget, Clock, Goal
from fathom.core.confirm import confirm
from fathom.core.problem import Problem
from fathom.core.region import Repairable
from fathom.core.solver import Hints, Observer, Solver
from fathom.prove.starts import Starts

ATTACK_EVERY = 8  # rounds between two searches from the worst open leaves
ATTACK_LEAVES = 64
BESIDE_AFTER = 8  # rounds before the first longer attack; most searches are over by then
BESIDE_SHARE = 0.03  # of the seconds, at most, for each of them
OBSERVE_SECONDS = 1.0
SLOW_ROUND = 4.0  # seconds, after which rounds are made smaller so that the clock is looked at in time


class Leaves(Protocol):
    """k open sub-problems, as a struct of arrays."""

    @property
    def owner(self) -> Tensor: ...  # [k] the set of the problem that each is a part of

    @property
    def margin(self) -> Tensor: ...  # [k] rigorous lower bound on the margin inside

    @property
    def promise(self) -> Tensor: ...  # [k] the margin as the search estimates it: decides what comes next, and nothing else

    @property
    def point(self) -> Tensor: ...  # [k, d] where the relaxation is least: where a failure would be

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Self: ...

    def join(self, other: Self) -> Self: ...

    def bytes(self) -> int: ...  # memory of one leaf


L = TypeVar("L", bound=Leaves)


class Tree(Protocol[L]):
    """A way of splitting."""

    batch: int  # leaves to split at once
    starts: Tensor  # [sets, R, d] of the sets that `root` was asked for: where the relaxation of each row alone is least

    def root(self, sets: Tensor) -> L:
        """The open leaves that cover the given sets, bounded."""

    def split(self, leaves: L) -> tuple[L, L]:
        """Bounded leaves that cover the given ones, and, second, those that cannot be split, with their last word."""


@dataclass
class Frontier(Generic[L]):
    """The state of a search over n sets."""

    problem: Problem
    goal: Goal
    limit: float  # leaves bounded for one set, at most
    tolerance: float
    answers: Answers  # points found so far, and what was proved before; lower bounds of this search are put in by `bracket`
    searched: Tensor  # [n] whether this search is about the set
    closed: Tensor  # [n] least bound over leaves that need no more work; +inf where there are none
    stuck: Tensor  # [n] whether a leaf was given up as too close to call
    spent: Tensor  # [n] whether leaves were given up because the set had its share
    leaves: L
    boxes: Tensor  # [n] leaves bounded
    given_up: Starts  # in leaves that were, because the set had its share
    began: float = field(default_factory=time.monotonic)

    def threshold(self) -> Tensor:
        """[n] the margin from which a leaf needs no more work."""
        if self.goal is Goal.DECIDE:
            return torch.zeros_like(self.closed)
        upper = self.answers.upper
        return torch.where(upper == torch.inf, upper, upper - self.tolerance * upper.abs().clamp(min=1e-3))

    def settle(self, leaves: L) -> L:
        """Close the leaves that are done, or whose set is; the rest."""
        bar = self.threshold()[leaves.owner]
        done = (leaves.margin > bar) if self.goal is Goal.DECIDE else (leaves.margin >= bar)
        over = self.answers.broken[leaves.owner] & (self.goal is Goal.DECIDE)
        dear = (self.boxes >= self.limit)[leaves.owner] & ~done & ~over
        self.spent[leaves.owner[dear]] = True
        self.given_up = self.given_up.worst(_starts(leaves.take(dear.nonzero()[:, 0])))
        end = done | over | dear
        self.close(leaves.owner[end], leaves.margin[end])
        return leaves.take((~end).nonzero()[:, 0])

    def close(self, owner: Tensor, margin: Tensor) -> None:
        self.closed = self.closed.scatter_reduce(0, owner, margin, "amin")

    def bracket(self, reason: Reason) -> Answers:
        """The answers as of now. A searched set without leaves holds nothing that could fail."""
        lower = self.closed.scatter_reduce(0, self.leaves.owner, self.leaves.margin, "amin")
        lower = torch.where(self.searched, torch.fmax(lower, self.answers.lower), self.answers.lower)
        reasons = torch.full_like(self.answers.reason, REASONS.index(reason))
        reasons = torch.where(self.spent, REASONS.index(Reason.PASSES), reasons)
        reasons = torch.where(self.stuck, REASONS.index(Reason.TOO_CLOSE), reasons)
        share = (time.monotonic() - self.began) * self.boxes / self.boxes.sum().clamp(min=1)
        cost = Cost(share.to(torch.float64), self.answers.cost.forward, self.boxes.clone(), self.boxes.clone())
        return Answers(lower, self.answers.found, reasons, cost)

    def starts(self) -> Tensor:
        """[n, c, d] in the program's dtype: where the worst leaves that were not decided are least; NaN rows are none."""
        return self.given_up.worst(_starts(self.leaves)).of_sets(len(self.problem), self.problem.program.dtype)

    def consider(self, owner: Tensor, points: Tensor) -> None:
        """Look at candidate inputs [k, d] of the sets `owner` [k]; the best of each set is confirmed if it is news."""
        problem = self.problem
        assert problem.network is not None and problem.spec is not None
        points = nearest_deployed(problem, owner, points)
        with torch.no_grad():
            margins = problem.spec.take(owner).margin(self._network(points))
        best = torch.full_like(self.closed, torch.inf).scatter_reduce(0, owner, margins, "amin")
        news = (best < self.answers.upper) | ((best <= 0) & ~self.answers.broken)
        chosen = news[owner] & (margins == best[owner])
        if not chosen.any():
            return
        x = torch.full((len(problem), points.shape[1]), torch.nan, dtype=points.dtype)
        x[owner[chosen]] = points[chosen]
        sets = news.nonzero()[:, 0]
        found = confirm(problem.take(sets), x[sets])
        merged = self.answers.found.take(sets).best(found)
        rows = {f: getattr(self.answers.found, f).index_copy(0, sets, getattr(merged, f)) for f in Witnesses.__dataclass_fields__}
        self.answers = Answers(self.answers.lower, Witnesses(**rows), self.answers.reason, self.answers.cost)

    def __post_init__(self) -> None:
        assert self.problem.network is not None
        self._network = self.problem.network.freeze(torch.float64)
        self.objective = Objective.of(self.problem)


def _starts(leaves: Leaves) -> Starts:
    return Starts.at(leaves.owner, leaves.promise, leaves.point)


def nearest_deployed(problem: Problem, owner: Tensor, points: Tensor) -> Tensor:
    """Points [k, d] as the program can be given them, in float64: rounded to its dtype, and repaired to lie in its sets."""
    region, points = problem.deployed.take(owner), points.to(problem.program.dtype)
    if isinstance(region, Repairable):
        points = region.repair(points[:, None])[:, 0]
    return points.to(torch.float64)


def search(
    problem: Problem,
    tree: Tree[L],
    budget: Budget,
    hints: Hints,
    observe: Observer,
    tolerance: float = 1e-3,
    beside: Sequence[Solver] = (),
) -> Answers:
    """Split until every set is decided (or its bracket is tight, by the budget's goal), the budget is spent, or told to stop.

    `beside`: attacks for the sets that stand open after 8, 16, 32, ... rounds. Where a set stays open, the answers hand on points
    of its worst leaves: the last rounds had no time to search from there.
    """
    clock = budget.start()
    outputs = sum(port.size for port in problem.program.outputs)
    answers = hints.answers or Answers.none(len(problem), problem.region.size, outputs, problem.program.dtype)
    answers = Answers(answers.lower, answers.found, answers.reason, Cost.zero(len(problem)))
    searched = ~answers.decided if budget.goal is Goal.DECIDE else torch.ones(len(problem), dtype=torch.bool)
    if not bool(searched.any()):
        return answers.because(Reason.DECIDED)
    closed = torch.full((len(problem),), torch.inf, dtype=torch.float64)
    sets = searched.nonzero()[:, 0]
    leaves = tree.root(sets)
    counts = torch.bincount(leaves.owner, minlength=len(problem))
    stuck, spent = torch.zeros(2, len(problem), dtype=torch.bool)
    limit = torch.inf if budget.passes is None else budget.passes
    none = Starts.none(problem.region.size)
    state = Frontier(problem, budget.goal, limit, tolerance, answers, searched, closed, stuck, spent, leaves, counts, none)
    state.consider(leaves.owner, leaves.point)
    state.consider(sets.repeat_interleave(tree.starts.shape[1]), tree.starts.flatten(0, 1))
    state.leaves = state.settle(leaves)
    _attack_rows(state, sets, tree.starts, clock)
    reason = _run(state, tree, clock, observe, beside)
    return replace(answers.tighten(state.bracket(reason)), points=state.starts())


def _run(state: Frontier[L], tree: Tree[L], clock: Clock, observe: Observer, beside: Sequence[Solver]) -> Reason:
    """Rounds, until none is left to do or the clock says why not."""
    due = {BESIDE_AFTER << k: attack for k, attack in enumerate(beside)}
    rounds, told, size = 0, time.monotonic(), min(64, tree.batch)
    while len(state.leaves):
        stop = clock.over()
        if stop is not None:
            return stop
        chosen, state.leaves = _choose(state.leaves, size, clock.budget.memory)
        began = time.monotonic()
        children, last = tree.split(chosen)
        if len(last):
            state.consider(last.owner, last.point)
            state.close(last.owner, last.margin)
            state.stuck[last.owner[last.margin <= 0]] = True
        state.boxes += torch.bincount(children.owner, minlength=len(state.closed))
        state.consider(children.owner, children.point)
        slow = time.monotonic() - began > SLOW_ROUND
        state.leaves = state.leaves.join(state.settle(children))
        if rounds % ATTACK_EVERY == 0:
            _attack(state, clock)
        if rounds in due:
            _attack_longer(state, due[rounds], clock)
        state.leaves = state.settle(state.leaves)
        rounds += 1
        size = max(1, size // 2) if slow else min(tree.batch, 2 * size)
        if time.monotonic() - told > OBSERVE_SECONDS:
            observe(state.bracket(Reason.TIME))
            told = time.monotonic()
    return Reason.DECIDED


def _choose(leaves: L, count: int, memory: int) -> tuple[L, L]:
    """The leaves to split now, and the others: the worst first, or the newest where memory is short: depth first needs little."""
    k = len(leaves)
    if k <= count:
        return leaves, leaves.take(torch.arange(0))
    crowded = k * leaves.bytes() > memory // 2
    order = torch.arange(k - 1, -1, -1) if crowded else leaves.promise.argsort()
    return leaves.take(order[:count]), leaves.take(order[count:].sort().values)


def _attack(state: Frontier[L], clock: Clock) -> None:
    """Search from the points of the worst open leaves: failures hide where bounds are worst."""
    leaves = state.leaves
    if not len(leaves):
        return
    worst = leaves.take(leaves.promise.topk(min(ATTACK_LEAVES, len(leaves)), largest=False).indices)
    _descend(state, worst.owner, worst.point, clock)


def _attack_rows(state: Frontier[L], sets: Tensor, starts: Tensor, clock: Clock) -> None:
    """Search from where single rows of the sets that stand open are least [sets, R, d]: the rows of a conjunction may cancel, so
    that the leaves' points say nothing, and a network may be flat wherever an attack begins."""
    near = torch.isin(sets, state.leaves.owner).nonzero()[:, 0][:ATTACK_LEAVES]
    rows = max(1, ATTACK_LEAVES // max(len(near), 1))
    if len(near):
        _descend(state, sets[near].repeat_interleave(min(rows, starts.shape[1])), starts[near, :rows].flatten(0, 1), clock)


def _descend(state: Frontier[L], owner: Tensor, points: Tensor, clock: Clock) -> None:
    found = descend(state.problem, owner, points, objective=state.objective, late=clock.late)
    sets = torch.isfinite(found.margin).nonzero()[:, 0]
    state.consider(sets, found.x[sets])


def _attack_longer(state: Frontier[L], attack: Solver, clock: Clock) -> None:
    """Let an attack work on all sets that stand open."""
    sets = torch.unique(state.leaves.owner)
    if len(sets):
        seconds = None if clock.budget.seconds is None else min(BESIDE_SHARE * clock.budget.seconds, max(clock.remaining, 0.0))
        known = Hints(answers=state.answers.take(sets))
        part = attack.solve(state.problem.take(sets), replace(clock.budget, seconds=seconds, passes=None), known)
        state.answers = state.answers.put(sets, part)
