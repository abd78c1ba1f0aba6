"""Shrinking: the simplest failure near one that was found, as a failing test is shrunk to what makes it fail."""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.core.answer import Witnesses
from fathom.core.budget import Budget
from fathom.core.confirm import confirm
from fathom.core.problem import Problem

SHARES = (1 / 2, 1 / 4, 1 / 8)  # of a change that are taken back
TIMES = 4  # each of them, at most
GROWTH = 1.1  # of a change, for the sake of a round number
DECIMALS = 6  # the least round numbers that are tried
ROUNDS = 3  # over single inputs: those before may have made room
CHUNK = 1 << 24  # numbers in a batch of candidates


def shrink(problem: Problem, found: Witnesses, origin: Tensor, budget: Budget) -> Witnesses:
    """Failures that differ in as few inputs as can be from `origin`, then as little as can be, then by as round numbers.

    Args:
        problem: n sets.
        found: what was found in them; rows that are not broken are not shrunk.
        origin: [n, d] what the inputs were before anybody changed them.
        budget: passes are runs of the deployed program a set; when it is spent, what was reached by then is returned.

    Returns:
        Witnesses of n rows, each confirmed and still inside its set; no point in the rows that were not broken.

    Method: delta debugging (Zeller and Hildebrandt, Simplifying and isolating failure-inducing input, 2002), all sets at once:
        ever smaller groups of inputs are put back, then moved part of the way back, then rounded, and what still fails is
        kept; so are inputs that the region ties together, wherever they stand. Greedy: of what the budget lets it reach no single
        input and no tie can be put back, but some other failure may be simpler.
    """
    clean, n = origin.to(problem.program.dtype), len(problem)
    nothing = Witnesses.none(n, found.x.shape[1], found.y.shape[1], found.x.dtype)
    search = _Search(problem, budget, found.where(found.broken, nothing))
    search.move(clean)
    for share in SHARES:
        for _ in range(TIMES):
            if not search.move(torch.where(search.x == clean, search.x, search.x - share * (search.x - clean))):
                break
    for decimals in range(DECIMALS + 1):
        rounded = search.x.to(torch.float64).round(decimals=decimals).to(search.x.dtype)
        near = (rounded - clean).abs() <= GROWTH * (search.x - clean).abs()
        search.move(torch.where(near & (search.x != clean), rounded, search.x))
    return search.best


