"""From a property and a captured model to a problem: exact decimals become boxes and rows of float64."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from fathom.capture.captured import Captured
from fathom.capture.vnnlib.formula import Row
from fathom.capture.vnnlib.property import Clause, Property
from fathom.capture.vnnlib.rational import Rounding, down, exact_row, nearest, to_float, up
from fathom.core.errors import FathomError, NotUnderstood
from fathom.core.network import Port
from fathom.core.overseer import Severity
from fathom.core.problem import Problem
from fathom.core.spec import Spec
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.box import BoxRegion

MOST_NUMBERS = 1 << 28
"""Coefficients of all rows, zeros included: 2 GiB of them."""


def to_problem(property: Property, captured: Captured, *, severity: Severity = Severity.SERIOUS) -> Problem:
    """The property of this model, as one case: one set for each box of inputs.

    The three regions: `written` is the file's decimals rounded inward to float64, so that it holds exactly the floats that the
    decimals hold (it is empty where two decimals have no float between them); `deployed` is the decimals rounded, once, to the
    nearest number of the model's input type; `region` holds decimals and `deployed`.

    Raises:
        FathomError: the model has other numbers of inputs or outputs than the property.
        NotUnderstood: a number is out of range, or needs more digits than a float64 has; or the rows outgrow memory.
    """
    _check_sizes(property, captured)
    wide = torch.float64
    try:
        written = _boxes(property, (wide, up), (wide, down))
        deployed = _boxes(property, *[(captured.program.dtype, nearest)] * 2)
        region = _boxes(property, (wide, down), (wide, up)).hull(deployed)
        overseer = LinearRules(_spec(property), severity=severity)
    except NotUnderstood as reason:
        raise NotUnderstood(f"{property.name}: {reason}") from reason
    compiled = overseer.compile(captured.network)
    owner = torch.zeros(len(property.sets), dtype=torch.int64)
    return Problem(captured.program, compiled.network, written, deployed, region, overseer, compiled.spec, compiled.exact, owner)


def _check_sizes(property: Property, captured: Captured) -> None:
    def describe(ports: tuple[Port, ...]) -> str:
        return f"{sum(port.size for port in ports)} ({', '.join(f'{port.name} {list(port.shape)}' for port in ports)})"

    program = captured.program
    for word, mine, ports in (("X", property.inputs, program.inputs), ("Y", property.outputs, program.outputs)):
        if mine != sum(port.size for port in ports):
            raise FathomError(
                f"{property.name}: expected a property that declares as many {word} as this model has: {describe(ports)}, "
                f"got {mine}; is this the property of another model?"
            )


def _boxes(property: Property, lower: tuple[torch.dtype, Rounding], upper: tuple[torch.dtype, Rounding]) -> BoxRegion:
    """Boxes [n, d] with ends rounded as asked; float64 holds what they are rounded to."""
    return BoxRegion(_ends(property, 0, *lower), _ends(property, 1, *upper))


def _ends(property: Property, side: int, dtype: torch.dtype, rounding: Rounding) -> Tensor:
    """Lower (0) or upper (1) ends [n, d] of all sets."""
    shared = [0.0 if end is None else to_float(end, dtype, rounding) for end in (both[side] for both in property.base)]
    ends = torch.tensor(shared, dtype=torch.float64).repeat(len(property.sets), 1)
    changes = [(k, change) for k, each in enumerate(property.sets) for change in each.changes]
    if changes:
        place = torch.tensor([(k, change[0]) for k, change in changes])
        values = [to_float(change[1 + side], dtype, rounding) for _, change in changes]
        ends[place[:, 0], place[:, 1]] = torch.tensor(values, dtype=torch.float64)
    return ends


_ALWAYS = Row((), Fraction(0), strict=False)
"""0 <= 0: what a clause without rows says."""


def _spec(property: Property) -> Spec:
    """The clauses of all sets over y, or over [y, x] where a row is over inputs too. Equal ones are shared."""
    kinds: dict[tuple[Clause, ...], int] = {}
    of = torch.tensor([kinds.setdefault(each.clauses, len(kinds)) for each in property.sets], dtype=torch.int64)
    rows = [(number, row) for clauses in kinds for number, clause in enumerate(clauses) for row in clause or (_ALWAYS,)]
    counts = [sum(len(clause) or 1 for clause in clauses) for clauses in kinds]
    place = torch.tensor([(k, r) for k, count in enumerate(counts) for r in range(count)], dtype=torch.int64)
    place = place.reshape(-1, 2)
    over_inputs = any(variable >= 0 for _, row in rows for variable, _ in row.coefficients[-1:])  # ascending: Y before X
    columns = property.outputs + (property.inputs if over_inputs else 0)
    shape = (max(len(kinds), 1), max(counts, default=1))
    if math.prod(shape) * columns > MOST_NUMBERS:
        raise NotUnderstood(
            f"expected rows of at most {MOST_NUMBERS} numbers in all, got {shape[0]} sets x {shape[1]} rows x {columns} columns; "
            "split the property into several files, or write strict bounds on inputs as <= and >="
        )
    exact = [exact_row(row) for _, row in rows]
    entries = [(i, v, c) for i, (coefficients, _, _) in enumerate(exact) for v, c in coefficients]
    at = torch.tensor([(i, ~v if v < 0 else property.outputs + v) for i, v, _ in entries], dtype=torch.int64).reshape(-1, 2)
    matrix = torch.zeros(*shape, columns, dtype=torch.float64)
    matrix[*place[at[:, 0]].unbind(1), at[:, 1]] = torch.tensor([c for _, _, c in entries], dtype=torch.float64)

    def spread(values: list[float], padding: float) -> Tensor:
        padded = torch.full(shape, padding, dtype=torch.float64)
        padded[*place.unbind(1)] = torch.tensor(values, dtype=torch.float64)
        return padded

    return Spec.make(
        matrix,
        offsets=spread([offset for _, offset, _ in exact], 0.0),
        clause=spread([number for number, _ in rows], -1.0),
        of=of,
        strict=spread([row.strict for _, row in rows], 0.0),
        blur=spread([blur for _, _, blur in exact], 0.0),
    )
