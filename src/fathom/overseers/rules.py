"""Rules that are often wanted, as linear rules: thresholds, ranges, orders. A failure is that what a rule says does not hold.

An output exactly at a limit, or equal to one it should be above, is a failure: margins of 0 are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from fathom.core.checks import check_number, check_whole
from fathom.core.errors import FathomError
from fathom.overseers.linear_rules import LinearRules


def below(limit: float, *, output: int = 0, outputs: int = 1, sets: int = 1) -> LinearRules:
    """y[output] < limit: a fraud score that must stay low. margin = limit - y[output]; exact."""
    return LinearRules.make(-_unit(output, outputs), [check_number("limit", limit)], sets=sets)


def above(limit: float, *, output: int = 0, outputs: int = 1, sets: int = 1) -> LinearRules:
    """y[output] > limit. margin = y[output] - limit; exact."""
    return LinearRules.make(_unit(output, outputs), [-check_number("limit", limit)], sets=sets)


def between(lower: float, upper: float, *, output: int = 0, outputs: int = 1, sets: int = 1) -> LinearRules:
    """lower < y[output] < upper. margin = the distance to the nearer limit; exact.

    Raises:
        FathomError: limits with nothing between them.
    """
    lower, upper = check_number("lower", lower), check_number("upper", upper)
    if lower >= upper:
        raise FathomError(f"expected lower < upper, got {lower:g} and {upper:g}, between which there is nothing")
    unit = _unit(output, outputs)
    return LinearRules.make(torch.cat([unit, -unit]), [-lower, upper], sets=sets)


def ordered(order: Sequence[int], *, outputs: int, sets: int = 1) -> LinearRules:
    """y[order[0]] > y[order[1]] > ...: a price that falls with the quantity, quantiles that do not cross. exact.

    margin = the least difference of neighbours.

    Raises:
        FathomError: fewer than two outputs to order, one that there is not, or one given twice.
    """
    order = [check_whole("order", output) for output in order]
    if len(order) < 2 or len(set(order)) < len(order):
        raise FathomError(f"expected at least two different outputs to order, got {list(order)}")
    rows = [_unit(high, outputs) - _unit(low, outputs) for high, low in itertools.pairwise(order)]
    return LinearRules.make(torch.cat(rows), [0.0] * len(rows), sets=sets)


def _unit(output: int, outputs: int) -> torch.Tensor:
    if check_whole("output", output) >= check_whole("outputs", outputs):
        raise FathomError(f"expected an output in 0 .. {outputs - 1}, got {output}; say how many there are by outputs=...")
    return torch.eye(outputs, dtype=torch.float64)[output : output + 1]
