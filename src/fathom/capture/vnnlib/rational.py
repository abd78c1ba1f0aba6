"""From exact decimals to floating-point numbers: rounded once, in the direction asked for, or not at all."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction

import torch

from fathom.capture.vnnlib.formula import Coefficient, Row, Variable
from fathom.core.errors import NotUnderstood

Rounding = Callable[[int, int], int]
"""How a quotient becomes a whole number: `down`, `nearest` or `up`."""


def down(numerator: int, denominator: int) -> int:
    """The largest whole number that is no more."""
    return numerator // denominator


def up(numerator: int, denominator: int) -> int:
    """The smallest whole number that is no less."""
    return -(-numerator // denominator)


def nearest(numerator: int, denominator: int) -> int:
    """The nearest whole number; of two, the even one."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))


def to_float(value: Coefficient, dtype: torch.dtype, rounding: Rounding) -> float:
    """A value of the floating-point type `dtype`, rounded once: never through another type, so never twice.

    Raises:
        NotUnderstood: the value is larger than the type's largest, or the type is not a floating-point one.
    """
    digits, least, largest = _format(dtype)
    numerator, denominator = value.numerator, value.denominator
    exponent = abs(numerator).bit_length() - denominator.bit_length()  # 2^(exponent - 1) < |value| < 2^(exponent + 1)
    if abs(numerator) << max(-exponent, 0) < denominator << max(exponent, 0):
        exponent -= 1
    unit = max(exponent, least) - digits + 1  # the exponent of the last place
    units = rounding(numerator << max(-unit, 0), denominator << max(unit, 0))
    if abs(units) << max(unit, 0) > largest:
        raise NotUnderstood(f"expected a number within the range of {dtype}, got one of {float_text(value)}")
    return math.ldexp(units, unit)


def float_text(value: Coefficient) -> str:
    """A rational number as a person reads it, however large."""
    try:
        return repr(float(value))
    except OverflowError:
        return f"about {'-' if value < 0 else ''}2^{abs(value.numerator).bit_length() - value.denominator.bit_length()}"


@functools.cache
def _format(dtype: torch.dtype) -> tuple[int, int, int]:
    """Digits of the significand, exponent of the smallest normal number, and largest number of a type."""
    if not dtype.is_floating_point:
        raise NotUnderstood(f"expected a model of floating-point inputs, got {dtype}; boxes of other types are not understood")
    info = torch.finfo(dtype)
    return 1 - int(math.log2(info.eps)), int(math.log2(info.smallest_normal)), int(info.max)


def exact_row(row: Row) -> tuple[list[tuple[Variable, float]], float, float]:
    """A row in float64: coefficients, offset, and at most how far the offset is from what it stands for.

    Coefficients are exact. Where they are no float64 as written (0.1), the whole row is multiplied by the least odd number
    that makes them so (5), over a power of two, which changes its value by a factor in (1/2, 1] and its sign never.

    Raises:
        NotUnderstood: they are no float64 even so.
    """
    factor = Fraction(1)
    if not all(map(fits, (c for _, c in row.coefficients))):
        odd = math.lcm(*(odd_part(c.denominator) for _, c in row.coefficients))
        factor = Fraction(odd, 1 << (odd - 1).bit_length())
    coefficients = [(variable, factor * coefficient) for variable, coefficient in row.coefficients]
    for (_, scaled), (_, written) in zip(coefficients, row.coefficients):
        if not fits(scaled):
            raise NotUnderstood(
                f"expected coefficients that a common factor makes exact in float64, got {float_text(written)} among "
                f"{len(row.coefficients)} in a row; write it with at most 15 digits"
            )
    constant = factor * row.constant
    offset = to_float(constant, torch.float64, nearest)
    blur = to_float(abs(constant - Fraction(offset)), torch.float64, up)
    return [(variable, float(coefficient)) for variable, coefficient in coefficients], offset, blur


def odd_part(number: int) -> int:
    """A positive number without its factors 2."""
    return number // (number & -number)


def fits(value: Coefficient) -> bool:
    """Whether a value is a float64."""
    if odd_part(value.denominator) != 1:
        return False
    try:
        return Fraction(float(value)) == value
    except OverflowError:
        return False
