"""Many short descents at once, each of one clause in one set, with the step control of Auto-PGD.

Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks, ICML 2020:
at checkpoints a search that has stalled goes back to its best point and halves its step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fathom.attacks.board import best_of_each
from fathom.attacks.objective import Objective, gradient
from fathom.attacks.steps import Step, stepper
from fathom.core.problem import Problem
from fathom.core.region import Repairable


@dataclass(frozen=True, eq=False)
class Descents:
    """L searches, and the best that each has seen."""

    owner: Tensor  # [L] the set searched
    target: Tensor  # [L] the clause whose value goes down
    x: Tensor  # [L, d] in the program's dtype
    previous: Tensor  # [L, d]
    size: Tensor  # [L] in half widths of the set
    value: Tensor  # [L] least value of the clause so far
    at_value: Tensor  # [L, d] where
    slope: Tensor  # [L, d] the gradient there
    margin: Tensor  # [L] least margin so far
    at_margin: Tensor  # [L, d] where
    gains: Tensor  # [L] how often the value went down since the last checkpoint
    mark: Tensor  # [L] `value` at the last checkpoint
    halved: Tensor  # [L] bool: at the last checkpoint
    step: Step

    @staticmethod
    def start(problem: Problem, owner: Tensor, target: Tensor, x: Tensor, size: Tensor) -> Descents:
        """Searches from x [L, d], points of the deployed sets."""
        worst = torch.full(owner.shape, torch.inf, dtype=x.dtype)
        no = torch.zeros(owner.shape, dtype=torch.bool)
        step = stepper(problem.deployed.take(owner), x.dtype)
        return Descents(owner, target, x, x, size.to(x.dtype), worst, x, x, worst, x, no.to(torch.int64), worst, no, step)

    def __len__(self) -> int:
        return len(self.owner)

    def within(self, region: Repairable) -> Descents:
        """The searches in the sets of another region, each moved into its own."""
        mine = region.take(self.owner)
        x = mine.repair(self.x)
        return replace(self, x=x, previous=x, step=stepper(mine, x.dtype))

    def take(self, index: Tensor) -> Descents:
        """The searches at `index`."""
        tensors = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "step"}
        return Descents(**tensors, step=self.step.take(index))


def descend_all(
    objective: Objective, searches: Descents, steps: int, keep: Callable[[Descents], Tensor], generator: torch.Generator
) -> Descents:
    """Up to `steps` evaluations of every search.

    Args:
        keep: asked before each evaluation; says which searches [L] go on. Those that do not are dropped at once.

    Returns:
        The searches that were never dropped.
    """
    checkpoints = _checkpoints(steps)
    warmth: Tensor | None = None
    for k in range(steps):
        going = keep(searches)
        if not bool(going.all()):
            searches = searches.take(going.nonzero()[:, 0])
            warmth = None if warmth is None else warmth[going]
        if not len(searches):
            break
        x = searches.x.detach().requires_grad_()
        with torch.enable_grad():
            rows = objective.rows(x, searches.owner)
            member = objective.members(searches.owner, searches.target)
            warmth = 0.1 * _spread(rows.detach(), member) if warmth is None else warmth
            slope = gradient(rows, x, member, warmth * (1 - k / steps) ** 2)
        searches = _record(searches, objective, rows.detach(), member, slope)
        if k in checkpoints:
            searches, slope = _control(searches, slope, checkpoints[k])
        searches = _move(searches, slope, generator)
    return searches


def _spread(rows: Tensor, member: Tensor) -> Tensor:
    """How far apart the values of a clause's rows are: the scale of the outputs, whatever their unit."""
    return torch.where(member, rows, -torch.inf).amax(1) - torch.where(member, rows, torch.inf).amin(1)


def _record(searches: Descents, objective: Objective, rows: Tensor, member: Tensor, slope: Tensor) -> Descents:
    """What the evaluation at x has shown."""
    value = torch.where(member, rows, -torch.inf).amax(1)
    margin = objective.margin(rows, searches.owner)
    lower, safer = value < searches.value, margin < searches.margin
    x = searches.x
    return replace(
        searches,
        value=torch.where(lower, value, searches.value),
        at_value=torch.where(lower[:, None], x, searches.at_value),
        slope=torch.where(lower[:, None], slope, searches.slope),
        margin=torch.where(safer, margin, searches.margin),
        at_margin=torch.where(safer[:, None], x, searches.at_margin),
        gains=searches.gains + lower,
    )


