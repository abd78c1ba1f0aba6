"""What has to be proved, as obligations in rational numbers, and whether the trees of a certificate are about all of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fathom_checker.certificate import Certificate
from fathom_checker.numbers import Array
from fathom_checker.reading import Rejected
from fathom_checker.region import Balls

Key = tuple[tuple[int, Fraction], ...]
"""Coefficients of a row over (y, x) that are not 0, by ascending place, divided by the magnitude of the first."""
Row = tuple[Key, Fraction, bool]
"""A row `<= 0`, with its constant divided likewise; whether it holds only where it is `< 0`."""


@dataclass(frozen=True, eq=False)
class Obligation:
    """No input of a box [d] may meet all the rows. `number`: of the set in problem.json, or -1."""

    name: str
    lower: Array
    upper: Array
    rows: dict[Key, list[tuple[Fraction, bool]]]
    number: int = -1


@dataclass(frozen=True, eq=False)
class Question:
    inputs: int
    outputs: int
    obligations: list[Obligation]
    balls: Balls | None = None


def normal(coefficients: dict[int, Fraction], constant: Fraction, *, strict: bool) -> Row:
    places = sorted(place for place, value in coefficients.items() if value)
    size = abs(coefficients[places[0]]) if places else Fraction(1)
    return tuple((place, coefficients[place] / size) for place in places), constant / size, strict


def by_key(rows: list[Row]) -> dict[Key, list[tuple[Fraction, bool]]]:
    found = defaultdict(list)
    for key, constant, strict in rows:
        found[key].append((constant, strict))
    return found


def require_answered(question: Question, certificate: Certificate) -> None:
    """Raises: Rejected: no tree is about one of the obligations."""
    specs: list[list[list[Row]]] = [[[] for _ in range(count)] for count in certificate.clauses]
    names = ("row_spec", "row_clause", "rows", "row_constant", "row_strict")
    for spec, clause, values, constant, strict in zip(*(certificate[name].tolist() for name in names)):
        coefficients = {place: Fraction(value) for place, value in enumerate(values) if value}
        specs[spec][clause].append(normal(coefficients, Fraction(constant), strict=bool(strict)))
    lower, upper, number, of = (certificate[f"tree_{name}"] for name in ("lower", "upper", "set", "spec"))
    about = defaultdict(list)
    for tree, set_ in enumerate(number.tolist()):
        about[set_].append(tree)
    for asked in question.obligations:
        trees = np.array(about[asked.number], np.int64)
        around = (lower[trees] <= asked.lower).all(1) & (upper[trees] >= asked.upper).all(1)
        if not any(_answers(specs[of[tree]], asked) for tree in trees[around]):
            raise Rejected(f"{asked.name}: no tree has its inputs and a clause that follows from it")


def _answers(clauses: list[list[Row]], asked: Obligation) -> bool:
    """Whether the obligation's rows imply all rows of one of the clauses."""

    def follows(row: Row) -> bool:
        key, constant, strict = row
        return any(constant <= k and (s or not strict) for k, s in asked.rows.get(key, ()))

    return any(all(map(follows, clause)) for clause in clauses)
