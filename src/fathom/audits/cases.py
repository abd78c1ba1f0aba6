"""From sets to the user's cases: a case's worst margin is the least over its sets."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from fathom.core.answer import Answers, Cost
from fathom.core.problem import Problem


def case_broken(problem: Problem, answers: Answers) -> Tensor:
    """[cases] whether a witness is known in some set of the case."""
    return torch.bincount(problem.owner[answers.broken], minlength=problem.cases) > 0


def by_case(problem: Problem, answers: Answers) -> Answers:
    """Answers for the cases: the least lower bound, the best point, the reason of the set that decides, costs added up.

    A case without sets (every disjunct of its region is empty) holds: its lower bound is +inf.
    """
    cases, owner = problem.cases, problem.owner
    lower = torch.full((cases,), torch.inf, dtype=torch.float64).scatter_reduce(0, owner, answers.lower, "amin")
    # Sets in the order of how well they speak for their case: broken first, then by upper bound, then by lower bound.
    rank = torch.where(answers.broken, answers.upper - 1e300, answers.upper.clamp(max=1e300))
    order = sorted(range(len(owner)), key=lambda i: (rank[i].item(), answers.lower[i].item()))
    first: dict[int, int] = {}
    for i in order:
        first.setdefault(int(owner[i]), i)
    speaker = torch.tensor([first[case] for case in range(cases)], dtype=torch.int64)
    weakest = torch.stack([_weakest(answers, owner, case) for case in range(cases)]) if cases else speaker
    totals = {f.name: torch.zeros(cases, dtype=getattr(answers.cost, f.name).dtype) for f in fields(Cost)}
    cost = Cost(**{name: total.index_add(0, owner, getattr(answers.cost, name)) for name, total in totals.items()})
    return Answers(lower, answers.found.take(speaker), answers.reason[weakest], cost)


def _weakest(answers: Answers, owner: Tensor, case: int) -> Tensor:
    """The undecided set of least lower bound, or where there is none, of least lower bound."""
    mine = (owner == case).nonzero()[:, 0]
    undecided = mine[~answers.decided[mine]]
    mine = undecided if len(undecided) else mine
    return mine[answers.lower[mine].argmin()]
