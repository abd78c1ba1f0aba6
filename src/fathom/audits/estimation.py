"""The probability of failure under a named distribution, by every method that has something to say, each with its own claim."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.attacks.gradient import Gradient
from fathom.attacks.objective import has_gradient
from fathom.audits.engine import versions
from fathom.audits.interrupt import interruptible
from fathom.audits.pose import Source, capture, pose
from fathom.capture.captured import Captured
from fathom.core.arguments import require_parts
from fathom.core.budget import Budget, Clock
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.value import join
from fathom.estimates.answer import Estimation, Part
from fathom.estimates.distribution import Distribution, Latent
from fathom.estimates.distributions import over
from fathom.estimates.distributions.empirical import Empirical
from fathom.estimates.distributions.uniform_points import UniformPoints
from fathom.estimates.effort import Effort
from fathom.estimates.enumeration import Enumeration
from fathom.estimates.importance import Importance
from fathom.estimates.question import Question
from fathom.estimates.sampling import Sampling
from fathom.estimates.splitting import Splitting
from fathom.estimates.unseen import Unseen
from fathom.estimates.volume import Volume
from fathom.estimates.walk import Walkers
from fathom.prove.work import suited_threads

METHODS = ("sampling", "splitting", "importance", "volume", "enumeration", "unseen")

Tell = Callable[[str, str], None]
"""Told the method at work, and how far it is."""


def quiet(method: str, text: str) -> None:
    """Nobody looks on."""


def estimate(
    model: nn.Module | Captured | str | Path,
    region: Region,
    overseer: Overseer,
    *,
    distribution: str | Distribution = "uniform",
    budget: Budget | None = None,
    shape: tuple[int, ...] | None = None,
    effort: Effort = Effort(),
    title: str = "model",
    tell: Tell = quiet,
) -> Estimation:
    """How likely a draw of a named distribution of inputs is to fail.

    Args:
        model: any `nn.Module`; the path of an ONNX file; or what was captured before.
        region: n sets of inputs [d]; a draw is in one of them, each as likely.
        overseer: n judges.
        distribution: "uniform" over the region; "normal" around its centre, cut off at its ends; or one made by
            `fathom.estimates.distributions`, which says over what regions there are.
        budget: of the whole; by default a minute.
        shape: of one sample, where a module does not take flat vectors [d].
        effort: draws, evaluations, the confidence of intervals, the seed.
        tell: told how far the work is.

    Returns:
        A part for each method, with its claim. Interrupted, it returns what it has so far.

    Raises:
        FathomError: a model that is not understood, or parts that do not fit together.
    """
    require_parts(model, Source, region, overseer, budget)
    problem = pose(capture(model, region, shape), region, overseer)
    chosen = over(problem.deployed, distribution) if isinstance(distribution, str) else distribution
    return estimate_problem(problem, chosen, budget=budget, effort=effort, title=title, tell=tell)


def estimate_problem(
    problem: Problem,
    distribution: Distribution,
    *,
    budget: Budget | None = None,
    effort: Effort = Effort(),
    title: str = "model",
    tell: Tell = quiet,
) -> Estimation:
    """The same about a problem: `distribution` is over its deployed region.

    Raises:
        FathomError: as `estimate`.
    """
    if len(distribution) != len(problem):
        raise FathomError(f"expected a distribution over the problem's {len(problem)} sets, got one over {len(distribution)}")
    budget, began = budget or Budget(seconds=60), time.monotonic()
    work = _Work(problem, distribution, budget.start(), effort, tell)
    with interruptible(budget.stop), suited_threads(problem.network):
        parts = work.parts()
    return Estimation(
        title=title,
        region=str(problem.written),
        distribution=str(distribution),
        overseer=str(problem.overseer),
        cases=problem.cases,
        program=problem.program.digest,
        seed=effort.seed,
        seconds=time.monotonic() - began,
        interrupted=budget.stop.is_set(),
        parts=tuple(_against_the_proof(parts)),
        versions=versions(),
        coverage=problem.coverage(problem.deployed.centres()),
    )


@dataclass(frozen=True, eq=False)
class _Work:
    """The methods, one after the other; each has an equal share of the time that those before it have left."""

    problem: Problem
    distribution: Distribution
    clock: Clock
    effort: Effort
    tell: Tell

    def parts(self) -> list[Part]:
        evaluations, confidence, seed = self.effort.evaluations, self.effort.confidence, self.effort.seed
        if isinstance(self.distribution, UniformPoints):
            return self._counted(Enumeration(evaluations).estimate(self._ask(), self._share(3), self._teller("enumeration")))
        drawn = Sampling(self.effort.draws, confidence, seed).draw(self._ask(), self._share(4), self._teller("sampling"))
        if isinstance(self.distribution, Empirical):
            return [drawn.part, Unseen(drawn).estimate(self._ask(), self._share(1))]
        splitting = Splitting(evaluations, confidence, seed)
        found = splitting.search(self._ask(), self._share(3), self._teller("splitting"))
        attack = self._ask()
        known = self._witnesses(attack)
        if found.failing is not None:
            known = found.failing if known is None else join(found.failing, known)
        importance = Importance(evaluations, confidence, seed, known)
        weighed = importance.estimate(self._ask(), self._share(2), self._teller("importance"))
        spent = attack.meter
        weighed = replace(weighed, forward=weighed.forward + spent.forward, backward=spent.backward)
        volume = Volume(evaluations).estimate(self._ask(), self._share(1), self._teller("volume"))
        unseen = Unseen(drawn).estimate(self._ask(), self._share(1))
        return [drawn.part, found.part, weighed, volume, unseen]

    def _counted(self, enumerated: Part) -> list[Part]:
        """Of finitely many points: draws say something only where they were too many to run them all."""
        if not enumerated.stopped:
            return [enumerated]
        drawn = Sampling(self.effort.draws, self.effort.confidence, self.effort.seed)
        seen = drawn.draw(self._ask(), self._share(2), self._teller("sampling"))
        return [enumerated, seen.part, Unseen(seen).estimate(self._ask(), self._share(1))]

    def _ask(self) -> Question:
        """The question with a meter of its own."""
        return Question(self.problem, self.distribution)

    def _share(self, of: int) -> Clock:
        """The time for one of so many methods that are left."""
        remaining = self.clock.remaining
        seconds = None if self.clock.budget.seconds is None else max(remaining, 0.0) / of
        return replace(self.clock.budget, seconds=seconds, passes=None).start()

    def _teller(self, method: str) -> Callable[[str], None]:
        return lambda text: self.tell(method, text)

    def _witnesses(self, question: Question) -> Walkers | None:
        """What a short gradient attack on every set breaks, as normal numbers; booked on the question's meter."""
        distribution = self.distribution
        if not isinstance(distribution, Latent) or not has_gradient(self.problem) or self.clock.late():
            return None
        self.tell("importance", "a short attack")
        passes = max(1, self.effort.evaluations // (10 * len(self.problem)))
        budget = replace(self.clock.budget, seconds=self._share(8).remaining, passes=min(passes, 2000))
        answers = Gradient(seed=self.effort.seed).solve(self.problem, budget)
        question.meter.forward += int(answers.cost.forward.sum())
        question.meter.backward += int(answers.cost.backward.sum())
        broken = answers.found.broken.nonzero()[:, 0]
        if not len(broken):
            return None
        z = distribution.lift(broken, answers.found.x[broken].to(torch.float64))
        margin = question.margins(broken, distribution.place(broken, z))
        failing = (margin <= 0).nonzero()[:, 0]  # at the very end of a set a normal number has no place
        return Walkers(broken, z, margin).take(failing) if len(failing) else None


def _against_the_proof(parts: list[Part]) -> list[Part]:
    """Estimates with a warning where a rigorous bracket excludes them. It changes no number."""
    proof = next((part for part in parts if part.method == "volume"), None)
    if proof is None or proof.lower is None or proof.upper is None:
        return parts
    checked = []
    for part in parts:
        off = part.method in ("splitting", "importance") and part.value is not None
        if off and part.value is not None and not proof.lower <= part.value <= proof.upper:
            part = replace(part, warnings=(*part.warnings, "the rigorous bracket excludes this value; believe the bracket"))
        checked.append(part)
    return checked


def empirical(problem: Problem, x: Tensor) -> Empirical:
    """The distribution of the samples x [n, d] themselves, one a set of the problem.

    Raises:
        FathomError: there are not as many as sets.
    """
    if x.shape != (len(problem), problem.deployed.size):
        raise FathomError(f"expected samples [{len(problem)}, {problem.deployed.size}], got {list(x.shape)}")
    return Empirical(x.to(torch.float64))
