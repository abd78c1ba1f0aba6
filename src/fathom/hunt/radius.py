"""The minimum radius: how far an input must be moved before the model fails, bracketed from both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.core.answer import Witnesses
from fathom.core.budget import Budget, Clock
from fathom.core.errors import FathomError
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Solver

Family = Callable[[Tensor], Problem]
"""Radii [n] to the problem of n sets of those radii; a set of a larger radius holds that of a smaller one."""

LEAST = 1e-6
"""Of the greatest radius: below it none is tried but 0."""


@dataclass(frozen=True, eq=False)
class Radii:
    """What is known of the least radius at which each of n cases fails: it is above `lower`, and at most `upper`."""

    lower: Tensor  # [n] float64: proved, no input fails up to this radius; -1 where not even the centre is proved
    upper: Tensor  # [n] float64: at this radius an input is known that fails; +inf where none is
    found: Witnesses  # [n] that input

    def take(self, index: Tensor) -> Radii:
        return Radii(self.lower[index], self.upper[index], self.found.take(index))


def minimum_radius(
    family: Family, most: Tensor, attack: Solver, bound: Solver | None, budget: Budget, tolerance: float = 0.02
) -> Radii:
    """Bracket the least radius at which each set of a family holds a failure.

    Args:
        family: the problems by radius; see `Family`. Any norm, and any budget that one number scales.
        most: [n] float64 the greatest radius asked about, > 0.
        attack: what looks for failures.
        bound: what proves that there are none; None: nothing is proved.
        budget: of all of it; half of the seconds go to each side at most.
        tolerance: the search for either end stops where two radii that came out differently are so close, relatively.

    Returns:
        For every set the bracket. Attacks and bounds fail at radii between its ends.

    Raises:
        FathomError: `most` is not one positive number a set.

    Method: bisection, all sets at once, each with a radius of its own; geometric where 0 is not an end. A failure at one radius
        is where the search at the next begins. The two ends are searched apart: neither side's silence says anything.
    """
    problem = family(torch.zeros_like(most))
    if most.shape != (len(problem),) or not bool((most > 0).all()):
        raise FathomError(f"expected a radius > 0 for each of {len(problem)} sets, got {most.tolist()[:10]}")
    half = budget.part(seconds=None if budget.seconds is None else budget.seconds / 2)
    upper, found = _attacked(family, most, attack, half, tolerance)
    if bound is None:
        return Radii(torch.full_like(upper, -1.0), upper, found)
    return Radii(_proved(family, most, upper, bound, half, tolerance), upper, found)


def _attacked(family: Family, most: Tensor, attack: Solver, budget: Budget, tolerance: float) -> tuple[Tensor, Witnesses]:
    """The least radii [n] at which the attack finds failures, and these; +inf where it does not even at `most`."""
    clock, problem = budget.start(), family(most)
    silent = torch.full_like(most, -1.0)  # the greatest radius at which nothing was found
    upper = torch.full_like(most, torch.inf)
    outputs = sum(port.size for port in problem.program.outputs)
    found = Witnesses.none(len(most), problem.deployed.size, outputs, problem.program.dtype)
    for radius in _radii(most, silent, upper, clock, tolerance):
        sets = radius.isfinite().nonzero()[:, 0]
        points = torch.where(found.broken[:, None], found.x, torch.nan)[sets, None]
        asked = family(radius.where(radius.isfinite(), 0)).take(sets)
        answers = attack.solve(asked, _rest(budget, clock), Hints(points=points))
        hit = answers.broken
        rows = {name: getattr(found, name).index_copy(0, sets[hit], getattr(answers.found, name)[hit]) for name in vars(found)}
        found = Witnesses(**rows)
        upper[sets[hit]] = radius[sets[hit]]
        silent[sets[~hit]] = radius[sets[~hit]]
    return upper, found


def _proved(family: Family, most: Tensor, upper: Tensor, bound: Solver, budget: Budget, tolerance: float) -> Tensor:
    """The greatest radii [n] at which the bound proves that nothing fails; -1 for none."""
    clock = budget.start()
    lower = torch.full_like(most, -1.0)
    open_at = torch.where(upper.isfinite(), upper, torch.inf)  # the least radius that is not proved
    for radius in _radii(torch.where(upper.isfinite(), upper, most), lower, open_at, clock, tolerance):
        sets = radius.isfinite().nonzero()[:, 0]
        answers = bound.solve(family(radius.where(radius.isfinite(), 0)).take(sets), _rest(budget, clock))
        held = answers.proved
        lower[sets[held]] = radius[sets[held]]
        open_at[sets[~held]] = radius[sets[~held]]
    return lower


def _radii(most: Tensor, low: Tensor, high: Tensor, clock: Clock, tolerance: float) -> Iterator[Tensor]:
    """Radii [n] to try next, NaN for sets that are done; `low` and `high` [n] change as the caller learns.

    First `most` where `high` is not known, then 0, then between.
    """
    while clock.over() is None:
        unknown, bare = high.isinf() & (low < most), low < 0
        start = LEAST * most
        middle = torch.where(low > start, (low * high).sqrt(), torch.where(high > 4 * start, (start * high).sqrt(), high / 2))
        wide = (high.isfinite()) & (high > start) & (high > (1 + tolerance) * low) & ~bare
        radius = torch.where(unknown, most, torch.where(bare & (high > 0), 0.0, torch.where(wide, middle, torch.nan)))
        if not bool(radius.isfinite().any()):
            return
        yield radius


def _rest(budget: Budget, clock: Clock) -> Budget:
    return replace(budget, seconds=None if budget.seconds is None else max(clock.remaining, 0.0))
