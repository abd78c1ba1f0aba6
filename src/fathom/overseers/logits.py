"""The threshold between probabilities and logits, ln(tau / (1 - tau)): an irrational number, so never equal to what is stored."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from fathom.core.errors import FathomError

_DIGITS = 60
_MOST_DIGITS = 100_000
"""Nobody has seen a sum of so few exponentials so near to 0 that more were needed; that would be an error, and no guess."""


def check_probability(name: str, value: float) -> None:
    """Refuses what is no probability strictly between 0 and 1.

    Raises:
        FathomError: with the name and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise FathomError(f"expected `{name}` strictly between 0 and 1, got {value!r}")


def logit(tau: float) -> tuple[float, float]:
    """A float64 near ln(tau / (1 - tau)), for 0 < tau < 1 exactly as stored, and a bound on how far it is from that number."""
    share = Fraction(tau)
    if share == Fraction(1, 2):
        return 0.0, 0.0
    with decimal.localcontext(_context(_DIGITS)):
        # The quotient and the logarithm are off by 10^-59 relative each; near tau = 1/2 the first is magnified, and by less
        # than 2^53, since no other float is nearer to 1/2 than that.
        exact = (_decimal(share) / _decimal(1 - share)).ln()
        near = float(exact)
        off = abs(exact - Decimal(near)) + abs(exact) * Decimal("1e-30")
    return near, float(off) * (1 + 2.0**-50)


def sign_of_confidence(scores: Sequence[float], j: int, tau: float) -> int:
    """The sign, exactly, of softmax(scores)[j] - tau: 1, 0 or -1. Scores are finite, and taken as they are stored.

    e^{y_j} (1 - tau) against tau times the sum of the other e^{y_i}: a sum of exponentials of distinct rational numbers is 0 only
    if all its coefficients are (Lindemann and Weierstrass), so terms of equal exponents are added up as rational numbers, and the
    rest is computed with as many digits as the sign takes.
    """
    share, base = Fraction(tau), Fraction(scores[j])
    terms: dict[Fraction, Fraction] = {Fraction(0): 1 - share}
    for i, score in enumerate(scores):
        if i != j:
            gap = Fraction(score) - base
            terms[gap] = terms.get(gap, Fraction(0)) - share
    terms = {gap: coefficient for gap, coefficient in terms.items() if coefficient}
    if not terms:
        return 0
    top = max(terms)  # whose exponential is taken as 1, so that none overflows and not all underflow
    digits = _DIGITS
    while digits <= _MOST_DIGITS:
        with decimal.localcontext(_context(digits)):
            values = [_decimal(coefficient) * _decimal(gap - top).exp() for gap, coefficient in terms.items()]
            total, size = sum(values, Decimal(0)), sum(map(abs, values), Decimal(0))
            # An exponent is off by 10^-(digits - 1) of itself: of less than 10^10, or else its exponential is as good as 0.
            if abs(total) > size * Decimal(10) ** (12 - digits) * (len(values) + 2):
                return 1 if total > 0 else -1
        digits *= 2
    raise AssertionError(f"no sign for {scores}, {j}, {tau!r}")


def _context(digits: int) -> decimal.Context:
    return decimal.Context(prec=digits, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


def _decimal(number: Fraction) -> Decimal:
    return Decimal(number.numerator) / Decimal(number.denominator)
