"""VNN-LIB 1: a property as a disjunction of boxes with affine rows, in rational numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from fathom_checker.errors import Malformed
from fathom_checker.numbers import above, below, nearest
from fathom_checker.question import Obligation, Question, by_key, normal

MOST_ALTERNATIVES, MOST_STEPS = 1 << 20, 1 << 24
NUMBER = re.compile(r"[+-]?(\d{1,800}(\.\d{0,800})?|\.\d{1,800})([eE][+-]?\d{1,3})?")
FLIP = {"<=": ">", "<": ">=", ">=": "<", ">": "<="}

Affine = dict[str, Fraction]  # by variable; "" is the constant
Literal = tuple[Affine, bool]  # <= 0, or < 0 if strict
Bound = tuple[Fraction | None, bool, Fraction | None, bool]  # of an input: lower, strict, upper, strict
Bounds = dict[str, Bound]
Alternative = tuple[Bounds, tuple[Literal, ...]]
UNBOUNDED: Bound = (None, False, None, False)


def read_vnnlib(content: bytes, dtype: np.dtype[Any]) -> Question:
    """The property as obligations; boxes hold the decimals and what they are as numbers of `dtype`, the model's inputs.

    Raises:
        Malformed: it is no VNN-LIB 1, or an input has no bound.
    """
    declared: dict[str, None] = {}
    asserted: list[Any] = []
    try:
        for form in _nested(content.decode("utf-8-sig")):
            if form[0] == "declare-const" and len(form) == 3 and form[2] == "Real" and form[1] not in declared:
                declared[form[1]] = None
            elif form[0] == "assert" and len(form) == 2:
                asserted.append(form[1])
            else:
                raise Malformed(f"the property: {str(form)[:80]} is not understood")
        names = [[f"{letter}_{i}" for i in range(sum(name.startswith(letter) for name in declared))] for letter in "XY"]
        if set(names[0] + names[1]) != set(declared):
            raise Malformed("the property: expected variables X_0, X_1, ... and Y_0, Y_1, ...")
        alternatives = _Reader(declared).alternatives(["and", *asserted], meant=True)
    except (UnicodeDecodeError, IndexError, TypeError, AttributeError, RecursionError) as reason:
        raise Malformed(f"the property is no VNN-LIB 1 ({type(reason).__name__}: {reason})") from reason
    places = {name: i for i, name in enumerate(names[1] + names[0])}
    found = [_obligation(i, alternative, names[0], places, dtype) for i, alternative in enumerate(alternatives)]
    return Question(len(names[0]), len(names[1]), found)


def _obligation(
    index: int, alternative: Alternative, inputs: list[str], places: dict[str, int], dtype: np.dtype[Any]
) -> Obligation:
    bounds, literals = alternative
    box, rows = [], []
    for name in inputs:
        low, low_strict, high, high_strict = bounds.get(name, UNBOUNDED)
        if low is None or high is None:
            raise Malformed(f"the property: {name} has no {'lower' if low is None else 'upper'} bound")
        box.append((min(_ends(low, dtype)), max(_ends(high, dtype))))
        rows.append(normal({places[name]: Fraction(-1)}, low, strict=low_strict))
        rows.append(normal({places[name]: Fraction(1)}, -high, strict=high_strict))
    for affine, strict in literals:
        coefficients = {places[name]: value for name, value in affine.items() if name}
        rows.append(normal(coefficients, affine.get("", Fraction(0)), strict=strict))
    ends = np.array(box, np.float64).reshape(-1, 2)
    if not np.isfinite(ends).all():
        raise Malformed("the property: a bound is beyond the numbers of the model's type")
    name = f"disjunct {index} of the property"
    return Obligation(name, np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]), by_key(rows))


@lru_cache(1 << 16)
def _ends(value: Fraction, dtype: np.dtype[Any]) -> tuple[float, float, float]:
    return below(value), above(value), nearest(value, dtype)


def _nested(text: str) -> list[Any]:
    """Parentheses as lists."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s();]+|;[^\n]*", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) < 2:
                raise Malformed("the property: a parenthesis too many is closed")
            inner = stack.pop()
            stack[-1].append(inner)
        elif token[0] != ";":
            stack[-1].append(token)
    if len(stack) > 1:
        raise Malformed("the property: a parenthesis is not closed")
    return stack[0]


