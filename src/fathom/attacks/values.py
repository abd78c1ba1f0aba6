"""The value-only attack: for programs and overseers without gradients, nothing but margins is asked of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.attacks.board import Board
from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.core.region import Region, Repairable
from fathom.core.solver import Hints, Observer, Solver, ignore


@final
@dataclass(frozen=True)
class Values(Solver):
    """Random search by blocks of inputs: some inputs of the best point are replaced by those of another point of the set.

    Requires: a program and an overseer; no network, no spec, no gradient.
    Returns: for each set the best point found, confirmed. `lower` stays -inf: an attack proves nothing.
    Method: the best of some samples; then from the best point so far, every step tries `trials` changes: of a random block of
        inputs, smaller as the search goes on, to the values of a random extreme point of the set or part of the way to one.
    Sound? Yes: only `confirm` makes a witness. Complete? No.
    Reference: Andriushchenko et al., Square attack, ECCV 2020 (blocks at the ends of their range, shrinking).
    """

    seed: int = 0
    samples: int = 64  # points of each set before the search
    steps: int = 100
    trials: int = 8  # changes tried at each step

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        board = Board(problem, budget, hints, observe)
        generator = torch.Generator().manual_seed(self.seed)
        at_once = self.samples + self.trials + board.given.shape[1]
        ask(board, at_once, lambda sets: board.given[sets])
        ask(board, at_once, lambda sets: first_points(problem.deployed.take(sets), self.samples, generator))
        for k in range(self.steps):
            if not len(board.going()):
                break
            share = 1 - k / self.steps
            ask(board, at_once, lambda sets: changes(board, sets, self.trials, share, generator))  # noqa: B023
        return board.finish()


Asked = tuple[Tensor, Tensor, Tensor, Tensor]
"""Sets [k], inputs [k, d], outputs [k, m] and margins [k] that were asked for together."""


def ask(board: Board, at_once: int, propose: Callable[[Tensor], Tensor]) -> list[Asked]:
    """Evaluates candidates [k, c, d] of sets [k] for all that are still searched, some sets at a time.

    Args:
        at_once: as many candidates as a set may have, about; fewer sets are taken together where it is large.
        propose: sets [k] to candidates; rows of NaN are none.
    """
    problem, dtype, asked = board.problem, board.problem.program.dtype, []
    most = board.left(at_once)
    for sets in torch.split(board.going(), max(1, 4096 // max(at_once, 1))):
        region, x = problem.deployed.take(sets), propose(sets)[:, :most].to(dtype)
        x = region.repair(x) if isinstance(region, Repairable) else x
        owner, x = sets.repeat_interleave(x.shape[1]), x.reshape(-1, x.shape[2])
        paid = (board.book(owner, backward=False) & ~torch.isnan(x).any(1)).nonzero()[:, 0]
        if len(paid) and board.clock.over() is None:
            owner, x = owner[paid], x[paid]
            y = problem.program(x).to(torch.float64)
            margin = problem.overseer.take(owner).margin(x.to(torch.float64), y)
            board.note(owner, x, margin.to(dtype).nan_to_num(nan=torch.inf))
            asked.append((owner, x, y, margin))
    board.settle()
    return asked


def changes(board: Board, sets: Tensor, trials: int, share: float, generator: torch.Generator) -> Tensor:
    """Changes [k, trials, d] of the best points: half to an extreme point, half part of the way to a sample."""
    region, d = board.problem.deployed.take(sets), board.points.shape[1]
    direction = torch.randn(len(sets), trials, d, generator=generator, dtype=torch.float64)
    extreme = region.minimise(direction)[1]
    length = share * torch.rand(len(sets), trials, 1, generator=generator, dtype=torch.float64)
    best = board.points[sets][:, None].to(torch.float64)
    sample = region.sample(trials, generator)
    best = torch.where(torch.isnan(best), sample, best)
    inner = best + length * (sample - best)
    other = torch.where(torch.arange(trials)[:, None] % 2 == 0, extreme, inner)
    if not isinstance(region, Repairable):  # a mixture of two points by inputs may leave the set; one by shares does not
        return best + length * (other - best)
    block = torch.rand(best.shape, generator=generator) < max(0.5 * share, 1 / d)
    return torch.where(block, other, best)


def first_points(region: Region, count: int, generator: torch.Generator) -> Tensor:
    """The middle of every set, where it can be had, and samples: [k, count, d]."""
    samples = region.sample(count, generator)
    if isinstance(region, Repairable):
        samples[:, 0] = region.repair(region.box().middle)
    return samples
