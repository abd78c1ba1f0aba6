"""`problem.json` as `fathom.export` writes it: sets of inputs, and the spec of each."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np

from fathom_checker.errors import Malformed
from fathom_checker.numbers import Array, above, below
from fathom_checker.question import Obligation, Question, by_key, normal
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
            clauses: dict[int, list[Any]] = {}
            for r, clause in enumerate(spec["clause"][k]):
                if clause >= 0:
                    coefficients = {int(j): Fraction(float(rows[k, r, j])) for j in rows[k, r].nonzero()[0]}
                    constant = Fraction(float(offsets[k, r])) - Fraction(float(blur[k, r]))
                    clauses.setdefault(clause, []).append(normal(coefficients, constant, strict=bool(spec["strict"][k][r])))
            found += [Obligation(f"clause {c} of set {i}", lower[i], upper[i], by_key(r), i) for c, r in clauses.items()]
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
    if kind == "BoxRegion":
        return fields["lower"], fields["upper"], None
    if kind not in ("LinfBall", "L1Ball", "L2Ball"):
        raise Malformed(f"the problem: sets of the kind {kind} are not understood")
    centre, radius = fields["centre"], fields["radius"]
    radii = np.broadcast_to(radius[:, None], centre.shape)
    exact = [(Fraction(c), Fraction(r)) for c, r in zip(centre.ravel().tolist(), radii.ravel().tolist())]
    lower = np.array([below(c - r) for c, r in exact]).reshape(centre.shape)
    upper = np.array([above(c + r) for c, r in exact]).reshape(centre.shape)
    balls = None if kind == "LinfBall" else Balls(1 if kind == "L1Ball" else 2, centre, radius)
    return np.maximum(lower, fields["lower"]), np.minimum(upper, fields["upper"]), balls
