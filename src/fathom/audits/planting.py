"""Listening to silence: the cases that were not settled are examined, and failures are planted in them to be searched for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fathom.attacks.discrete import Discrete
from fathom.attacks.gradient import Gradient
from fathom.attacks.guided import Guided
from fathom.attacks.indicators import Doubt, Indicators, examine
from fathom.attacks.objective import has_gradient
from fathom.attacks.values import Values
from fathom.audits.cases import case_broken
from fathom.audits.silence import Rate, Sign, Silence
from fathom.core.answer import Answers, Cost
from fathom.core.budget import Budget, Clock
from fathom.core.confirm import confirm
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Solver
from fathom.hunt.plant import LEAST_MEASURED, Planted, measured_volumes, plant_depths, plant_pits

DEPTHS = (0.3, 0.1, 0.01)  # of what the search has lowered the margin by
VOLUMES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)  # of a set; after one of which nothing was found, narrower ones are left out
PLAIN = Gradient(restarts=1, steps=45, nearest=1, lone=1, full=0)  # one descent, as attacks used to be
EXAMINED = 16  # cases, at most
EXAMINING = 1 / 3  # of the seconds
SPARE = 1.5  # as many are drawn as are to be planted, since some will not do

Searches = Sequence[tuple[Solver, int]]
"""Attacks, and the passes that each spent on a set."""


def listen(
    problem: Problem,
    answers: Answers,
    clean: Tensor,
    searches: Searches,
    count: int,
    budget: Budget,
    *,
    seed: int,
    stage: Callable[[str], None] = lambda name: None,
) -> tuple[Answers, Silence | None]:
    """Finds out how much it says that nothing was found in some cases.

    Args:
        problem: n sets.
        answers: what is known of them.
        clean: [n, d] the inputs that the sets are about.
        searches: the attacks that found nothing. Planted failures get the same, with as many passes for each, but for the passes
            that a batch of few sets is filled up with.
        count: failures planted of each size.
        budget: of seconds; a size that it leaves no time for is not reported.

    Returns:
        The answers, tightened by what was found on the way; and None for the rest where no case is left unsettled.
    """
    began, clock = time.monotonic(), budget.start()
    silent = _silent(problem, answers)
    if not len(silent):
        return answers, None
    stage("how far silence can be trusted")
    cases = int(torch.unique(problem.owner[silent]).numel())
    generator = torch.Generator().manual_seed(seed)
    sets = silent[torch.randperm(len(silent), generator=generator)[:EXAMINED]]
    third = budget.part(seconds=None if budget.seconds is None else EXAMINING * budget.seconds)
    answers, seen = _examined(problem, answers, sets, third, generator, seed)
    trial = _Trial(problem, clean, searches, clock, generator, seed)
    still = _silent(problem, answers)
    depths, pits = trial.depths(answers, still, count), trial.pits(still, count)
    for at, x in trial.failures:
        answers = answers.put(at, replace(answers.take(at), found=confirm(problem.take(at), x), cost=Cost.zero(1)))
    here = torch.arange(len(sets))
    silence = Silence(
        silent=cases,
        examined=len(sets),
        masked=int(seen.masking[here].sum()),
        broke=int(seen.answers.broken[here].sum()),
        signs=_signs(seen.take(here)),
        depths=depths,
        pits=pits,
        measured=measured_volumes(problem.deployed),
        passes=sum(passes for _, passes in searches),
        stopped=trial.stopped,
        seconds=time.monotonic() - began,
    )
    return answers, silence


def _silent(problem: Problem, answers: Answers) -> Tensor:
    """The sets [k] that nothing was found in, nor in another of their case, and nothing proved about."""
    settled = answers.decided | case_broken(problem, answers)[problem.owner]
    return (~settled).nonzero()[:, 0]


def _examined(
    problem: Problem, answers: Answers, sets: Tensor, budget: Budget, generator: torch.Generator, seed: int
) -> tuple[Answers, Indicators]:
    """The answers after an examination of some sets; and what it saw of them, first those, then some that are broken."""
    broken = answers.broken.nonzero()[:, 0]
    broken = broken[torch.randperm(len(broken), generator=generator)[:EXAMINED]]  # their failures are carried over
    index = torch.cat([sets, broken])
    seen = examine(problem.take(index), answers.take(index), budget, seed=seed)
    return answers.put(index, replace(seen.answers, cost=seen.cost)), seen


def _signs(seen: Indicators) -> tuple[Sign, ...]:
    """The kinds of doubt, each with its first example; those that say that gradients mislead first."""
    said = [seen.doubts(index) for index in range(len(seen))]
    return tuple(
        Sign(doubt.value, len(examples), doubt.masks, examples[0])
        for doubt in Doubt
        if (examples := [words[doubt] for words in said if doubt in words])
    )


class _Trial:
    """Searches put before planted failures, while there is time."""

    def __init__(
        self, problem: Problem, clean: Tensor, searches: Searches, clock: Clock, generator: torch.Generator, seed: int
    ) -> None:
        self.problem, self.clean, self.clock, self.generator = problem, clean, clock, generator
        self.attacks = [(fresh(attack, seed + 1 + i), passes) for i, (attack, passes) in enumerate(searches) if passes]
        self.plain = has_gradient(problem)
        self.failures: list[tuple[Tensor, Tensor]] = []  # of the model itself, found on the way: a set [1], and its input [1, d]
        self.stopped = "" if self.attacks else "no attack came to its turn"

    def depths(self, answers: Answers, sets: Tensor, count: int) -> tuple[Rate, ...]:
        """For every depth how often a fresh search comes there again."""
        part, known = self.problem.take(sets), answers.found.take(sets)
        y = self.problem.program(self.clean[sets])
        start = part.overseer.margin(self.clean[sets].to(torch.float64), y.to(torch.float64)).to(torch.float64)
        gain = (start - known.deployed).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        able = (known.known & (gain > 0)).nonzero()[:, 0]
        rates = []
        for depth in DEPTHS if len(able) and count else ():
            drawn = able[torch.randint(len(able), (count,), generator=self.generator)]
            rate = self._rate(plant_depths(self.problem, sets[drawn], known.x[drawn], depth * gain[drawn]), depth)
            if rate is None:
                break
            rates.append(rate)
        return tuple(rates)

    def pits(self, sets: Tensor, count: int) -> tuple[Rate, ...]:
        """For every volume how many pits are found."""
        rates: list[Rate] = []
        for volume in VOLUMES if len(sets) and count else ():
            if measured_volumes(self.problem.deployed) and volume < LEAST_MEASURED:
                break
            drawn = sets[torch.randint(len(sets), (int(SPARE * count),), generator=self.generator)]
            planted = plant_pits(self.problem, drawn, self.clean[drawn], volume, self.generator)
            rate = self._rate(planted.take(torch.arange(min(count, len(planted)))), volume)
            if rate is None:
                break
            rates.append(rate)
            if not rate.found:
                break
        return tuple(rates)

    def _rate(self, planted: Planted, size: float) -> Rate | None:
        """What is found of what was planted; None where nothing was, or where time ran out first."""
        if self.stopped or not len(planted):
            return None
        answers = self._search(planted)
        over = self.clock.over()
        if over is not None:
            self.stopped = f"the search for what was planted was cut short: {over.value}"
            return None
        real = planted.real(answers).nonzero()
        self.failures += [(planted.sets[one], answers.found.x[one]) for one in real]
        plain = PLAIN.solve(planted.problem, Budget(stop=self.clock.budget.stop)) if self.plain else None
        found = int(planted.found(answers).sum())
        return Rate(size, len(planted), found, None if plain is None else int(planted.found(plain).sum()))

    def _search(self, planted: Planted) -> Answers:
        """The same attacks in the same order, from the same inputs."""
        problem, clean = planted.problem, self.clean[planted.sets]
        outputs = sum(port.size for port in problem.program.outputs)
        answers = Answers.none(len(problem), problem.region.size, outputs, problem.program.dtype)
        for attack, passes in self.attacks:
            left = self.clock.budget.part(seconds=self._left(), passes=passes)
            answers = answers.tighten(attack.solve(problem, left, Hints(clean[:, None], answers)))
        return answers

    def _left(self) -> float | None:
        return None if self.clock.budget.seconds is None else max(self.clock.remaining, 0.0)


def fresh(attack: Solver, seed: int) -> Solver:
    """The attack with another seed, and no more passes because a batch has room."""
    if isinstance(attack, Gradient):
        return replace(attack, seed=seed, full=0)
    assert isinstance(attack, Discrete | Guided | Values)
    return replace(attack, seed=seed)
