"""What bounds share as solvers: sets cut into batches that fit in memory, moved to a device and back, candidates confirmed,
brackets observed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.core.answer import REASONS, Answers, Cost, Reason
from fathom.core.budget import Budget, Clock, Goal
from fathom.core.confirm import confirm
from fathom.core.errors import OutOfDomain
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer
from fathom.core.value import map_tensors

KEPT = 3  # minimisers of a set that are handed on, to start attacks from
VALUES_AT_ONCE = 1 << 24  # of rows at candidates
ROWS_AT_ONCE = 512  # of the widest node: how many rows a set may need in one pass before its pass is cut up anyway


@dataclass(frozen=True, eq=False)
class Bound:
    """What one batch of a bound gives."""

    margin: Tensor  # [n] rigorous lower bounds
    candidates: Tensor  # [n, k, d] inputs worth a look; NaN rows are none
    backward: Tensor  # [n] passes


def solve_in_batches(
    problem: Problem,
    budget: Budget,
    hints: Hints,
    observe: Observer,
    bound: Callable[[Problem, Network, Clock], Bound],
    device: str = "cpu",
) -> Answers:
    """Answers for every set (for the goal `decide`, that `hints` has not decided), batch by batch, until the budget is spent.

    Bounds are computed on the device; programs run where they always do, and answers are on the CPU.
    """
    clock = budget.start()
    outputs = sum(port.size for port in problem.program.outputs)
    answers = Answers.none(len(problem), problem.region.size, outputs, problem.program.dtype)
    if problem.network is None or problem.spec is None:
        return answers.because(Reason.NOT_PROVABLE)
    network = problem.network.freeze(torch.float64)
    todo = torch.arange(len(problem))
    if hints.answers is not None and budget.goal is Goal.DECIDE:
        todo = todo[~hints.answers.decided]
    size = batch_size(network, budget.memory, problem.spec.rows.shape[1])
    starts = torch.full((len(problem), KEPT, problem.region.size), torch.nan, dtype=problem.program.dtype)
    while len(todo):
        stop = clock.over()
        if stop is not None:
            return replace(answers.because(stop, todo), points=starts)
        index, rest = todo[:size], todo[size:]
        began = time.monotonic()
        part = problem.take(index)
        try:
            result = _bound_on(device, bound, part, network, clock)
        except OutOfDomain:
            if len(index) > 1:  # one set may spoil a batch: find it by halves
                size = len(index) // 2
            else:
                answers, todo = answers.because(Reason.OUT_OF_DOMAIN, index), rest
            continue
        todo = rest
        best = _best(part, network, result.candidates)
        starts[index, : best.shape[1]] = best.to(starts.dtype)
        found = confirm(part, best[:, 0])
        cost = Cost.zero(len(index)).spend(time.monotonic() - began, forward=result.candidates.shape[1], backward=result.backward)
        reason = torch.full((len(index),), REASONS.index(Reason.INCOMPLETE))
        clock.passes += int(result.backward.max()) if len(index) else 0
        answers = answers.put(index, Answers(result.margin.detach(), found, reason, cost))
        observe(answers)
    return replace(answers, points=starts)


def _bound_on(
    device: str, bound: Callable[[Problem, Network, Clock], Bound], problem: Problem, network: Network, clock: Clock
) -> Bound:
    if device == "cpu":
        return bound(problem, network, clock)
    region, spec = map_tensors((problem.region, problem.spec), lambda tensor: tensor.to(device))
    # The account of rounding is for sums of products in some order. cuDNN has convolutions that are not (Winograd, Fourier).
    with torch.device(device), torch.backends.cudnn.flags(enabled=False):
        result = bound(replace(problem, region=region, spec=spec), network.to(torch.float64, device), clock)
    return map_tensors(result, lambda tensor: tensor.cpu())


def _best(problem: Problem, network: Network, candidates: Tensor) -> Tensor:
    """Of the candidates [n, k, d] of each set the `KEPT` of least margin, that of the least first."""
    assert problem.spec is not None
    n, k, d = candidates.shape
    own = torch.arange(n).repeat_interleave(k)
    at_once = max(1, VALUES_AT_ONCE // problem.spec.rows.shape[1])
    parts = zip(torch.split(own, at_once), torch.split(candidates.detach().reshape(n * k, d), at_once), strict=True)
    margins = torch.cat([problem.spec.take(sets).margin(network(x)) for sets, x in parts]).reshape(n, k)
    order = margins.nan_to_num(nan=torch.inf).argsort(stable=True, dim=1)[:, :KEPT]
    return candidates.detach()[torch.arange(n)[:, None], order]


def batch_size(network: Network, memory: int, rows: int = 1) -> int:
    """How many sets to bound at once, so that a pass with so many rows fits, and one with `ROWS_AT_ONCE` of the inside."""
    widest = max(torch.Size(node.shape).numel() for node in network.nodes)
    return max(1, min(4096, memory // (widest * max(min(ROWS_AT_ONCE, 2 * widest), rows) * 8 * 6)))
