"""Branch and bound on phases: an unstable piecewise-linear neuron is either below its kink or above.

The right search where many inputs vary. A leaf is one clause of one set with the phases of some neurons fixed; its bound prices
the fixed phases in with multipliers, optimised together with the relaxations' choices and the weights of the clause's rows.

Reference: Bunel et al., Branch and bound for piecewise linear neural network verification, JMLR 2020; Wang et al., Beta-CROWN,
NeurIPS 2021; De Palma et al., Improved branch and bound for neural network verification via Lagrangian decomposition, 2021
(filtered smart branching).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.bounds.ascent import Ascent
from fathom.bounds.backward import LinearBound, Reach, Split, backward
from fathom.bounds.intermediate import never, tighten
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.rounding import down, gamma
from fathom.core.spec import Spec
from fathom.core.value import flat, join, take
from fathom.prove.exact import worst_on_leaf
from fathom.prove.record import PHASE, Record, coarse, off
from fathom.prove.work import batch

MOST_LEAVES = 256  # at once
CANDIDATES = 4  # neurons tried before one is split


@dataclass(frozen=True, eq=False)
class Phases:
    """k open leaves. Per-neuron fields map a nonlinear node to [k, *shape]."""

    owner: Tensor  # [k]
    margin: Tensor  # [k]
    point: Tensor  # [k, d]
    clause: Tensor  # [k] the clause of the owner's spec that each leaf is about
    weight: Tensor  # [k, R] of the clause's rows: >= 0, adding up to 1
    sign: dict[int, Tensor]  # int8: -1 below the kink, 1 above, 0 open
    choice: dict[int, Tensor]  # float32, in [0, 1]
    multiplier: dict[int, Tensor]  # float32, >= 0
    score: dict[int, Tensor]  # float32: how much each open neuron's relaxation costs the bound
    node: Tensor  # [k] its number in the record

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: Tensor) -> Phases:
        return take(self, index)

    def join(self, other: Phases) -> Phases:
        return join(self, other)

    def bytes(self) -> int:
        return 13 * sum(t[:1].numel() for t in self.sign.values()) + 8 * (self.point.shape[1] + self.weight.shape[1]) + 32


class PhaseTree:
    """Splitting the phases of a problem whose nonlinear operators all have kinks."""

    def __init__(
        self,
        problem: Problem,
        memory: int,
        *,
        steps: int = 12,
        root_steps: int = 40,
        late: Callable[[], bool] = never,
        record: Record | None = None,
    ) -> None:
        """`late`: asked in long steps; once it says so, bounds stay as they are."""
        assert problem.network is not None and problem.spec is not None
        self.problem = problem
        self.spec: Spec = problem.spec
        self.network: Network = problem.network.freeze(torch.float64)
        self.kinks = kinked(self.network)
        self.memory = memory
        self.late = late
        self.steps, self.root_steps = steps, root_steps
        self.record = record or off()
        # One row for each of two children, forth and back with gradients, at every step; and all activations kept for those.
        rows = {len(self.network.nodes) - 1: 6.0 * (steps + 1)}
        self.batch = batch(self.network, rows, memory, MOST_LEAVES)
        self.place = torch.zeros(len(problem), dtype=torch.int64)
        self.region: Region = problem.region
        self.boxes: list[Box] = []
        self.reach: Reach | None = None

    def root(self, sets: Tensor) -> Phases:
        """One leaf for every clause of the sets; the inside of the network is bounded once, for all leaves to come."""
        self.place[sets] = torch.arange(len(sets))
        self.region = self.problem.region.take(sets)
        self.boxes, self.reach = tighten(self.network, self.region, memory=self.memory, late=self.late)
        present = self.spec.take(sets).has()
        which, about = present.nonzero().T
        nodes = self.record.fan(self.record.plant(sets), present.sum(1))
        owner = sets[which]
        rows = (self.spec.clause[self.spec.of[owner]] == about[:, None]).to(torch.float64)
        k = len(owner)
        shapes = {i: self.network.nodes[i].shape for i in self.kinks}
        leaves = Phases(
            owner,
            torch.full((k,), -torch.inf, dtype=torch.float64),
            self.region.box().middle[which],
            about,
            rows / rows.sum(1, keepdim=True),
            {i: torch.zeros(k, *s, dtype=torch.int8) for i, s in shapes.items()},
            {i: self._default_choice(i, which) for i in shapes},
            {i: torch.zeros(k, *s) for i, s in shapes.items()},
            {i: torch.zeros(k, *s) for i, s in shapes.items()},
            nodes,
        )
        parts = [self._optimise(leaves.take(part), self.root_steps) for part in torch.split(torch.arange(k), self.batch)]
        return _joined(parts) if parts else leaves

    def split(self, leaves: Phases) -> tuple[Phases, Phases]:
        """Both phases of one open neuron of each leaf; leaves without open neurons are answered exactly."""
        opened = torch.zeros(len(leaves), dtype=torch.bool)
        for i in self.kinks:
            opened |= flat(self._open(leaves, i), 1).any(1)
        exact = self._exact(leaves.take((~opened).nonzero()[:, 0]))
        ready = leaves.take(opened.nonzero()[:, 0])
        if not len(ready):
            return ready, exact
        neuron = self._branch(ready)
        children = replace(self._both(ready, neuron), node=self.record.split(ready.node, PHASE, neuron))
        return self._optimise(children, self.steps), exact

    def _default_choice(self, i: int, which: Tensor) -> Tensor:
        box = self.boxes[self.network.nodes[i].inputs[0]].take(which)
        kink = self.kinks[i]
        return (box.upper - kink > kink - box.lower).float()

    def _clipped(self, leaves: Phases) -> tuple[list[Box], Tensor]:
        """The root's boxes, cut at the kinks of split neurons; and [k] whether a cut leaves nothing: no input gets there."""
        where = self.place[leaves.owner]
        boxes = [box.take(where) for box in self.boxes]
        empty = torch.zeros(len(leaves), dtype=torch.bool)
        for i, kink in self.kinks.items():
            j = self.network.nodes[i].inputs[0]
            sign, box = leaves.sign[i], boxes[j]
            lower = torch.where(sign > 0, box.lower.clamp(min=kink), box.lower)
            upper = torch.where(sign < 0, box.upper.clamp(max=kink), box.upper)
            empty |= flat(lower > upper, 1).any(1)
            # An empty leaf keeps a box that is one, so that its arithmetic stays finite.
            boxes[j] = Box(torch.minimum(lower, upper), torch.maximum(lower, upper))
        return boxes, empty

    def _open(self, leaves: Phases, i: int) -> Tensor:
        """[k, *shape] the neurons of node i whose phase is neither split nor settled by the root's bounds."""
        box = self.boxes[self.network.nodes[i].inputs[0]].take(self.place[leaves.owner])
        return (leaves.sign[i] == 0) & (box.lower < self.kinks[i]) & (box.upper > self.kinks[i])

    def _bound(
        self, leaves: Phases, boxes: list[Box], weight: Tensor, choice: Mapping[int, Tensor], multiplier: Mapping[int, Tensor]
    ) -> tuple[Tensor, Tensor, LinearBound]:
        """Rigorous margins [k], minimisers [k, d] and the linear bound of the clauses' weighted rows."""
        assert self.reach is not None
        which = self.place[leaves.owner]
        spec = self.spec.of[leaves.owner]
        # Weights that add up to 1 but for rounding bound a weighted mean; divided by their sum's upper bound they are one.
        share = weight / weight.sum(1, keepdim=True)
        rows = (share[:, :, None] * self.spec.rows[spec]).sum(1)
        splits = {i: Split(leaves.sign[i].to(torch.float64), multiplier[i]) for i in self.kinks}
        choices = {i: c[:, None] for i, c in choice.items()}
        end = len(self.network.nodes) - 1
        bound = backward(self.network, boxes, self.reach.take(which), end, rows[:, None], choices, splits, keep=True)
        values, points = bound.minimise(self.region.take(which))
        offset = (share * (self.spec.offsets[spec] - self.spec.blur[spec])).sum(1)
        with torch.no_grad():
            size = (share * (self.spec.offsets[spec].abs() + self.spec.blur[spec])).sum(1)
            output = flat(self.reach.take(which).value[end], 1)
            size = size + ((share[:, :, None] * self.spec.rows[spec].abs()).sum(1) * output).sum(1)
            loss = gamma(share.shape[1] + 8, torch.float64) * size
        return down(down(values[:, 0] + offset) - loss), points[:, 0], bound

    def _optimise(self, leaves: Phases, steps: int) -> Phases:
        """The best bound of a few steps of ascent in choices, multipliers and row weights; every iterate is rigorous."""
        boxes, empty = self._clipped(leaves)
        choice = {i: c.to(torch.float64).requires_grad_() for i, c in leaves.choice.items()}
        multiplier = {i: m.to(torch.float64).requires_grad_() for i, m in leaves.multiplier.items()}
        mask = (self.spec.clause[self.spec.of[leaves.owner]] == leaves.clause[:, None]).to(torch.float64)
        weight = leaves.weight.clone().requires_grad_()
        several = bool((mask.sum(1) > 1).any())
        ascent = Ascent(
            [(c, 0.25, 0.0, 1.0) for c in choice.values()]
            + [(m, 0.05, 0.0, torch.inf) for m in multiplier.values()]
            + ([(weight, 0.1, 0.0, 1.0)] if several else [])
        )
        best = torch.where(empty, torch.inf, leaves.margin)
        point, kept = leaves.point, leaves
        for step in range(steps + 1):
            used = weight * mask + 1e-12 * mask
            stored = coarse(choice, multiplier) if self.record.on else (choice, multiplier)
            margin, points, bound = self._bound(leaves, boxes, used, *stored)
            self._close((margin > 0) & (best <= 0), leaves, used, *stored)
            better = margin.detach() > best
            best = torch.where(better, margin.detach(), best)
            point = torch.where(better[:, None], points.detach(), point)
            if step == steps or self.late() or not ascent.tensors or bool((best > 0).all()):
                break
            ascent.step(torch.where(best > 0, 0.0, margin).sum())
        with torch.no_grad():
            score = self._score(leaves, boxes, bound)
        return Phases(
            kept.owner,
            best,
            point,
            kept.clause,
            (weight * mask).detach() + 1e-12 * mask,
            kept.sign,
            {i: c.detach().float() for i, c in choice.items()},
            {i: m.detach().float() for i, m in multiplier.items()},
            score,
            kept.node,
        )

    def _close(
        self, done: Tensor, leaves: Phases, weight: Tensor, choice: Mapping[int, Tensor], multiplier: Mapping[int, Tensor]
    ) -> None:
        """Put on record what proves the leaves `done` [k]."""
        at = done.nonzero()[:, 0]
        if len(at) and self.record.on:
            sign, slopes, prices = ({i: t[at] for i, t in part.items()} for part in (leaves.sign, choice, multiplier))
            self.record.close(leaves.node[at], weight.detach()[at], sign, slopes, prices)

    def _score(self, leaves: Phases, boxes: list[Box], bound: LinearBound) -> dict[int, Tensor]:
        """How much each open neuron's relaxation costs: the coefficient that meets it, times its lines' gap at the kink."""
        scores = {}
        for i in self.kinks:
            operator, j = self.network.nodes[i].operator, self.network.nodes[i].inputs[0]
            assert isinstance(operator, Nonlinear)
            lines = operator.relax(boxes[j], choice=None)
            gap = lines.upper_offset - lines.lower_offset + (lines.upper_slope[0] - lines.lower_slope[0]) * self.kinks[i]
            met = bound.met[i][:, 0] if i in bound.met else torch.zeros_like(gap)
            cost = torch.where(met < 0, -met * gap, 0.2 * met * gap)
            scores[i] = torch.where(self._open(leaves, i), cost.nan_to_num() + 1e-30, -1.0).float()
        return scores

    def _branch(self, leaves: Phases) -> Tensor:
        """[k] the neuron to split, by its place among all: of the best by score, the one whose worse child is best bounded."""
        scores = torch.cat([flat(leaves.score[i], 1) for i in self.kinks], 1)
        top = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
        k, c = top.indices.shape
        if c == 1:
            return top.indices[:, 0]
        many = leaves.take(torch.arange(k).repeat_interleave(c))
        children = self._both(many, top.indices.flatten())
        boxes, empty = self._clipped(children)
        choice = {i: v.to(torch.float64) for i, v in children.choice.items()}
        multiplier = {i: v.to(torch.float64) for i, v in children.multiplier.items()}
        with torch.no_grad():
            margin = self._bound(children, boxes, children.weight, choice, multiplier)[0]
        margin = torch.where(empty, torch.inf, margin).reshape(2, k, c)
        # The worse child counts first, and the better one a little; what is no open neuron never.
        value = margin.amin(0) + 0.01 * margin.amax(0).clamp(max=0.0)
        value = torch.where(top.values >= 0, value, -torch.inf)
        return top.indices[torch.arange(k), value.argmax(1)]

    def _both(self, leaves: Phases, neuron: Tensor) -> Phases:
        """2k leaves: each with neuron [k] below its kink, then each with it above."""
        k = torch.arange(len(leaves))
        twice = torch.cat([k, k])
        children = leaves.take(twice)
        start = 0
        for i in self.kinks:
            sign = flat(children.sign[i], 1)
            here = (neuron >= start) & (neuron < start + sign.shape[1])
            at = here.nonzero()[:, 0]
            sign[at, neuron[at] - start] = -1
            sign[at + len(leaves), neuron[at] - start] = 1
            start += sign.shape[1]
            children.sign[i] = sign.reshape(children.sign[i].shape)
        return children

    def _exact(self, leaves: Phases) -> Phases:
        """Leaves without open neurons, one linear program each, whose dual values give the rigorous margin."""
        answers = [self._exact_one(leaves.take(torch.tensor([j]))) for j in range(len(leaves))]
        return _joined(answers) if answers else leaves

    def _exact_one(self, leaf: Phases) -> Phases:
        boxes, empty = self._clipped(leaf)
        if empty.any():
            return replace(leaf, margin=torch.full_like(leaf.margin, torch.inf))
        assert self.reach is not None
        reach, which = self.reach.take(self.place[leaf.owner]), self.place[leaf.owner]
        spec = self.spec.of[leaf.owner]
        mine = self.spec.clause[spec][0] == leaf.clause
        rows = backward(self.network, boxes, reach, len(self.network.nodes) - 1, self.spec.rows[spec][:, mine])
        rows = replace(rows, constant=rows.constant + self.spec.offsets[spec][:, mine])
        sides = {i: self._side(leaf, boxes, reach, i) for i in self.kinks if leaf.sign[i].any()}
        if not sides:
            constraints = LinearBound(rows.a[:, :0], rows.constant[:, :0])
        else:
            constraints = LinearBound(
                torch.cat([s.a for s in sides.values()], 1), torch.cat([s.constant for s in sides.values()], 1)
            )
        box = self.region.box().take(which)
        dual = worst_on_leaf(rows, constraints, box.lower[0], box.upper[0])
        if dual is None:
            return leaf
        weight = torch.zeros_like(leaf.weight)
        weight[0, mine] = dual.weight + 1e-15
        multiplier = {i: torch.zeros_like(m, dtype=torch.float64) for i, m in leaf.multiplier.items()}
        start = 0
        for i, side in sides.items():
            multiplier[i][leaf.sign[i] != 0] = dual.multiplier[start : start + side.constant.shape[1]]
            start += side.constant.shape[1]
        choice = {i: c.to(torch.float64) for i, c in leaf.choice.items()}
        margin, _, _ = self._bound(leaf, boxes, weight, choice, multiplier)
        self._close(margin > 0, leaf, weight, choice, multiplier)
        return replace(leaf, margin=torch.maximum(leaf.margin, margin), point=dual.point[None] if dual.feasible else leaf.point)

    def _side(self, leaf: Phases, boxes: list[Box], reach: Reach, i: int) -> LinearBound:
        """sign * (input - kink) for every split neuron of node i, as affine functions of x; exact here but for rounding."""
        j = self.network.nodes[i].inputs[0]
        sign = leaf.sign[i].flatten()
        at = sign.nonzero()[:, 0]
        rows = torch.zeros(1, len(at), len(sign), dtype=torch.float64)
        rows[0, torch.arange(len(at)), at] = sign[at].to(torch.float64)
        side = backward(self.network, boxes, reach, j, rows.reshape(1, len(at), *self.network.nodes[j].shape))
        return replace(side, constant=side.constant - self.kinks[i] * sign[at].to(torch.float64))


def kinked(network: Network) -> dict[int, float]:
    """The kink of every nonlinear node of a network that can be split by phases."""
    found = {}
    for i, node in enumerate(network.nodes):
        if isinstance(node.operator, Nonlinear):
            assert node.operator.kink is not None
            found[i] = node.operator.kink
    return found


def _joined(parts: list[Phases]) -> Phases:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.join(part)
    return whole