def _control(searches: Descents, slope: Tensor, interval: int) -> tuple[Descents, Tensor]:
    """At a checkpoint `interval` steps after the last: searches that stalled halve their step and go back to their best."""
    stalled = (searches.gains < 0.75 * interval) | (~searches.halved & (searches.value >= searches.mark))
    back = stalled[:, None]
    searches = replace(
        searches,
        x=torch.where(back, searches.at_value, searches.x),
        previous=torch.where(back, searches.at_value, searches.previous),
        size=torch.where(stalled, searches.size / 2, searches.size),
        gains=torch.zeros_like(searches.gains),
        mark=searches.value,
        halved=stalled,
    )
    return searches, torch.where(back, searches.slope, slope)


def _move(searches: Descents, slope: Tensor, generator: torch.Generator) -> Descents:
    """One step each; where no gradient leads on, in a random direction."""
    flat = (slope == 0).all(1)
    if bool(flat.any()):
        slope = slope.clone()
        slope[flat] = torch.randn(int(flat.sum()), slope.shape[1], generator=generator, dtype=slope.dtype)
    x = searches.step.move(searches.x, searches.previous, slope, searches.size)
    return replace(searches, x=x, previous=searches.x)


def _checkpoints(steps: int) -> dict[int, int]:
    """At which steps to check, and how many steps after the last check: sparse at first, then denser."""
    places, last, gap = {}, 0.0, 0.22
    while round((last + gap) * steps) < steps:
        here = round((last + gap) * steps)
        if here > round(last * steps):
            places[here] = here - round(last * steps)
        last, gap = last + gap, max(gap - 0.03, 0.06)
    return places


@dataclass(frozen=True, eq=False)
class Candidates:
    """The best point of each of n sets as a search sees it; NaN and +inf where it saw none. Only `confirm` makes a witness."""

    x: Tensor  # [n, d] in the program's dtype
    margin: Tensor  # [n]

    def best(self, other: Candidates) -> Candidates:
        """Set by set the better of two."""
        better = other.margin < self.margin
        return Candidates(torch.where(better[:, None], other.x, self.x), torch.minimum(self.margin, other.margin))


def descend(
    problem: Problem,
    owner: Tensor,
    x: Tensor,
    steps: int = 5,
    *,
    size: float = 0.25,
    objective: Objective | None = None,
    late: Callable[[], bool] = lambda: False,
) -> Candidates:
    """A few steps down from given points: what branch and bound does with the minimisers of its worst open leaves.

    Args:
        owner: [k] the set of each point; a set may have many points, or none.
        x: points [k, d], of any float dtype; repaired to lie in their deployed sets, where these can.
        steps: evaluations of each point after the first.
        size: of the first step, in half widths of the set.
        objective: `Objective.of(problem)`, made once by whoever calls often.
        late: asked before each evaluation after the first; once it says so, the descent ends where it is.

    Returns:
        The best point seen of each set.
    """
    objective = objective or Objective.of(problem)
    region = problem.deployed.take(owner)
    x = x.to(problem.program.dtype)
    x = region.repair(x[:, None])[:, 0] if isinstance(region, Repairable) else x
    with torch.no_grad():
        clauses = objective.clauses(objective.rows(x, owner), owner)
    live = torch.isfinite(clauses).any(1)
    owner, x, target = owner[live], x[live], clauses[live].argmin(1)
    searches = Descents.start(problem, owner, target, x, torch.full(target.shape, size))
    ended: list[Descents] = []

    def keep(now: Descents) -> Tensor:
        if over := late():
            ended.append(now)
        return torch.full((len(now),), not over)

    going = descend_all(objective, searches, steps + 1, keep, torch.Generator().manual_seed(0))
    searches = ended[0] if ended else going
    inside = (torch.isfinite(searches.margin) & problem.deployed.take(searches.owner).contains(searches.at_margin)).nonzero()[
        :, 0
    ]
    sets, at = best_of_each(searches.owner[inside], searches.margin[inside], len(problem))
    points = torch.full((len(problem), x.shape[1]), torch.nan, dtype=x.dtype)
    margin = torch.full((len(problem),), torch.inf, dtype=x.dtype)
    points[sets], margin[sets] = searches.at_margin[at], searches.margin[at]
    return Candidates(points, margin)
