"""Boxes for the inside of a network with the slopes of every row optimised: alpha-CROWN for the neurons themselves.

Layer after layer, each bound of an open element is a problem of its own: its slopes over all earlier neurons are found
in float32, and one rigorous pass makes them a bound. What was chosen is kept, so that a second program can recompute the boxes.

Reference: Xu et al., Fast and complete: enabling complete verification with rapid and massively parallel incomplete verifiers,
ICLR 2021 (optimised slopes of intermediate bounds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.bounds.backward import Reach, backward
from fathom.bounds.choices import Dual
from fathom.bounds.dual import FRESH, Sketch
from fathom.bounds.intermediate import WORKING_COPIES, never, tighten, unstable
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.region import Region
from fathom.core.rounding import down, up
from fathom.core.value import flat
from fathom.ops.dense import Dense
from fathom.ops.sparse import Sparse

LEVELS = 255  # a slope is a whole number of steps of one part in so many
STEPS = 10
ROW_FLOATS = 1 << 20  # of one tensor at a time: so many stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Slopes:
    """What the bounds of m elements of one node rest on. Columns are the loose neurons of all earlier bends."""

    node: int
    place: Tensor  # [m] the set
    element: Tensor  # [m] of the node's flattened value
    lower: Tensor  # [m, U] uint8: slopes for the element's lower bound
    upper: Tensor  # [m, U] uint8: for its upper bound


@dataclass(frozen=True, eq=False)
class Sharp:
    """The inside of a network."""

    boxes: list[Box]
    reach: Reach
    sketch: Sketch
    slopes: tuple[Slopes, ...]  # in the order in which the boxes were made


def sharpen(
    network: Network,
    region: Region,
    known: Mapping[int, Box] | None = None,
    reach: Reach | None = None,
    *,
    steps: int = STEPS,
    memory: int = 1 << 30,
    late: Callable[[], bool] = never,
) -> Sharp:
    """A box [n, *shape] for the value of every node, whose nonlinear operators all have kinks, over the n sets of a region.

    Args:
        network: float64, frozen.
        known, reach: as for `tighten`.
        steps: of ascent in the slopes of each row; 0 keeps the default slopes.
        memory: bytes of working tensors.
        late: asked between pieces; once it says so, what is left keeps its intervals.
    """
    sharpener = _Sharpener(network, region, steps, memory, late)
    boxes, reach = tighten(network, region, known, reach, memory, late, sharpener.bound)
    sharpener.grow(boxes, len(network.nodes))
    sharpener.sketch.charge(reach.program)
    return Sharp(boxes, reach, sharpener.sketch, tuple(sharpener.slopes))


class _Sharpener:
    """What `tighten` asks for the box of a node."""

    def __init__(self, network: Network, region: Region, steps: int, memory: int, late: Callable[[], bool]) -> None:
        self.network, self.region, self.steps, self.memory, self.late = network, region, steps, memory, late
        self.sketch = Sketch(network, region)
        self.slopes: list[Slopes] = []
        self.inputs: dict[int, Box] = {}

    def grow(self, boxes: Sequence[Box], end: int) -> None:
        """Let the sketch know of the bends before node `end`."""
        for i, node in enumerate(self.network.nodes[:end]):
            if isinstance(node.operator, Nonlinear) and i not in self.inputs:
                self.inputs[i] = boxes[node.inputs[0]]
                self.sketch.add(i, self.inputs[i])

    @torch.no_grad()
    def bound(self, boxes: Sequence[Box], reach: Reach, at: int, kinks: Sequence[float | None]) -> Box:
        """The box of node `at`, given those of the nodes before, and by intervals its own."""
        self.grow(boxes, at)
        box = boxes[at]
        lower, upper = flat(box.lower, 1).clone(), flat(box.upper, 1).clone()
        place, element = flat(unstable(box, kinks), 1).nonzero().T
        kink = next((k for k in kinks if k is not None), 0.0)
        rows = _Rows(self, boxes, reach, at, kink)
        chosen: list[Tensor] = []
        for part in torch.split(torch.arange(len(place)), rows.count):
            if self.late():
                break
            mine = (place[part], element[part])
            low, high = rows.estimate(*mine)
            still = ~(low > 0) & ~(high > 0) & bool(self.steps and self.sketch.size)
            settled, opened = (~still).nonzero()[:, 0], still.nonzero()[:, 0]
            rows.tighten(lower, upper, mine[0][settled], mine[1][settled], None)
            chosen.append(part[opened])
        opened = torch.cat(chosen) if chosen else torch.arange(0)
        for part in torch.split(opened, rows.count):
            if not len(part) or self.late():
                break
            slopes = rows.choose(place[part], element[part], self.steps)
            rows.tighten(lower, upper, place[part], element[part], slopes)
            self.slopes.append(slopes)
        return Box(lower.reshape(box.lower.shape), upper.reshape(box.upper.shape))


class _Rows:
    """Bounds of single elements of one node: for each a row for its lower bound and one for its upper."""

    def __init__(self, parent: _Sharpener, boxes: Sequence[Box], reach: Reach, at: int, kink: float) -> None:
        self.parent, self.boxes, self.reach, self.at, self.kink = parent, boxes, reach, at, kink
        self.network, self.sketch, self.region = parent.network, parent.sketch, parent.region
        widest = max(math.prod(node.shape) for node in self.network.nodes[: at + 1])
        per_element = 2 * widest * 8 * WORKING_COPIES
        self.count = max(1, min(ROW_FLOATS // (2 * widest), parent.memory // per_element))
        self.low_end, self.high_end = self.sketch.gather(parent.inputs)

    def _rows(self, element: Tensor) -> tuple[Tensor, int, Tensor]:
        """Rows [m, *shape] over the value of a node, that node, and what is to be added: the elements' own values."""
        node, operator = self.network.nodes[self.at], self.network.nodes[self.at].operator
        if isinstance(operator, Dense | Sparse) and len(node.shape) == 1:
            rows = operator.rows(element)
            shift = rows.new_zeros(len(element)) if operator.shift is None else operator.shift[element]
            return rows, node.inputs[0], shift
        rows = torch.zeros(len(element), math.prod(node.shape), dtype=torch.float64).scatter_(1, element[:, None], 1.0)
        return rows.reshape(-1, *node.shape), self.at, rows.new_zeros(len(element))

    def _dual(self, place: Tensor, element: Tensor) -> tuple[int, Dual]:
        """Sub-problems [2m]: how far each element is above the kink at least, then how far below."""
        rows, start, shift = self._rows(element)
        offset = torch.cat([shift - self.kink, self.kink - shift])[:, None].float()
        both = torch.cat([rows, -rows])[:, None].float()
        place = place.repeat(2)
        lower, upper = self.low_end[place].float(), self.high_end[place].float()
        none = torch.zeros_like(lower)
        middle = self.sketch.kinks()
        choice = (upper - middle > middle - lower).float()
        one = torch.ones_like(offset)
        return start, Dual(place, both, offset, one, lower, upper, none, choice, none, one)

    def estimate(self, place: Tensor, element: Tensor) -> tuple[Tensor, Tensor]:
        """How far elements [m] are above the kink at least, and how far below, by default slopes; not rigorous."""
        if not self.parent.steps:
            return torch.zeros(len(place)), torch.zeros(len(place))
        start, dual = self._dual(place, element)
        low, high = self.sketch.ascend(start, dual, 0).bound.chunk(2)
        return low, high

    def choose(self, place: Tensor, element: Tensor, steps: int) -> Slopes:
        """Slopes for the bounds of elements [m]."""
        start, dual = self._dual(place, element)
        found = self.sketch.ascend(start, dual, steps, momentum=FRESH)
        lower, upper = (found.choice * LEVELS).round().to(torch.uint8).chunk(2)
        return Slopes(self.at, place, element, lower, upper)

    def tighten(self, lower: Tensor, upper: Tensor, place: Tensor, element: Tensor, slopes: Slopes | None) -> None:
        """Intersect the bounds [n, elements] in place with rigorous ones of elements [m]; without slopes, by default ones."""
        if not len(element):
            return
        rows, start, shift = self._rows(element)
        both, twice = torch.cat([rows, -rows]), place.repeat(2)
        columns = None if slopes is None else torch.cat([slopes.lower, slopes.upper]).to(torch.float64) / LEVELS
        if len(self.region) == 1:  # rows of one set share its boxes
            choices = {} if columns is None else {i: c[None] for i, c in self.sketch.spread(columns).items()}
            bound = backward(self.network, self.boxes, self.reach, start, both[None], choices)
            values = bound.minimise(self.region)[0][0]
        else:
            choices = {} if columns is None else {i: c[:, None] for i, c in self.sketch.spread(columns).items()}
            boxes = [box.take(twice) for box in self.boxes]
            bound = backward(self.network, boxes, self.reach.take(twice), start, both[:, None], choices)
            values = bound.minimise(self.region.take(twice))[0][:, 0]
        low, high = values.chunk(2)
        low, high = down(low + shift), -down(high - shift)
        off = self.reach.program[self.at] if start != self.at else None
        if off is not None:
            mine = flat(off, 1)[place if len(off) > 1 else 0, element]
            low, high = down(low - mine), up(high + mine)
        lower[place, element] = torch.maximum(lower[place, element], low)
        upper[place, element] = torch.minimum(upper[place, element], high)
