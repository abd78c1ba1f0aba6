"""The decision-only attack: of an input nothing is asked but whether it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.attacks.board import Board
from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.core.region import Projectable, Region
from fathom.core.solver import Hints, Observer, Solver, ignore

CLEAR = 1.0
"""What is noted for an input that does not fail: any positive number, since margins are never seen."""


@final
@dataclass(frozen=True)
class Decisions(Solver):
    """A walk along the boundary of the failures, from a failure outside the set to the set.

    Requires: a program and an overseer; no network, no spec, no gradient, and no margin but its sign.
    Returns: for each set a failure, confirmed, or a point that does not fail. `lower` stays -inf: an attack proves nothing. How
        small the margin can get is not asked, also where the goal is the value.
    Method: inputs of the set, its extreme points among them; then failures outside: the middles of other sets, points beyond its
        walls. From the nearest of these, every step goes straight to the set, by bisection, as far as inputs still fail; takes
        the normal of the boundary there from decisions at random points around; tries the set's point farthest along the
        normal, and its point nearest to where the normal leads; and walks on along the boundary.
    Sound? Yes: only `confirm` makes a witness. Complete? No.
    Reference: Brendel et al., Decision-based adversarial attacks, ICLR 2018 (the walk); Chen et al., HopSkipJumpAttack, S&P 2020
        (the normal).
    """

    seed: int = 0
    samples: int = 32  # inputs of each set before the walk, and as many outside it
    steps: int = 20
    probes: int = 24  # decisions for one normal
    halvings: int = 8  # decisions for one bisection

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        board = Board(problem, budget, hints, observe)
        generator = torch.Generator().manual_seed(self.seed)
        fails = torch.full(board.points.shape, torch.nan, dtype=torch.float64)  # [n, d] the nearest failure outside the set
        normals = torch.zeros_like(fails)  # [n, d] of the boundary there, over the last steps
        for sets in _parts(board, self.samples):
            region = problem.deployed.take(sets)
            _ask(board, sets, _inside(region, middle(region, generator)[:, None], problem.program.dtype))
            board.settle()
            _ask(board, sets, board.given[sets].to(torch.float64))
            _ask(board, sets, _inside(region, _extremes(region, self.samples, generator), problem.program.dtype))
        board.settle()
        for sets in _parts(board, self.samples):
            fails[sets] = self._outside(board, sets, generator)
        for step in range(self.steps):
            for sets in _parts(board, self.probes):
                walking = sets[~torch.isnan(fails[sets]).any(1)]
                if len(walking):
                    now = self._walk(board, walking, fails[walking], normals[walking], step, generator)
                    fails[walking], normals[walking] = now
            board.settle()
        return board.finish()

    def _outside(self, board: Board, sets: Tensor, generator: torch.Generator) -> Tensor:
        """For each set the nearest of some failures outside it [k, d]; NaN where none is known."""
        problem = board.problem
        region = problem.deployed.take(sets)
        centre = middle(region, generator)[:, None]
        others = torch.randint(len(problem), (len(sets) * self.samples,), generator=generator)
        strange = middle(problem.deployed.take(others), generator).reshape(len(sets), self.samples, -1)
        beyond = centre + torch.tensor([2.0, 4.0, 8.0, 16.0]).repeat(self.samples)[: self.samples, None] * (
            _extremes(region, self.samples, generator) - centre
        )
        points = torch.cat([strange, beyond], 1)
        fails = _ask(board, sets, points)
        gap = (points - _nearest(region, points, centre, problem.program.dtype)).norm(dim=-1)
        gap, at = torch.where(fails, gap, torch.inf).min(1)
        best = points.gather(1, at[:, None, None].expand(-1, 1, points.shape[2]))[:, 0]
        return torch.where(torch.isfinite(gap)[:, None], best, torch.nan)

    def _walk(
        self, board: Board, sets: Tensor, fails: Tensor, normal: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One step of the walk from failures [k, d]: where to go on from, and the normal [k, d] as known by then."""
        region = board.problem.deployed.take(sets)
        centre, dtype = middle(region, generator)[:, None], board.problem.program.dtype
        near = _nearest(region, fails[:, None], centre, dtype)[:, 0]
        _ask(board, sets, near[:, None])
        for _ in range(self.halvings):
            half = (near + fails) / 2
            failing = _ask(board, sets, half[:, None])
            fails, near = torch.where(failing, half, fails), torch.where(failing, near, half)
        nearest = _nearest(region, fails[:, None], centre, dtype)[:, 0]
        gap = (fails - nearest).norm(dim=1)
        reach = 0.1 * torch.maximum(gap, 0.1 * region.box().width.norm(dim=1))
        around = torch.randn(len(sets), self.probes, fails.shape[1], generator=generator, dtype=torch.float64)
        around = around / around.norm(dim=-1, keepdim=True)
        seen = _ask(board, sets, fails[:, None] + reach[:, None, None] * around).to(torch.float64)
        seen = 2 * seen - 1
        one_sided = (seen == seen[:, :1]).all(1, keepdim=True)
        weight = torch.where(one_sided, seen, seen - seen.mean(1, keepdim=True))
        normal = 0.8 * normal + torch.nn.functional.normalize((weight[..., None] * around).sum(1), dim=1)
        ahead = torch.nn.functional.normalize(normal, dim=1)
        farthest = _inside(region, region.minimise(-normal[:, None])[1], dtype)
        beside = _nearest(region, (fails + reach[:, None] * ahead)[:, None], centre, dtype)
        _ask(board, sets, torch.cat([farthest, beside], 1))
        length = gap / (step + 1) ** 0.5
        moved = fails[:, None] + (length[:, None] * torch.tensor([1.0, 0.5, 0.25]))[..., None] * ahead[:, None]
        failing = _ask(board, sets, moved)
        first = torch.where(failing, torch.arange(3), 3).amin(1)
        on = moved.gather(1, first.clamp(max=2)[:, None, None].expand(-1, 1, moved.shape[2]))[:, 0]
        return torch.where((first < 3)[:, None], on, fails), normal