class _Reader:
    def __init__(self, declared: dict[str, None]) -> None:
        self.declared, self.steps = declared, 0

    def alternatives(self, form: Any, *, meant: bool) -> list[Alternative]:
        """A formula, or its negation, as a disjunction; alternatives that no input meets are left out."""
        head = form[0]
        if head == "not" and len(form) == 2:
            return self.alternatives(form[1], meant=not meant)
        if head in ("and", "or"):
            parts = [self.alternatives(part, meant=meant) for part in form[1:]]
            return self._product(parts) if (head == "and") == meant else [each for part in parts for each in part]
        if head == "=" and len(form) == 3:
            return self.alternatives(["and", ["<=", *form[1:]], [">=", *form[1:]]], meant=meant)
        if head not in FLIP or len(form) != 3:
            raise Malformed(f"the property: {str(form)[:80]} is not understood")
        relation = head if meant else FLIP[head]
        left, right = (self._affine(part) for part in form[1:])
        affine = _sum(left, right, -1) if relation[0] == "<" else _sum(right, left, -1)
        return self._product([[({}, ((affine, len(relation) == 1),))]])

    def _product(self, parts: list[list[Alternative]]) -> list[Alternative]:
        """Conjunction: one of each part at once. What single alternatives say is joined first, in one go."""
        single = [part[0] for part in parts if len(part) == 1]
        made = _joined(single)
        for part in sorted((part for part in parts if len(part) != 1), key=len):
            self.steps += len(made) * len(part)
            if self.steps > MOST_STEPS or len(made) * len(part) > MOST_ALTERNATIVES << 4:
                raise Malformed("the property: more alternatives than are held")
            made = [both for left in made for right in part for both in _joined([left, right])]
        return made

    def _affine(self, term: Any) -> Affine:
        if isinstance(term, str):
            if term in self.declared:
                return {term: Fraction(1)}
            if not NUMBER.fullmatch(term):
                raise Malformed(f"the property: {term[:80]!r} is neither declared nor a number")
            return {"": Fraction(term)}
        head, parts = term[0], [self._affine(part) for part in term[1:]]
        total = parts[0]
        if head == "-" and len(parts) == 1:
            return _sum({}, total, -1)
        for part in parts[1:]:
            if head in ("+", "-"):
                total = _sum(total, part, 1 if head == "+" else -1)
                continue
            if head == "*" and set(total) <= {""}:
                total, part = part, total
            factor = part.get("", Fraction(0))
            if head not in ("*", "/") or not set(part) <= {""} or (head == "/" and factor == 0):
                raise Malformed(f"the property: {str(term)[:80]} is not affine")
            total = _sum({}, total, factor if head == "*" else 1 / factor)
        return total


def _sum(left: Affine, right: Affine, factor: Fraction | int) -> Affine:
    total = dict(left)
    for name, value in right.items():
        total[name] = total.get(name, Fraction(0)) + factor * value
    return {name: value for name, value in total.items() if value}


def _joined(parts: list[Alternative]) -> list[Alternative]:
    """All of the parts at once, with rows over one input turned into its bounds; nothing if no input meets them."""
    bounds: Bounds = dict(parts[0][0]) if parts else {}
    rows: dict[tuple[tuple[str, Fraction], ...], Literal] = {}
    for more, literals in parts:
        for name, new in more.items():
            bounds[name] = _meet(bounds.get(name, UNBOUNDED), new)
        for affine, strict in literals:
            names = [name for name in affine if name]
            if not names:
                if affine.get("", 0) > 0 or (strict and affine.get("", 0) == 0):
                    return []
            elif len(names) == 1 and names[0].startswith("X"):
                end, none = (-affine.get("", Fraction(0)) / affine[names[0]], strict), (None, False)
                new = (*none, *end) if affine[names[0]] > 0 else (*end, *none)
                bounds[names[0]] = _meet(bounds.get(names[0], UNBOUNDED), new)
            else:
                rows[(*sorted(affine.items()), ("strict", Fraction(strict)))] = (affine, strict)
    for low, low_strict, high, high_strict in bounds.values():
        if low is not None and high is not None and (low > high or (low == high and (low_strict or high_strict))):
            return []
    return [(bounds, tuple(rows.values()))]


def _meet(old: Bound, new: Bound) -> Bound:
    low, low_strict, high, high_strict = new
    if low is None or (old[0] is not None and (old[0], old[1]) >= (low, low_strict)):
        low, low_strict = old[0], old[1]
    if high is None or (old[2] is not None and (-old[2], old[3]) >= (-high, high_strict)):
        high, high_strict = old[2], old[3]
    return low, low_strict, high, high_strict
