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
    """[n, R, d] where the default relaxation of each row alone is least, so many sets at a time."""
    parts = []
    for k in torch.split(torch.arange(len(region)), batch):
        inner = [box.take(k) for box in boxes]
        parts.append(bound_margins(network, region.take(k), spec.take(k), inner, reach.take(k)).minimisers)
    return torch.cat(parts)


def with_offsets(spec: Spec, values: Tensor) -> Tensor:
    """Rigorous lower bounds [n, R] on the rows of a spec from those on their products with the output."""
    return down(down(values + spec.offsets[spec.of]) - spec.blur[spec.of])
