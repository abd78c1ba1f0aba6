"""Plain sampling: independent draws, judged by the deployed program, and an exact interval for the share that fails."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.core.answer import Claim
from fathom.core.budget import Clock
from fathom.estimates.answer import Part
from fathom.estimates.distributions.empirical import Empirical
from fathom.estimates.estimator import Estimator, Progress, generator, timed, unheard
from fathom.estimates.intervals import at_most, clopper_pearson
from fathom.estimates.question import Question
from fathom.estimates.words import percent, probability

BATCH = 1000  # draws between two looks at the clock


@dataclass(frozen=True, eq=False)
class Drawn:
    """What plain sampling saw."""

    part: Part
    count: int  # draws judged
    owner: Tensor  # [f] of the draws that failed
    x: Tensor  # [f, d] in the program's dtype


@final
@dataclass(frozen=True)
class Sampling(Estimator):
    """Clopper and Pearson's interval from independent draws.

    Requires: any distribution, program and overseer.
    Returns: a bound with confidence: an interval at `confidence`, and a one-sided limit at the same.
    Method: `draws` draws, each run on the deployed program; of the data's own distribution every sample once. What is judged is
        the draw rounded to the type of the program's inputs. A margin that is not a number counts as safe for the lower end and
        as a failure for the upper one.
    Sound? Yes, with the stated confidence, for a number of draws that does not depend on how many failed.
    Reference: Clopper and Pearson, Biometrika 26, 1934.
    """

    draws: int = 100_000
    confidence: float = 0.99
    seed: int = 0

    def estimate(self, question: Question, clock: Clock, progress: Progress = unheard) -> Part:
        return self.draw(question, clock, progress).part

    def draw(self, question: Question, clock: Clock, progress: Progress = unheard) -> Drawn:
        """The same, and the draws that failed."""
        began, question, random = time.monotonic(), question.afresh(), generator("sampling", self.seed)
        data = question.distribution if isinstance(question.distribution, Empirical) else None
        total = self.draws if data is None else len(data)
        done = fails = unjudged = 0
        owners, points = [], []
        while done < total and not clock.late():
            count = min(BATCH, total - done)
            if data is None:
                drawn = question.distribution.sample(count, random)
                owner, x = drawn.owner, drawn.x
            else:
                owner = torch.arange(done, done + count)
                x = data.x[owner]
            x = question.deployed(owner, x)
            margin = question.judged(owner, x)[0]
            failed = (margin <= 0).nonzero()[:, 0]
            fails, unjudged, done = fails + len(failed), unjudged + int(margin.isnan().sum()), done + count
            owners.append(owner[failed])
            points.append(x[failed])
            progress(f"{done:,} of {total:,} draws")
        part = timed(self._part(data, fails, unjudged, done, total), question, began)
        none = question.deployed(torch.zeros(0, dtype=torch.int64), torch.zeros(0, question.problem.deployed.size))
        return Drawn(part, done, torch.cat([torch.zeros(0, dtype=torch.int64), *owners]), torch.cat([none, *points]))

    def _part(self, data: Empirical | None, fails: int, unjudged: int, done: int, total: int) -> Part:
        lower, upper = clopper_pearson(fails, unjudged, done, self.confidence)
        one_sided = at_most(fails + unjudged, done, self.confidence)
        level = percent(self.confidence)
        share = f"{fails:,} of {done:,} {'draws' if data is None else 'samples'} failed on the deployed program"
        what = "" if data is None else ", where the samples are taken for independent draws of what they come from"
        sentence = (
            f"P(failure) is between {probability(lower, -1)} and {probability(upper, 1)} with confidence {level}, and at most "
            f"{probability(one_sided, 1)} with the same ({share}{what})"
        )
        warnings = []
        if unjudged:
            warnings.append(f"at {unjudged:,} draws the margin is not a number; they count as failures for the upper end only")
        if done < total:
            warnings.append(
                f"stopped after {done:,} of {total:,} draws; the confidence holds if that did not depend on how many had failed"
            )
        return Part(
            "sampling",
            Claim.CONFIDENCE,
            fails / done if done else None,
            lower,
            upper,
            self.confidence,
            sentence,
            tuple(warnings),
            (("draws", done), ("failures", fails), ("unjudged", unjudged), ("at_most", one_sided)),
            seed=None if data is not None else self.seed,
            stopped=done < total,
        )