class _Search:
    """Failing points of n sets, moved while they fail."""

    def __init__(self, problem: Problem, budget: Budget, best: Witnesses) -> None:
        self.problem, self.clock, self.best, self.x = problem, budget.start(), best, best.x
        self.spent = torch.zeros(len(problem), dtype=torch.int64)
        self.ties = problem.deployed.ties()

    def move(self, goal: Tensor) -> bool:
        """Move as many inputs as can be to `goal` [n, d], in groups: first all at once, then halves, down to single inputs;
        and then what is tied.

        Returns:
            Whether any has moved, and what came out is confirmed.
        """
        parts, singles = 1, 0
        while singles < ROUNDS and self.clock.over() is None:
            pending = (self.x != goal) & self.best.known[:, None]
            most = int(pending.sum(1).amax()) if len(pending) else 0
            if not most:
                break
            moved = self._move_groups(goal, _groups(pending, parts), min(parts, most))
            if parts >= most:
                singles += 1
                if not (self._move_ties(goal) or moved):
                    break
            parts *= 2
        return self._confirm()

    def _confirm(self) -> bool:
        """What the program calls a failure and the real network does not, say, is none: then what stood before is taken up."""
        changed = (self.x != self.best.x).any(1) & self.best.known
        found = confirm(self.problem, torch.where(changed[:, None], self.x, torch.nan))
        self.best = found.where(found.broken, self.best)
        self.x = self.best.x
        return bool((changed & found.broken).any())

    def _move_ties(self, goal: Tensor) -> bool:
        """Inputs that the region ties together, each tie as a whole: alone they might leave the set. Whether any moved."""
        moved = False
        for tie in self.ties:
            pending = (self.x != goal) & self.best.known[:, None] & (tie >= 0)
            if bool(pending.any()):
                group = _numbered(torch.where(pending, tie, -1))
                moved |= self._move_groups(goal, group, int(group.max()) + 1)
        return moved

    def _move_groups(self, goal: Tensor, group: Tensor, parts: int) -> bool:
        """Every group alone; then together those that may move, the safest first, as many as still fail. Whether any moved."""
        index = torch.arange(parts)
        sizes = torch.zeros(len(group), parts, dtype=torch.int64).scatter_add(1, group.clamp(min=0), (group >= 0).long())
        there = (sizes > 0) & self._affords(parts)[:, None]
        alone = self._margins(goal, group, there, index.expand(len(group), -1), equal=True)
        order = alone.argsort(dim=1, stable=True).argsort(dim=1)  # the place of each group in the order of margins
        rank = torch.where(group >= 0, order.gather(1, group.clamp(min=0)), parts)
        several = (index < (alone <= 0).sum(1, keepdim=True)) & (index > 0)
        together = self._margins(goal, rank, several, index.expand(len(group), -1), equal=False)
        together[:, 0] = alone.amin(1)
        last = torch.where(together <= 0, index, -1).amax(1)
        self.x = torch.where(rank <= last[:, None], goal, self.x)
        return bool((last >= 0).any())

    def _affords(self, parts: int) -> Tensor:
        limit = self.clock.budget.passes
        return torch.ones_like(self.best.known) if limit is None else self.spent + 2 * parts <= limit

    def _margins(self, goal: Tensor, rank: Tensor, which: Tensor, end: Tensor, *, equal: bool) -> Tensor:
        """Margins [n, parts] where `which` is True of the points whose inputs of rank `end` (or up to it) are at `goal`."""
        owner, part = which.nonzero().unbind(1)
        margins = torch.full(which.shape, torch.inf, dtype=torch.float64)
        step = max(1, CHUNK // max(goal.shape[1], 1))
        for start in range(0, len(owner), step):
            if self.clock.over() is not None:
                break
            sets, limit = owner[start : start + step], end[owner, part][start : start + step, None]
            moves = rank[sets] == limit if equal else (rank[sets] <= limit) & (rank[sets] >= 0)
            margins[sets, part[start : start + step]] = self._judge(sets, torch.where(moves, goal[sets], self.x[sets]))
        self.spent += which.sum(1)
        return margins

    def _judge(self, owner: Tensor, x: Tensor) -> Tensor:
        """The deployed program's margins [L] at x [L, d]; +inf outside the sets, and where they are not a number."""
        y = self.problem.program(x).to(torch.float64)
        margin = self.problem.overseer.take(owner).margin(x.to(torch.float64), y).to(torch.float64)
        inside = self.problem.deployed.take(owner).contains(x)
        return torch.where(inside, margin.nan_to_num(nan=torch.inf), torch.inf)


def _groups(pending: Tensor, parts: int) -> Tensor:
    """[n, d] the number of the group of every pending input, at most `parts` a set, neighbours together; -1 for the others."""
    place, count = pending.cumsum(1) - 1, pending.sum(1, keepdim=True)
    group = place * count.clamp(max=parts) // count.clamp(min=1)
    return torch.where(pending, group, -1)


def _numbered(label: Tensor) -> Tensor:
    """Labels [n, d] >= 0, in each row the least made 0, the next 1, and so on; -1 stays."""
    order = label.sort(dim=1)
    fresh = (order.values != order.values.roll(1, 1)) & (order.values >= 0)
    fresh[:, 0] = order.values[:, 0] >= 0
    return torch.empty_like(label).scatter_(1, order.indices, torch.where(order.values >= 0, fresh.cumsum(1) - 1, -1))
