"""A property: the inputs that are asked about, as boxes, and for each what would be a catastrophe."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from fathom.capture.vnnlib.declarations import Query
from fathom.capture.vnnlib.equalities import implied, reduced
from fathom.capture.vnnlib.formula import Row, Variable, name_of
from fathom.capture.vnnlib.normal_form import Alternative, Interval, NormalForm, normal_form
from fathom.capture.vnnlib.parser import parse
from fathom.capture.vnnlib.source import read_text
from fathom.capture.vnnlib.tokens import Tokens
from fathom.core.errors import NotUnderstood

Clause = tuple[Row, ...]
"""Rows that all hold in a catastrophe; over the inputs too where a bound is strict. No rows: every input is one."""

Changes = tuple[tuple[Variable, Fraction, Fraction], ...]
"""Input, lower and upper, by ascending input."""


@dataclass(frozen=True)
class InputSet:
    """One closed box of inputs, given by where it differs from the property's `base`, and its catastrophes."""

    changes: Changes
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class Property:
    """`sets` are all the inputs that could satisfy the file; with none of them, no network does (`unsat`).

    Numbers are the decimals of the file, exact. An input that `base` leaves unbounded is bounded in every set.
    """

    name: str
    inputs: int
    outputs: int
    base: tuple[tuple[Fraction | None, Fraction | None], ...]  # lower and upper of every input
    sets: tuple[InputSet, ...]
    query: Query | None = None  # of VNN-LIB 2: what the flat inputs and outputs are

    def box(self, index: int) -> list[tuple[Fraction | None, Fraction | None]]:
        """Lower and upper of every input in one set; none is None."""
        box = list(self.base)
        for variable, lower, upper in self.sets[index].changes:
            box[variable] = (lower, upper)
        return box


def read_property(source: str | Path | bytes) -> Property:
    """A property of VNN-LIB 1 or 2 from a path or from a file's bytes, plain or gzipped.

    Raises:
        FathomError: the file cannot be read.
        NotUnderstood: it is no VNN-LIB, leaves an input unbounded, or has more alternatives than Fathom holds.
    """
    name, text = read_text(source)
    with _no_collector():
        tokens = Tokens.of(name, text)
        try:
            if tokens.version_2:
                return _query(name, text)
            inputs, outputs, formula = parse(tokens)
            return _property(name, inputs, outputs, normal_form(formula), name_of)
        except NotUnderstood as reason:
            if str(reason).startswith(f"{name}, line "):
                raise
            raise NotUnderstood(f"{name}: {reason}") from reason


def _query(name: str, text: str) -> Property:
    """A VNN-LIB 2 query; read twice where it says that variables are equal, so that they are one from the start."""
    from fathom.capture.vnnlib.query import parse_query

    query, formula = parse_query(name, text)
    form = normal_form(formula)
    columns, same = reduced(query, form.base.rows)
    if same:
        query, formula = parse_query(name, text, same)
        query, form = query._replace(columns=columns), normal_form(formula)
    outputs = query.outputs + len(query.monomials)
    return replace(_property(name, query.inputs, outputs, form, query.called), query=query)


@contextmanager
def _no_collector() -> Iterator[None]:
    """No search for reference cycles: reading makes none, and a hundred thousand small objects would double its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _property(name: str, inputs: int, outputs: int, form: NormalForm, called: Callable[[Variable], str]) -> Property:
    base = implied([form.base.bounds.get(i, Interval()) for i in range(inputs)], form.base.rows)
    alternatives = [] if any(interval.empty for interval in base) else form.alternatives
    groups: dict[Changes, dict[Clause, None]] = {}
    for changes, clause in _sets(base, form.base.rows, alternatives, called):
        groups.setdefault(changes, {})[clause] = None
    sets = tuple(InputSet(changes, tuple(clauses)) for changes, clauses in groups.items())
    return Property(name, inputs, outputs, tuple((i.lower, i.upper) for i in base), sets)


def _sets(
    base: list[Interval], shared: Clause, alternatives: list[Alternative], called: Callable[[Variable], str]
) -> Iterator[tuple[Changes, Clause]]:
    """What every alternative that is not empty changes of the base box, and its clause.

    Raises:
        NotUnderstood: an input has no bound.
    """
    unbounded = [i for i, interval in enumerate(base) if interval.lower is None or interval.upper is None]
    strict = {i: _strict_rows(i, interval) for i, interval in enumerate(base) if interval.lower_open or interval.upper_open}
    for alternative in alternatives:
        met = {i: base[i].meet(interval) for i, interval in sorted(alternative.bounds.items())}
        if any(interval.empty for interval in met.values()):
            continue
        changes = []
        rows = [*shared, *alternative.rows]
        for i, interval in met.items():
            lower, upper = _bounded(called, i, interval)
            if (lower, upper) != (base[i].lower, base[i].upper):
                changes.append((i, lower, upper))
            rows.extend(_strict_rows(i, interval))
        for i in unbounded:
            if i not in met:
                _bounded(called, i, base[i])
        rows.extend(row for i, kept in strict.items() if i not in met for row in kept)
        yield tuple(changes), tuple(dict.fromkeys(rows))


def _bounded(called: Callable[[Variable], str], variable: Variable, interval: Interval) -> tuple[Fraction, Fraction]:
    if interval.lower is None or interval.upper is None:
        way, symbol = ("lower", ">=") if interval.lower is None else ("upper", "<=")
        raise NotUnderstood(
            f"expected a lower and an upper bound for every input, got no {way} bound for {called(variable)}; "
            f"add (assert ({symbol} {called(variable)} ...))"
        )
    return interval.lower, interval.upper


def _strict_rows(variable: Variable, interval: Interval) -> list[Row]:
    """The strict ends of an interval as rows: the box is closed, so they would be lost."""
    rows = []
    if interval.lower_open and interval.lower is not None:
        rows.append(Row(((variable, Fraction(-1)),), interval.lower, strict=True))
    if interval.upper_open and interval.upper is not None:
        rows.append(Row(((variable, Fraction(1)),), -interval.upper, strict=True))
    return rows
