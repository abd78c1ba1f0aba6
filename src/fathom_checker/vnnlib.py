"""VNN-LIB 1: a property as a disjunction of boxes with affine rows, in rational numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from fathom_checker.numbers import above, below, nearest
from fathom_checker.question import Obligation, Question, by_key, normal
from fathom_checker.reading import Malformed

MOST_ALTERNATIVES = 1 << 20
NUMBER = re.compile(r"[+-]?(\d{1,800}(\.\d{0,800})?|\.\d{1,800})([eE][+-]?\d{1,3})?")
NEGATED = {"<=": ">", "<": ">=", ">=": "<", ">": "<="}

Affine = dict[str, Fraction]  # by variable; "" is the constant
Literal = tuple[Affine, bool]  # <= 0, or < 0 if strict
Bound = tuple[Fraction | None, bool, Fraction | None, bool]  # of an input: lower, strict, upper, strict
Alternative = tuple[dict[str, Bound], tuple[Literal, ...]]
UNBOUNDED: Bound = (None, False, None, False)


def read_vnnlib(content: bytes, dtype: Any) -> Question:
    """The property as obligations; boxes hold the decimals and what they are as numbers of `dtype`, the model's inputs.

    Raises:
        Malformed: it is no VNN-LIB 1, or an input has no bound.
    """
    try:
        declared: list[str] = []
        asserted: list[Any] = ["and"]
        for form in _nested(content.decode("utf-8-sig")):
            if form[0] == "declare-const" and form[2:] == ["Real"]:
                declared.append(form[1])
            elif form[0] == "assert" and len(form) == 2:
                asserted.append(form[1])
            else:
                raise _strange(form)
        inputs, outputs = ([f"{letter}_{i}" for i in range(sum(name[0] == letter for name in declared))] for letter in "XY")
        if sorted(inputs + outputs) != sorted(declared):
            raise Malformed("the property: expected variables X_0, X_1, ... and Y_0, Y_1, ..., each declared once")
        places = {name: i for i, name in enumerate(outputs + inputs)}
        alternatives = _alternatives(asserted, places, meant=True)
        found = [_obligation(i, alternative, inputs, places, dtype) for i, alternative in enumerate(alternatives)]
    except (UnicodeDecodeError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as reason:
        raise Malformed(f"the property is no VNN-LIB 1 that is understood ({type(reason).__name__}: {reason})") from reason
    return Question(len(inputs), len(outputs), found)


def _strange(form: Any) -> Malformed:
    return Malformed(f"the property: {str(form)[:80]} is not understood")


def _obligation(index: int, alternative: Alternative, inputs: list[str], places: dict[str, int], dtype: Any) -> Obligation:
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
    ends = np.array(box, np.float64).reshape(-1, 2).T.copy()
    return Obligation(f"disjunct {index} of the property", ends[0], ends[1], by_key(rows))


@lru_cache(1 << 16)
def _ends(value: Fraction, dtype: Any) -> tuple[float, float, float]:
    return below(value), above(value), nearest(value, dtype)


def _nested(text: str) -> list[Any]:
    """Parentheses as lists."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s();]+|;[^\n]*", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            inner = stack.pop()
            stack[-1].append(inner)
        elif token[0] != ";":
            stack[-1].append(token)
    if len(stack) > 1:
        raise Malformed("the property: a parenthesis is not closed")
    return stack[0]


def _alternatives(form: Any, places: dict[str, int], *, meant: bool) -> list[Alternative]:
    """A formula, or its negation, as a disjunction; alternatives that no input meets are left out."""
    head = form[0]
    if head == "not" and len(form) == 2:
        return _alternatives(form[1], places, meant=not meant)
    if head in ("and", "or"):
        parts = [_alternatives(part, places, meant=meant) for part in form[1:]]
        return _product(parts) if (head == "and") == meant else [each for part in parts for each in part]
    if head == "=" and len(form) == 3:
        return _alternatives(["and", ["<=", *form[1:]], [">=", *form[1:]]], places, meant=meant)
    if head not in NEGATED or len(form) != 3:
        raise _strange(form)
    relation = head if meant else NEGATED[head]
    left, right = (_affine(part, places) for part in form[1:])
    affine = _sum(left, right, -1) if relation[0] == "<" else _sum(right, left, -1)
    return _joined([({}, ((affine, len(relation) == 1),))])


def _product(parts: list[list[Alternative]]) -> list[Alternative]:
    """Conjunction: one of each part at once. What single alternatives say is joined first, in one go."""
    made = _joined([part[0] for part in parts if len(part) == 1])
    for part in sorted((part for part in parts if len(part) != 1), key=len):
        if len(made) * len(part) > MOST_ALTERNATIVES:
            raise Malformed(f"the property: more than {MOST_ALTERNATIVES} alternatives are not understood")
        made = [both for left in made for right in part for both in _joined([left, right])]
    return made


def _affine(term: Any, places: dict[str, int]) -> Affine:
    if isinstance(term, str):
        if term not in places and not NUMBER.fullmatch(term):
            raise _strange(term)
        return {term: Fraction(1)} if term in places else {"": Fraction(term)}
    head, (total, *parts) = term[0], [_affine(part, places) for part in term[1:]]
    if head == "-" and not parts:
        return _sum({}, total, -1)
    for part in parts:
        if head in ("+", "-"):
            total = _sum(total, part, 1 if head == "+" else -1)
            continue
        if head == "*" and set(total) <= {""}:
            total, part = part, total
        factor = part.get("", Fraction(0))
        if head not in ("*", "/") or not set(part) <= {""} or (head == "/" and factor == 0):
            raise _strange(term)
        total = _sum({}, total, factor if head == "*" else 1 / factor)
    return total


def _sum(left: Affine, right: Affine, factor: Fraction | int) -> Affine:
    total = dict(left)
    for name, value in right.items():
        total[name] = total.get(name, Fraction(0)) + factor * value
    return {name: value for name, value in total.items() if value}


def _joined(parts: list[Alternative]) -> list[Alternative]:
    """All of the parts at once, with rows over one input turned into its bounds; nothing if no input meets them."""
    bounds = dict(parts[0][0]) if parts else {}
    rows: list[Literal] = []
    for more, literals in parts:
        for name, bound in more.items():
            bounds[name] = _meet(bounds.get(name, UNBOUNDED), bound)
        for affine, strict in literals:
            names, constant = [name for name in affine if name], affine.get("", Fraction(0))
            if not names and (constant > 0 or (strict and constant == 0)):
                return []
            if len(names) == 1 and names[0][0] == "X":
                end = -constant / affine[names[0]]
                new: Bound = (None, False, end, strict) if affine[names[0]] > 0 else (end, strict, None, False)
                bounds[names[0]] = _meet(bounds.get(names[0], UNBOUNDED), new)
            elif names:
                rows.append((affine, strict))
    for low, low_strict, high, high_strict in bounds.values():
        if low is not None and high is not None and (low > high or (low == high and (low_strict or high_strict))):
            return []
    return [(bounds, tuple(rows))]


def _meet(old: Bound, new: Bound) -> Bound:
    low, low_strict, high, high_strict = new
    if low is None or (old[0] is not None and (old[0], old[1]) >= (low, low_strict)):
        low, low_strict = old[:2]
    if high is None or (old[2] is not None and (-old[2], old[3]) >= (-high, high_strict)):
        high, high_strict = old[2:]
    return low, low_strict, high, high_strict
