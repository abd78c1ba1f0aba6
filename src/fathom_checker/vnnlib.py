"""VNN-LIB 1: a property as a disjunction of conjunctions of affine literals, in rational numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from fathom_checker.numbers import above, below, nearest
from fathom_checker.question import Obligation, Question, Row, normal
from fathom_checker.reading import Malformed

MOST_ROWS = 1 << 24
NUMBER = re.compile(r"[+-]?(\d{1,800}(\.\d{0,800})?|\.\d{1,800})([eE][+-]?\d{1,3})?")

Affine = dict[int, Fraction]  # by place: outputs, then inputs; -1 is the constant


def read_vnnlib(content: bytes, dtype: Any) -> Question:
    """The property as obligations; boxes hold the decimals and what they are as numbers of `dtype`, the model's inputs.

    Raises:
        Malformed: it is no VNN-LIB 1 of affine literals under `and` and `or`, or an input has no bound.
    """
    try:
        forms = _nested(content.decode("utf-8-sig"))
        declared = [form[1] for form in forms if form[0] == "declare-const" and form[2:] == ["Real"]]
        asserted = [form[1] for form in forms if form[0] == "assert" and len(form) == 2]
        inputs, outputs = ([f"{letter}_{i}" for i in range(sum(name[0] == letter for name in declared))] for letter in "XY")
        if sorted(inputs + outputs) != sorted(declared) or len(declared) + len(asserted) != len(forms):
            raise Malformed("the property: expected assertions about X_0, X_1, ... and Y_0, Y_1, ..., each declared once as Real")
        places = {name: i for i, name in enumerate(outputs + inputs)}
        found = []
        for i, rows in enumerate(_conjunctions(["and", *asserted], places)):
            box = _box(rows, len(outputs), len(inputs), dtype)
            if box is not None:
                found.append(Obligation(f"disjunct {i} of the property", *box, rows))
    except (ValueError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as reason:
        raise Malformed(f"the property is no VNN-LIB 1 that is understood ({type(reason).__name__}: {reason})") from reason
    return Question(len(inputs), len(outputs), found)


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


def _conjunctions(form: Any, places: dict[str, int]) -> list[list[Row]]:
    """A formula as a disjunction of conjunctions."""
    if not isinstance(form, list) or form[0] not in ("and", "or", "<=", "<", ">=", ">"):
        raise Malformed(f"the property: {str(form)[:80]} is not understood")
    head, *rest = form
    if head == "or":
        return [each for part in rest for each in _conjunctions(part, places)]
    if head == "and":
        parts = [_conjunctions(part, places) for part in rest]
        made = [[row for part in parts if len(part) == 1 for row in part[0]]]
        for part in (part for part in parts if len(part) != 1):
            if sum(map(len, made)) * len(part) > MOST_ROWS:
                raise Malformed(f"the property: conjunctions of more than {MOST_ROWS} rows in all are not understood")
            made = [left + right for left in made for right in part]
        return made
    left, right = (_affine(part, places) for part in (rest if head[0] == "<" else rest[::-1]))
    difference = _sum(left, right, Fraction(-1))
    return [[normal(difference, difference.pop(-1, Fraction(0)), strict=len(head) == 1)]]


def _affine(term: Any, places: dict[str, int]) -> Affine:
    """Sums, differences, and products with constants."""
    if isinstance(term, str) and (term in places or NUMBER.fullmatch(term)):
        return {places[term]: Fraction(1)} if term in places else {-1: Fraction(term)}
    if not isinstance(term, list) or term[0] not in ("+", "-", "*"):
        raise Malformed(f"the property: {str(term)[:80]} is not understood")
    total, *parts = (_affine(part, places) for part in term[1:])
    if term[0] == "-" and not parts:
        return _sum({}, total, Fraction(-1))
    for part in parts:
        if term[0] != "*":
            total = _sum(total, part, Fraction(1 if term[0] == "+" else -1))
            continue
        constant, other = (total, part) if set(total) <= {-1} else (part, total)
        if not set(constant) <= {-1}:
            raise Malformed(f"the property: {str(term)[:80]} is not affine")
        total = _sum({}, other, constant.get(-1, Fraction(0)))
    return total


def _sum(left: Affine, right: Affine, factor: Fraction) -> Affine:
    total = dict(left)
    for place, value in right.items():
        total[place] = total.get(place, Fraction(0)) + factor * value
    return total


def _box(rows: list[Row], outputs: int, inputs: int, dtype: Any) -> tuple[Any, Any] | None:
    """The box that rows over one input make, rounded outwards; None if no input meets them."""
    ends: dict[tuple[int, int], tuple[Fraction, bool]] = {}
    for key, constant, strict in rows:
        if not key and (constant > 0 or (strict and constant == 0)):
            return None
        if len(key) == 1 and key[0][0] >= outputs:  # sign x + constant <= 0
            where, new = (key[0][0] - outputs, int(key[0][1])), (constant, strict)
            ends[where] = max(ends.get(where, new), new)
    lower, upper = np.zeros((2, inputs))
    for i in range(inputs):
        if (i, -1) not in ends or (i, 1) not in ends:
            raise Malformed(f"the property: X_{i} has no lower and upper bound")
        (low, low_strict), (high, high_strict) = ends[i, -1], ends[i, 1]
        if low > -high or (low == -high and (low_strict or high_strict)):
            return None
        lower[i], upper[i] = min(_ends(low, dtype)), max(_ends(-high, dtype))
    return lower, upper


@lru_cache(1 << 16)
def _ends(value: Fraction, dtype: Any) -> tuple[float, float, float]:
    return below(value), above(value), nearest(value, dtype)
