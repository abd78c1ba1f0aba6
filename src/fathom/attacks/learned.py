"""The learned attack: a small network is trained to propose failures, on some of the cases, and asked about all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from fathom.attacks.board import Board
from fathom.attacks.gradient import Gradient
from fathom.attacks.moves import inside
from fathom.attacks.objective import Objective, gradient, has_gradient
from fathom.attacks.values import Values
from fathom.core.answer import Answers
from fathom.core.ascent import Ascent
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore

RATE = 3e-3
"""Of Adam."""


class Proposer:
    """A network from sets to rows for the oracle: where a set's point farthest against the row may fail.

    It sees the middle and the half widths of a set's box, the gradient at its centre, as directions, and noise, so that it can
    be asked more than once. What it gives is added to that gradient: untrained, it proposes one plain step.
    """

    def __init__(self, size: int, noise: int, width: int, seed: int) -> None:
        self.noise, self.generator = noise, torch.Generator().manual_seed(seed)
        first, last = nn.Linear(3 * size + noise, width), nn.Linear(width, size)
        with torch.no_grad():
            for layer in (first, last):
                reach = 1 / math.sqrt(layer.in_features)
                layer.weight.copy_((2 * torch.rand(layer.weight.shape, generator=self.generator) - 1) * reach)
                layer.bias.zero_()
        self.layers = nn.Sequential(first, nn.ReLU(), last)
        self.ascent = Ascent.learning(list(self.layers.parameters()), RATE, steepest=1.0)

    def rows(self, problem: Problem, slope: Tensor) -> Tensor:
        """Rows [n, d] for n sets, of which `slope` [n, d] is the gradient at the centre; drawn anew at each call."""
        box = problem.deployed.box()
        half = box.width.float() / 2
        effect = slope.float() * half
        scale = half.mean(1, keepdim=True).clamp(min=1e-30)
        plain = effect / effect.abs().mean(1, keepdim=True).clamp(min=1e-30)
        middle = box.middle.float()
        spread = middle.abs().amax().clamp(min=1e-30)
        seen = torch.cat([middle / spread, half / scale, plain.clamp(-3, 3)], 1)
        drawn = torch.randn(len(seen), self.noise, generator=self.generator)
        change: Tensor = self.layers(torch.cat([seen, drawn], 1))
        return plain.clamp(-3, 3) + 3 * change

    def learn(self, rows: Tensor, slope: Tensor) -> None:
        """One step: rows [n, d] are to point more like the gradients [n, d] where the oracle took them."""
        away = nn.functional.normalize(slope.float(), dim=1)
        self.ascent.step((nn.functional.normalize(rows, dim=1) * away).sum(1).mean())


@final
@dataclass(frozen=True)
class Learned(Solver):
    """A network learns, from some cases, which point of a set the model fails at, and proposes for all.

    Requires: what `Gradient` does; or, without gradients, a program and an overseer, and then it learns from others' failures.
    Returns: for each set the best point found, confirmed. `lower` stays -inf: an attack proves nothing.
    Method: a proposer gives a row for each set, and the region's oracle the point farthest against it. It is trained so that its
        rows point like the gradients at those points, on batches of the open sets; every point on the way counts. Then all open
        sets get several proposals, a forward pass each, and short descents start from the best. Without gradients it learns the
        ways to failures that the search by values found, and that search goes on from its proposals.
    Sound? Yes: only `confirm` makes a witness. Complete? No.
    Reference: Baluja and Fischer, Learning to attack: adversarial transformation networks, AAAI 2018 (amortised attacks); Frank
        and Wolfe 1956 (points of the oracle whose own gradient leads to them).
    """

    seed: int = 0
    steps: int = 60  # of training
    batch: int = 64  # sets in each of them
    proposals: int = 8  # for each set, after it
    width: int = 64  # of the proposer
    restarts: int = 2  # of the descents at the end, for each set

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        board = Board(problem, budget, hints, observe)
        seeing = has_gradient(problem)
        if len(problem) and seeing:
            self._search(board, Objective.of(problem))
        first = board.finish()
        left = (
            None if budget.passes is None else budget.passes - int((board.forward + board.backward).max()) if len(problem) else 0
        )
        rest = budget.part(max(board.clock.remaining, 0.0) if budget.seconds is not None else None, left)
        points = board.points[:, None] if hints.points is None else torch.cat([board.points[:, None], board.given], 1)
        everyone = torch.arange(len(problem))

        def tell(part: Answers) -> None:
            observe(first.put(everyone, part))

        if seeing:
            known = Hints(points=points, answers=first if hints.answers is None else hints.answers.tighten(first))
            last: Solver = Gradient(seed=self.seed, restarts=self.restarts, lone=self.restarts, full=0)
            return first.tighten(last.solve(problem, rest, known, tell))
        return first.tighten(self._imitate(problem, rest, Hints(points, hints.answers), tell))

    def _search(self, board: Board, objective: Objective) -> None:
        """Training, and proposals."""
        problem = board.problem
        _look(board, objective)
        slope = torch.zeros(len(problem), problem.deployed.size)
        for sets in _parts(board, self.batch):
            centre = inside(problem.deployed.take(sets), problem.deployed.take(sets).centres()[:, None], board.points.dtype)
            slope[sets] = _slopes(board, objective, sets, centre[:, 0]).float()
        board.settle()
        proposer = Proposer(problem.deployed.size, 8, self.width, self.seed)
        order = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            going = board.going()
            if not len(going):
                return
            sets = going[torch.randperm(len(going), generator=order)[: self.batch]].sort().values
            rows, x = _proposed(proposer, problem, sets, slope)
            proposer.learn(rows, _slopes(board, objective, sets, x))
            board.settle()
        for _ in range(self.proposals):
            for sets in _parts(board, 1024):
                with torch.no_grad():
                    _, x = _proposed(proposer, problem, sets, slope)
                    paid = board.book(sets, backward=False).nonzero()[:, 0]
                    mine = sets[paid]
                    board.note(mine, x[paid], objective.margin(objective.rows(x[paid], mine), mine))
            board.settle()

    def _imitate(self, problem: Problem, budget: Budget, hints: Hints, observe: Observer) -> Answers:
        """Without gradients: learn the ways to the failures that values alone find, then search on from proposals."""
        clock = budget.start()
        half = None if budget.passes is None else (budget.passes + 1) // 2
        first = Values(seed=self.seed).solve(problem, budget.part(passes=half), hints, observe)
        broken, size = first.broken.nonzero()[:, 0], problem.deployed.size
        if not len(broken):
            return first
        proposer, none = Proposer(size, 8, self.width, self.seed), torch.zeros(len(problem), size)
        way = first.found.x[broken].to(torch.float64) - problem.deployed.take(broken).centres()
        for _ in range(self.steps):
            proposer.learn(proposer.rows(problem.take(broken), none[broken]), -way)
        with torch.no_grad():
            points = torch.stack(
                [_proposed(proposer, problem, torch.arange(len(problem)), none)[1] for _ in range(self.proposals)], 1
            )
        left = None if budget.passes is None else budget.passes - int(first.cost.forward.max())
        rest = budget.part(max(clock.remaining, 0.0) if budget.seconds is not None else None, left)
        known = Hints(points, first if hints.answers is None else hints.answers.tighten(first))
        everyone = torch.arange(len(problem))
        last = Values(seed=self.seed + 1).solve(problem, rest, known, lambda part: observe(first.put(everyone, part)))
        return first.tighten(last)


def _parts(board: Board, most: int) -> tuple[Tensor, ...]:
    """The sets that are still searched, so many at a time."""
    going = board.going()
    return torch.split(going, most) if len(going) else ()


def _look(board: Board, objective: Objective) -> None:
    """Evaluates the points that others found."""
    for k in range(board.given.shape[1]):
        sets = board.going()
        sets = sets[~torch.isnan(board.given[sets, k]).any(1)]
        sets = sets[board.book(sets, backward=False)]
        with torch.no_grad():
            board.note(sets, board.given[sets, k], objective.margin(objective.rows(board.given[sets, k], sets), sets))
    board.settle()


def _proposed(proposer: Proposer, problem: Problem, sets: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [k, d] for the sets at `sets` [k], and the points [k, d] that the oracle takes them to."""
    part = problem.take(sets)
    rows = proposer.rows(part, slope[sets])
    x = part.deployed.minimise(rows.detach().to(torch.float64)[:, None])[1]
    return rows, inside(part.deployed, x, problem.program.dtype)[:, 0]


def _slopes(board: Board, objective: Objective, sets: Tensor, x: Tensor) -> Tensor:
    """Gradients [k, d] of the nearest clauses at x [k, d], for two passes each; zero where they are not paid for."""
    slope = torch.zeros_like(x)
    paid = board.book(sets, backward=True).nonzero()[:, 0]
    if len(paid):
        mine, here = sets[paid], x[paid].detach().requires_grad_()
        with torch.enable_grad():
            rows = objective.rows(here, mine)
            target = objective.clauses(rows.detach(), mine).argmin(1)
            slope[paid] = gradient(rows, here, objective.members(mine, target), torch.zeros(len(mine), dtype=x.dtype))
        board.note(mine, here.detach(), objective.margin(rows.detach(), mine))
    return slope
