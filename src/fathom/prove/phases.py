"""The leaves of a search over phases, and what is known inside the network on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.bounds.backward import LinearBound, Reach, Split, backward
from fathom.bounds.dual import Sketch
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.region import Region
from fathom.core.rounding import down, gamma
from fathom.core.spec import Spec
from fathom.core.value import flat, join, take
from fathom.ops.layout import Reshape
from fathom.prove.record import LEVELS


@dataclass(frozen=True, eq=False)
class Phases:
    """k open leaves. Columns are the loose neurons of the network: those that the root's bounds leave open for some set."""

    owner: Tensor  # [k]
    margin: Tensor  # [k] rigorous
    promise: Tensor  # [k] the bound as the search estimates it
    point: Tensor  # [k, d] float32
    clause: Tensor  # [k] the clause of the owner's spec that each leaf is about
    weight: Tensor  # [k, R] of the clause's rows: >= 0, adding up to 1
    inside: Tensor  # [k] where the leaf's bounds of the inside of the network are
    depth: Tensor  # [k] splits above it
    sign: Tensor  # [k, U] int8: -1 below the kink, 1 above, 0 open
    choice: Tensor  # [k, U] uint8: slopes, in steps of 1 / 255
    multiplier: Tensor  # [k, U] float32, >= 0
    node: Tensor  # [k] its number in the record
    next: Tensor  # [k, C] columns worth splitting, the best first; -1 for none
    means: Tensor  # [k, 4, U] bfloat16: what ascent on the leaf's children starts with

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: Tensor) -> Phases:
        return take(self, index)

    def join(self, other: Phases) -> Phases:
        return join(self, other)

    def bytes(self) -> int:
        return 14 * self.sign.shape[1] + 4 * self.point.shape[1] + 8 * (self.weight.shape[1] + self.next.shape[1]) + 56


