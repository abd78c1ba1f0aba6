"""How far every sample must be moved before the model fails: the minimum radius of each case, and what it says of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fathom.attacks.gradient import Gradient
from fathom.attacks.objective import has_gradient
from fathom.attacks.values import Values
from fathom.audits.engine import versions
from fathom.audits.interrupt import interruptible
from fathom.audits.numbers import at_least, at_most
from fathom.bounds.alpha import AlphaCrown
from fathom.capture.captured import Captured
from fathom.core.budget import Budget
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.hunt.radius import Radii, minimum_radius

FORMAT = "fathom-radius/1"
FEW = 20  # cases listed one by one


@dataclass(frozen=True, eq=False)
class Distances:
    """n cases, each with a bracket on the least radius at which it fails."""

    title: str
    region: str  # the sets of the greatest radius asked about, in words
    overseer: str
    most: float
    radii: Radii
    seconds: float
    program: str  # digest of what runs
    seed: int
    interrupted: bool
    recipe: str = ""

    def lines(self) -> list[str]:
        """What was found out, for people; of many cases those that fail soonest."""
        low, high = self.radii.lower, self.radii.upper
        wrong, found = high == 0, high.isfinite()
        order = torch.argsort(torch.where(found, high, torch.inf), stable=True)
        shown = order[:FEW].tolist()
        counts = f"{len(high)} cases: {int(wrong.sum())} fail as they are, {int((found & ~wrong).sum())} when they are moved"
        return [
            f"{self.title}, {self.region}, {self.overseer}",
            f"{counts}, and in {int((~found).sum())} nothing was found up to {self.most:g}",
            *([self._middle()] if len(high) else []),
            *(f"case {i}: {_words(low[i].item(), high[i].item(), self.most)}" for i in shown),
            *([f"and {len(high) - FEW} more; --json has all"] if len(high) > FEW else []),
        ]

    def _middle(self) -> str:
        """The median of the least radii, between those of the brackets' ends."""
        low, high = (float(torch.quantile(end, 0.5, interpolation="lower")) for end in (self.radii.lower, self.radii.upper))
        end = f"above 0 and not known up to {self.most:g}" if math.isinf(high) else f"at most {at_most(high)}"
        return f"the median of the least radii is {f'more than {at_least(low)} and ' if low >= 0 else ''}{end}"

    def to_json(self) -> dict[str, Any]:
        """The bracket of every case: `proved`, the radius up to which no input fails (null: none), and `fails`, a radius at which
        one does (null: none found), with that input, its output and its margin."""
        radii = self.radii
        return {
            "format": FORMAT,
            "title": self.title,
            "region": self.region,
            "overseer": self.overseer,
            "most": self.most,
            "program": self.program,
            "seed": self.seed,
            "recipe": self.recipe,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "versions": dict(versions()),
            "cases": [_case(radii.take(torch.tensor([i]))) for i in range(len(radii.lower))],
        }


def distances(
    captured: Captured,
    region: Callable[[Tensor], Region],
    overseer: Overseer,
    most: float,
    *,
    budget: Budget | None = None,
    tolerance: float = 0.02,
    seed: int = 0,
    title: str = "model",
    recipe: str = "",
) -> Distances:
    """Bracket the least radius at which each case of a captured model fails; Ctrl-C ends the search, never the answer.

    Args:
        region: radii [n] to the region of n sets of those radii.
        overseer: n judges.
        most: the greatest radius asked about.
        budget: of all of it; half of the seconds go to each side at most.
        tolerance: the search for either end stops where two radii that came out differently are so close, relatively.
        seed: of what is drawn at random.

    Raises:
        FathomError: the parts do not fit together, or `most` is not above 0.
    """
    budget = budget or Budget()
    clock = budget.start()
    cases = len(region(torch.zeros(())))
    greatest = torch.full((cases,), float(most), dtype=torch.float64)

    def family(radius: Tensor) -> Problem:
        return Problem.make(captured.program, captured.network, region(radius), overseer)

    problem = family(greatest)
    attack = Gradient(seed=seed) if has_gradient(problem) else Values(seed=seed)
    bound = AlphaCrown(inner_steps=3) if problem.provable else None
    with interruptible(budget.stop):
        radii = minimum_radius(family, greatest, attack, bound, budget, tolerance)
    return Distances(
        title=title,
        region=str(problem.written),
        overseer=str(overseer),
        most=float(most),
        radii=radii,
        seconds=clock.elapsed,
        program=captured.program.digest,
        seed=seed,
        interrupted=budget.stop.is_set(),
        recipe=recipe,
    )


def _words(low: float, high: float, most: float) -> str:
    proved = f"proved up to {f'{most:g}' if low == most else at_least(low)}" if low >= 0 else "nothing proved"
    if high == 0:
        return "fails as it is"
    return f"fails at {at_most(high)}, {proved}" if math.isfinite(high) else f"nothing found up to {most:g}, {proved}"


def _case(radii: Radii) -> dict[str, Any]:
    low, high, found = radii.lower.item(), radii.upper.item(), radii.found
    failure = None
    if math.isfinite(high):
        failure = {"x": found.x[0].tolist(), "y": found.y[0].tolist(), "margin": found.deployed.item()}
    return {"proved": low if low >= 0 else None, "fails": high if failure else None, "failure": failure}
