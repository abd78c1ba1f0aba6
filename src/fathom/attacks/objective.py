"""What gradient attacks descend: the clauses of a problem's spec, one at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.spec import Spec
from fathom.core.value import floats_to, map_tensors


@dataclass(frozen=True, eq=False)
class Objective:
    """Row values, clauses and margins of L points, each of a set `owner` [L] of the problem, in the program's dtype.

    Without a spec, or with one that also holds where the overseer sees no catastrophe, the overseer's own margin is the one
    clause of one row.
    """

    network: Network
    spec: Spec | None
    overseer: Overseer

    @staticmethod
    def of(problem: Problem) -> Objective:
        """The objective of a problem.

        Raises:
            FathomError: the model is not captured as a network, so there is nothing to differentiate.
        """
        if problem.network is None:
            raise FathomError(
                f"expected a problem with a captured network to follow gradients in, got none: {problem.obstacle}; "
                "search with fathom.attacks.values.Values instead"
            )
        dtype = problem.program.dtype
        if problem.model is not None and not problem.exact and problem.overseer.differentiable:
            return Objective(problem.model.freeze(dtype), None, problem.overseer)
        spec = None if problem.spec is None else map_tensors(problem.spec, floats_to(dtype))
        return Objective(problem.network.freeze(dtype), spec, problem.overseer)

    @property
    def clause_count(self) -> int:
        """C, at least 1: how many clauses a set has at most."""
        if self.spec is None or not self.spec.clause.numel():
            return 1
        return max(int(self.spec.clause.max()) + 1, 1)

    def at_once(self, memory: int) -> int:
        """How many searches to run at once: what fits in so many bytes, and not more than keeps the caches warm."""
        values = sum(math.prod(node.shape) for node in self.network.nodes)
        spec = 0 if self.spec is None else self.spec.rows[0].numel()
        each = 4 * (3 * values + 2 * spec + 30 * self.network.input_size)
        return max(1, min(memory // each, max(64, (64 << 20) // each), 4096))

    def rows(self, x: Tensor, owner: Tensor) -> Tensor:
        """Row values [L, R] at x [L, d]; differentiable."""
        y = self.network(x)
        if self.spec is None:
            return self.overseer.take(owner).margin(x, y)[:, None].to(x.dtype)
        return self.spec.take(owner).values(y)

    def margin(self, rows: Tensor, owner: Tensor) -> Tensor:
        """Margins [L] from row values; +inf where they are not a number."""
        margin = rows[:, 0] if self.spec is None else self.spec.take(owner).combine(rows)
        return margin.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def clauses(self, rows: Tensor, owner: Tensor) -> Tensor:
        """The value [L, C] of every clause, the greatest of its rows; +inf where a set has no such clause."""
        if self.spec is None:
            return rows
        clause = self.spec.clause[self.spec.of[owner]]
        rows = torch.where(clause >= 0, rows, -torch.inf)
        top = rows.new_full((len(rows), self.clause_count), -torch.inf).scatter_reduce(1, clause.clamp(min=0), rows, "amax")
        return torch.where(top == -torch.inf, torch.inf, top)

    def members(self, owner: Tensor, target: Tensor) -> Tensor:
        """[L, R] which rows belong to the clause `target` [L]."""
        if self.spec is None:
            return torch.ones(len(owner), 1, dtype=torch.bool)
        return self.spec.clause[self.spec.of[owner]] == target[:, None]


def has_gradient(problem: Problem) -> bool:
    """Whether a gradient attack can be tried: there is a network, and exact rows or an overseer that keeps track of gradients."""
    if problem.network is None or not len(problem) or (problem.spec is not None and problem.exact):
        return problem.network is not None
    if not problem.overseer.differentiable:
        return False
    x = problem.deployed.box().middle[:1].to(problem.program.dtype).requires_grad_()
    return Objective.of(problem).rows(x, torch.zeros(1, dtype=torch.int64)).requires_grad


def gradient(rows: Tensor, x: Tensor, member: Tensor, warmth: Tensor) -> Tensor:
    """The gradient [L, d] of the greatest of the member rows, smoothed over rows within about `warmth` [L] of it.

    Where it vanishes or is not a number there is nothing to follow, and it is zero.

    Raises:
        FathomError: the margin does not depend on x through differentiable operations.
    """
    value = torch.where(member, rows.detach(), -torch.inf)
    scale = warmth.clamp(min=torch.finfo(rows.dtype).tiny)[:, None]
    weight = torch.softmax((value - value.amax(1, keepdim=True)) / scale, 1)
    if not rows.requires_grad:
        raise FathomError(
            "expected a margin with a gradient, got one computed outside torch's automatic differentiation; write it in torch "
            "operations, or search with fathom.attacks.values.Values instead"
        )
    (slope,) = torch.autograd.grad((weight * torch.where(member, rows, 0.0)).sum(), x)
    return slope.nan_to_num(nan=0.0)
