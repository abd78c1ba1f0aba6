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

Row = tuple[tuple[tuple[int, Fraction], ...], Fraction, bool]
"""Coefficients over (y, x) other than 0, by ascending place, and constant, over the first one's magnitude; it
holds where their sum is <= 0, or, if strict, < 0."""


@dataclass(frozen=True, eq=False)
class Obligation:
    """No input of a box [d] may meet all the rows. `number`: of the set in problem.json, or -1."""

    name: str
    lower: Array
    upper: Array
    rows: list[Row]
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


def require_answered(question: Question, certificate: Certificate) -> None:
    """Raises: Rejected: no tree is about one of the obligations: its box, and a clause all of whose rows follow from its rows."""
    specs: list[list[list[Row]]] = [[[] for _ in range(count)] for count in certificate.clauses]
    names = ("row_spec", "row_clause", "rows", "row_constant", "row_strict")
    for spec, clause, values, constant, strict in zip(*(certificate[name].tolist() for name in names)):
        coefficients = {place: Fraction(value) for place, value in enumerate(values) if value}
        specs[spec][clause].append(normal(coefficients, Fraction(constant), strict=bool(strict)))
    about, lower, upper = defaultdict(list), certificate["tree_lower"], certificate["tree_upper"]
    for tree, number in enumerate(certificate["tree_set"].tolist()):
        about[number].append(tree)
    for asked in question.obligations:
        trees = np.array(about[asked.number], np.int64)
        trees = trees[(lower[trees] <= asked.lower).all(1) & (upper[trees] >= asked.upper).all(1)]
        clauses = (clause for spec in dict.fromkeys(certificate["tree_spec"][trees].tolist()) for clause in specs[spec])
        if not any(all(_follows(row, asked.rows) for row in clause) for clause in clauses):
            raise Rejected(f"{asked.name}: no tree has its inputs and a clause that follows from it")


def _follows(row: Row, rows: list[Row]) -> bool:
    """Whether a row holds wherever all of the others do, as one of them is the same but for a constant."""
    return any(key == row[0] and row[1] <= constant and (strict or not row[2]) for key, constant, strict in rows)
