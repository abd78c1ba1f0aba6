"""Confidence intervals: exact ones for counts, and those of means of positive numbers that spread over orders of magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special, stats

from fathom.core.errors import FathomError

OUTWARD = 1e-9
"""Ends are moved outward by this share of themselves and of their distance from 1: far more than scipy's quantiles are off."""


def check_confidence(confidence: float) -> None:
    """Refuses what is no confidence.

    Raises:
        FathomError: it is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise FathomError(f"expected a confidence between 0 and 1, such as 0.99, got {confidence:g}")


def clopper_pearson(fails: int, unjudged: int, draws: int, confidence: float) -> tuple[float, float]:
    """An interval that holds the probability of failure with at least this confidence, whatever it is; rounded outward.

    Args:
        fails: draws that failed.
        unjudged: draws whose margin is not a number; the lower end takes them for safe, the upper end for failures.
        draws: independent draws in all.

    Reference: Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
        Biometrika 26, 1934.
    """
    rest = (1 - confidence) / 2
    return _lower(fails, draws, rest), at_most(fails + unjudged, draws, 1 - rest)


def at_most(fails: int, draws: int, confidence: float) -> float:
    """The one-sided upper limit: the probability is at most this, with this confidence; rounded up."""
    if fails >= draws:
        return 1.0
    # The quantile of the complement, which keeps its digits where the limit is near 1.
    value = float(special.betaincinv(fails + 1, draws - fails, confidence))
    rest = float(special.betaincinv(draws - fails, fails + 1, 1 - confidence))
    value = value if value < 0.5 else 1 - rest
    return min(1.0, value + OUTWARD * min(value, rest))


def _lower(fails: int, draws: int, rest: float) -> float:
    if fails == 0:
        return 0.0
    value = float(special.betaincinv(fails, draws - fails + 1, rest))
    return max(0.0, value - OUTWARD * min(value, 1 - value))


def of_mean(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """An interval for the mean of what positive numbers are drawn from, taken to be log-normal: independent runs, say.

    The numbers must be two or more and > 0. Cox's method with Student's quantiles, which suit few numbers.

    Reference: Olsson, Confidence intervals for the mean of a log-normal distribution, Journal of Statistics Education 13, 2005.
    """
    logs, count = [math.log(value) for value in values], len(values)
    mean = math.fsum(logs) / count
    spread = math.fsum((log - mean) ** 2 for log in logs) / (count - 1)
    error = math.sqrt(spread / count + spread**2 / (2 * (count - 1)))
    reach = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    middle = mean + spread / 2
    return math.exp(middle - reach), min(1.0, math.exp(middle + reach))


def around(value: float, relative_error: float, confidence: float) -> tuple[float, float]:
    """value times and divided by exp(q s), for the relative standard error s of a positive mean and a normal quantile q."""
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * relative_error
    return value * math.exp(-reach), min(1.0, value * math.exp(reach))
