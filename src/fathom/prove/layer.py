"""Networks in which no neuron reads another: every neuron's input is an affine function of the network's, known for good."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.bounds.backward import Reach, backward
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.value import flat, map_tensors

MOST_WEIGHTS = 1 << 20  # of the neurons as functions of the input


def is_shallow(network: Network) -> bool:
    """Whether every nonlinear operator has a kink and reads an affine function of the input, and these are not too large."""
    bent: set[int] = set()
    weights = 0
    for i, node in enumerate(network.nodes):
        above = any(j in bent for j in node.inputs)
        if isinstance(node.operator, Nonlinear):
            if above or node.operator.kink is None:
                return False
            weights += math.prod(node.shape) * network.input_size
        if above or isinstance(node.operator, Nonlinear):
            bent.add(i)
    return 0 < weights <= MOST_WEIGHTS


@dataclass(frozen=True, eq=False)
class Lines:
    """The relaxation of all neurons on k leaves: the lower line for choices 0 and 1, and the upper one; [k, U] each."""

    slope0: Tensor
    offset0: Tensor
    slope1: Tensor
    offset1: Tensor
    above: Tensor
    offset: Tensor


class Layer:
    """The U neurons of such a network, all its bends' end to end, over n sets."""

    def __init__(self, network: Network, boxes: list[Box], reach: Reach) -> None:
        """`boxes` and `reach` of the sets, as `tighten` gives them."""
        self.network = network
        self.bends = [i for i, node in enumerate(network.nodes) if isinstance(node.operator, Nonlinear)]
        self.sizes = [math.prod(network.nodes[i].shape) for i in self.bends]
        self.kinks = torch.cat([torch.full((s,), self._kink(i)).double() for i, s in zip(self.bends, self.sizes, strict=True)])
        self.lower = self.columns([boxes[self.source(i)].lower for i in self.bends])  # [n, U]
        self.upper = self.columns([boxes[self.source(i)].upper for i in self.bends])
        self.a, self.low, self.high = self._functions(reach)
        self.middle = (self.low + self.high) / 2

    def _kink(self, i: int) -> float:
        operator = self.network.nodes[i].operator
        assert isinstance(operator, Nonlinear) and operator.kink is not None
        return operator.kink

    def source(self, i: int) -> int:
        """The node that bend i reads."""
        return self.network.nodes[i].inputs[0]

    def columns(self, parts: list[Tensor]) -> Tensor:
        """[k, U] from tensors [k, *shape] of each bend."""
        return torch.cat([flat(part, 1) for part in parts], 1)

    def spread(self, columns: Tensor) -> dict[int, Tensor]:
        """Tensors [k, *shape] of each bend from [k, U]."""
        parts = torch.split(columns, self.sizes, 1)
        return {i: part.reshape(-1, *self.network.nodes[i].shape) for i, part in zip(self.bends, parts, strict=True)}

    def boxes(self, lower: Tensor, upper: Tensor) -> list[Box]:
        """Boxes for the nodes that bends read, from ranges [k, U]; others are not to be read."""
        boxes = [Box(*[torch.empty(0)] * 2)] * len(self.network.nodes)
        lows, highs = self.spread(lower), self.spread(upper)
        for i in self.bends:
            boxes[self.source(i)] = Box(lows[i], highs[i])
        return boxes

    def agreed(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The same ranges [k, U] for neurons that read the same value."""
        sources = [self.source(i) for i in self.bends]
        if len(set(sources)) == len(sources):
            return lower, upper
        lows, highs = torch.split(lower, self.sizes, 1), torch.split(upper, self.sizes, 1)
        places = [[k for k, other in enumerate(sources) if other == source] for source in sources]
        return (
            torch.cat([torch.stack([lows[k] for k in same]).amax(0) for same in places], 1),
            torch.cat([torch.stack([highs[k] for k in same]).amin(0) for same in places], 1),
        )

    def _functions(self, reach: Reach) -> tuple[Tensor, Tensor, Tensor]:
        """a [U, d], low and high [U]: a x + low <= input <= a x + high for every neuron, over all sets, rigorous."""
        all_sets = map_tensors(reach, lambda t: t.amax(0, keepdim=True))
        rows, low, high = [], [], []
        for i, size in zip(self.bends, self.sizes, strict=True):
            eye = torch.eye(size, dtype=torch.float64).reshape(1, size, *self.network.nodes[i].shape)
            below = backward(self.network, [], all_sets, self.source(i), eye)
            above = backward(self.network, [], all_sets, self.source(i), -eye)
            rows.append(below.a[0])
            low.append(below.constant[0])
            high.append(-above.constant[0])
        return torch.cat(rows), torch.cat(low), torch.cat(high)

    def share(self) -> Tensor:
        """[n, U] the default choice: the side of the kink on which most of the range lies."""
        return (self.upper - self.kinks > self.kinks - self.lower).to(torch.float64)

    def rows(self, rows: Tensor, reach: Reach) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [n, R, m] over the output, as rows over the neurons [n, R, U], over the input [n, R, d] and constants; rounded."""
        boxes = self.boxes(self.lower, self.upper)
        bound = backward(self.network, boxes, reach, len(self.network.nodes) - 1, rows, keep=True)
        n, r = bound.constant.shape
        none = {i: torch.zeros(n, r, *self.network.nodes[i].shape, dtype=torch.float64) for i in self.bends}
        met = torch.cat([flat(bound.met.get(i, none[i]), 2) for i in self.bends], 2)
        lines = self.lines(self.lower, self.upper)
        slope = torch.where(met < 0, lines.above[:, None], between(lines.slope0, lines.slope1, self.share())[:, None])
        offset = torch.where(met < 0, lines.offset[:, None], between(lines.offset0, lines.offset1, self.share())[:, None])
        return met, bound.a - (met * slope) @ self.a, bound.constant - (met * (offset + slope * self.middle)).sum(2)

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """The relaxation on ranges [k, U]."""
        lows, highs = self.spread(lower), self.spread(upper)
        parts: list[list[Tensor]] = [[], [], [], [], [], []]
        for i in self.bends:
            operator, box = self.network.nodes[i].operator, Box(lows[i], highs[i])
            assert isinstance(operator, Nonlinear)
            zero, one = (operator.relax(box, choice=torch.full_like(box.lower, c)) for c in (0.0, 1.0))
            found = (zero.lower_slope[0], zero.lower_offset, one.lower_slope[0], one.lower_offset, one.upper_slope[0])
            for part, value in zip(parts, (*found, one.upper_offset), strict=True):
                part.append(value.expand(box.lower.shape))
        return Lines(*(self.columns(part) for part in parts))


def between(zero: Tensor, one: Tensor, share: Tensor) -> Tensor:
    """What lies at `share` of the way from zero to one."""
    return zero + share * (one - zero)
