"""What has to be proved: a VNN-LIB 1 file or a `problem.json` as obligations in rational numbers, and whether the trees of a
certificate are about all of them."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, product
from typing import Any

import numpy as np

from fathom_checker.certificate import Certificate, Malformed, Rejected, reading, require
from fathom_checker.numbers import Array, Numbers, above, around, below

MOST_ROWS = 1 << 24
NEVER = Fraction(0), False  # no constant and strictness above these holds: positive, or 0 and to be negative
NUMBER = re.compile(r"[+-]?(\d{1,800}(\.\d{0,800})?|\.\d{1,800})([eE][+-]?\d{1,3})?")
KINDS = {"BoxRegion": 0, "LinfBall": 0, "L1Ball": 1, "L2Ball": 2}  # of sets in problem.json: the ball's norm, 0 for boxes

Affine = dict[int, Fraction]  # coefficients by place: outputs, then inputs; -1 is the constant

Row = tuple[tuple[tuple[int, Fraction], ...], Fraction, bool]
"""Coefficients other than 0 by ascending place, and constant, over the first one's magnitude; it holds where their sum is <= 0,
or, if strict, < 0."""


Obligation = tuple[str, int, Array, Array, list[Row]]
"""Its name; the number of the set in problem.json, or -1; the ends of a box [d]; rows, all of which no input of it may meet."""

Balls = tuple[int, Array, Array]  # |x - centre|_p <= radius: p, 1 or 2; centre [sets, d] and radius [sets] in float64


def require_answered(obligations: list[Obligation], certificate: Certificate) -> None:
    """Or `Rejected`: no tree is about one of them: its box, and a clause all of whose rows follow from its rows."""
    names = ("row_spec", "row_clause", "rows", "row_constant", "row_strict")
    specs = _specs(zip(*(certificate[name].tolist() for name in names)))
    lower, upper, spec = (certificate[name] for name in ("tree_lower", "tree_upper", "tree_spec"))
    about = defaultdict(list)
    for tree, number in enumerate(certificate["tree_set"].tolist()):
        about[number].append(tree)
    for name, number, low, high, rows in obligations:
        trees = np.array(about[number], np.int64)
        trees = trees[(lower[trees] <= low).all(1) & (upper[trees] >= high).all(1)]
        clauses = (clause for k in np.unique(spec[trees]).tolist() for clause in specs[k].values())
        if not any(all(_follows(row, rows) for row in clause) for clause in clauses):
            raise Rejected(f"{name}: no tree has its inputs and a clause that follows from it")


def _follows(row: Row, rows: list[Row]) -> bool:
    """Whether a row holds wherever all of the others do, as one of them is the same but for a constant."""
    return any(key == row[0] and row[1] <= constant and (strict or not row[2]) for key, constant, strict in rows)


def _row(affine: Affine, *, strict: bool) -> Row:
    places = sorted(place for place, value in affine.items() if value and place >= 0)
    size = abs(affine[places[0]]) if places else Fraction(1)
    return tuple((place, affine[place] / size) for place in places), affine.get(-1, Fraction(0)) / size, strict


def _specs(rows: Iterable[tuple[Any, ...]]) -> dict[int, dict[int, list[Row]]]:
    """By spec and clause, rows that are given as (spec, clause, coefficients, constant, strict)."""
    found: dict[int, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for spec, clause, values, constant, strict in rows:
        affine = {-1: Fraction(constant), **{place: Fraction(value) for place, value in enumerate(values) if value}}
        found[spec][clause].append(_row(affine, strict=bool(strict)))
    return dict(found)


def read_problem(content: bytes, sizes: tuple[int, int], model: str) -> tuple[list[Obligation], Balls | None]:
    """Every clause of every set of a `problem.json`. `sizes`: inputs and outputs of the model; `model`: its digest."""
    with reading("the problem is no file of fathom.export"):
        described = json.loads(content)
        region, spec = described["sets"]["region"], described["spec"]["fields"]
        kind, fields = region["class"], {name: np.array(value, np.float64) for name, value in region["fields"].items()}
        rows, offsets, blur = (np.array(spec[name], np.float64) for name in ("rows", "offsets", "blur"))
        known = described["format"] == "fathom problem, version 1" and described["model"]["sha256"] == model and kind in KINDS
        finite = all(np.isfinite(part).all() for part in (rows, offsets, blur, *fields.values()))
        require(known and finite, "a problem of version 1 about this model, of known sets and finite numbers", kind)
        lower, upper, exact = fields["lower"], fields["upper"], Numbers(exact=True).array
        if kind != "BoxRegion":  # the box around the ball, too
            centre, reach = exact(fields["centre"]), exact(fields["radius"])[:, None]
            lower = np.maximum(lower, np.vectorize(below, otypes=[float])(centre - reach))
            upper = np.minimum(upper, np.vectorize(above, otypes=[float])(centre + reach))
        require((lower.shape[1], rows.shape[2]) == sizes, f"a problem of {sizes} inputs and outputs", (lower.shape, rows.shape))
        constants, clause, strict = exact(offsets) - exact(blur), np.array(spec["clause"]), np.array(spec["strict"])
        places = np.argwhere(clause >= 0).tolist()
        specs = _specs((k, clause[k, r], rows[k, r].tolist(), constants[k, r], strict[k, r]) for k, r in places)
        sets = [(i, specs[k]) for i, k in zip(range(len(lower)), spec["of"], strict=True)]
        found = [(f"clause {c} of set {i}", i, lower[i], upper[i], part) for i, parts in sets for c, part in parts.items()]
        return found, (KINDS[kind], fields["centre"], fields["radius"]) if KINDS[kind] else None


def read_vnnlib(content: bytes, sizes: tuple[int, int], dtype: Any) -> tuple[list[Obligation], None]:
    """Every disjunct of a property; boxes hold the decimals and what they are as numbers of `dtype`, the model's inputs."""
    with reading("the property is no VNN-LIB 1 that is understood"):
        words = iter([*re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", " ", content.decode("utf-8-sig"))), ")"])
        forms = _nested(words)
        declared = [form[1] for form in forms if form[0] == "declare-const" and form[2:] == ["Real"]]
        asserted = [form[1] for form in forms if form[0] == "assert" and len(form) == 2]
        whole = next(words, None) is None and len(declared) + len(asserted) == len(forms)
        inputs, outputs = ([f"{letter}_{i}" for i in range(size)] for letter, size in zip("XY", sizes))
        known = whole and sorted(inputs + outputs) == sorted(declared)
        require(known, f"a property with assertions about X_0, ... and Y_0, ..., {sizes} of them, each declared once as Real")
        rows = _conjunctions(["and", *asserted], {name: i for i, name in enumerate(outputs + inputs)})
        named = [(f"disjunct {i} of the property", -1, _box(each, *sizes, dtype), each) for i, each in enumerate(rows)]
        return [(name, number, *box, each) for name, number, box, each in named if box is not None], None


def _nested(words: Iterator[str]) -> list[Any]:
    """What stands before the next closing parenthesis; parentheses as lists."""
    found: list[Any] = []
    for word in words:
        if word == ")":
            return found
        found.append(_nested(words) if word == "(" else word)
    raise Malformed("the property: a parenthesis is not closed")


def _conjunctions(form: Any, places: dict[str, int]) -> list[list[Row]]:
    """A formula as a disjunction of conjunctions."""
    head, *rest = form if isinstance(form, list) else [form]
    if head in ("and", "or"):
        parts = [_conjunctions(part, places) for part in rest]
        if head == "or":
            return list(chain.from_iterable(parts))
        rows = math.prod(map(len, parts)) * sum(max(map(len, part), default=0) for part in parts)
        require(rows <= MOST_ROWS, f"a property with conjunctions of at most {MOST_ROWS} rows in all", rows)
        return [list(chain.from_iterable(chosen)) for chosen in product(*parts)]
    require(head in ("<=", "<", ">=", ">") and len(rest) == 2, "a property of `and`, `or` and comparisons of two terms", form)
    less, more = (_affine(part, places) for part in (rest if head[0] == "<" else rest[::-1]))
    return [[_row(_sum([(1, less), (-1, more)]), strict=len(head) == 1)]]


def _affine(term: Any, places: dict[str, int]) -> Affine:
    """Sums, differences, and products with constants."""
    if isinstance(term, str):
        require(term in places or NUMBER.fullmatch(term), "a property of X_i, Y_i and numbers", term)
        return {places[term]: Fraction(1)} if term in places else {-1: Fraction(term)}
    head, parts = term[0], [_affine(part, places) for part in term[1:]]
    *factors, last = sorted(parts, key=lambda part: not part.keys() <= {-1})  # constants first
    plain = head in ("+", "-") or (head == "*" and all(part.keys() <= {-1} for part in factors))
    require(plain, "a property of sums, differences and products with constants", term)
    if head == "*":
        return _sum([(math.prod(part.get(-1, Fraction(0)) for part in factors), last)])
    sign = 1 if head == "+" else -1
    return _sum([(sign if i or len(parts) == 1 else 1, part) for i, part in enumerate(parts)])


def _sum(parts: list[tuple[Fraction | int, Affine]]) -> Affine:
    places = {place for _, part in parts for place in part}
    return {place: sum((part.get(place, Fraction(0)) * factor for factor, part in parts), Fraction(0)) for place in places}


def _box(rows: list[Row], inputs: int, outputs: int, dtype: Any) -> tuple[Array, Array] | None:
    """The box that rows over one input make, rounded outwards; None if no input meets them."""
    ends: dict[tuple[int, int], tuple[Fraction, bool]] = {}
    for key, constant, strict in rows:
        if not key and (constant, strict) > NEVER:
            return None
        if len(key) == 1 and key[0][0] >= outputs:  # sign x + constant <= 0
            where, new = (key[0][0] - outputs, int(key[0][1])), (constant, strict)
            ends[where] = max(ends.get(where, new), new)
    lower, upper = np.zeros((2, inputs))
    for i in range(inputs):
        require((i, -1) in ends and (i, 1) in ends, "a property with bounds on every input", f"none on X_{i}")
        (low, low_strict), (high, high_strict) = ends[i, -1], ends[i, 1]
        if (low + high, low_strict or high_strict) > NEVER:
            return None
        lower[i], upper[i] = around(low, dtype)[0], around(-high, dtype)[1]
    return lower, upper
