"""The normal form of a formula: a disjunction of (box over the inputs, rows over inputs and outputs).

Rows over one input alone bound the box; those over outputs, or several inputs, stay rows. Alternatives whose box is empty
are dropped as soon as two are joined, so that a conjunction of many cases of the inputs costs what is left of it. The
conjunction that nearly every property starts with, one bound a row, is kept apart as the base of all alternatives.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from fathom.capture.vnnlib.formula import And, Formula, Not, Or, Row, Variable
from fathom.core.errors import NotUnderstood

MOST_ALTERNATIVES = 100_000
"""Of a formula written as a disjunction. A conjunction of n disjunctions of two has 2^n."""

MOST_STEPS = 10_000_000
"""Pairs of alternatives tried, and rows copied, until a formula is a disjunction: seconds."""


class Interval(NamedTuple):
    """The numbers between two ends; None is no end, and an open end is itself left out."""

    lower: Fraction | None = None
    upper: Fraction | None = None
    lower_open: bool = False
    upper_open: bool = False

    def meet(self, other: Interval) -> Interval:
        """What lies in both."""
        lower, lower_open = self.lower, self.lower_open
        if lower is None or (other.lower is not None and other.lower >= lower):
            lower_open = other.lower_open or (lower_open and other.lower == lower)
            lower = other.lower
        upper, upper_open = self.upper, self.upper_open
        if upper is None or (other.upper is not None and other.upper <= upper):
            upper_open = other.upper_open or (upper_open and other.upper == upper)
            upper = other.upper
        return Interval(lower, upper, lower_open, upper_open)

    @property
    def empty(self) -> bool:
        if self.lower is None or self.upper is None:
            return False
        return self.lower > self.upper or (self.lower == self.upper and (self.lower_open or self.upper_open))


class Alternative(NamedTuple):
    """One way to satisfy a formula: every bound and every row holds. Without either, it holds always."""

    bounds: dict[Variable, Interval]
    rows: tuple[Row, ...]


class NormalForm(NamedTuple):
    """The base holds, and one of the alternatives does. No alternatives: nothing satisfies the formula."""

    base: Alternative
    alternatives: list[Alternative]


def normal_form(formula: Formula) -> NormalForm:
    """A formula as a disjunction.

    Raises:
        NotUnderstood: it has more than `MOST_ALTERNATIVES`.
    """
    limits = _Limits()
    stack = [_Junction([(formula, True)], limits, conjunction=True)]
    while True:
        junction = stack[-1]
        if junction.todo:
            inner = junction.step()
            if inner is not None:
                stack.append(inner)
        elif len(stack) > 1:
            stack[-2].add(stack.pop().alternatives())
        else:
            possible = [] if junction.impossible else limits.product(junction.parts)
            return NormalForm(junction.own(), possible)


class _Limits:
    """What writing out one formula has taken so far, and where it ends."""

    def __init__(self) -> None:
        self.steps = 0

    def product(self, parts: Iterable[list[Alternative]]) -> list[Alternative]:
        """The alternatives of a conjunction of disjunctions, the shortest first."""
        product = [Alternative({}, ())]
        for part in sorted(parts, key=len):
            self.check([], steps=len(product) * len(part))
            joined: list[Alternative] = []
            for left in product:
                joined.extend(both for right in part if (both := _join(left, right)) is not None)
                self.check(joined)
            product = joined
            self.check(product, steps=sum(len(alternative.rows) for alternative in product))
        return product

    def check(self, alternatives: list[Alternative], steps: int = 0) -> None:
        """Count steps.

        Raises:
            NotUnderstood: there are too many, or too many alternatives.
        """
        self.steps += steps
        if len(alternatives) > MOST_ALTERNATIVES or self.steps > MOST_STEPS:
            raise NotUnderstood(
                f"expected a property that is a disjunction of at most {MOST_ALTERNATIVES} alternatives, written out in at most "
                f"{MOST_STEPS} steps, got one that needs more; split it, one property for each member of one of its disjunctions"
            )


class _Junction:
    """A conjunction or disjunction while it is being worked through; nested ones of its own kind are taken in as they come."""

    def __init__(self, todo: list[tuple[Formula, bool]], limits: _Limits, *, conjunction: bool) -> None:
        self.conjunction = conjunction
        self.limits = limits
        self.todo = todo  # formulas, and whether they are meant or their negations; last first
        self.bounds: dict[Variable, Interval] = {}  # of a conjunction: what its own rows say
        self.rows: list[Row] = []
        self.impossible = False
        self.parts: list[list[Alternative]] = []  # of a conjunction: its disjunctions; of a disjunction: its members, one list

    def step(self) -> _Junction | None:
        """Take in one formula; where it is of the other kind, it is a junction to be worked through first."""
        formula, meant = self.todo.pop()
        if isinstance(formula, Row):
            self.add_row(formula if meant else formula.negated())
        elif isinstance(formula, Not):
            self.todo.append((formula.part, not meant))
        else:
            parts = [(part, meant) for part in reversed(formula.parts)]
            if isinstance(formula, And if meant else Or) != self.conjunction:
                return _Junction(parts, self.limits, conjunction=not self.conjunction)
            self.todo.extend(parts)
        return None

    def add_row(self, row: Row) -> None:
        if not self.conjunction:
            single = _Junction([], self.limits, conjunction=True)
            single.add_row(row)
            self.add(single.alternatives())
        elif not row.coefficients:
            self.impossible |= row.constant > 0 or (row.strict and row.constant == 0)
        elif len(row.coefficients) == 1 and row.coefficients[0][0] >= 0:
            variable, bound = row.coefficients[0][0], _bound(row)
            old = self.bounds.get(variable)
            self.bounds[variable] = bound if old is None else old.meet(bound)
        else:
            self.rows.append(row)

    def add(self, alternatives: list[Alternative]) -> None:
        """Take in a junction of the other kind that was worked through."""
        if self.conjunction or not self.parts:
            self.parts.append(alternatives)
        else:
            self.parts[0].extend(alternatives)
            self.limits.check(self.parts[0])

    def own(self) -> Alternative:
        return Alternative(self.bounds, tuple(self.rows))

    def alternatives(self) -> list[Alternative]:
        if not self.conjunction:
            return self.parts[0] if self.parts else []
        if self.impossible or any(interval.empty for interval in self.bounds.values()):
            return []
        return self.limits.product([[self.own()], *self.parts])


def _bound(row: Row) -> Interval:
    """What a row over one input says of it."""
    ((_, coefficient),) = row.coefficients
    end = -row.constant if coefficient == 1 else row.constant if coefficient == -1 else -row.constant / coefficient
    return Interval(upper=end, upper_open=row.strict) if coefficient > 0 else Interval(lower=end, lower_open=row.strict)


def _join(left: Alternative, right: Alternative) -> Alternative | None:
    """Both at once; None where no input can."""
    if not left.bounds or not right.bounds:
        return Alternative(left.bounds or right.bounds, left.rows + right.rows)
    bounds = dict(left.bounds)
    for variable, interval in right.bounds.items():
        old = bounds.get(variable)
        met = interval if old is None else old.meet(interval)
        if met.empty:
            return None
        bounds[variable] = met
    return Alternative(bounds, left.rows + right.rows)
