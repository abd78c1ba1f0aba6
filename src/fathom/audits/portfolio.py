"""The audit's own solver: attack all, bound all, then branch and bound on what is left, worst first, under one budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from fathom.attacks.board import of_each
from fathom.attacks.discrete import Discrete
from fathom.attacks.gradient import Gradient
from fathom.attacks.guided import Guided
from fathom.attacks.objective import has_gradient
from fathom.attacks.reuse import attempt, reuse
from fathom.attacks.values import Values
from fathom.audits.cases import case_broken
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.crown import Crown
from fathom.bounds.intermediate import bends
from fathom.bounds.work import products
from fathom.core.answer import Answers, ContradictionError, Reason
from fathom.core.arithmetic import Arithmetic
from fathom.core.budget import Budget, Clock, Goal
from fathom.core.confirm import confirm
from fathom.core.errors import OutOfDomain
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore
from fathom.prove.branch import BranchAndBound, halves_nimbly, resists_splitting, splits_inputs
from fathom.prove.layer import is_shallow
from fathom.prove.record import Record


@final
@dataclass(frozen=True)
class Portfolio(Solver):
    """Everything that Fathom can do, in the order of cost.

    Requires: anything that can be run; without a network only values are searched, and nothing is proved.
    Returns: a bracket for every set. Sets of a case that is broken elsewhere are left as they are.
    Method: hints are replayed, and no attack follows for judges who only know what they were shown; a short attack on all sets,
        and another where they hold choices; what broke some tried on the others; bounds; a long attack on those that stand,
        from the best of the points tried and from where relaxations are least, or several beside branch and bound; branch and
        bound on groups of what is left, the least lower bound first, each group with its share of the time that remains; an
        attack from the worst leaves that are open then; last, how bad the broken cases get. Where halving boxes is cheap,
        branch and bound comes before the bounds, and the long attack works beside it.
    Sound? complete?: as its parts: sound under `real`; complete up to rounding, given time.
    """

    seed: int = 0
    case_seconds: float = 60.0  # of branch and bound for one case, at most
    case_boxes: int | None = None  # sub-problems of one set, at most: unlike seconds, the same on every machine
    attack_share: float = 0.1  # of the seconds, at most, for each of the two attacks
    opening: Gradient = Gradient()  # where there are gradients
    choices: Discrete = Discrete()  # after it, where sets have holes: choices, whole numbers, few changes
    longer: Gradient | None = Gradient(restarts=30, steps=50)  # before branch and bound
    beside: tuple[Gradient, ...] = ()  # in the midst of branch and bound
    bounds: tuple[Solver, ...] = (Crown(), AlphaCrown())
    last: Gradient | None = Gradient(restarts=0, lone=0, full=0, steps=50)  # from the worst leaves that are open at its end
    last_share: float = 0.03  # of the seconds: held back for it
    group: int = 16  # cases searched together
    reuse: bool = True  # try the failures of other sets, and start the longer attack from what is known
    worsen: bool = True  # also ask how bad broken cases can be: bound them, and search on from their failures at the end
    stage: Callable[[str], None] = field(default=lambda name: None, repr=False, compare=False)  # told what comes next
    records: list[tuple[Tensor, Record]] | None = field(default=None, repr=False, compare=False)
    """For certificates: filled with what each branch and bound recorded, and the sets that it was about. Of the bounds before it
    only the first, which needs no record, is then used."""
    searches: list[tuple[Solver, int]] | None = field(default=None, repr=False, compare=False)
    """Filled with each attack that looked for failures, and the passes that it spent on the set it spent most on."""

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        clock = budget.start()
        standing = _Standing(problem, observe, hints, budget.passes)
        standing.replay(hints)
        attacks = budget.part(seconds=None if budget.seconds is None else budget.seconds * self.attack_share)
        self.stage("attack")
        if problem.model is not None and problem.arithmetic is Arithmetic.REAL and not has_gradient(problem):
            # Few questions, for a judge that may be slow.
            self._hunt(standing, Guided(seed=self.seed), standing.open(), attacks)
        self._hunt(standing, self._attack(problem), standing.open(), attacks)
        if not problem.deployed.convex:
            self._hunt(standing, replace(self.choices, seed=self.seed), standing.open(), attacks)
        if self.reuse:
            standing.reuse(attacks, self.seed)
        if problem.provable:
            nimble = self.records is None and halves_nimbly(problem)
            if not nimble:
                self._bound(standing, budget, clock)
                self._hunt_longer(standing, attacks)
            self.stage("branch and bound")
            held = 0.0 if self.last is None or budget.seconds is None else self.last_share * budget.seconds
            rest, before = self._rest(budget, clock, held), len(standing.given)
            self._search(standing, rest, rest.start(), nimble=nimble)
            self._attack_leaves(standing, before, self._rest(budget, clock))
            if nimble and self.worsen and self.bounds and clock.over() is None:
                self.stage("bounds")  # how safe, or how bad at worst, what is decided is
                left = self._rest(budget, clock).seconds
                seconds = None if left is None or attacks.seconds is None else min(left, attacks.seconds)
                standing.run(self.bounds[0], torch.arange(len(problem)), replace(attacks, seconds=seconds, goal=Goal.VALUE))
        if self.worsen and problem.overseer.searchable and clock.over() is None:
            self.stage("how bad the broken cases are")
            standing.run(self._attack(problem), standing.answers.broken.nonzero()[:, 0], replace(attacks, goal=Goal.VALUE))
        if not problem.provable and len(standing.open()):
            standing.answers = standing.answers.because(Reason.NOT_PROVABLE, standing.open())
        return standing.answers

    def _bound(self, standing: _Standing, budget: Budget, clock: Clock) -> None:
        """The bounds of whole sets, in the order of cost."""
        self.stage("bounds")
        if self.bounds and self.worsen:  # the first one also says how bad the broken cases can be at worst
            todo = (~standing.answers.proved).nonzero()[:, 0]
            standing.run(self.bounds[0], todo, replace(self._rest(budget, clock), goal=Goal.VALUE))
        for bound in self.bounds[1 if self.worsen else 0 : None if self.records is None else 1]:
            standing.run(bound, standing.open(), self._rest(budget, clock))

    def _hunt_longer(self, standing: _Standing, attacks: Budget) -> None:
        """The long attack on what the bounds left open, from what is known."""
        if self.longer is None:
            return
        self.stage("longer attack")
        sets = standing.open()
        starts = standing.starts(sets, attacks) if self.reuse else None
        given = 0 if starts is None else starts.shape[1]  # that many fewer of its own: the passes stay as many
        longer = replace(self.longer, seed=self.seed, restarts=max(self.longer.restarts - given, 1))
        self._hunt(standing, longer, sets, attacks, starts)
        if self.reuse:
            standing.reuse(attacks, self.seed + 1)

    def _attack(self, problem: Problem) -> Solver:
        return replace(self.opening, seed=self.seed) if has_gradient(problem) else Values(seed=self.seed)

    def _hunt(self, standing: _Standing, attack: Solver, sets: Tensor, budget: Budget, starts: Tensor | None = None) -> None:
        """An attack on some sets, put down among the searches; none where no search would find anything."""
        if not standing.problem.overseer.searchable:
            return
        spent = standing.run(attack, sets, budget, starts)
        if self.searches is not None and len(spent):
            self.searches.append((attack, int(spent.max())))

    def _exact(self, sets: Tensor, *, nimble: bool) -> Solver:
        longer = (self.longer,) if nimble and self.longer is not None else ()
        beside = tuple(replace(attack, seed=self.seed + k) for k, attack in enumerate((*longer, *self.beside), 1))
        if self.records is None:
            return BranchAndBound(beside=beside, forms=nimble)
        self.records.append((sets, Record()))
        return BranchAndBound(beside=beside, record=self.records[-1][1])

    def _rest(self, budget: Budget, clock: Clock, held: float = 0.0) -> Budget:
        """What is left of a budget, but for the seconds held back."""
        return budget.part(seconds=None if budget.seconds is None else max(clock.remaining - held, 0.0))

    def _attack_leaves(self, standing: _Standing, before: int, budget: Budget) -> None:
        """Search once more from the points handed on since there were `before` of them: those of leaves left open. A set stays
        open for the reason that it was left open for."""
        sets = standing.open()
        starts = standing.handed(sets, before)
        sets, starts = sets[~torch.isnan(starts).all(2).all(1)], starts[~torch.isnan(starts).all(2).all(1)]
        if self.last is None or not len(sets):
            return
        self.stage("attack on what is open")
        reasons = standing.answers.reason
        standing.run(replace(self.last, seed=self.seed), sets, budget, starts)
        standing.answers = replace(
            standing.answers, reason=torch.where(standing.answers.decided, standing.answers.reason, reasons)
        )

    def _search(self, standing: _Standing, budget: Budget, clock: Clock, *, nimble: bool) -> None:
        problem = standing.problem
        todo = standing.open()
        cases = torch.unique(problem.owner[todo])
        least = (
            torch.stack([standing.answers.lower[todo[problem.owner[todo] == case]].amin() for case in cases])
            if len(cases)
            else cases
        )
        groups = torch.split(cases[least.argsort()], self.group)
        for k, group in enumerate(groups):
            stop = clock.over()
            todo = standing.open()
            if stop is not None:
                standing.answers = standing.answers.because(stop, todo)
                return
            seconds = self.case_seconds * max(len(group), 1)  # nothing is left where the group is empty, and inf times 0 is NaN
            if budget.seconds is not None:
                seconds = min(seconds, clock.remaining / (len(groups) - k))
            mine = todo[torch.isin(problem.owner[todo], group)]
            try:
                standing.run(self._exact(mine, nimble=nimble), mine, budget.part(seconds=seconds, passes=self.case_boxes))
            except OutOfDomain:
                standing.answers = standing.answers.because(Reason.OUT_OF_DOMAIN, mine)


class _Standing:
    """What is known so far of all sets, told to the observer as it grows."""

    def __init__(self, problem: Problem, observe: Observer, hints: Hints, passes: int | None) -> None:
        """`passes`: forward and backward, that may be spent on each set in all."""
        outputs = sum(port.size for port in problem.program.outputs)
        none = Answers.none(len(problem), problem.region.size, outputs, problem.program.dtype)
        self.problem = problem
        self.observe, self.passes = observe, passes
        self.answers = none if hints.answers is None else none.tighten(hints.answers)
        self.given: list[tuple[Tensor, Tensor]] = []  # sets [k], and points [k, c, d] that were handed on for them
        self.used = torch.zeros(len(problem), dtype=torch.bool)  # the failures that were tried on other sets

    def replay(self, hints: Hints) -> None:
        """Confirm the points that are known from before, one of each set at a time."""
        if hints.points is None:
            return
        for k in range(hints.points.shape[1]):
            found = confirm(self.problem, hints.points[:, k])
            self.answers = replace(self.answers, found=self.answers.found.best(found))
        self.observe(self.answers)

    def open(self) -> Tensor:
        """Sets that are not decided, of cases that are not broken."""
        over = self.answers.decided | case_broken(self.problem, self.answers)[self.problem.owner]
        return (~over).nonzero()[:, 0]

    def reuse(self, budget: Budget, seed: int) -> None:
        """Try the failures found since the last time on what stands open."""
        sets, fresh = self.open(), (self.answers.broken & ~self.used).nonzero()[:, 0]
        able, budget = self._afford(sets, budget)
        sets = sets[able]
        if len(sets) and len(fresh):
            part = reuse(self.problem, self.answers.found.x, fresh, sets, budget, seed)
            self.used[fresh] = True
            self._merge(self.answers, sets, part)

    def handed(self, sets: Tensor, since: int = 0) -> Tensor:
        """[k, c, d] the points handed on for the sets at `sets` [k], of what was handed on after so many times; NaN for none."""
        place = torch.full((len(self.problem),), -1).index_copy(0, sets, torch.arange(len(sets)))
        owners, parts = [sets[:0]], [self.answers.found.x[:0]]
        for index, points in self.given[since:]:
            mine, turn = ((place[index] >= 0)[:, None] & ~torch.isnan(points).any(2)).nonzero().T
            owners.append(place[index[mine]])
            parts.append(points[mine, turn])
        return of_each(torch.cat(owners), torch.cat(parts), len(sets))

    def starts(self, sets: Tensor, budget: Budget) -> Tensor:
        """The best [k, c, d] of the points handed on for the sets at `sets` [k]; NaN for none."""
        best = attempt(self.problem.take(sets), self.handed(sets), budget).points
        assert best is not None
        return best

    def run(self, solver: Solver, index: Tensor, budget: Budget, starts: Tensor | None = None) -> Tensor:
        """Let a solver work on the sets at `index` [k]; what it finds is merged, and what it tells is passed on.

        `starts`: [k, c, d] points to start from, besides the best known one.

        Returns:
            [k] the passes that it spent on each.
        """
        able, budget = self._afford(index, budget)
        index, starts = index[able], None if starts is None else starts[able]
        if not len(index):
            return torch.zeros(0, dtype=torch.int64)
        before = self.answers
        known = before.take(index)
        points = torch.where(known.found.known[:, None], known.found.x, torch.nan)[:, None]
        points = points if starts is None else torch.cat([points, starts], 1)

        def tell(part: Answers) -> None:
            self.observe(before.put(index, part))

        part = solver.solve(self.problem.take(index), budget, Hints(points, known), tell)
        self._merge(before, index, part)
        return part.cost.forward + part.cost.backward

    def _afford(self, index: Tensor, budget: Budget) -> tuple[Tensor, Budget]:
        """Which [k] of the sets at `index` [k] have passes left, and a budget that none of these overdraws with."""
        if self.passes is None:
            return torch.ones(len(index), dtype=torch.bool), budget
        left = self.passes - (self.answers.cost.forward + self.answers.cost.backward)[index]
        able = left > 0
        return able, budget.part(passes=int(left[able].min()) if bool(able.any()) else 0)

    def _merge(self, before: Answers, index: Tensor, part: Answers) -> None:
        """What the work on the sets at `index` gave, with the points that it hands on."""
        self.answers = before.put(index, part)
        _refuse_contradiction(self.problem, self.answers)
        if part.points is not None:
            still = (~self.answers.decided[index]).nonzero()[:, 0]
            self.given.append((index[still], part.points[still]))
        self.observe(self.answers)


def _refuse_contradiction(problem: Problem, answers: Answers) -> None:
    """A proof about the float32 program leaves no room for a failure of it. (Under `real` margins are compared: `tighten`.)"""
    both = answers.proved & answers.found.broken
    if problem.arithmetic is Arithmetic.FLOAT32 and both.any():
        i = int(both.nonzero()[0, 0])
        raise ContradictionError(
            f"set {i}: a proof says that the float32 program's margin is at least {answers.lower[i].item()!r}, and at a point it "
            f"is {answers.found.deployed[i].item()!r}; please report this with the casebook: one of the two is a bug in Fathom"
        )


def quick(problem: Problem, seed: int = 0, records: list[tuple[Tensor, Record]] | None = None) -> Portfolio:
    """The portfolio for a single property, on which branch and bound may take all the time there is.

    Nearly every failure is found by the first few descents, and nearly every easy proof costs less than many. So the opening
    attack takes no more passes than the first bound will; longer ones come where branch and bound turns out long.
    """
    return Portfolio(
        seed=seed,
        case_seconds=float("inf"),
        opening=_opening(problem),
        longer=None,
        beside=(Gradient(), Gradient(restarts=300, steps=100), Gradient(restarts=1000, steps=100)),
        bounds=(AlphaCrown(), AlphaCrown(inner_steps=3)) if records is None and resists_splitting(problem) else (),
        worsen=False,
        records=records,
    )


def recorded_at_no_cost(problem: Problem) -> bool:
    """Whether a search that keeps a record is the same as one that keeps none. Elsewhere it forgoes what certificates have no
    place for: then the verdict comes first, and the search for a record after it."""
    if not problem.provable or problem.network is None:
        return True
    if resists_splitting(problem) or halves_nimbly(problem):
        return False
    return splits_inputs(problem) or not is_shallow(problem.network)


def _opening(problem: Problem) -> Gradient:
    """An attack of about as many passes as it takes to bound the inside of the network once."""
    attack = Gradient(steps=15, restarts=10, lone=0, full=0)
    if problem.network is None:
        return attack
    sums = products(problem.network)
    rows = sum(2 * math.prod(problem.network.nodes[i].shape) * sums[i] for i in bends(problem.network)) / max(sums[-1], 1.0)
    started = 1 + rows / (2 * attack.steps * (1 + attack.nearest))
    return replace(attack, restarts=int(min(attack.restarts, started)))
