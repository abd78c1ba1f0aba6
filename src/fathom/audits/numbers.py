"""Numbers for people, always rounded to the honest side: a proved bound never reads better than what was proved."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal


def at_least(value: float) -> str:
    """A lower bound in a few digits, rounded down: "-3.03" for -3.024. The sign is never rounded away."""
    return _short(value, ROUND_FLOOR)


def at_most(value: float) -> str:
    """An upper bound in a few digits, rounded up: "-2.31" for -2.314. The sign is never rounded away."""
    return _short(value, ROUND_CEILING)


def near(value: float) -> str:
    """A measured value in a few digits, rounded to nearest."""
    return _short(value, ROUND_HALF_EVEN)


def percent_at_least(part: int, whole: int) -> str:
    """part / whole in per cent, rounded down to a tenth: "60.5 %"."""
    return _tenths(1000 * part // whole)


def percent_at_most(part: int, whole: int) -> str:
    """part / whole in per cent, rounded up to a tenth."""
    return _tenths(-(-1000 * part // whole))


def percent_near(part: int, whole: int) -> str:
    """part / whole in per cent, rounded to the nearest tenth."""
    return _tenths((2000 * part + whole) // (2 * whole))


def _tenths(tenths: int) -> str:
    return f"{tenths // 10}.{tenths % 10} %"


def _short(value: float, rounding: str) -> str:
    """Two decimals from 0.1 on, three significant digits below; powers of ten where those would be long."""
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if value == 0:
        return "0.00"
    exact, size = Decimal(value), abs(value)
    if not 1e-4 <= size < 1e6:
        return f"{Context(prec=3, rounding=rounding).create_decimal(exact):.2e}"
    places = 2 if size >= 0.1 else 2 - math.floor(math.log10(size))
    return str(exact.quantize(Decimal(1).scaleb(-places), rounding=rounding))
