"""What a property says: affine rows over inputs and outputs, joined by and, or, not. Every number is the decimal as written."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

Variable = int
"""X_i is i, Y_j is ~j (that is -1 - j)."""


Coefficient = Fraction | int
"""Of a variable; an int for the 1 of a bare variable, which nearly all are: their sums are ten times as fast."""


def name_of(variable: Variable) -> str:
    """X_i or Y_j."""
    return f"X_{variable}" if variable >= 0 else f"Y_{~variable}"


class Linear(NamedTuple):
    """An affine term; shared between formulas, so never changed."""

    coefficients: dict[Variable, Coefficient]
    constant: Fraction


class Row(NamedTuple):
    """sum of coefficient * variable + constant <= 0, or < 0 if strict; variables ascending, coefficients not 0."""

    coefficients: tuple[tuple[Variable, Coefficient], ...]
    constant: Fraction
    strict: bool

    def negated(self) -> Row:
        return Row(tuple((v, -c) for v, c in self.coefficients), -self.constant, not self.strict)

    def __str__(self) -> str:
        terms = " + ".join([*(f"{c} {name_of(v)}" for v, c in self.coefficients), str(self.constant)])
        return f"{terms} {'<' if self.strict else '<='} 0"


class And(NamedTuple):
    parts: list[Formula]


class Or(NamedTuple):
    parts: list[Formula]


class Not(NamedTuple):
    part: Formula


Formula = Row | And | Or | Not


def combination(parts: Iterable[tuple[Coefficient, Linear]]) -> Linear:
    """The sum of factor * term."""
    coefficients: dict[Variable, Coefficient] = {}
    constant = Fraction(0)
    for factor, term in parts:
        for variable, coefficient in term.coefficients.items():
            coefficients[variable] = coefficients.get(variable, 0) + factor * coefficient
        if term.constant:
            constant += factor * term.constant
    return Linear(coefficients, constant)


def less(left: Linear, right: Linear, *, strict: bool) -> Row:
    """The row that says left <= right, or left < right."""
    coefficients = dict(left.coefficients)
    for variable, coefficient in right.coefficients.items():
        coefficients[variable] = coefficients.get(variable, 0) - coefficient
    constant = left.constant - right.constant if left.constant else -right.constant
    return Row(tuple(sorted((v, c) for v, c in coefficients.items() if c)), constant, strict)
