"""`problem.json` as `fathom.export` writes it: sets of inputs, and the spec of each."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np

from fathom_checker.numbers import Array, above, below
from fathom_checker.question import Obligation, Question, Row, by_key, normal
from fathom_checker.reading import Malformed
from fathom_checker.region import Balls


def read_problem(content: bytes, model: str) -> Question:
    """Every clause of every set as an obligation. `model`: the digest of the model file.

    Raises:
        Malformed: it is no such file, is about another model, or has sets that are not understood.
    """
    try:
        described = json.loads(content)
        if described["format"] != "fathom problem, version 1" or described["model"]["sha256"] != model:
            raise Malformed("the problem is of another version, or about another model")
        region, spec = described["sets"]["region"], described["spec"]["fields"]
        lower, upper, balls = _sets(region["class"], {name: _numbers(value) for name, value in region["fields"].items()})
        rows, offsets, blur = (_numbers(spec[name]) for name in ("rows", "offsets", "blur"))
        found = []
        for i, k in enumerate(spec["of"]):
            clauses: dict[int, list[Row]] = {clause: [] for clause in spec["clause"][k] if clause >= 0}
            for r, clause in enumerate(spec["clause"][k]):
                if clause >= 0:
                    coefficients = {j: Fraction(value) for j, value in enumerate(rows[k, r].tolist()) if value}
                    constant = Fraction(float(offsets[k, r])) - Fraction(float(blur[k, r]))
                    clauses[clause].append(normal(coefficients, constant, strict=bool(spec["strict"][k][r])))
            found += [Obligation(f"clause {c} of set {i}", lower[i], upper[i], by_key(r), i) for c, r in clauses.items()]
        if len(spec["of"]) != len(lower):
            raise Malformed("the problem has not one spec for each set")
        return Question(lower.shape[1], rows.shape[2], found, balls)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as reason:
        raise Malformed(f"the problem is no file of fathom.export ({type(reason).__name__}: {reason})") from reason


def _numbers(value: Any) -> Array:
    array = np.array(value, np.float64)
    if not np.isfinite(array).all():
        raise Malformed("the problem: numbers that are not finite are not understood")
    return array


def _sets(kind: str, fields: dict[str, Array]) -> tuple[Array, Array, Balls | None]:
    """Boxes [n, d] that hold the sets, and the balls."""
    lower, upper = fields["lower"], fields["upper"]
    if kind == "BoxRegion":
        return lower, upper, None
    if kind not in ("LinfBall", "L1Ball", "L2Ball"):
        raise Malformed(f"the problem: sets of the kind {kind} are not understood")
    centre, radius = fields["centre"], fields["radius"]
    exact = [(Fraction(c), Fraction(r)) for row, r in zip(centre.tolist(), radius.tolist()) for c in row]
    lower = np.maximum(lower, np.array([below(c - r) for c, r in exact]).reshape(centre.shape))
    upper = np.minimum(upper, np.array([above(c + r) for c, r in exact]).reshape(centre.shape))
    return lower, upper, None if kind == "LinfBall" else Balls(1 if kind == "L1Ball" else 2, centre, radius)
