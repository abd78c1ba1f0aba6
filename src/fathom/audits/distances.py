"""How far every sample must be moved before the model fails: the minimum radius of each case, and what it says of all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fathom.attacks.gradient import Gradient
from fathom.attacks.objective import has_gradient
from fathom.attacks.values import Values
from fathom.audits.applied import Applied, seen
from fathom.audits.engine import versions
from fathom.audits.families import Family, family
from fathom.audits.interrupt import interruptible
from fathom.audits.numbers import at_least, at_most
from fathom.audits.pose import pose
from fathom.bounds.alpha import AlphaCrown
from fathom.capture.captured import Captured
from fathom.core.budget import Budget
from fathom.core.coverage import Coverage
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.solver import Solver
from fathom.hunt.radius import Radii, minimum_radius
from fathom.prove.branch import BranchAndBound, halves_nimbly
from fathom.transforms.region import Transformed

FORMAT = "fathom-radius/1"
FEW = 20  # cases listed one by one


@dataclass(frozen=True, eq=False)
class Distances:
    """n cases, each with a bracket on the least radius at which it fails."""

    title: str
    region: str  # the sets of the greatest radius asked about, in words
    overseer: str
    family: Family  # what the radius is, and the greatest asked about
    radii: Radii
    applied: tuple[Applied | None, ...]  # [n] what was done to the picture of each failure; empty where nothing transforms
    seconds: float
    program: str  # digest of what runs
    seed: int
    interrupted: bool
    coverage: Coverage | None  # on how many samples the model acts; None where abstaining is not spoken of
    recipe: str = ""

    def lines(self) -> list[str]:
        """What was found out, for people; of many cases those that fail soonest."""
        high = self.radii.upper
        wrong, found = high == 0, high.isfinite()
        order = torch.argsort(torch.where(found, high, torch.inf), stable=True)
        counts = f"{len(high)} cases: {int(wrong.sum())} fail as they are, {int((found & ~wrong).sum())} when they are moved"
        return [
            f"{self.title}, {self.region}, {self.overseer}",
            *([] if self.coverage is None else [str(self.coverage)]),
            f"{counts}, and in {int((~found).sum())} nothing was found{self._up_to_most()}",
            *([self._middle()] if len(high) else []),
            *(f"case {i}: {self._case_words(i)}" for i in order[:FEW].tolist()),
            *([f"and {len(high) - FEW} more; --json has all"] if len(high) > FEW else []),
        ]

    def _up_to_most(self) -> str:
        """ "", if the greatest radius differs from case to case."""
        most = self.family.most
        return f" up to {self._say(f'{most[0].item():g}')}" if len(most) and bool((most == most[0]).all()) else ""

    def _say(self, number: str) -> str:
        return self.family.words.format(number)

    def _middle(self) -> str:
        """The median of the least radii, between those of the brackets' ends."""
        low, high = (float(torch.quantile(end, 0.5, interpolation="lower")) for end in (self.radii.lower, self.radii.upper))
        end = f"above 0 and not known{self._up_to_most()}" if math.isinf(high) else f"at most {at_most(high)}"
        return f"the median of the least radii is {f'more than {at_least(low)} and ' if low >= 0 else ''}{end}"

    def _case_words(self, i: int) -> str:
        low, high, most = (t[i].item() for t in (self.radii.lower, self.radii.upper, self.family.most))
        top = self._say(f"{most:g}")
        proved = f"proved up to {top if low == most else self._say(at_least(low))}" if low >= 0 else "nothing proved"
        if high == 0:
            return "fails as it is"
        if not math.isfinite(high):
            return f"nothing found up to {top}, {proved}"
        done = self.applied[i] if self.applied else None
        return f"fails at {self._say(at_most(high))}{f' ({done.words})' if done else ''}, {proved}"

    def to_json(self) -> dict[str, Any]:
        """The bracket of every case: `proved`, the radius up to which no input fails (null: none), and `fails`, a radius at which
        one does (null: none found), with that input, its output and its margin. `coverage`: the share of the samples on which the
        model acts, or null where abstaining is not spoken of. `most` is the greatest radius asked about."""
        radii = self.radii
        return {
            "format": FORMAT,
            "title": self.title,
            "region": self.region,
            "overseer": self.overseer,
            "measure": self.family.measure,
            "most": self.family.most.amax().item() if len(self.family.most) else None,
            "program": self.program,
            "seed": self.seed,
            "recipe": self.recipe,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "versions": dict(versions()),
            "coverage": None if self.coverage is None else self.coverage.share,
            "cases": [self._case(i) for i in range(len(radii.lower))],
        }

    def _case(self, i: int) -> dict[str, Any]:
        low, high, found = self.radii.lower[i].item(), self.radii.upper[i].item(), self.radii.found
        failure: dict[str, Any] | None = None
        if math.isfinite(high):
            failure = {"x": found.x[i].tolist(), "y": found.y[i].tolist(), "margin": found.deployed[i].item()}
            if self.applied and (done := self.applied[i]):
                failure["applied"] = done.to_json()
        bracket = {"proved": low if low >= 0 else None, "fails": high if failure else None}
        return {**bracket, "failure": failure}


def distances(
    captured: Captured,
    region: Region,
    overseer: Overseer,
    *,
    budget: Budget | None = None,
    tolerance: float = 0.02,
    seed: int = 0,
    title: str = "model",
    recipe: str = "",
) -> Distances:
    """Bracket the least radius at which each case of a captured model fails; Ctrl-C ends the search, never the answer.

    Args:
        region: n sets of the greatest radius asked about: balls, or whatever else `audits.families` makes larger by one number.
        overseer: n judges.
        budget: of all of it, 60 seconds if not given; half of the seconds go to attacks at most, two thirds of what is left to
            bounds, where halving boxes is not cheaper, and the rest to branch and bound, which is left out where there is no
            limit of seconds.
        tolerance: the search for either end stops where two radii that came out differently are so close, relatively.
        seed: of what is drawn at random.

    Raises:
        FathomError: the parts do not fit together, or no such family has the region.
    """
    budget = budget or Budget(seconds=60.0)
    clock, asked = budget.start(), family(region)

    def at(radius: Tensor) -> Problem:
        return pose(captured, asked.region(radius), overseer)

    problem = at(asked.most)
    attack = Gradient(seed=seed) if has_gradient(problem) else Values(seed=seed)
    bounds: tuple[Solver, ...] = ()
    if problem.provable and budget.seconds is not None:
        bounds = (BranchAndBound(),)
    if problem.provable and not halves_nimbly(problem):  # else halving costs less than bounding whole sets well
        bounds = (AlphaCrown(inner_steps=3), *bounds)
    with interruptible(budget.stop):
        radii = minimum_radius(at, asked.most, attack, bounds, budget, tolerance, whole=asked.whole)
    done: tuple[Applied | None, ...] = ()
    if isinstance(region, Transformed):
        found, done = seen(radii.found, region, problem.program)
        radii = replace(radii, found=found)
    return Distances(
        title=title,
        region=str(region),
        overseer=str(overseer),
        family=asked,
        radii=radii,
        applied=done,
        seconds=clock.elapsed,
        program=captured.program.digest,
        seed=seed,
        interrupted=budget.stop.is_set(),
        coverage=problem.coverage(problem.deployed.centres()),
        recipe=recipe,
    )
