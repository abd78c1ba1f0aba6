"""Branch and bound on phases where no neuron reads another: one layer that bends, behind and before anything affine.

Every neuron's input is then an affine function of the network's, known for good, and its range on a leaf follows in closed form
from any half-space that the leaf lies in: the side of the kink that was split on, and the inputs at which the leaf's own linear
bound leaves room for a failure. So ranges shrink as the search goes down, without a backward pass. Only neurons that bend the
margin downward need splitting: for the others the best slopes of the relaxation are exact.

Reference: Wang et al., Beta-CROWN, NeurIPS 2021; Zhou et al., Clip-and-verify: linear constraint-driven domain clipping for
accelerating neural network verification, 2025.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.bounds.backward import LinearBound, Split, backward
from fathom.bounds.halfspace import least_within
from fathom.bounds.intermediate import never, tighten
from fathom.bounds.margins import row_minimisers
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.rounding import down, gamma
from fathom.core.spec import Spec
from fathom.core.value import flat, join, take
from fathom.prove.exact import worst_on_leaf
from fathom.prove.layer import Layer, between

MOST_LEAVES = 256  # at once
ROUND = 1 << 22  # weights narrowed at once: about half a second
STEPS = 16  # of ascent on a leaf, before and after it is narrowed
LEAST = torch.finfo(torch.float64).tiny
"""The lower bound of a margin that is only known to be positive."""


@dataclass(frozen=True, eq=False)
class Cells:
    """k open leaves; U neurons."""

    owner: Tensor  # [k]
    margin: Tensor  # [k]
    point: Tensor  # [k, d]
    clause: Tensor  # [k] the clause of the owner's spec that each leaf is about
    weight: Tensor  # [k, R] of the clause's rows: >= 0, adding up to 1
    lower: Tensor  # [k, U] bounds of the neurons' inputs
    upper: Tensor  # [k, U]
    sign: Tensor  # [k, U] float32: -1 below the kink, 1 above, 0 open
    choice: Tensor  # [k, U] in [0, 1]
    multiplier: Tensor  # [k, U] >= 0
    next: Tensor  # [k] the neuron to split; -1 where none bends the margin downward

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: Tensor) -> Cells:
        return take(self, index)

    def join(self, other: Cells) -> Cells:
        return join(self, other)

    @property
    def promise(self) -> Tensor:
        return self.margin

    def bytes(self) -> int:
        return 36 * self.lower.shape[1] + 8 * (self.point.shape[1] + self.weight.shape[1]) + 32


class ShallowTree:
    """Splitting the phases of a problem whose network has one layer that bends."""

    def __init__(
        self, problem: Problem, memory: int, *, decide: bool, steps: int = STEPS, late: Callable[[], bool] = never
    ) -> None:
        """`decide`: inputs that are shown to be safe need no bound, so that leaves may be narrowed to the others."""
        assert problem.network is not None and problem.spec is not None
        self.problem = problem
        self.spec: Spec = problem.spec
        self.network: Network = problem.network.freeze(torch.float64)
        self.memory, self.late, self.decide, self.steps = memory, late, decide, steps
        bends = [node for node in self.network.nodes if isinstance(node.operator, Nonlinear)]
        weights = sum(math.prod(node.shape) for node in bends) * self.network.input_size
        self.batch = int(max(4, min(MOST_LEAVES, ROUND / weights, memory / (200 * weights))))
        self.place = torch.zeros(len(problem), dtype=torch.int64)
        self.starts = torch.zeros(0, 1, problem.region.size)

    def root(self, sets: Tensor) -> Cells:
        """One leaf for every clause of the sets."""
        self.place[sets] = torch.arange(len(sets))
        self.region: Region = self.problem.region.take(sets)
        boxes, self.reach = tighten(self.network, self.region, memory=self.memory, late=self.late)
        self.layer = Layer(self.network, boxes, self.reach)
        self.starts = row_minimisers(self.network, self.region, self.spec.take(sets), boxes, self.reach, self.batch)
        spec = self.spec.of[sets]
        self.met, self.direct, rest = self.layer.rows(self.spec.rows[spec], self.reach)
        self.rest = rest + self.spec.offsets[spec]
        which, about = self.spec.take(sets).has().nonzero().T
        owner = sets[which]
        rows = (self.spec.clause[self.spec.of[owner]] == about[:, None]).to(torch.float64)
        k, u = len(owner), len(self.layer.kinks)
        leaves = Cells(
            owner,
            torch.full((k,), -torch.inf, dtype=torch.float64),
            self.region.box().middle[which],
            about,
            rows / rows.sum(1, keepdim=True),
            self.layer.lower[which],
            self.layer.upper[which],
            torch.zeros(k, u),
            self.layer.share()[which],
            torch.zeros(k, u, dtype=torch.float64),
            torch.zeros(k, dtype=torch.int64),
        )
        parts = [self._optimise(leaves.take(part), 4 * self.steps) for part in torch.split(torch.arange(k), self.batch)]
        return join(*parts) if parts else leaves

    def split(self, leaves: Cells) -> tuple[Cells, Cells]:
        """Both phases of one neuron of each leaf; second, leaves that no split makes better."""
        opened = leaves.next >= 0
        last, ready = leaves.take((~opened).nonzero()[:, 0]), leaves.take(opened.nonzero()[:, 0])
        last = join(*(self._exact(last.take(torch.tensor([j]))) for j in range(len(last)))) if len(last) else last
        return (self._optimise(self._both(ready), self.steps) if len(ready) else ready), last

    def _both(self, leaves: Cells) -> Cells:
        """2k leaves: each with its next neuron below the kink, then each with it above; narrowed to that side."""
        k = torch.arange(len(leaves))
        children = leaves.take(torch.cat([k, k]))
        k = torch.arange(len(children))
        at = children.next
        side = torch.where(k < len(leaves), -1.0, 1.0)
        kink = self.layer.kinks[at]
        lower, upper, sign = children.lower.clone(), children.upper.clone(), children.sign.clone()
        lower[k, at] = torch.where(side > 0, torch.maximum(lower[k, at], kink), lower[k, at])
        upper[k, at] = torch.where(side < 0, torch.minimum(upper[k, at], kink), upper[k, at])
        sign[k, at] = side
        children = self._ranged(replace(children, sign=sign), lower, upper)
        room = torch.where(side > 0, down(kink - self.layer.high[at]), down(self.layer.low[at] - kink))
        return self._narrowed(children, -side.double()[:, None] * self.layer.a[at], room)

    def _bending(self, leaves: Cells) -> Tensor:
        """[k, U] the neurons whose phase is open and that may bend the margin downward."""
        place = self.place[leaves.owner]
        mine = self.spec.clause[self.spec.of[leaves.owner]] == leaves.clause[:, None]
        down_ = ((self.met[place] < 0) & mine[:, :, None]).any(1)
        return down_ & (leaves.sign == 0) & (leaves.lower < self.layer.kinks) & (leaves.upper > self.layer.kinks)

    def _narrowed(self, leaves: Cells, h: Tensor, g: Tensor) -> Cells:
        """The leaves where only inputs with h x + g <= 0 count: ranges of the neurons that matter, over those."""
        mask = self._bending(leaves)
        most = int(mask.sum(1).max()) if len(mask) else 0
        if most == 0:
            return leaves
        index = torch.argsort(mask.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
        box, rows = self.region.box().take(self.place[leaves.owner]), self.layer.a[index]
        low = least_within(box, rows, self.layer.low[index], h, g)
        high = -least_within(box, -rows, -self.layer.high[index], h, g)
        lower = leaves.lower.scatter(1, index, torch.maximum(leaves.lower.gather(1, index), low))
        upper = leaves.upper.scatter(1, index, torch.minimum(leaves.upper.gather(1, index), high))
        return self._ranged(leaves, lower, upper)

    def _ranged(self, leaves: Cells, lower: Tensor, upper: Tensor) -> Cells:
        """The leaves with these ranges. One that no input reaches is done, and keeps ranges that are some, so that its arithmetic
        stays finite."""
        lower, upper = self.layer.agreed(lower, upper)
        empty = (lower > upper).any(1)
        margin = torch.where(empty, torch.full_like(leaves.margin, torch.inf), leaves.margin)
        return replace(leaves, lower=torch.minimum(lower, upper), upper=torch.maximum(lower, upper), margin=margin)

    def _optimise(self, leaves: Cells, steps: int) -> Cells:
        """Bounds, ranges narrowed by them, bounds again; and what to split next."""
        leaves, mean = self._ascend(leaves, steps)
        leaves, bound = self._prove(leaves)
        index = (leaves.margin <= 0).nonzero()[:, 0]
        if self.decide and len(index):
            part = leaves.take(index)
            part = self._narrowed(part, bound.a[index, 0], bound.constant[index, 0])
            part, mean[index] = self._ascend(part, steps)
            part, _ = self._prove(part)
            rest = torch.ones(len(leaves), dtype=torch.bool)
            rest[index] = False
            order = torch.cat([index, rest.nonzero()[:, 0]]).argsort()
            leaves = part.join(leaves.take(rest.nonzero()[:, 0])).take(order)
        return replace(leaves, next=self._next(leaves, mean))

    def _next(self, leaves: Cells, mean: Tensor) -> Tensor:
        """[k] the neuron whose relaxation costs most at the mean minimiser; -1 where none is open."""
        place = self.place[leaves.owner]
        lines = self.layer.lines(leaves.lower, leaves.upper)
        met = (leaves.weight[:, :, None] * self.met[place]).sum(1)
        z = mean @ self.layer.a.T + self.layer.middle
        true = torch.maximum(lines.slope0 * z + lines.offset0, lines.slope1 * z + lines.offset1)
        gap = (lines.above * z + lines.offset - true).clamp(min=0)
        whole = lines.above * self.layer.kinks + lines.offset - (lines.slope0 * self.layer.kinks + lines.offset0)
        cost = -met * (gap + 0.01 * whole)
        cost = torch.where(self._bending(leaves), cost, -torch.inf)
        best = cost.max(1)
        return torch.where(best.values > -torch.inf, best.indices, -1)

    @torch.no_grad()
    def _ascend(self, leaves: Cells, steps: int) -> tuple[Cells, Tensor]:
        """The best choices, multipliers and weights of a few steps of projected Adam; and the mean of the minimisers met."""
        place = self.place[leaves.owner]
        region, lines = self.region.take(place), self.layer.lines(leaves.lower, leaves.upper)
        met, direct, rest = self.met[place], self.direct[place], self.rest[place]
        mask = (self.spec.clause[self.spec.of[leaves.owner]] == leaves.clause[:, None]).to(torch.float64)
        several = bool((mask.sum(1) > 1).any())
        sign = leaves.sign.double()
        variables = [leaves.choice, leaves.multiplier, leaves.weight]
        scale = (met.abs().amax(1)).mean(1, keepdim=True)
        rates = [torch.full_like(scale, 0.25), 0.25 * scale, torch.full_like(scale, 0.1 if several else 0.0)]
        first, second = [[torch.zeros_like(v) for v in variables] for _ in range(2)]
        best, value = list(variables), torch.full_like(leaves.margin, -torch.inf)
        point, mean = leaves.point, torch.zeros_like(leaves.point)
        for step in range(steps + 1):
            choice, multiplier, weight = variables
            share = weight * mask + 1e-12 * mask
            share = share / share.sum(1, keepdim=True)
            row = (share[:, :, None] * met).sum(1)
            low = row < 0
            slope = torch.where(low, lines.above, between(lines.slope0, lines.slope1, choice))
            offset = torch.where(low, lines.offset, between(lines.offset0, lines.offset1, choice))
            on = row * slope - sign * multiplier
            a = (share[:, :, None] * direct).sum(1) + on @ self.layer.a
            least, x = region.minimise(a[:, None])
            x = x[:, 0]
            constant = (
                (share * rest).sum(1) + (row * offset).sum(1) + on @ self.layer.middle + (multiplier * sign) @ self.layer.kinks
            )
            now = least[:, 0] + constant
            better = now > value
            value = torch.where(better, now, value)
            point = torch.where(better[:, None], x, point)
            best = [torch.where(better[:, None], v, b) for v, b in zip(variables, best, strict=True)]
            mean = mean + x * (step + 1)
            if step == steps or self.late() or bool((value > 0).all()):
                mean = mean * (2 / ((step + 1) * (step + 2)))
                break
            z = x @ self.layer.a.T + self.layer.middle
            up_choice = torch.where(low, 0.0, row * ((lines.slope1 - lines.slope0) * z + lines.offset1 - lines.offset0))
            each = (met * (slope * z + offset)[:, None]).sum(2) + (direct * x[:, None]).sum(2) + rest
            gradients = (up_choice, sign * (self.layer.kinks - z), (each - now[:, None]) * mask)
            fade, spread, shrink = 1 - 0.9 ** (step + 1), 1 - 0.99 ** (step + 1), 0.97 ** (step + 1)
            for i, (gradient, rate, top) in enumerate(zip(gradients, rates, (1.0, math.inf, 1.0), strict=True)):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.99 * second[i] + 0.01 * gradient * gradient
                move = (first[i] / fade) / ((second[i] / spread).sqrt() + 1e-12)
                variables[i] = (variables[i] + rate * shrink * move).clamp(0.0, top)
        return replace(leaves, point=point, choice=best[0], multiplier=best[1], weight=best[2] * mask + 1e-12 * mask), mean

    def _exact(self, leaf: Cells) -> Cells:
        """A leaf on which no open neuron bends the margin downward: a linear program, in which the others are variables above
        both of their lines. Its dual values are choices, multipliers and weights."""
        place, spec = self.place[leaf.owner], self.spec.of[leaf.owner]
        lines = self.layer.lines(leaf.lower, leaf.upper)
        mine = (self.spec.clause[spec] == leaf.clause[:, None])[0]
        met = self.met[place][0, mine]
        open_ = ((lines.slope0 != lines.slope1) & (leaf.lower < leaf.upper))[0]
        fixed = torch.where(open_, 0.0, met)
        a = self.direct[place][0, mine] + (fixed * lines.slope0[0]) @ self.layer.a
        c = self.rest[place][0, mine] + (fixed * (lines.slope0[0] * self.layer.middle + lines.offset0[0])).sum(1)
        j, at = open_.nonzero()[:, 0], (leaf.sign[0] != 0).nonzero()[:, 0]
        sign, eye = leaf.sign[0, at].double(), torch.eye(len(j), dtype=torch.float64)
        none = torch.zeros(len(at), len(j), dtype=torch.float64)
        sides = torch.cat([sign[:, None] * self.layer.a[at], none], 1)
        above, room = [sides], [sign * (self.layer.middle[at] - self.layer.kinks[at])]
        ends = []
        for slope, offset in ((lines.slope0[0, j], lines.offset0[0, j]), (lines.slope1[0, j], lines.offset1[0, j])):
            above.append(torch.cat([-slope[:, None] * self.layer.a[j], eye], 1))
            room.append(-(slope * self.layer.middle[j] + offset))
            ends.append(torch.maximum((slope * leaf.lower[0, j]).abs(), (slope * leaf.upper[0, j]).abs()) + offset.abs() + 1)
        box = self.region.box().take(place)
        most = torch.maximum(*ends)
        rows = LinearBound(torch.cat([a, met[:, j]], 1)[None], c[None])
        limits = LinearBound(torch.cat(above)[None], torch.cat(room)[None])
        dual = worst_on_leaf(rows, limits, torch.cat([box.lower[0], -most]), torch.cat([box.upper[0], most]))
        if dual is None:
            return leaf
        weight, multiplier, choice = torch.zeros_like(leaf.weight), torch.zeros_like(leaf.multiplier), leaf.choice.clone()
        weight[0, mine] = dual.weight + 1e-15
        multiplier[0, at] = dual.multiplier[: len(at)]
        low, high = dual.multiplier[len(at) :].reshape(2, len(j))
        choice[0, j] = torch.where(low + high > 0, high / (low + high), choice[0, j]).clamp(0, 1)
        leaf, _ = self._prove(replace(leaf, weight=weight, multiplier=multiplier, choice=choice))
        return replace(leaf, point=dual.point[None, : box.lower.shape[1]]) if dual.feasible else leaf

    @torch.no_grad()
    def _prove(self, leaves: Cells) -> tuple[Cells, LinearBound]:
        """The leaves with rigorous margins at their choices; and [k, 1, d] a linear lower bound of the weighted rows' mean."""
        place, spec = self.place[leaves.owner], self.spec.of[leaves.owner]
        share = leaves.weight / leaves.weight.sum(1, keepdim=True)
        rows = (share[:, :, None] * self.spec.rows[spec]).sum(1)
        boxes = self.layer.boxes(leaves.lower, leaves.upper)
        signs, prices, choices = (self.layer.spread(t.double()) for t in (leaves.sign, leaves.multiplier, leaves.choice))
        splits = {i: Split(signs[i], prices[i]) for i in self.layer.bends}
        reach, end = self.reach.take(place), len(self.network.nodes) - 1
        bound = backward(self.network, boxes, reach, end, rows[:, None], {i: c[:, None] for i, c in choices.items()}, splits)
        offset = (share * (self.spec.offsets[spec] - self.spec.blur[spec])).sum(1)
        size = (share * (self.spec.offsets[spec].abs() + self.spec.blur[spec])).sum(1)
        size = size + ((share[:, :, None] * self.spec.rows[spec].abs()).sum(1) * flat(reach.value[end], 1)).sum(1)
        loss = gamma(share.shape[1] + 8, torch.float64) * size
        whole = LinearBound(bound.a, down(down(bound.constant[:, 0] + offset) - loss)[:, None])
        values, _ = whole.minimise(self.region.take(place))
        margin = torch.maximum(leaves.margin, values[:, 0])
        return replace(leaves, margin=margin.clamp(max=LEAST) if self.decide else margin), whole
