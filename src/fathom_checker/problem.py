"""`problem.json` as `fathom.export` writes it: sets of inputs, and the spec of each."""

from __future__ import annotations

import json
from collections import defaultdict
from fractions import Fraction

import numpy as np

from fathom_checker.numbers import above, below
from fathom_checker.question import Obligation, Question, Row, normal
from fathom_checker.reading import Malformed
from fathom_checker.region import Balls

KINDS = {"BoxRegion": 0, "LinfBall": 0, "L1Ball": 1, "L2Ball": 2}


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
        kind, fields = region["class"], {name: np.array(value, np.float64) for name, value in region["fields"].items()}
        rows, offsets, blur = (np.array(spec[name], np.float64) for name in ("rows", "offsets", "blur"))
        if kind not in KINDS or not all(np.isfinite(part).all() for part in (rows, offsets, blur, *fields.values())):
            raise Malformed(f"the problem: sets of the kind {kind}, or numbers that are not finite, are not understood")
        lower, upper = fields["lower"], fields["upper"]
        if kind != "BoxRegion":  # the box around the ball, too
            centre, radius = fields["centre"], fields["radius"]
            exact = [(Fraction(c), Fraction(r)) for row, r in zip(centre.tolist(), radius.tolist()) for c in row]
            lower = np.maximum(lower, np.array([below(c - r) for c, r in exact]).reshape(centre.shape))
            upper = np.minimum(upper, np.array([above(c + r) for c, r in exact]).reshape(centre.shape))
        found = []
        for i, k in zip(range(len(lower)), spec["of"], strict=True):
            clauses: dict[int, list[Row]] = defaultdict(list)
            for r, clause in enumerate(spec["clause"][k]):
                if clause >= 0:
                    coefficients = {j: Fraction(value) for j, value in enumerate(rows[k, r].tolist()) if value}
                    constant = Fraction(float(offsets[k, r])) - Fraction(float(blur[k, r]))
                    clauses[clause].append(normal(coefficients, constant, strict=bool(spec["strict"][k][r])))
            found += [Obligation(f"clause {c} of set {i}", lower[i], upper[i], part, i) for c, part in clauses.items()]
        return Question(lower.shape[1], rows.shape[2], found, Balls(KINDS[kind], centre, radius) if KINDS[kind] else None)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as reason:
        raise Malformed(f"the problem is no file of fathom.export ({type(reason).__name__}: {reason})") from reason
