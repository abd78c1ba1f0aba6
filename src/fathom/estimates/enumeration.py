"""The probability over finitely many points: every one is run, and what fails is counted."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from fathom.core.answer import Claim
from fathom.core.budget import Clock
from fathom.estimates.answer import Part
from fathom.estimates.distributions.uniform_points import UniformPoints
from fathom.estimates.estimator import Estimator, Progress, timed, unable, unheard
from fathom.estimates.question import Question
from fathom.estimates.sampling import BATCH
from fathom.estimates.words import probability


@final
@dataclass(frozen=True)
class Enumeration(Estimator):
    """Every point that can be drawn, once.

    Requires: a uniform distribution over points; any program and overseer.
    Returns: a lower and an upper bound on the probability, of the deployed program, certain and rounded outward; once all points
        are run they are one number, but for margins that are not a number.
    Method: counting, in fractions. Points that are not run, and those without a margin, are safe for the lower end and failures
        for the upper one.
    Sound? Yes.
    """

    evaluations: int = 100_000

    def estimate(self, question: Question, clock: Clock, progress: Progress = unheard) -> Part:
        began, question, distribution = time.monotonic(), question.afresh(), question.distribution
        if not isinstance(distribution, UniformPoints):
            return unable("enumeration", f"it needs finitely many points; here: {distribution}")
        owner, place = distribution.present.nonzero().T
        fails, unknown = (torch.zeros(len(distribution), dtype=torch.int64) for _ in range(2))
        done, most = 0, min(len(owner), self.evaluations)
        while done < most and not clock.late():
            sets = owner[done : min(done + BATCH, most)]
            x = question.deployed(sets, distribution.points[sets, place[done : done + len(sets)]])
            margin = question.judged(sets, x)[0]
            fails += torch.bincount(sets[margin <= 0], minlength=len(fails))
            unknown += torch.bincount(sets[margin.isnan()], minlength=len(fails))
            done += len(sets)
            progress(f"{done:,} of {len(owner):,} points")
        unjudged = int(unknown.sum())
        unknown += torch.bincount(owner[done:], minlength=len(fails))
        count = distribution.present.sum(1)
        lower, upper = _share(fails, count), _share(fails + unknown, count)
        part = _part(lower, upper, int(fails.sum()), done, len(owner), unjudged)
        return timed(part, question, began)


def _share(fails: Tensor, count: Tensor) -> Fraction:
    """The mean over the sets of the share of their points that fail."""
    shares = (Fraction(f, k) for f, k in zip(fails.tolist(), count.tolist(), strict=True))
    return sum(shares, Fraction(0)) / len(count)


def _part(lower: Fraction, upper: Fraction, fails: int, done: int, total: int, unjudged: int) -> Part:
    low, high = float(lower), float(upper)
    low = math.nextafter(low, 0.0) if Fraction(low) > lower else low
    high = math.nextafter(high, 1.0) if Fraction(high) < upper else high
    ran = f"{fails:,} of {done:,} points failed on the deployed program"
    if lower == upper:
        words = f"P(failure) is {probability(float(lower))}, exactly {lower}, certainly: {ran}, and there are no others"
    else:
        words = f"P(failure) is between {probability(low, -1)} and {probability(high, 1)}, certainly ({ran})"
    warnings = []
    if done < total:
        warnings.append(f"{total - done:,} of {total:,} points were not run; more evaluations or seconds make it exact")
    if unjudged:
        warnings.append(f"at {unjudged:,} points the margin is not a number; they count as failures for the upper end only")
    facts = (("points", total), ("run", done), ("failures", fails), ("unjudged", unjudged))
    value = float(lower) if lower == upper else None
    return Part(
        "enumeration", Claim.CERTIFICATE, value, low, high, None, words, tuple(warnings), facts, stopped=done < total
    )  # fmt: skip
