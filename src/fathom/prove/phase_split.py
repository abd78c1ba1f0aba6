"""Branch and bound on phases: an unstable piecewise-linear neuron is either below its kink or above.

The right search where many inputs vary. A leaf is one clause of one set with the phases of some neurons fixed; its bound prices
the fixed phases in with multipliers, optimised together with the relaxations' choices and the weights of the clause's rows. The
search itself runs in float32; a leaf counts as done only by a rigorous pass in float64 at the choices found.

Reference: Bunel et al., Branch and bound for piecewise linear neural network verification, JMLR 2020; Wang et al., Beta-CROWN,
NeurIPS 2021; De Palma et al., Improved branch and bound for neural network verification via Lagrangian decomposition, 2021
(filtered smart branching).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fathom.bounds.backward import LinearBound, backward
from fathom.bounds.choices import Dual, Found
from fathom.bounds.dual import FRESH, MOMENTUM
from fathom.bounds.intermediate import bends, never
from fathom.bounds.margins import row_minimisers
from fathom.bounds.sharpen import Slopes, sharpen
from fathom.core.problem import Problem
from fathom.core.spec import Spec
from fathom.core.value import join
from fathom.prove.exact import worst_on_leaf
from fathom.prove.phases import Inside, Phases, kinked, readers
from fathom.prove.record import LEVELS, PHASE, Record, off
from fathom.prove.work import batch

MOST_LEAVES = 512  # at once
CANDIDATES = 8  # neurons tried before one is split
STEPS = 8  # of ascent on a leaf
ROOT_STEPS = 40
INNER_STEPS = 10  # of ascent on each bound of the inside of the network


class PhaseTree:
    """Splitting the phases of a problem whose nonlinear operators all have kinks."""

    def __init__(
        self,
        problem: Problem,
        memory: int,
        *,
        steps: int = STEPS,
        root_steps: int = ROOT_STEPS,
        decide: bool = True,
        late: Callable[[], bool] = never,
        record: Record | None = None,
    ) -> None:
        """`decide`: only the sign matters, so that leaves are proved only once they promise to be done. `late`: asked in long
        steps; once it says so, bounds stay as they are."""
        assert problem.network is not None and problem.spec is not None
        self.problem = problem
        self.spec: Spec = problem.spec
        self.network = problem.network.freeze(torch.float64)
        self.memory = memory
        self.late = late
        self.decide = decide
        self.steps, self.root_steps = steps, root_steps
        self.record = record or off()
        # One row for each of two children, forth and back at every step; float32 is about four times as fast.
        rows = {len(self.network.nodes) - 1: 1.0 * (steps + 1)}
        self.batch = batch(self.network, rows, memory, MOST_LEAVES)
        self.place = torch.zeros(len(problem), dtype=torch.int64)
        self.inside: Inside | None = None
        self.starts = torch.zeros(0, 1, problem.region.size)

    def root(self, sets: Tensor) -> Phases:
        """One leaf for every clause of the sets; the inside of the network is bounded once, for all leaves to come."""
        self.place[sets] = torch.arange(len(sets))
        region = self.problem.region.take(sets)
        read = readers(self.network)
        # Every slope that bounds rest on has to have its place in the certificate.
        steps = INNER_STEPS if not self.record.on or all(j in read for j in bends(self.network)) else 0
        sharp = sharpen(self.network, region, steps=steps, memory=self.memory, late=self.late)
        kinks, sketch = kinked(self.network), sharp.sketch
        inputs = {i: sharp.boxes[self.network.nodes[i].inputs[0]] for i in kinks}
        self.inside = Inside(self.network, self.spec, region, sharp.boxes, sharp.reach, sketch, kinks, *sketch.gather(inputs))
        self.starts = row_minimisers(self.network, region, self.spec.take(sets), sharp.boxes, sharp.reach, self.batch)
        present = self.spec.take(sets).has()
        which, about = present.nonzero().T
        roots = self.record.plant(sets)
        self._tell(sharp.slopes, roots, read)
        nodes = self.record.fan(roots, present.sum(1))
        owner = sets[which]
        rows = (self.spec.clause[self.spec.of[owner]] == about[:, None]).to(torch.float64)
        k, u = len(owner), sketch.size
        middle = sketch.kinks()
        lower, upper = self.inside.lower[which], self.inside.upper[which]
        leaves = Phases(
            owner,
            torch.full((k,), -torch.inf, dtype=torch.float64),
            torch.full((k,), -torch.inf, dtype=torch.float64),
            sketch.middle[which],
            about,
            rows / rows.sum(1, keepdim=True),
            which,
            torch.zeros(k, dtype=torch.int64),
            torch.zeros(k, u, dtype=torch.int8),
            (upper - middle > middle - lower).to(torch.uint8) * LEVELS,
            torch.zeros(k, u),
            nodes,
            torch.full((k, CANDIDATES), -1),
            torch.zeros(k, 4, u, dtype=torch.bfloat16),
        )
        return self._optimise(leaves, self.root_steps, prove=True, momentum=FRESH)

    def split(self, leaves: Phases) -> tuple[Phases, Phases]:
        """Both phases of one open neuron of each leaf; leaves without open neurons are answered exactly."""
        assert self.inside is not None
        opened = leaves.next[:, 0] >= 0
        exact = self._exact(leaves.take((~opened).nonzero()[:, 0]))
        ready = leaves.take(opened.nonzero()[:, 0])
        if not len(ready):
            return ready, exact
        column = self._branch(ready)
        neuron = self.inside.neuron[column]
        children = replace(_both(ready, column), node=self.record.split(ready.node, PHASE, neuron))
        return self._optimise(children, self.steps, prove=not self.decide), exact

    def _ascend(self, leaves: Phases, steps: int, momentum: float = MOMENTUM) -> tuple[Found, Tensor]:
        """Dual ascent from the leaves' own choices; and [k] whether no input gets there."""
        assert self.inside is not None
        dual, empty = self._dual(leaves)
        if bool((leaves.depth > 0).all()):
            dual = replace(dual, means=leaves.means.float())
        enough = 0.0 if self.decide else math.inf
        found = self.inside.sketch.ascend(len(self.network.nodes) - 1, dual, steps, enough=enough, momentum=momentum)
        if found.weight.shape[1] < leaves.weight.shape[1]:
            found = replace(found, weight=leaves.weight.float())
        return found, empty

    def _dual(self, leaves: Phases) -> tuple[Dual, Tensor]:
        """The leaves as sub-problems, without means; and [k] whether no input gets there."""
        assert self.inside is not None
        lower, upper, empty = self.inside.clipped(leaves)
        spec = self.spec.of[leaves.owner]
        member = (self.spec.clause[spec] == leaves.clause[:, None]).float()
        rows, offset, weight = self.spec.rows[spec].float(), self.spec.offsets[spec].float(), leaves.weight.float()
        if not bool((member.sum(1) > 1).any()):  # such clauses need no weights: the row itself, instead of all
            at = member.argmax(1)
            k = torch.arange(len(leaves))
            rows, offset, member, weight = (
                rows[k, at][:, None],
                offset[k, at][:, None],
                member[k, at][:, None],
                weight[k, at][:, None],
            )
        dual = Dual(
            self.place[leaves.owner],
            rows,
            offset,
            member,
            lower.float(),
            upper.float(),
            leaves.sign.float(),
            leaves.choice.float() / LEVELS,
            leaves.multiplier,
            weight,
        )
        return dual, empty

    @torch.no_grad()
    def _optimise(self, leaves: Phases, steps: int, *, prove: bool, momentum: float = MOMENTUM) -> Phases:
        """The best choices of a few steps of ascent; and a rigorous pass at them, for all leaves or for those that look done."""
        assert self.inside is not None
        parts = []
        for part in torch.split(torch.arange(len(leaves)), 2 * self.batch):
            before = leaves.take(part)
            if self.late():
                parts.append(before)
                continue
            found, empty = self._ascend(before, steps, momentum)
            member = (self.spec.clause[self.spec.of[before.owner]] == before.clause[:, None]).to(torch.float64)
            after = replace(
                before,
                promise=torch.where(empty, torch.inf, found.bound.to(torch.float64)),
                point=found.point,
                weight=found.weight.to(torch.float64) * member + 1e-12 * member,
                choice=(found.choice * LEVELS).round().to(torch.uint8),
                multiplier=found.multiplier,
                next=self._candidates(before, found),
                means=found.means.bfloat16(),
            )
            parts.append(self._proved(after, prove=prove))
        return join(*parts) if parts else leaves

    def _proved(self, leaves: Phases, *, prove: bool) -> Phases:
        """Leaves with what the rigorous pass says: of all of them, or of those that promise to be done."""
        assert self.inside is not None
        index = torch.arange(len(leaves)) if prove else (leaves.promise > 0).nonzero()[:, 0]
        part = leaves.take(index)
        margin, _ = self.inside.prove(part, self.place[part.owner])
        self._close(part.take((margin > 0).nonzero()[:, 0]))
        margin = torch.maximum(leaves.margin, leaves.margin.index_copy(0, index, margin))
        promise = leaves.promise.index_copy(0, index, torch.minimum(part.promise, margin[index]))
        return replace(leaves, margin=margin, promise=torch.maximum(promise, margin))

    def _tell(self, slopes: Sequence[Slopes], roots: Tensor, read: Mapping[int, list[int]]) -> None:
        """Put on record what the bounds of the inside rest on, at the roots [sets]."""
        assert self.inside is not None
        if not self.record.on:
            return
        sizes = [math.prod(self.network.nodes[i].shape) for i in self.inside.kinks]
        starts = dict(zip(self.inside.kinks, [0, *itertools.accumulate(sizes)], strict=False))
        for part in slopes:
            whole = torch.zeros(len(part.place), 2, sum(sizes), dtype=torch.uint8)
            whole[:, :, self.inside.neuron[: part.lower.shape[1]]] = torch.stack([part.lower, part.upper], 1)
            for i in read[part.node]:
                self.record.within(roots[part.place], starts[i] + part.element, whole)

    def _close(self, leaves: Phases) -> None:
        """Put on record what proves these leaves."""
        assert self.inside is not None
        if len(leaves) and self.record.on:
            columns = leaves.sign, leaves.choice.to(torch.float64) / LEVELS, leaves.multiplier
            parts = ([*self.inside.sketch.spread(part).values()] for part in columns)
            self.record.close(leaves.node, leaves.weight, *parts)

    def _candidates(self, leaves: Phases, found: Found) -> Tensor:
        """[k, C] the open neurons whose relaxation costs most: the coefficient it meets, times its lines' gap at the kink."""
        assert self.inside is not None
        met, gap = found.met, found.gap
        cost = torch.where(met < 0, -met * gap, 0.2 * met * gap).nan_to_num()
        cost = torch.where(self.inside.open(leaves), cost + 1e-30, -1.0)
        count = min(CANDIDATES, cost.shape[1])
        top = cost.topk(count, dim=1)
        chosen = torch.where(top.values > 0, top.indices, -1)
        return torch.nn.functional.pad(chosen, (0, CANDIDATES - count), value=-1)

    @torch.no_grad()
    def _branch(self, leaves: Phases) -> Tensor:
        """[k] the column to split: of the best by score, the one whose worse child is best bounded."""
        assert self.inside is not None
        c = leaves.next.shape[1]
        several = (leaves.next[:, 1] >= 0).nonzero()[:, 0] if c > 1 else torch.arange(0)
        best = leaves.next[:, 0].clone()
        for part in torch.split(several, max(1, self.batch // 2)):
            some = leaves.take(part)
            dual, _ = self._dual(some)
            margin = self.inside.sketch.after_splits(len(self.network.nodes) - 1, dual, some.next.clamp(min=0))
            # The worse child counts first, and the better one a little; what is no open neuron never.
            value = margin.amin(0) + 0.01 * margin.amax(0).clamp(max=0.0)
            value = torch.where(some.next >= 0, value, -torch.inf)
            best[part] = some.next[torch.arange(len(part)), value.argmax(1)]
        return best

    def _exact(self, leaves: Phases) -> Phases:
        """Leaves without open neurons, one linear program each, whose dual values give the rigorous margin."""
        answers = [self._exact_one(leaves.take(torch.tensor([j]))) for j in range(len(leaves))]
        return join(*answers) if answers else leaves

    def _exact_one(self, leaf: Phases) -> Phases:
        inside = self.inside
        assert inside is not None
        lower, upper, empty = inside.clipped(leaf)
        if empty.any():
            return replace(leaf, margin=torch.full_like(leaf.margin, torch.inf))
        which = self.place[leaf.owner]
        boxes, reach = inside.full(which, lower, upper), inside.reach.take(which)
        spec = self.spec.of[leaf.owner]
        mine = self.spec.clause[spec][0] == leaf.clause
        rows = backward(self.network, boxes, reach, len(self.network.nodes) - 1, self.spec.rows[spec][:, mine])
        rows = replace(rows, constant=rows.constant + self.spec.offsets[spec][:, mine])
        split = {i: b.columns for i, b in inside.sketch.bends.items() if bool(leaf.sign[:, b.columns].any())}
        sides = {i: inside.side(leaf, boxes, reach, i) for i in split}
        constraints = LinearBound(rows.a[:, :0], rows.constant[:, :0])
        if sides:
            constraints = LinearBound(
                torch.cat([s.a for s in sides.values()], 1), torch.cat([s.constant for s in sides.values()], 1)
            )
        box = inside.region.box().take(which)
        dual = worst_on_leaf(rows, constraints, box.lower[0], box.upper[0])
        if dual is None:
            return leaf
        weight = torch.zeros_like(leaf.weight)
        weight[0, mine] = dual.weight + 1e-15
        multiplier = torch.zeros_like(leaf.multiplier)
        multiplier[leaf.sign != 0] = dual.multiplier.float()
        priced = replace(leaf, weight=weight, multiplier=multiplier)
        margin, _ = inside.prove(priced, which)
        point = dual.point[None].to(leaf.point.dtype) if dual.feasible else leaf.point
        better = bool(margin[0] > leaf.margin[0])
        self._close(priced.take((margin > 0).nonzero()[:, 0]))
        leaf = priced if better else leaf
        return replace(leaf, margin=torch.maximum(leaf.margin, margin), point=point)


def _both(leaves: Phases, column: Tensor) -> Phases:
    """2k leaves: each with the neuron `column` [k] below its kink, then each with it above."""
    k = torch.arange(len(leaves))
    children = leaves.take(torch.cat([k, k]))
    sign = children.sign
    sign[k, column] = -1
    sign[k + len(leaves), column] = 1
    return replace(children, depth=children.depth + 1)
