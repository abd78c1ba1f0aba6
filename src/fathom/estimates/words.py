"""Probabilities for people: few digits, rounded to the honest side."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal


def probability(value: float, side: int = 0) -> str:
    """Three significant digits, rounded down for side -1, up for 1, and to nearest for 0: "0.0123", "4.50e-06", "1", "0"."""
    if value in (0.0, 1.0):
        return f"{value:g}"
    rounding = {-1: ROUND_FLOOR, 0: ROUND_HALF_EVEN, 1: ROUND_CEILING}[side]
    places = 3 if value <= 0.9 else 9
    short = Context(prec=places, rounding=rounding).create_decimal(Decimal(value))
    if value >= 1e-3:
        return f"{short.normalize():f}"
    return f"{short:.2e}"


def percent(confidence: float) -> str:
    """ "99 %"."""
    return f"{100 * confidence:.6g} %"


def count(number: int, word: str) -> str:
    """ "1 run", "3 runs"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
