"""A rigorous bracket on the probability by branch and bound on volume: boxes proved safe, boxes proved to fail, and the rest."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.bounds.backward import LinearBound, Reach
from fathom.bounds.clipping import clip
from fathom.bounds.intermediate import bends, tighten
from fathom.bounds.margins import Margins, bound_margins
from fathom.core.answer import Claim
from fathom.core.arithmetic import Arithmetic
from fathom.core.box import Box
from fathom.core.budget import Clock
from fathom.core.errors import OutOfDomain
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.rounding import down, up
from fathom.core.spec import Spec
from fathom.core.value import join, take
from fathom.estimates.answer import Part
from fathom.estimates.distribution import Product
from fathom.estimates.estimator import Estimator, Progress, timed, unable, unheard
from fathom.estimates.question import Question
from fathom.estimates.words import probability

MOST_INPUTS = 6  # that vary: beyond, volumes hardly shrink
AT_ONCE = 512  # boxes to split
HIDDEN_SLOPE = 0.1  # of the steepest input's, where bounds are loose: a flat relaxation hides slopes that halves will show


@final
@dataclass(frozen=True)
class Volume(Estimator):
    """Branch and bound on volume.

    Requires: independent inputs, of which at most 6 vary; a compiled problem over the real numbers.
    Returns: a lower and an upper bound on the probability, of the network over the real numbers, certain and rounded outward.
    Method: a box is safe where linear bounds show a row of every clause to be > 0, and fails where upper bounds show all rows of
        one clause to be <= 0; what linear bounds show to be safe is cut off; others are halved, the likeliest first. Masses of
        boxes are exact products, rounded outward.
    Sound? Yes, under `real`. Where the spec is stricter than the overseer, only the upper bound says anything.
    Reference: Zhang, Wang and Kwiatkowska, Provable preimage under-approximation for neural networks, TACAS 2024, measure such
        volumes by polytopes.
    """

    boxes: int = 100_000
    tolerance: float = 0.01  # relative width at which the bracket is tight

    def estimate(self, question: Question, clock: Clock, progress: Progress = unheard) -> Part:
        began, question = time.monotonic(), question.afresh()
        problem, distribution = question.problem, question.distribution
        reason = self._obstacle(question)
        if reason:
            return unable("volume", f"no rigorous bracket: {reason}")
        assert isinstance(distribution, Product)
        search = Search(problem, distribution)
        try:
            cells = search.root()
        except OutOfDomain as error:
            return timed(unable("volume", f"no rigorous bracket: {error}"), question, began)
        why = ""
        while len(cells.owner):
            lower, upper = search.bracket(cells)
            if upper - lower <= self.tolerance * upper:
                break
            if clock.late() or search.bounded >= self.boxes:
                why = "; more boxes or seconds make it tighter"
                break
            progress(f"{search.bounded:,} boxes, P(failure) {probability(lower, -1)} to {probability(upper, 1)}")
            try:
                children, rest = search.split(cells)
            except OutOfDomain as error:
                why = f"; {error}"
                break
            cells = rest.join(children)
        question.meter.boxes += search.bounded
        lower, upper = search.bracket(cells)
        return timed(self._part(problem, lower, upper, len(cells.owner), why), question, began)

    def _obstacle(self, question: Question) -> str:
        """Why this method has nothing to say; "" where it has."""
        problem, distribution = question.problem, question.distribution
        if not isinstance(distribution, Product):
            return f"it needs independent inputs, as in a box; here: {distribution}"
        if distribution.latent > MOST_INPUTS:
            return f"{distribution.latent} inputs vary, and volumes of more than {MOST_INPUTS} hardly shrink"
        if not problem.provable:
            return problem.obstacle
        if problem.arithmetic is not Arithmetic.REAL:
            return f"it is about the network over the real numbers, and here arithmetic is {problem.arithmetic}"
        return ""

    def _part(self, problem: Problem, lower: float, upper: float, left: int, why: str) -> Part:
        if problem.exact:
            words = f"P(failure) is between {probability(lower, -1)} and {probability(upper, 1)}"
        else:
            words = f"P(failure) is at most {probability(upper, 1)} (the rule proved is stricter than the overseer)"
        sentence = f"{words}, certainly, for the network over the real numbers{why}"
        return Part(
            "volume", Claim.CERTIFICATE, None, lower, upper, None, sentence, facts=(("open_boxes", left),), stopped=bool(why)
        )


@dataclass(frozen=True, eq=False)
class Cells:
    """k open boxes."""

    owner: Tensor  # [k]
    box: Box  # [k, d]
    mass: Tensor  # [k] at most their probability
    axis: Tensor  # [k] the input to halve next
    inside: tuple[Box, ...]  # for each node that bends, a box that holds its value

    def take(self, index: Tensor) -> Cells:
        return take(self, index)

    def join(self, other: Cells) -> Cells:
        return join(self, other)


class Search:
    """The state of a search: what is proved to fail, and what can be split no further."""

    def __init__(self, problem: Problem, distribution: Product) -> None:
        assert problem.network is not None and problem.spec is not None
        self.problem, self.distribution = problem, distribution
        self.network: Network = problem.network.freeze(torch.float64)
        self.spec = two_sided(problem.spec)
        self.bending = tuple(sorted(i for i in bends(self.network) if i))
        self.fails = (0.0, 0.0)  # bounds on the mass proved to fail
        self.stuck = 0.0  # at least the mass of boxes that cannot be split
        self.bounded = 0
        self.reach: Reach | None = None

    def root(self) -> Cells:
        """The sets themselves, bounded, and those settled left out."""
        _, self.reach = tighten(self.network, self.problem.region)
        owner = torch.arange(len(self.problem))
        return self._bound(owner, self.distribution.outer, None)

    def split(self, cells: Cells) -> tuple[Cells, Cells]:
        """The open halves of the likeliest boxes, and the other boxes."""
        order = cells.mass.argsort(descending=True)
        chosen, rest = cells.take(order[:AT_ONCE]), cells.take(order[AT_ONCE:])
        k = torch.arange(len(chosen.owner))
        middle = chosen.box.middle[k, chosen.axis]
        whole = (middle <= chosen.box.lower[k, chosen.axis]) | (middle >= chosen.box.upper[k, chosen.axis])
        if bool(whole.any()):
            self.stuck = added(self.stuck, chosen.mass[whole], math.inf)
            chosen, middle = chosen.take((~whole).nonzero()[:, 0]), middle[~whole]
            k = torch.arange(len(chosen.owner))
        if not len(k):
            return chosen, rest
        upper, lower = chosen.box.upper.clone(), chosen.box.lower.clone()
        upper[k, chosen.axis] = middle
        lower[k, chosen.axis] = middle
        halves = Box(torch.cat([chosen.box.lower, lower]), torch.cat([upper, chosen.box.upper]))
        twice = torch.cat([k, k])
        return self._bound(chosen.owner[twice], halves, chosen.take(twice)), rest

    def bracket(self, cells: Cells) -> tuple[float, float]:
        """Bounds on the probability as of now."""
        upper = added(added(self.fails[1], torch.tensor([self.stuck], dtype=torch.float64), math.inf), cells.mass, math.inf)
        return self.fails[0], min(1.0, upper)

    def _bound(self, owner: Tensor, box: Box, parent: Cells | None) -> Cells:
        """The boxes of the sets `owner` that stay open; those proved to fail are added up."""
        assert self.reach is not None
        self.bounded += len(owner)
        region = self.problem.region.restrict(owner, box.lower, box.upper)
        known = None if parent is None else dict(zip(self.bending, parent.inside, strict=True))
        boxes, reach = tighten(self.network, region, known, self.reach.take(owner))
        both = bound_margins(self.network, region, self.spec.take(owner), boxes, reach)
        count = both.rows.shape[1] // 2
        assert self.problem.spec is not None
        spec = self.problem.spec.take(owner)
        bound = LinearBound(both.bound.a[:, :count], both.bound.constant[:, :count])
        margins = Margins(both.rows[:, :count], spec.combine(both.rows[:, :count]), both.minimisers[:, :count], bound)
        fails = fail_everywhere(spec, both.rows[:, count:]) & self.problem.exact
        self._book(owner[fails], box.take(fails))
        before = box
        box, safe = clip(spec, margins, box)
        mass = up(self.distribution.mass(owner, box).upper / len(self.problem)).clamp(max=1.0)
        axis = halved(before, box, both, count)
        cells = Cells(owner, box, mass, axis, tuple(boxes[i] for i in self.bending))
        return cells.take((~(fails | safe | (margins.margin > 0))).nonzero()[:, 0])

    def _book(self, owner: Tensor, box: Box) -> None:
        """Add up the masses of boxes that fail throughout."""
        mass = self.distribution.mass(owner, box)
        low, high = (down(mass.lower / len(self.problem)).clamp(min=0), up(mass.upper / len(self.problem)))
        self.fails = (added(self.fails[0], low, -math.inf), added(self.fails[1], high, math.inf))


def added(total: float, masses: Tensor, towards: float) -> float:
    """A sum of numbers >= 0, rounded towards minus or plus infinity; 0 where there is nothing to add."""
    if not bool((masses > 0).any()):
        return total
    return max(0.0, math.nextafter(math.fsum([total, *masses.tolist()]), towards))


def halved(bounded: Box, box: Box, both: Margins, count: int) -> Tensor:
    """[k] the input to halve: where bounds are steep, and where they are loose, one that is wide.

    How loose a row is: the share of the gap between its upper and lower bound that neither's slopes explain; a hundredth or less
    is rounding. A relaxation that is exact hides no slope, and no halving is spent on inputs that do not matter. `both` bounds
    `count` rows and their opposites over the boxes `bounded`, of which `box` is what is left.
    """
    slope = both.bound.a.abs()  # [k, 2 R, d]
    slope = torch.maximum(slope[:, :count], slope[:, count:])
    gap = -both.rows[:, count:] - both.rows[:, :count]
    loose = (1 - (slope * bounded.width[:, None]).sum(2) / gap).nan_to_num(nan=0.0).clamp(0, 1)
    loose = torch.where(loose > 0.01, loose, 0.0)
    hidden = HIDDEN_SLOPE * loose[..., None] * slope.amax(2, keepdim=True)
    return ((slope + hidden).amax(1) * box.width).argmax(1)


def two_sided(spec: Spec) -> Spec:
    """The rows of a spec, then their opposites: lower bounds on the second are upper bounds on the first, negated."""
    return Spec(
        torch.cat([spec.rows, -spec.rows], 1),
        torch.cat([spec.offsets, -spec.offsets], 1),
        torch.cat([spec.clause, spec.clause], 1),
        torch.cat([spec.strict, spec.strict], 1),
        spec.of,
        torch.cat([spec.blur, spec.blur], 1),
    )


def fail_everywhere(spec: Spec, opposite: Tensor) -> Tensor:
    """[n] whether a clause has all its rows <= 0 (strict ones < 0) throughout, by lower bounds [n, R] on their opposites.

    Of a disjunction, one clause must fail throughout: that different clauses fail in different places is not seen.
    """
    strict, clause = spec.strict[spec.of], spec.clause[spec.of]
    holds = torch.where(strict, opposite > 0, opposite >= 0) | (clause < 0)
    mine = clause[:, None] == torch.arange(spec.has().shape[1])[:, None]
    return ((holds[:, None] | ~mine).all(2) & spec.has()).any(1)
