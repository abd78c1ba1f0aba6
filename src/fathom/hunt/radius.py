"""The minimum radius: how far an input must be moved before the model fails, bracketed from both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.core.answer import Answers, ContradictionError, Witnesses
from fathom.core.arguments import require
from fathom.core.budget import Budget, Clock
from fathom.core.errors import FathomError
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Solver

Family = Callable[[Tensor], Problem]
"""Radii [n] to the problem of n sets of those radii; a set of a larger radius holds that of a smaller one."""

LEAST = 1e-6
"""Of the greatest radius: below it none is tried but 0."""
EARLIER = 2 / 3
"""Of the seconds left: what a bound may take that another follows."""
SLICE = 1 / 3
"""Of the seconds left: what the last gives to one radius. Where a proof is out of reach, branch and bound would use up all."""


@dataclass(frozen=True, eq=False)
class Radii:
    """What is known of the least radius at which each of n cases fails: it is above `lower`, and at most `upper`."""

    lower: Tensor  # [n] float64: proved, no input fails up to this radius; -1 where not even the centre is proved
    upper: Tensor  # [n] float64: at this radius an input is known that fails; +inf where none is
    found: Witnesses  # [n] that input

    def take(self, index: Tensor) -> Radii:
        return Radii(self.lower[index], self.upper[index], self.found.take(index))


def minimum_radius(
    family: Family,
    most: Tensor,
    attack: Solver,
    bounds: Solver | Sequence[Solver] | None,
    budget: Budget,
    tolerance: float = 0.02,
    *,
    whole: bool = False,
) -> Radii:
    """Bracket the least radius at which each set of a family holds a failure.

    Args:
        family: the problems by radius; see `Family`. Any norm, and any budget that one number scales.
        most: [n] float64 the greatest radius asked about, > 0.
        attack: what looks for failures.
        bounds: what proves that there are none, the quickest first: each goes on from where the one before it has ended. None:
            nothing is proved.
        budget: of all of it; half of the seconds go to the attack at most, and of what is left two thirds at most to each bound
            but the last.
        tolerance: the search for either end stops where two radii that came out differently are so close, relatively.
        whole: radii are whole numbers, such as counts of inputs.

    Returns:
        For every set the bracket. Attacks and bounds fail at radii between its ends.

    Raises:
        FathomError: `most` is not one positive number a set, or a part is of another kind.

    Method: bisection, all sets at once, each with a radius of its own; geometric where 0 is not an end. A failure at one radius
        is where the search at the next begins. The two ends are searched apart: neither side's silence says anything.
    """
    require("attack", attack, Solver, "a solver", "Gradient() from fathom.attacks.gradient, say")
    require("budget", budget, Budget, "a budget", "write fathom.Budget(seconds=60)")
    problem = family(torch.zeros_like(most))
    if most.shape != (len(problem),) or not bool((most > 0).all()):
        raise FathomError(f"expected a radius > 0 for each of {len(problem)} sets, got {most.tolist()[:10]}")
    search = _Search(family, most, tolerance, whole=whole)
    clock = budget.start()
    search.attack(attack, _part(budget, clock, 1 / 2))
    solvers = [] if bounds is None else [bounds] if isinstance(bounds, Solver) else list(bounds)
    for bound in solvers[:-1]:
        search.prove(bound, _part(budget, clock, EARLIER), 1.0)
    for bound in solvers[-1:]:
        search.prove(bound, _part(budget, clock, 1.0), SLICE)
    return search.known


class _Search:
    """What is known of n sets, and the bisection that adds to it."""

    def __init__(self, family: Family, most: Tensor, tolerance: float, *, whole: bool) -> None:
        problem = family(most)
        outputs = sum(port.size for port in problem.program.outputs)
        found = Witnesses.none(len(most), problem.deployed.size, outputs, problem.program.dtype)
        self.family, self.most, self.tolerance, self.whole = family, most, tolerance, whole
        self.known = Radii(torch.full_like(most, -1.0), torch.full_like(most, torch.inf), found)

    def attack(self, attack: Solver, budget: Budget) -> None:
        """Brings the upper ends down."""
        clock, silent = budget.start(), torch.full_like(self.most, -1.0)  # the greatest radius at which nothing was found
        while clock.over() is None and (radius := self._next(silent, self.known.upper, self.most)) is not None:
            found = self.known.found
            points = torch.where(found.broken[:, None], found.x, torch.nan)[:, None]
            sets, answers = self._ask(radius, attack, _part(budget, clock, 1.0), points)
            silent[sets[~answers.broken]] = radius[sets[~answers.broken]]
            self._note(sets, radius[sets], answers)

    def prove(self, bound: Solver, budget: Budget, share: float) -> None:
        """Brings the lower ends up; failures that a proof comes upon bring the upper ends down.

        `share`: of the seconds left, what one radius is given at most.
        """
        clock, open_at = budget.start(), self.known.upper.clone()  # the least radius that is not proved
        greatest = torch.where(open_at.isfinite(), open_at, self.most)
        while clock.over() is None and (radius := self._next(self.known.lower, open_at, greatest)) is not None:
            sets, answers = self._ask(radius, bound, _part(budget, clock, share))
            open_at[sets[~answers.proved]] = radius[sets[~answers.proved]]
            self._note(sets, radius[sets], answers)

    def _ask(self, radius: Tensor, solver: Solver, budget: Budget, points: Tensor | None = None) -> tuple[Tensor, Answers]:
        """The sets [k] that have a radius, and what a solver says of them."""
        sets = radius.isfinite().nonzero()[:, 0]
        hints = Hints() if points is None else Hints(points=points[sets])
        return sets, solver.solve(self.family(radius.where(radius.isfinite(), 0)).take(sets), budget, hints)

    def _note(self, sets: Tensor, radius: Tensor, answers: Answers) -> None:
        """What answers about the sets at radii [k] add to what is known."""
        lower, upper, found = self.known.lower.clone(), self.known.upper.clone(), self.known.found
        held, hit = answers.proved & (radius > lower[sets]), answers.broken & (radius < upper[sets])
        lower[sets[held]], upper[sets[hit]] = radius[held], radius[hit]
        rows = {name: getattr(found, name).index_copy(0, sets[hit], getattr(answers.found, name)[hit]) for name in vars(found)}
        if bool((lower >= upper).any()):
            raise ContradictionError("a radius is proved up to which an input is known that fails")
        self.known = Radii(lower, upper, Witnesses(**rows))

    def _next(self, low: Tensor, high: Tensor, most: Tensor) -> Tensor | None:
        """Radii [n] to try next between two ends, NaN for sets that are done; None if all are.

        First `most` where `high` is not known, then 0, then between.
        """
        unknown, bare = high.isinf() & (low < most), low < 0
        start = LEAST * most
        middle = torch.where(low > start, (low * high).sqrt(), torch.where(high > 4 * start, (start * high).sqrt(), high / 2))
        wide = high.isfinite() & (high > start) & (high > (1 + self.tolerance) * low)
        if self.whole:
            middle = torch.maximum(middle.floor(), low + 1)
            wide = high.isfinite() & (high > low + 1)
        radius = torch.where(unknown, most, torch.where(bare & (high > 0), 0.0, torch.where(wide & ~bare, middle, torch.nan)))
        return radius if bool(radius.isfinite().any()) else None


def _part(budget: Budget, clock: Clock, share: float) -> Budget:
    """A share of the seconds that are left."""
    return replace(budget, seconds=None if budget.seconds is None else share * max(clock.remaining, 0.0))
