"""Importance sampling: draws where failures are known, weighted by how much likelier they were drawn than they are."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.answer import Claim
from fathom.core.budget import Clock
from fathom.core.value import join
from fathom.estimates.answer import Part
from fathom.estimates.distribution import Product
from fathom.estimates.estimator import Estimator, Progress, generator, timed, unable, unheard
from fathom.estimates.intervals import around
from fathom.estimates.proposal import Proposal
from fathom.estimates.question import Question
from fathom.estimates.walk import Walk, Walkers, adapted
from fathom.estimates.words import percent, probability

BATCH = 4000  # draws between two looks at the clock
PILOT = 0.2  # share of the draws that only improve the proposal
CHAINS, STEPS = 64, 40  # of the walk among failures that shows how far they reach
ENOUGH = 100.0  # effective draws, below which the estimate is not to be trusted
HEAVY = 0.1  # share of the estimate in one draw, from which on it is not to be trusted


@final
@dataclass(frozen=True)
class Importance(Estimator):
    """Importance sampling from a mixture round known failures.

    Requires: independent inputs (boxes, L-infinity balls), and failures known: witnesses of an attack, or where splitting ended.
    Returns: an estimate, and an interval that holds if every kind of failure has been found; the effective number of draws.
    Method: a walk among failures shows how far they reach; a mixture is fitted to clusters of them, Student's distributions and
        normal ones round the likeliest failure of each (the design point), with a tenth of the distribution itself, so that no
        weight exceeds ten. A pilot's failures, by weight, fit it again. Weights are kept as logarithms.
    Sound? No: failures far from those known are hardly ever drawn, and their weight is then missing.
    Reference: Hesterberg, Weighted average importance sampling and defensive mixture distributions, Technometrics 37, 1995;
        Hasofer and Lind, Exact and invariant second-moment code format, Journal of Engineering Mechanics 100, 1974 (design
        points); Kong, A note on importance sampling using standardized weights, 1992 (effective draws).
    """

    evaluations: int = 100_000
    confidence: float = 0.95
    seed: int = 0
    known: Walkers | None = field(default=None, repr=False, compare=False)  # failures, as normal numbers

    def estimate(self, question: Question, clock: Clock, progress: Progress = unheard) -> Part:
        began, question, distribution = time.monotonic(), question.afresh(), question.distribution
        if not isinstance(distribution, Product):
            return unable("importance", f"importance sampling needs independent inputs, as in a box; here: {distribution}")
        if self.known is None or not len(self.known.owner):
            return unable("importance", "importance sampling needs a failure to start from, and none was found")
        walk = Walk(question, distribution, generator("importance", self.seed))
        cloud = self._spread(walk, clock)
        proposal = Proposal.fit(cloud, len(distribution), walk.generator)
        before, left = question.meter.forward, max(self.evaluations - question.meter.forward, 0)
        # A failure costs a second evaluation, of the deployed program; how many fail, the pilot shows.
        pilot = _weigh(proposal, walk, max(int(PILOT * left / 2), 1), clock, progress)
        if len(pilot.log_weight):
            proposal = Proposal.fit(_resampled(pilot, cloud, walk.generator), len(distribution), walk.generator)
        each = max((question.meter.forward - before) / max(pilot.count, 1), 1.0)
        wanted = max(int((self.evaluations - question.meter.forward) / (1.05 * each)), 1)
        return timed(self._part(_weigh(proposal, walk, wanted, clock, progress), wanted), question, began)

    def _spread(self, walk: Walk, clock: Clock) -> Walkers:
        """Failures near the known ones: what they are, and where a walk among failures takes them."""
        assert self.known is not None
        walkers, size = self.known, 0.5
        pick = torch.randint(len(walkers.owner), (CHAINS,), generator=walk.generator)
        here, found = walkers.take(pick), [walkers]
        level = torch.full((CHAINS,), torch.finfo(torch.float64).tiny, dtype=torch.float64)
        for _ in range(STEPS // 4):
            if clock.late():
                break
            here, share = walk.go(here, level, 4, size)
            size = adapted(size, share)
            found.append(here)
        half = len(found) // 2
        return join(found[0], *found[half + 1 :]) if len(found) > 1 else walkers

    def _part(self, drawn: Weighed, wanted: int) -> Part:
        level, n = percent(self.confidence), drawn.count
        if not n or not len(drawn.log_weight):
            return Part("importance", Claim.ESTIMATE, None, None, None, None, f"no estimate: none of {n:,} draws failed",
                        seed=self.seed, stopped=n < wanted)  # fmt: skip
        log = drawn.log_weight
        value = math.exp(float(log.logsumexp(0)) - math.log(n))
        share = (log - log.logsumexp(0)).exp()
        effective = 1 / float(share.square().sum())
        heaviest = float(share.max())
        error = math.sqrt(max(1 / effective - 1 / n, 0.0))
        lower, upper = around(value, error, self.confidence)
        warnings = []
        if effective < ENOUGH:
            warnings.append(
                f"only {effective:.0f} effective draws of {n:,}: a few heavy ones decide, so value and interval may be far off"
            )
        if heaviest > HEAVY:
            warnings.append(f"one draw carries {100 * heaviest:.0f} % of the estimate: failures may have been missed")
        facts = (("draws", n), ("failures", len(log)), ("effective_draws", effective), ("heaviest_share", heaviest))
        span = f"{probability(lower, -1)} to {probability(upper, 1)} at {level}"
        sentence = (
            f"P(failure) is about {probability(min(value, 1.0))}, {span} (importance sampling round the failures found, "
            f"{effective:,.0f} effective draws)"
        )
        return Part("importance", Claim.ESTIMATE, value, lower, upper, self.confidence, sentence, tuple(warnings), facts,
                    seed=self.seed, stopped=n < wanted)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Weighed:
    """Draws of a proposal: how many, and those that failed."""

    count: int
    failing: Walkers
    log_weight: Tensor  # [f] of those that failed


def _weigh(proposal: Proposal, walk: Walk, count: int, clock: Clock, progress: Progress) -> Weighed:
    done, failing, weights = 0, [], []
    while done < count and not clock.late():
        k = min(BATCH, count - done)
        owner, z = proposal.draw(k, walk.generator)
        margin = walk.question.margins(owner, walk.distribution.place(owner, z))
        failed = (margin <= 0).nonzero()[:, 0]
        walkers = Walkers(owner, z, margin).take(failed)
        failing.append(walkers)
        weights.append(proposal.log_ratio(walkers.owner, walkers.z))
        done += k
        progress(f"{done:,} of {count:,} draws round known failures")
    if not failing:
        m = walk.distribution.latent
        none = torch.zeros(0, dtype=torch.float64)
        return Weighed(0, Walkers(none.to(torch.int64), none.reshape(0, m), none), none)
    return Weighed(done, join(failing[0], *failing[1:]), torch.cat(weights))


def _resampled(pilot: Weighed, cloud: Walkers, random: torch.Generator) -> Walkers:
    """The pilot's failures, each as often as its weight asks, beside a few of the cloud: what is known is never forgotten."""
    share = (pilot.log_weight - pilot.log_weight.logsumexp(0)).exp()
    again = torch.multinomial(share, 2000, replacement=True, generator=random)
    few = torch.randint(len(cloud.owner), (min(400, len(cloud.owner)),), generator=random)
    return join(pilot.failing.take(again), cloud.take(few))