@dataclass(eq=False)
class Inside:
    """Bounds of the inside of the network: for every set, and for its loose neurons wherever they are known better."""

    network: Network  # float64
    spec: Spec
    region: Region  # of the sets searched
    boxes: Sequence[Box]  # [sets, *shape] for every node
    reach: Reach
    sketch: Sketch
    kinks: Mapping[int, float]
    lower: Tensor  # [P, U] float64
    upper: Tensor  # [P, U]

    @property
    def neuron(self) -> Tensor:
        """[U] the places of the loose neurons among all."""
        starts, total = [], 0
        for i, bend in self.sketch.bends.items():
            starts.append(bend.at + total)
            total += math.prod(self.network.nodes[i].shape)
        return torch.cat(starts)

    def clipped(self, leaves: Phases) -> tuple[Tensor, Tensor, Tensor]:
        """Bounds [k, U] cut at the kinks of split neurons, and [k] whether a cut leaves nothing: no input gets there."""
        kinks, sign = self.sketch.kinks().to(torch.float64), leaves.sign
        lower, upper = self.lower[leaves.inside], self.upper[leaves.inside]
        lower = torch.where(sign > 0, torch.maximum(lower, kinks), lower)
        upper = torch.where(sign < 0, torch.minimum(upper, kinks), upper)
        empty = (lower > upper).any(1)
        # An empty leaf keeps a box that is one, so that its arithmetic stays finite.
        return torch.minimum(lower, upper), torch.maximum(lower, upper), empty

    def open(self, leaves: Phases) -> Tensor:
        """[k, U] the neurons whose phase is neither split nor settled by bounds."""
        kinks = self.sketch.kinks()
        return (leaves.sign == 0) & (self.lower[leaves.inside] < kinks) & (self.upper[leaves.inside] > kinks)

    def full(self, place: Tensor, lower: Tensor, upper: Tensor) -> list[Box]:
        """Boxes for the inputs of bends: those of the sets `place` [k], within [lower, upper]. Others are not to be read."""
        boxes = [box.take(place[:1]) for box in self.boxes]
        done: set[int] = set()
        for i, bend in self.sketch.bends.items():
            j = self.network.nodes[i].inputs[0]
            if j not in done:
                boxes[j] = self.boxes[j].take(place)
                done.add(j)
            low, high = flat(boxes[j].lower, 1), flat(boxes[j].upper, 1)
            low[:, bend.at] = torch.maximum(low[:, bend.at], lower[:, bend.columns])
            high[:, bend.at] = torch.minimum(high[:, bend.at], upper[:, bend.columns])
            # Two bends of one value may be split to either side of a gap, where no input gets: any box will do there.
            boxes[j] = Box(torch.minimum(low, high).reshape(boxes[j].lower.shape), high.reshape(boxes[j].lower.shape))
        return boxes

    @torch.no_grad()
    def prove(self, leaves: Phases, place: Tensor) -> tuple[Tensor, Tensor]:
        """Rigorous margins [k] of leaves at their choices, and minimisers [k, d]; `place`: [k] the set of each."""
        if not len(leaves):
            return leaves.margin, leaves.point.to(torch.float64)
        lower, upper, empty = self.clipped(leaves)
        boxes, reach = self.full(place, lower, upper), self.reach.take(place)
        spec, weight = self.spec.of[leaves.owner], leaves.weight
        # Weights that add up to 1 but for rounding bound a weighted mean; divided by their sum's upper bound they are one.
        share = weight / weight.sum(1, keepdim=True)
        rows = (share[:, :, None] * self.spec.rows[spec]).sum(1)
        signs, multipliers = self.sketch.spread(leaves.sign), self.sketch.spread(leaves.multiplier)
        splits = {i: Split(sign, multipliers[i]) for i, sign in signs.items() if bool(sign.any())}
        choices = {i: c[:, None] for i, c in self.sketch.spread(leaves.choice.to(torch.float64) / LEVELS).items()}
        end = len(self.network.nodes) - 1
        bound = backward(self.network, boxes, reach, end, rows[:, None], choices, splits)
        values, points = bound.minimise(self.region.take(place))
        offset = (share * (self.spec.offsets[spec] - self.spec.blur[spec])).sum(1)
        size = (share * (self.spec.offsets[spec].abs() + self.spec.blur[spec])).sum(1)
        output = flat(reach.value[end], 1)
        size = size + ((share[:, :, None] * self.spec.rows[spec].abs()).sum(1) * output).sum(1)
        loss = gamma(share.shape[1] + 8, torch.float64) * size
        margin = down(down(values[:, 0] + offset) - loss)
        return torch.where(empty, torch.inf, margin), points[:, 0]

    def side(self, leaf: Phases, boxes: list[Box], reach: Reach, i: int) -> LinearBound:
        """sign * (input - kink) for every split neuron of node i, as affine functions of x; exact, but for rounding, on a leaf
        without open neurons."""
        j, bend = self.network.nodes[i].inputs[0], self.sketch.bends[i]
        sign = leaf.sign[0, bend.columns]
        mine = sign.nonzero()[:, 0]
        at, sign = bend.at[mine], sign[mine].to(torch.float64)
        shape = self.network.nodes[j].shape
        rows = torch.zeros(1, len(at), flat(self.boxes[j].lower[:1], 1).shape[1], dtype=torch.float64)
        rows[0, torch.arange(len(at)), at] = sign
        side = backward(self.network, boxes, reach, j, rows.reshape(1, len(at), *shape))
        return LinearBound(side.a, side.constant - self.kinks[i] * sign)


def kinked(network: Network) -> dict[int, float]:
    """The kink of every nonlinear node of a network that can be split by phases."""
    found = {}
    for i, node in enumerate(network.nodes):
        if isinstance(node.operator, Nonlinear):
            assert node.operator.kink is not None
            found[i] = node.operator.kink
    return found


def readers(network: Network) -> dict[int, list[int]]:
    """For each node whose elements are, in their order, what nonlinear nodes read: those nodes."""
    found: dict[int, list[int]] = {}
    for i in kinked(network):
        j = network.nodes[i].inputs[0]
        found.setdefault(j, []).append(i)
        while isinstance(network.nodes[j].operator, Reshape):
            j = network.nodes[j].inputs[0]
            found.setdefault(j, []).append(i)
    return found
