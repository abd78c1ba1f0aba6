"""The discrete attack: for choices, whole numbers, lists, and few changes, where steps part of the way mean nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.attacks.board import Board
from fathom.attacks.moves import Moves, along, continuous, inside
from fathom.attacks.objective import Objective, gradient, has_gradient
from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.core.region import Repairable
from fathom.core.solver import Hints, Observer, Solver, ignore

SMALL = 2.0**-11  # of a range: searches that find nothing better by steps so small begin anew
AT_ONCE = 1 << 23  # numbers in one batch of candidates


@final
@dataclass(frozen=True)
class Discrete(Solver):
    """Coordinate search, ranked by gradients, judged by values.

    Requires: a program and an overseer. Where a network gives gradients, they say which moves to try; elsewhere chance does.
    Returns: for each set the best point found, confirmed. `lower` stays -inf: an attack proves nothing.
    Method: several searches a set, each of one of the nearest clauses. Every step ranks all moves (another choice of a group,
        another whole number, another point of a list, one input more or fewer changed) by the gradient, evaluates the most
        promising, some drawn at random, and some pairs, of which one may undo an earlier move, and goes to the best if that is
        lower. A search that is stuck begins anew, at a random point, or at the best one, after a few random moves.
    Sound? Yes: only `confirm` makes a witness. Complete? No.
    Reference: Ebrahimi et al., HotFlip, ACL 2018 (swaps ranked by gradients); Zou et al., Universal and transferable adversarial
        attacks on aligned language models, 2023 (a batch of them evaluated truly).
    """

    seed: int = 0
    searches: int = 3  # of each set, at once
    steps: int = 50
    trials: int = 24  # moves evaluated at each step of a search

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        board = Board(problem, budget, hints, observe)
        run = _Run(self, board, Objective.of(problem) if has_gradient(problem) else None)
        run.look()
        for _ in range(self.steps):
            sets = board.going()
            if not len(sets):
                break
            for part in torch.split(sets, run.at_once()):
                run.step(part)
            board.settle()
        return board.finish()


class _Run:
    """One call of `solve`: where its searches are. Thrown away with it."""

    def __init__(self, attack: Discrete, board: Board, objective: Objective | None) -> None:
        shape = (len(board.problem), max(attack.searches, 1))
        self.attack, self.board, self.objective = attack, board, objective
        self.generator = torch.Generator().manual_seed(attack.seed)
        self.x = torch.full((*shape, board.problem.deployed.size), torch.nan, dtype=board.problem.program.dtype)
        self.value = torch.full(shape, torch.inf, dtype=board.problem.program.dtype)  # of the clause that a search is after
        self.target = torch.full(shape, -1)  # that clause; -1: not chosen yet
        self.size = torch.ones(shape, dtype=torch.float64)
        self.shrink = 0.25 if continuous(board.problem.deployed) else 2.0**-6  # without small steps there is less to wait for

    def at_once(self) -> int:
        each = self.x.shape[1] * self.x.shape[2] * (self.attack.trials + 16)
        return max(1, min(AT_ONCE, self.board.clock.budget.memory // 64) // each)

    def look(self) -> None:
        """The points that others found, and the first one of each search."""
        board, dtype = self.board, self.x.dtype
        for sets in torch.split(board.going(), self.at_once()):
            region = board.problem.deployed.take(sets)
            x = inside(region, region.sample(self.x.shape[1], self.generator), dtype)
            if isinstance(region, Repairable):
                x[:, 0] = inside(region, region.centres()[:, None], dtype)[:, 0]
            self._judge(sets, torch.cat([board.given[sets], x[:, :1]], 1))
            best = board.points[sets]
            x[:, 0] = torch.where(torch.isnan(best).any(1, keepdim=True), x[:, 0], best)
            self.x[sets] = x
        board.settle()

    def step(self, sets: Tensor) -> None:
        """One step of every search of the sets [k], or of the first of each where passes are short."""
        board, dear = self.board, 1 if self.objective is None else 3  # the passes of a search before its first trial is paid
        room = board.left(self.x.shape[1] * (dear + self.attack.trials))
        lanes = max(1, min(self.x.shape[1], room // (dear + 1)))
        if room < dear + 1:
            sample = board.problem.deployed.take(sets).sample(room, self.generator)
            self._judge(sets, inside(board.problem.deployed.take(sets), sample, self.x.dtype))
            return
        trials = min(self.attack.trials, room // lanes - dear + 1)
        owner, x = sets.repeat_interleave(lanes), self.x[sets, :lanes].flatten(0, 1)
        region, slope = board.problem.deployed.take(owner), self._slope(sets, lanes)
        size = self.size[sets, :lanes].flatten()
        moves = Moves.of(region, x, size, self.generator)
        direction = torch.randn(x.shape, generator=self.generator, dtype=torch.float64) if slope is None else slope
        gains = moves.gains(direction)
        if slope is None:
            gains = torch.where(torch.isfinite(gains), torch.rand(gains.shape, generator=self.generator), torch.inf)
        points = along(region, x, direction, size)[:, :trials]
        if isinstance(region, Repairable) and trials > points.shape[1]:
            points = torch.cat([points, moves.propose(gains, trials - points.shape[1], self.generator)], 1)
        points = inside(region, points, x.dtype)
        points = torch.where((points == x[:, None]).all(2, keepdim=True), torch.nan, points)
        if slope is None:  # nothing has evaluated x itself yet
            points[:, 0] = torch.where(torch.isinf(self.value[sets, :lanes].flatten())[:, None], x, points[:, 0])
        self._advance(sets, lanes, points)

    def _advance(self, sets: Tensor, lanes: int, points: Tensor) -> None:
        """Judge candidates [k * lanes, c, d], go where it is better, and begin anew where searches are stuck."""
        clauses = self._judge(sets, points.reshape(len(sets), -1, points.shape[2]))
        clauses = clauses.reshape(*points.shape[:2], -1)
        target = self.target[sets, :lanes].flatten()
        value = clauses.gather(2, target.clamp(min=0)[:, None, None].expand(-1, points.shape[1], 1))[..., 0]
        best, at = value.min(1)
        old = self.value[sets, :lanes].flatten()
        better = best < old
        x = torch.where(better[:, None], points[torch.arange(len(points)), at], self.x[sets, :lanes].flatten(0, 1))
        size = self.size[sets, :lanes].flatten()
        size = torch.where(better, (2 * size).clamp(max=1), size * self.shrink)
        stuck = size < SMALL
        fresh = self._anew(sets, lanes)
        shape = (len(sets), lanes)
        self.x[sets, :lanes] = torch.where(stuck[:, None], fresh, x).reshape(*shape, -1)
        self.value[sets, :lanes] = torch.where(stuck, torch.inf, torch.where(better, best, old)).reshape(shape)
        self.size[sets, :lanes] = torch.where(stuck, 1.0, size).reshape(shape)
        self.target[sets, :lanes] = torch.where(stuck, -1, target).reshape(shape)

    def _anew(self, sets: Tensor, lanes: int) -> Tensor:
        """Points [k * lanes, d] to begin at: random ones, and the best ones after random moves."""
        owner, g = sets.repeat_interleave(lanes), self.generator
        region = self.board.problem.deployed.take(owner)
        sample = region.sample(1, g)
        if not isinstance(region, Repairable):
            return sample[:, 0].to(self.x.dtype)
        best = self.board.points[owner].to(torch.float64)
        kicked = torch.where(torch.isnan(best).any(1, keepdim=True), sample[:, 0], best)
        for _ in range(3):
            moves = Moves.of(region, kicked, torch.ones(len(owner)), g)
            gains = moves.gains(torch.zeros_like(kicked))
            chance = torch.where(torch.isfinite(gains), torch.rand(gains.shape, generator=g), torch.inf)
            kicked = moves.moved(moves.x[:, None], chance.argmin(1)[:, None])[:, 0]
        keep = torch.rand(len(owner), 1, generator=g) < 0.5
        return inside(region, torch.where(keep, kicked, sample[:, 0])[:, None], self.x.dtype)[:, 0]

    def _slope(self, sets: Tensor, lanes: int) -> Tensor | None:
        """Gradients [k * lanes, d] where the searches are, whose values are noted on the way; None without a network."""
        if self.objective is None:
            self.target[sets, :lanes] = 0
            return None
        owner = sets.repeat_interleave(lanes)
        self.board.book(owner, backward=True)
        x = self.x[sets, :lanes].flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            rows = self.objective.rows(x, owner)
            clauses = self.objective.clauses(rows.detach(), owner).nan_to_num(nan=torch.inf)
            rank = torch.arange(lanes).repeat(len(sets)) % min(3, clauses.shape[1])
            aim = clauses.argsort(stable=True, dim=1).gather(1, rank[:, None])[:, 0]
            aim = torch.where(torch.isfinite(clauses.gather(1, aim[:, None])[:, 0]), aim, clauses.argmin(1))
            old = self.target[sets, :lanes].flatten()
            target = torch.where(old < 0, aim, old)
            slope = gradient(rows, x, self.objective.members(owner, target), torch.zeros(len(owner), dtype=x.dtype))
        self.board.note(owner, x.detach(), self.objective.margin(rows.detach(), owner))
        self.target[sets, :lanes] = target.reshape(len(sets), lanes)
        self.value[sets, :lanes] = clauses.gather(1, target[:, None])[:, 0].reshape(len(sets), lanes)
        return slope

    def _judge(self, sets: Tensor, points: Tensor) -> Tensor:
        """Values [k, c, C] of all clauses at points [k, c, d], NaN for none; +inf for what is not paid for. Margins are noted."""
        board = self.board
        count = 1 if self.objective is None else self.objective.clause_count
        values = torch.full((*points.shape[:2], count), torch.inf, dtype=self.x.dtype)
        at, place = (~torch.isnan(points).any(2) & (torch.arange(points.shape[1]) < board.left(points.shape[1]))).nonzero().T
        paid = board.book(sets[at], backward=False)
        at, place = at[paid], place[paid]
        if not len(at) or board.clock.over() is not None:
            return values
        owner, x = sets[at], points[at, place]
        if self.objective is None:
            y = board.problem.program(x).to(torch.float64)
            margin = board.problem.overseer.take(owner).margin(x.to(torch.float64), y).to(x.dtype).nan_to_num(nan=torch.inf)
            clauses = margin[:, None]
        else:
            with torch.no_grad():
                rows = self.objective.rows(x, owner)
            clauses, margin = self.objective.clauses(rows, owner), self.objective.margin(rows, owner)
        board.note(owner, x, margin)
        values[at, place] = clauses.nan_to_num(nan=torch.inf)
        return values
