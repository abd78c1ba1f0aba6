"""The gradient attack: many short descents, each of one of the nearest clauses, from ever new starting points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.attacks.board import Board
from fathom.attacks.descent import Descents, descend_all
from fathom.attacks.objective import Objective, gradient
from fathom.attacks.steps import enlarged, minimiser
from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.core.region import Repairable
from fathom.core.solver import Hints, Observer, Solver, ignore
from fathom.regions.balls import Ball
from fathom.regions.box import BoxRegion

FULL = 256
"""Descents that cost hardly more than one, for a network so small that calling it is what takes the time."""

ROAMING = 0.4
"""Of the steps, those that are taken in larger sets first, where there are such."""


@final
@dataclass(frozen=True)
class Gradient(Solver):
    """Auto-PGD on one clause at a time, for any spec over any region.

    Requires: a captured network, and a margin with a gradient: a spec, or an overseer in torch operations.
    Returns: for each set the best point found, confirmed. `lower` stays -inf: an attack proves nothing.
    Method: given points are looked at, then one step from the centre to the set's point where the nearest clause's linear model
        is least, which is all that most failures take. Then per round and set one starting point (given points first, then the
        middle, random points, near the best so far); from there one short descent of the nearest clause and some of the next
        ones, in turn. Sets that are broken drop out at once.
        The step goes along the region's own linear minimisation oracle, and halves where it stalls; in L1 balls it goes along
        ever fewer inputs, and begins in larger balls. Signs and rankings of differences are all that is used, so the scale of
        the outputs changes nothing.
    Sound? Yes: only `confirm` makes a witness. Complete? No.
    Reference: Croce and Hein, ICML 2020 (step control), and ICML 2021 (L1 balls); Gowal et al., An alternative surrogate loss
        for PGD-based adversarial testing, 2019 (one target at a time); Goodfellow et al., Explaining and harnessing adversarial
        examples, ICLR 2015 (the one step).

    Raises (from `solve`):
        FathomError: there is no network, or the margin has no gradient; the text names what to use instead.
    """

    seed: int = 0
    restarts: int = 7  # starting points of each set, at least: a batch of few sets is filled up with more
    steps: int = 20  # of each descent
    nearest: int = 3  # clauses attacked from each starting point
    lone: int = 10  # starting points, at least, where there is only one clause to attack
    full: int = FULL  # descents that a batch of few sets is filled up to

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        board = Board(problem, budget, hints, observe)
        objective = Objective.of(problem)
        generator = torch.Generator().manual_seed(self.seed)
        width, aims = objective.at_once(budget.memory), min(self.nearest, objective.clause_count)
        self._look(board, objective)
        self._leap(board, objective, width, generator)
        spare = min(width, self.full) // max(len(board.going()) * aims, 1)
        starts = max(self.restarts, self.lone if objective.clause_count == 1 else 0, spare)
        rounds, done = board.given.shape[1] + starts, 0
        while done < rounds and len(sets := board.going()):
            # The first round alone breaks what is easy; then as many rounds at once as fill a batch, in at least four stages.
            at_once = 1 if done == 0 else max(1, min(width // (len(sets) * aims), rounds // 4, rounds - done))
            for part in torch.split(sets, max(1, width // (at_once * aims))):
                self._attack(board, objective, part, range(done, done + at_once), generator)
            done += at_once
        return board.finish()

    def _look(self, board: Board, objective: Objective) -> None:
        """Evaluates the points that others found, before anything else is done."""
        for k in range(board.given.shape[1]):
            sets = board.going()
            sets = sets[~torch.isnan(board.given[sets, k]).any(1)]
            sets = sets[board.book(sets, backward=False)]
            with torch.no_grad():
                board.note(sets, board.given[sets, k], objective.margin(objective.rows(board.given[sets, k], sets), sets))
        board.settle()

    def _leap(self, board: Board, objective: Objective, width: int, generator: torch.Generator) -> None:
        """One step from each centre as far as the set goes: three passes."""
        for part in torch.split(board.going(), width):
            sets = part[board.book(part, backward=True)]
            if not len(sets):
                continue
            region = board.problem.deployed.take(sets)
            x = (region.centres() if isinstance(region, Repairable) else region.sample(1, generator)[:, 0]).to(board.points.dtype)
            x = (region.repair(x) if isinstance(region, Repairable) else x).requires_grad_()
            with torch.enable_grad():
                rows = objective.rows(x, sets)
                nearest = objective.clauses(rows.detach(), sets).argmin(1)
                slope = gradient(rows, x, objective.members(sets, nearest), torch.zeros(len(sets), dtype=x.dtype))
            board.note(sets, x.detach(), objective.margin(rows.detach(), sets))
            x = minimiser(region, slope)
            x = region.repair(x) if isinstance(region, Repairable) else x
            paid = board.book(sets, backward=False).nonzero()[:, 0]
            sets, x = sets[paid], x[paid]
            with torch.no_grad():
                board.note(sets, x, objective.margin(objective.rows(x, sets), sets))
        board.settle()

    def _attack(self, board: Board, objective: Objective, sets: Tensor, rounds: range, generator: torch.Generator) -> None:
        """Some rounds, at once, of some sets."""
        problem = board.problem
        starts = [_start(board, objective, sets, r, generator) for r in rounds]
        x, owner = torch.cat(starts), sets.repeat(len(rounds))
        turn = torch.tensor(rounds).repeat_interleave(len(sets))
        paid = board.book(owner, backward=False).nonzero()[:, 0]
        x, owner, turn = x[paid], owner[paid], turn[paid]
        with torch.no_grad():
            rows = objective.rows(x, owner)
            board.note(owner, x, objective.margin(rows, owner))
            target, origin = self._targets(objective.clauses(rows, owner), turn)
        near = (turn < board.given.shape[1]) | ((turn - board.given.shape[1]) % 3 == 2)  # to a point worth refining
        size = torch.where(near, 0.2, torch.where(turn % 2 == 0, 2.0, 0.5))[origin]
        searches = Descents.start(problem, owner[origin], target, x[origin], size)
        searches, steps = self._roam(board, objective, searches, generator)
        left = descend_all(objective, searches, steps, lambda s: board.keep(s.owner, s.at_margin, s.margin), generator)
        board.note(left.owner, left.at_margin, left.margin)
        board.settle()

    def _roam(self, board: Board, objective: Objective, searches: Descents, generator: torch.Generator) -> tuple[Descents, int]:
        """The first of the steps in larger sets, where that leads to better places; and how many steps are left."""
        region = board.problem.deployed
        wider = enlarged(region)
        if wider is None or not isinstance(region, Repairable):
            return searches, self.steps
        steps = round(ROAMING * self.steps)

        def keep(s: Descents) -> Tensor:  # notes nothing: these points lie outside
            return board.keep(s.owner, s.x, torch.full_like(s.margin, torch.inf))

        out = descend_all(objective, searches.within(wider), steps, keep, generator)
        back = Descents.start(board.problem, out.owner, out.target, out.at_value, torch.ones_like(out.size))
        return back.within(region), self.steps - steps

    def _targets(self, clauses: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """The clauses [L] to attack from P starts with clause values [P, C], and the start [L] of each.

        Always the nearest, and of the others, by rank, as many as go into one round, round after round.
        """
        count = clauses.shape[1]
        others = min(self.nearest, count) - 1
        cycle = (turn[:, None] * others + torch.arange(others)) % max(count - 1, 1)
        ranks = torch.cat([torch.zeros(len(turn), 1, dtype=torch.int64), cycle + 1], 1)[:, :count]
        targets = clauses.argsort(stable=True, dim=1).gather(1, ranks)
        live = torch.isfinite(clauses.gather(1, targets)).nonzero()
        return targets[live[:, 0], live[:, 1]], live[:, 0]


def _start(board: Board, objective: Objective, sets: Tensor, turn: int, generator: torch.Generator) -> Tensor:
    """Starting points [k, d] of a round for `sets` [k], inside them."""
    region, dtype = board.problem.deployed.take(sets), board.problem.program.dtype
    x = region.sample(1, generator)[:, 0]
    if turn < board.given.shape[1]:
        x = torch.where(torch.isnan(board.given[sets, turn]), x, board.given[sets, turn].to(x.dtype))
    elif turn == board.given.shape[1] and isinstance(region, Repairable):
        # A ball clipped at its range has more room round the middle of its box; of other sets that may lie far outside.
        x = region.box().middle if isinstance(region, Ball | BoxRegion) else region.centres()
    elif (turn - board.given.shape[1]) % 3 == 2:
        best = torch.where(torch.isnan(board.points[sets]), x, board.points[sets].to(x.dtype))
        x = best + 0.3 * torch.rand(len(x), 1, generator=generator, dtype=x.dtype) * (x - best)
    x = x.to(dtype)
    return region.repair(x) if isinstance(region, Repairable) else x
