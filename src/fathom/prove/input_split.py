"""Branch and bound on the inputs: boxes are bounded, filtered, clipped and halved, thousands at a time.

The right search where few inputs vary: relaxations shrink with the box, so every leaf is decided in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.bounds.affine import lean_passes
from fathom.bounds.backward import Reach
from fathom.bounds.clipping import clip
from fathom.bounds.intermediate import bends, never, tighten, unstable
from fathom.bounds.margins import MOST_POINTS, bound_margins, promising
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.spec import Spec
from fathom.core.value import flat, join, take
from fathom.prove.lean import lean
from fathom.prove.record import BOX, CLIP, TIGHTEN, Record, off
from fathom.prove.work import batch

MOST_BOXES = 1024  # at once
HIDDEN_SLOPE = 0.1  # of the steepest input's; without it a search on ACAS Xu needs up to ten times the boxes
LEAST = torch.finfo(torch.float64).tiny
"""The lower bound of a margin that is only known to be positive."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """k open boxes, and what their halves inherit."""

    owner: Tensor  # [k]
    margin: Tensor  # [k]
    point: Tensor  # [k, d]
    box: Box  # [k, d]
    axis: Tensor  # [k] the input to halve next
    inside: tuple[Box, ...]  # for each node that bends, a box that holds its value
    node: Tensor  # [k] its number in the record

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def promise(self) -> Tensor:
        return self.margin

    def take(self, index: Tensor) -> Boxes:
        return take(self, index)

    def join(self, other: Boxes) -> Boxes:
        return join(self, other)

    def bytes(self) -> int:
        return 16 * sum(box.lower[:1].numel() for box in self.inside) + 24 * self.box.lower.shape[1] + 48


class InputTree:
    """Splitting a problem's sets along their inputs."""

    def __init__(
        self,
        problem: Problem,
        memory: int,
        *,
        clip: bool,
        late: Callable[[], bool] = never,
        record: Record | None = None,
        forms: bool | None = None,
    ) -> None:
        """`late`: asked in long steps; once it says so, bounds stay as they are. `forms`: whether lean forms bound the inside; by
        default as `prove.lean` finds."""
        assert problem.network is not None and problem.spec is not None
        self.problem = problem
        self.spec: Spec = problem.spec
        self.network: Network = problem.network.freeze(torch.float64)
        self.bending = tuple(sorted(i for i in bends(self.network) if i))
        self.memory = memory
        self.late = late
        self.clip = clip
        self.record = record or off()
        # Certificates have no words for forms.
        self.lean = not self.record.on and (lean(problem, memory) if forms is None else forms)
        self.flags = TIGHTEN | (CLIP if clip else 0)
        self.batch = MOST_BOXES
        self.starts = torch.zeros(0, 1, problem.region.size)
        self.reach: Reach | None = None  # of the sets that `root` was asked for
        self.place = torch.full((len(problem),), -1)  # of a set among those

    def root(self, sets: Tensor) -> Boxes:
        box = self.problem.region.box().take(sets)
        region = self.problem.region.restrict(sets, box.lower, box.upper)
        boxes, self.reach = tighten(self.network, region, memory=self.memory, late=self.late, lean=self.lean)
        self.place[sets] = torch.arange(len(sets))
        self.batch = batch(self.network, self._rows(boxes, box), self.memory, MOST_BOXES)
        return self._judged(sets, box, region, (boxes, self.reach), None, self.record.plant(sets, self.flags))

    def _rows(self, boxes: list[Box], box: Box) -> dict[int, float]:
        """Per node, how many rows a half of the sets will send back from there, in the worst case."""
        if self.lean:
            varying = int((box.lower < box.upper).any(0).sum())
            return {len(self.network.nodes) - 1: float(lean_passes(varying) + self.spec.rows.shape[1])}
        # Every unstable element sends two rows back; halves of the sets will have fewer of them, say half as many.
        rows = {i: flat(unstable(boxes[i], kinks), 1).sum(1).max().item() for i, kinks in bends(self.network).items() if i}
        asked = self.spec.rows.shape[1]
        return rows if asked <= MOST_POINTS else rows | {len(self.network.nodes) - 1: float(asked)}

    def split(self, leaves: Boxes) -> tuple[Boxes, Boxes]:
        """Halves along each leaf's axis."""
        pick = torch.arange(len(leaves))
        middle = leaves.box.middle[pick, leaves.axis]
        low, high = leaves.box.lower[pick, leaves.axis], leaves.box.upper[pick, leaves.axis]
        whole = (middle <= low) | (middle >= high)
        keep = (~whole).nonzero()[:, 0]
        parents = leaves.take(keep)
        k = torch.arange(len(keep))
        upper, lower = parents.box.upper.clone(), parents.box.lower.clone()
        upper[k, parents.axis] = middle[keep]
        lower[k, parents.axis] = middle[keep]
        halves = Box(torch.cat([parents.box.lower, lower]), torch.cat([upper, parents.box.upper]))
        twice = torch.cat([k, k])
        nodes = self.record.split(parents.node, BOX, parents.axis, middle[keep], self.flags)
        return self._bound(parents.owner[twice], halves, parents.take(twice), nodes), leaves.take(whole.nonzero()[:, 0])

    def _bound(self, owner: Tensor, box: Box, parent: Boxes, nodes: Tensor) -> Boxes:
        """Bound k boxes, parts of the sets `owner`; `parent` are leaves that contain them."""
        assert self.reach is not None
        region = self.problem.region.restrict(owner, box.lower, box.upper)
        known = dict(zip(self.bending, parent.inside, strict=True))
        reach = self.reach.take(self.place[owner])
        inner = tighten(self.network, region, known, reach, self.memory, self.late, lean=self.lean)
        return self._judged(owner, box, region, inner, parent, nodes)

    def _judged(
        self, owner: Tensor, box: Box, region: Region, inner: tuple[list[Box], Reach], parent: Boxes | None, nodes: Tensor
    ) -> Boxes:
        """Boxes [k, d] of regions whose inside is bounded, with their margins."""
        box, spec, (boxes, reach) = _within(box, region), self.spec.take(owner), inner
        margins = bound_margins(self.network, region, spec, boxes, reach)
        if parent is None:
            self.starts = promising(spec, margins.rows, margins.minimisers)
        k = torch.arange(len(owner))
        row = decisive_row(spec, margins.rows)
        slope = margins.bound.a.abs().amax(1)
        margin = margins.margin if parent is None else torch.maximum(margins.margin, parent.margin)
        if self.clip:
            box, safe = clip(spec, margins, box)
            margin = torch.where(safe, margin.clamp(min=LEAST), margin)
            if parent is not None:  # what clipping cut off is positive by no stated amount
                margin = margin.clamp(max=LEAST)
        margin = torch.where(region.empty(), torch.inf, margin)  # nothing is there that could fail
        width = box.upper - box.lower
        # A flat relaxation hides slopes that the halves will show, so width counts for something in every input.
        axis = ((slope + HIDDEN_SLOPE * slope.amax(1, keepdim=True) + LEAST) * width).argmax(1)
        return Boxes(owner, margin, margins.minimisers[k, row], box, axis, tuple(boxes[i] for i in self.bending), nodes)


def _within(box: Box, region: Region) -> Box:
    """The parts of boxes [k, d] where their sets are; the boxes themselves, where a set is empty."""
    tight = box.intersect(region.box())
    crossed = tight.empty()[:, None]
    return Box(torch.where(crossed, box.lower, tight.lower), torch.where(crossed, box.upper, tight.upper))


def decisive_row(spec: Spec, rows: Tensor) -> Tensor:
    """[n] the row that decides each margin: the greatest in the clause whose greatest is least."""
    worst = spec.clauses(rows).argmin(1)
    return torch.where(spec.clause[spec.of] == worst[:, None], rows, -torch.inf).argmax(1)
