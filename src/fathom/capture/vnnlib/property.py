"""A property: the inputs that are asked about, as boxes, and for each what would be a catastrophe."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from fathom.capture.vnnlib.formula import Row, Variable
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

    def box(self, index: int) -> list[tuple[Fraction | None, Fraction | None]]:
        """Lower and upper of every input in one set; none is None."""
        box = list(self.base)
        for variable, lower, upper in self.sets[index].changes:
            box[variable] = (lower, upper)
        return box


def read_property(source: str | Path | bytes) -> Property:
    """A VNN-LIB 1 property from a path or from a file's bytes, plain or gzipped.

    Raises:
        FathomError: the file cannot be read.
        NotUnderstood: it is no VNN-LIB 1, leaves an input unbounded, or has more alternatives than Fathom holds.
    """
    name, text = read_text(source)
    with _no_collector():
        inputs, outputs, formula = parse(Tokens.of(name, text))
        try:
            return _property(name, inputs, outputs, normal_form(formula))
        except NotUnderstood as reason:
            raise NotUnderstood(f"{name}: {reason}") from reason


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


def _property(name: str, inputs: int, outputs: int, form: NormalForm) -> Property:
    base = [form.base.bounds.get(i, Interval()) for i in range(inputs)]
    alternatives = [] if any(interval.empty for interval in base) else form.alternatives
    groups: dict[Changes, dict[Clause, None]] = {}
    for changes, clause in _sets(base, form.base.rows, alternatives):
        groups.setdefault(changes, {})[clause] = None
    sets = tuple(InputSet(changes, tuple(clauses)) for changes, clauses in groups.items())
    return Property(name, inputs, outputs, tuple((i.lower, i.upper) for i in base), sets)


def _sets(base: list[Interval], shared: Clause, alternatives: list[Alternative]) -> Iterator[tuple[Changes, Clause]]:
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
            lower, upper = _bounded(i, interval)
            if (lower, upper) != (base[i].lower, base[i].upper):
                changes.append((i, lower, upper))
            rows.extend(_strict_rows(i, interval))
        for i in unbounded:
            if i not in met:
                _bounded(i, base[i])
        rows.extend(row for i, kept in strict.items() if i not in met for row in kept)
        yield tuple(changes), tuple(dict.fromkeys(rows))


def _bounded(variable: Variable, interval: Interval) -> tuple[Fraction, Fraction]:
    if interval.lower is None or interval.upper is None:
        way, symbol = ("lower", ">=") if interval.lower is None else ("upper", "<=")
        raise NotUnderstood(
            f"expected a lower and an upper bound for every input, got no {way} bound for X_{variable}; "
            f"add (assert ({symbol} X_{variable} ...))"
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
