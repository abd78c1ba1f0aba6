"""What the conjunction that every alternative shares says of inputs: that some are equal, and bounds of some by others.

Two networks on one input are written as two inputs and equations between them. Searched as they are written, the equations hold
nowhere but on a set without volume: no attack would ever meet it, and no proof by boxes end. So equal inputs are made one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from fathom.capture.vnnlib.declarations import Query
from fathom.capture.vnnlib.formula import Row, Variable
from fathom.capture.vnnlib.normal_form import Interval


def reduced(query: Query, rows: Iterable[Row]) -> tuple[tuple[Variable, ...], dict[Variable, Variable]]:
    """The columns of a query (see `Query`) in which inputs that `rows` make equal are one, and what is called otherwise now.

    An input that equals an output of an earlier network is that output: the networks are run one after the other.
    """
    equal = _equations(query, rows)
    if not equal:
        return query.columns, {}
    root: dict[Variable, Variable] = {}  # of every input, the least that equals it

    def find(v: Variable) -> Variable:
        while root.get(v, v) != v:
            v = root[v]
        return v

    for v, w in equal:
        if v >= 0:
            a, b = sorted((find(v), find(w)))
            root[b] = a
    owner = [k for k, network in enumerate(query.networks) for tensor in network.inputs for _ in range(tensor.size)]
    maker = [k for k, network in enumerate(query.networks) for t in (*network.outputs, *network.hidden) for _ in range(t.size)]
    first: dict[Variable, int] = {}  # of every class of inputs, the first network that needs it
    for v in range(len(owner)):
        first[find(v)] = min(first.get(find(v), owner[v]), owner[v])
    fed: dict[Variable, Variable] = {}
    for v, w in equal:
        if v < 0 and maker[~v] < first[find(w)]:
            fed.setdefault(find(w), v)
    numbers: dict[Variable, int] = {}
    columns = []
    for v in range(len(owner)):
        kept = find(v)
        columns.append(fed[kept] if kept in fed else numbers.setdefault(kept, len(numbers)))
    return tuple(columns), {v: column for v, column in enumerate(columns) if v != column}


def _equations(query: Query, rows: Iterable[Row]) -> list[tuple[Variable, Variable]]:
    """Pairs v < w of which rows say v <= w and v >= w; w is an input, v another, or an output."""
    most = {(False, True), (True, False)}
    seen: dict[tuple[Variable, Variable], set[tuple[bool, bool]]] = {}
    for row in rows:
        if len(row.coefficients) == 2 and row.constant == 0 and not row.strict:
            (v, a), (w, b) = row.coefficients
            if a == -b and w >= 0 and ~v < query.outputs:
                seen.setdefault((v, w), set()).add((a > 0, b > 0))
    return [pair for pair, ways in seen.items() if ways == most]


def implied(base: list[Interval], rows: Sequence[Row]) -> list[Interval]:
    """The intervals of all inputs, where an end that is missing follows from rows over inputs and from the ends of others."""
    missing = {v for v, interval in enumerate(base) if interval.lower is None or interval.upper is None}
    useful = [
        row for row in rows if row.coefficients and row.coefficients[0][0] >= 0 and any(v in missing for v, _ in row.coefficients)
    ]
    found = list(base)
    while missing:
        changed = False
        for row in useful:
            for v, c in row.coefficients:
                if v not in missing or (found[v].upper if c > 0 else found[v].lower) is not None:
                    continue
                rest = _least(found, row, v)
                if rest is not None:
                    end = -rest / c
                    found[v] = found[v].meet(Interval(upper=end) if c > 0 else Interval(lower=end))
                    changed = True
        missing = {v for v in missing if found[v].lower is None or found[v].upper is None}
        if not changed:
            break
    return found


def _least(found: list[Interval], row: Row, but: Variable) -> Fraction | None:
    """The least value of a row without the term of one variable; None where there is none."""
    least = row.constant
    for v, c in row.coefficients:
        if v == but:
            continue
        end = found[v].lower if c > 0 else found[v].upper
        if end is None:
            return None
        least += c * end
    return least