def _parts(board: Board, each: int) -> tuple[Tensor, ...]:
    """The sets that have no failure yet, some at a time."""
    going = board.going()
    going = going[~board.answers.broken[going]]
    return torch.split(going, max(1, 4096 // each)) if len(going) else ()


def _ask(board: Board, sets: Tensor, x: Tensor) -> Tensor:
    """[k, c] whether points x [k, c, d] fail, all that the search learns; False for what is not paid for, and for NaN."""
    problem, dtype = board.problem, board.problem.program.dtype
    fails = torch.zeros(x.shape[:2], dtype=torch.bool)
    asked = ~torch.isnan(x).any(2) & (torch.arange(x.shape[1]) < board.left(x.shape[1]))
    at, place = asked.nonzero(as_tuple=True)
    paid = board.book(sets[at], backward=False)
    at, place = at[paid], place[paid]
    if not len(at) or board.clock.over() is not None:
        return fails
    owner, points = sets[at], x[at, place].to(dtype)
    y = problem.program(points).to(torch.float64)
    fails[at, place] = problem.overseer.take(owner).margin(points.to(torch.float64), y) <= 0
    # A failure that `confirm` refused must not hide the next one, so each is noted as clearly worse than the last.
    worse = 4 * board.bar[owner].clamp(max=0) - 1
    board.note(owner, points, torch.where(fails[at, place], worse, torch.full_like(worse, CLEAR)))
    return fails


def middle(region: Region, generator: torch.Generator) -> Tensor:
    """A point [k, d] of each set: its middle, where that can be had."""
    return region.project(region.box().middle) if isinstance(region, Projectable) else region.sample(1, generator)[:, 0]


def _extremes(region: Region, count: int, generator: torch.Generator) -> Tensor:
    """Points [k, count, d] of each set, every second one an extreme point."""
    sample = region.sample(count, generator)
    extreme = region.minimise(torch.randn(sample.shape, generator=generator, dtype=torch.float64))[1]
    return torch.where(torch.arange(count)[:, None] % 2 == 0, extreme, sample)


def _inside(region: Region, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Points x [k, c, d] of the sets, rounded to numbers of `dtype` that lie in them, where there is a projection."""
    x = x.to(dtype)
    return (region.project(x) if isinstance(region, Projectable) else x).to(torch.float64)


def _nearest(region: Region, x: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """The points of the sets nearest to x [k, c, d]; without a projection, given points [k, 1, d] of theirs."""
    return _inside(region, x if isinstance(region, Projectable) else other.expand(x.shape), dtype)
