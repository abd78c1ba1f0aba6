"""From the inside of a network to margins: the last backward pass, over the rows of the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.bounds.backward import LinearBound, Reach, Split, backward
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.region import Region
from fathom.core.rounding import down
from fathom.core.spec import Spec

MOST_POINTS = 64
"""Minimisers of a set that are looked at, where its spec has more rows."""


@dataclass(frozen=True, eq=False)
class Margins:
    """Rigorous lower bounds on the rows of a spec, and on its margins, over n sets."""

    rows: Tensor  # [n, R]
    margin: Tensor  # [n]
    minimisers: Tensor  # [n, R, d]: where each row's relaxation is least
    bound: LinearBound


def bound_margins(
    network: Network,
    region: Region,
    spec: Spec,
    boxes: Sequence[Box],
    reach: Reach,
    choices: Mapping[int, Tensor] | None = None,
    splits: Mapping[int, Split] | None = None,
    *,
    keep: bool = False,
) -> Margins:
    """Lower bounds on the rows of a spec, given boxes for every node; differentiable."""
    rows = spec.rows.to(boxes[0].lower.dtype)[spec.of]
    bound = backward(network, boxes, reach, len(network.nodes) - 1, rows, choices, splits, keep=keep)
    values, minimisers = bound.minimise(region)
    values = with_offsets(spec, values)
    return Margins(values, spec.combine(values), minimisers, bound)


def row_minimisers(network: Network, region: Region, spec: Spec, boxes: Sequence[Box], reach: Reach, batch: int) -> Tensor:
    """[n, r, d] where the default relaxation of rows alone is least, so many sets at a time; see `promising`."""
    parts = []
    for k in torch.split(torch.arange(len(region)), batch):
        inner = [box.take(k) for box in boxes]
        margins = bound_margins(network, region.take(k), spec.take(k), inner, reach.take(k))
        parts.append(promising(spec.take(k), margins.rows, margins.minimisers))
    return torch.cat(parts)


def each_row(spec: Spec) -> tuple[Spec, Tensor]:
    """Rows to bound, and which [n, R] of them each row is: where there are many, each once."""
    rows, place = spec.distinct() if spec.rows.shape[1] > MOST_POINTS else (spec, torch.arange(spec.rows.shape[1])[None])
    return rows, place[spec.of] if len(place) > 1 else place.expand(len(spec), -1)


def promising(spec: Spec, rows: Tensor, minimisers: Tensor, place: Tensor | None = None) -> Tensor:
    """Of the rows' minimisers [n, U, d] all, or where there are more than `MOST_POINTS` rows, those [n, r, d] of the rows that
    decide the least clauses: looking at each costs as many values as there are rows.

    Args:
        rows: [n, R] the bounds of the rows.
        place: [n, R] which minimiser is a row's; without, they are in the same order.
    """
    if rows.shape[1] <= MOST_POINTS:
        return minimisers
    clause = spec.clause[spec.of]
    value = spec.clauses(rows).gather(1, clause.clamp(min=0))
    decisive = torch.where((clause >= 0) & (rows == value), value, torch.inf)
    chosen = decisive.topk(MOST_POINTS, dim=1, largest=False).indices
    chosen = chosen if place is None else place.gather(1, chosen)
    return minimisers[torch.arange(len(rows))[:, None], chosen]


def with_offsets(spec: Spec, values: Tensor) -> Tensor:
    """Rigorous lower bounds [n, R] on the rows of a spec from those on their products with the output."""
    return down(down(values + spec.offsets[spec.of]) - spec.blur[spec.of])
