"""Dual ascent in float32: good choices of slopes, multipliers and row weights, found fast. Nothing here is a proof.

A backward pass gives a bound and the input where it is attained; the network's relaxation evaluated forward there gives the
bound's derivative in every choice. So a step costs two passes, without a graph of gradients. Whoever wants a proof runs the
rigorous pass of `backward.py` once, in float64, at the choices found: what this file gets wrong costs time, never soundness.

Only the loose neurons, those that the bounds of some set leave open, have choices; everything about them is kept in columns, one
for each loose neuron of the network.

Reference: Wang et al., Beta-CROWN, NeurIPS 2021; Xu et al., Fast and complete, ICLR 2021 (optimised slopes); Polyak,
Minimization of unsmooth functionals, USSR Computational Mathematics and Mathematical Physics 1969 (the length of a step towards a
known value). That means of derivatives are what to hand on from an optimum is the idea of Barahona and Anbil, The volume
algorithm, Mathematical Programming 2000: there they are about 0, where single derivatives are as large as anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.bounds.choices import Bend, Dual, Found, Lines
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Linear, Nonlinear
from fathom.core.region import Region
from fathom.core.value import flat, map_tensors, take
from fathom.regions.box import BoxRegion

SLOPE_RATE = 0.25
MULTIPLIER_RATE = 0.3  # times the size of the coefficients that the multiplier is subtracted from
WEIGHT_RATE = 0.1
DECAY = 0.97  # of the rates, a step
MOMENTUM = 0.9  # of the means of derivatives, for leaves, which begin with their parents' choices
FRESH = 0.7  # the same, far from the best choices: gradients are exact, and turn at every kink that is passed
SQUARE = 0.999  # how much of the means of their squares a step keeps
SLOPES_ON = 0.4  # times the rate, for slopes that go on from an optimum
MULTIPLIERS_ON = 6.0  # times the rate, for multipliers there: those of new splits start from 0
AIM = 2.0  # times what is missing to a bound that is enough: a step promises no more
DROP = 0.75  # once fewer than this share of the sub-problems are open, the others are no longer carried along


class Sketch:
    """A network in float32 and the bends of its sets."""

    def __init__(self, network: Network, region: Region) -> None:
        """`region`: the sets, float64. Bends are to be added in topological order."""
        self.network = network.freeze(torch.float32)
        self.region = region
        self.bends: dict[int, Bend] = {}
        self.size = 0
        box = region.box()
        self.middle, self.radius = box.middle.float(), box.radius.float()
        self.low_end, self.high_end = box.lower.float(), box.upper.float()
        self.program: dict[int, Tensor] = {}  # [sets, elements]: what the rigorous pass will subtract for the program's rounding

    def add(self, i: int, box: Box) -> Bend:
        """The nonlinear node i, with boxes [sets, *shape] for its input."""
        operator = self.network.nodes[i].operator
        assert isinstance(operator, Nonlinear) and operator.kink is not None
        lines = operator.relax(box, choice=None)
        loose = flat((box.lower < operator.kink) & (box.upper > operator.kink), 1).any(0)
        at = loose.nonzero()[:, 0]
        offset = lines.lower_offset.float()
        columns = slice(self.size, self.size + len(at))
        self.bends[i] = Bend(i, operator.kink, at, columns, lines.lower_slope[0].float(), offset if bool(offset.any()) else None)
        self.size = columns.stop
        return self.bends[i]

    def charge(self, program: Sequence[Tensor | None]) -> None:
        """Count what a float32 program may be off by at each node [sets, *shape]: estimates without it promise too much."""
        self.program = {i: flat(off, 1).float() for i, off in enumerate(program) if off is not None}

    def gather(self, boxes: dict[int, Box]) -> tuple[Tensor, Tensor]:
        """Lower and upper ends [sets, U], float64, of the loose neurons, from boxes for the inputs of the bends."""
        ends = [boxes[i].map(lambda t, at=bend.at: flat(t, 1)[:, at]) for i, bend in self.bends.items()]  # type: ignore[misc]
        if not ends:
            none = torch.zeros(len(self.low_end), 0, dtype=torch.float64)
            return none, none
        return torch.cat([end.lower for end in ends], 1), torch.cat([end.upper for end in ends], 1)

    def spread(self, values: Tensor) -> dict[int, Tensor]:
        """Columns [k, U] as tensors [k, *shape] of each bend's neurons, float64; 0 at neurons that are not loose."""
        found = {}
        for i, bend in self.bends.items():
            shape = self.network.nodes[i].shape
            whole = torch.zeros(len(values), math.prod(shape), dtype=torch.float64)
            whole[:, bend.at] = values[:, bend.columns].to(torch.float64)
            found[i] = whole.reshape(-1, *shape)
        return found

    def kinks(self) -> Tensor:
        """[U] where the loose neurons bend."""
        return torch.cat([torch.full((len(bend.at),), bend.kink) for bend in self.bends.values()] or [torch.zeros(0)])

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Of loose neurons with inputs in [lower, upper], [k, U]."""
        parts: list[tuple[Tensor, ...]] = []
        for bend in self.bends.values():
            operator = self.network.nodes[bend.node].operator
            assert isinstance(operator, Nonlinear)
            box = Box(lower[:, bend.columns], upper[:, bend.columns])
            ends = lower.new_tensor([0.0, 1.0])[:, None, None]
            both = operator.relax(box, choice=ends)
            (low, slope), (offset, other) = both.lower_slope[0], both.lower_offset.expand_as(both.lower_slope[0])
            parts.append((low, slope - low, offset, other - offset, both.upper_slope[0], both.upper_offset))
        if not parts:
            return Lines(*(lower.new_zeros(lower.shape) for _ in range(6)))
        return Lines(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))

    def after_splits(self, start: int, dual: Dual, columns: Tensor) -> Tensor:
        """Bounds [2, k, C] of sub-problems at their choices, once one open neuron more, columns [k, C], is below its kink, and
        once it is above. All but that neuron's lines are the sub-problem's own."""
        k, c = columns.shape
        parent, column = torch.arange(k).repeat_interleave(c), columns.reshape(-1, 1)
        whole, kinks = take(self.lines(dual.lower, dual.upper), parent), self.kinks()
        many, bounds = dual.take(parent), []
        for lower, upper in ((dual.lower, torch.minimum(dual.upper, kinks)), (torch.maximum(dual.lower, kinks), dual.upper)):
            own = map_tensors(self.lines(lower, upper), lambda t: t.gather(1, columns).reshape(-1, 1))
            pairs = zip(vars(whole).values(), vars(own).values(), strict=True)
            run = _Run(self, start, many, lines=Lines(*(line.scatter(1, column, mine) for line, mine in pairs)))
            run.bound()
            bounds.append(run.estimate.reshape(k, c))
        return torch.stack(bounds)

    def ascend(self, start: int, dual: Dual, steps: int, *, enough: float = 0.0, momentum: float = MOMENTUM) -> Found:
        """Up to `steps` steps of projected Adam on every sub-problem whose bound is at most `enough`."""
        k, d = len(dual), self.network.input_size
        run = _Run(self, start, dual, momentum)
        none = torch.full((k,), -torch.inf)
        zero = torch.zeros_like(dual.choice)
        means = torch.stack([zero] * 4, 1) if dual.means is None else dual.means.clone()
        gap = run.lines.gap(run.kinks)
        found = Found(
            none, dual.choice, dual.multiplier, dual.weight, none.new_zeros(k, d), zero.clone(), zero.clone(), means, gap
        )
        if not k:
            return found
        index = torch.arange(k)
        for step in range(steps + 1):
            run.bound()
            found = run.record(found, index)
            if step == steps:
                break
            todo = found.bound[index] <= enough
            count = int(todo.sum())
            if count == 0:
                break
            if count < DROP * len(index):
                keep = todo.nonzero()[:, 0]
                index = index[keep]
                run = run.take(keep)
            run.step(enough)
            found.value[index] = run.value
            found.means[index] = run.unbiased()
        return found


class _Run:
    """A few sub-problems on their way up."""

    def __init__(self, sketch: Sketch, start: int, dual: Dual, momentum: float = MOMENTUM, lines: Lines | None = None) -> None:
        """`lines`: the relaxations, where they are known; they then count, not the bounds in `dual`."""
        self.sketch, self.start, self.dual, self.momentum = sketch, start, dual, momentum
        self.lines = sketch.lines(dual.lower, dual.upper) if lines is None else lines
        self.choice, self.multiplier = dual.choice.clone(), dual.multiplier.clone()
        self.weight = dual.weight.clone()
        self.several = bool((dual.member.sum(1) > 1).any())
        self.branched = bool(dual.sign.any())
        self.scale: Tensor | None = None
        self.time = 0
        self.goes_on = dual.means is not None
        none = torch.zeros(()).expand(len(dual), 4, self.choice.shape[1])  # takes no memory where no step follows
        self.means = none if dual.means is None else dual.means.clone()
        self.weight_means = torch.zeros(len(dual), 2, self.weight.shape[1])
        self._settle()

    def _settle(self) -> None:
        """What follows from the sub-problems carried along."""
        place, bends = self.dual.place, self.sketch.bends.values()
        one = len(self.sketch.low_end) == 1
        self.slopes = {b.node: b.slope if one else b.slope[place] for b in bends}
        self.offsets = {b.node: b.offset if one or b.offset is None else b.offset[place] for b in bends}
        self.kinks = self.sketch.kinks()

    def take(self, index: Tensor) -> _Run:
        """The same, for fewer."""
        part = object.__new__(_Run)
        part.__dict__.update(self.__dict__)
        for name in ("dual", "lines"):
            setattr(part, name, take(getattr(self, name), index))
        for name in (
            "choice",
            "multiplier",
            "weight",
            "means",
            "weight_means",
            "share",
            "low",
            "low_offset",
            "estimate",
            "met",
            "x",
        ):
            setattr(part, name, getattr(self, name)[index])
        part.scale = None if self.scale is None else self.scale[index]
        part._settle()
        return part

    def record(self, found: Found, index: Tensor) -> Found:
        """What is better than before."""
        better = self.estimate > found.bound[index]
        at = index[better]
        whole = bool(better.all()) and len(index) == len(found.bound)
        if whole:
            return replace(
                found,
                bound=self.estimate,
                choice=self.choice.clone(),
                multiplier=self.multiplier.clone(),
                weight=self.weight.clone(),
                point=self.x,
                met=self.met.clone(),
            )
        found.met[index] = self.met
        found.bound[at] = self.estimate[better]
        for name in ("choice", "multiplier", "weight"):
            setattr_(found, name, at, getattr(self, name)[better])
        found.point[at] = self.x[better]
        return found

    def bound(self) -> None:
        """The backward pass: `estimate`, the coefficients `met` on the way, and the input `x` at which the bound is attained."""
        network, bends = self.sketch.network, self.sketch.bends
        share = self.weight * self.dual.member
        share = share / share.sum(1, keepdim=True)
        self.share = share
        self.offset = (share * self.dual.offset).sum(1)
        rows = torch.einsum("kr,kr...->k...", share, self.dual.rows) if share.shape[1] > 1 else self.dual.rows[:, 0]
        constant = self.offset
        choice, lines = self.choice, self.lines
        low = torch.addcmul(lines.low, lines.gain, choice)
        low_offset = torch.addcmul(lines.low_offset, lines.offset_gain, choice)
        price = self.dual.sign * self.multiplier if self.branched else None
        if price is not None:
            constant = constant + price @ self.kinks
        met = torch.zeros_like(choice)
        pending: dict[int, Tensor] = {self.start: rows[None]}
        for i in range(self.start, 0, -1):
            a = pending.pop(i, None)
            if a is None:
                continue
            node = network.nodes[i]
            off = self.sketch.program.get(i)
            if off is not None:
                size = flat(a, 2)[0].abs()
                constant = constant - (size @ off[0] if len(off) == 1 else (size * off[self.dual.place]).sum(1))
            parts: tuple[Tensor, ...]
            if isinstance(node.operator, Linear):
                bias = node.operator.bias
                if bias is not None:
                    constant = constant + flat(a, 2)[0] @ bias.expand(node.shape).flatten()
                parts = node.operator.transpose(a)
            else:
                bend = bends[i]
                columns, rowwise = bend.columns, flat(a, 2)[0]
                g = rowwise[:, bend.at]
                plus, minus = g.clamp(min=0), g.clamp(max=0)
                met[:, columns] = g
                h = torch.addcmul(plus * low[:, columns], minus, lines.up[:, columns])
                constant = constant + (plus * low_offset[:, columns] + minus * lines.up_offset[:, columns]).sum(1)
                if price is not None:
                    h = h - price[:, columns]
                slope, offset = flat(self.slopes[i], 1), self.offsets[i]
                through = rowwise * slope
                if offset is not None:
                    rest = rowwise.clone()
                    rest[:, bend.at] = 0.0
                    constant = constant + (rest * flat(offset, 1)).sum(1)
                through[:, bend.at] = h
                parts = (through.reshape(a.shape),)
            for j, part in zip(node.inputs, parts, strict=True):
                pending[j] = pending[j] + part if j in pending else part
        zero = constant.new_zeros(len(constant), network.input_size)
        a = pending[0][0] if 0 in pending else zero
        least, self.x = self._minimise(a)
        self.estimate = (constant + least).nan_to_num(nan=-torch.inf)
        self.met = met
        self.low, self.low_offset = low, low_offset

    def _minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        sketch, place = self.sketch, self.dual.place
        if not isinstance(sketch.region, BoxRegion):
            values, points = sketch.region.take(place).minimise(a.double()[:, None])
            return values[:, 0].float(), points[:, 0].float()
        if len(sketch.low_end) == 1:
            least = a @ sketch.middle[0] - a.abs() @ sketch.radius[0]
            return least, torch.where(a > 0, sketch.low_end, sketch.high_end)
        least = (a * sketch.middle[place] - a.abs() * sketch.radius[place]).sum(1)
        return least, torch.where(a > 0, sketch.low_end[place], sketch.high_end[place])

    def _evaluate(self) -> Tensor:
        """The relaxation at `x`, where `bound` was attained: the value [k, *shape] of the start node; fills in `value` [k, U]."""
        network, bends = self.sketch.network, self.sketch.bends
        below = self.met >= 0
        slope = torch.where(below, self.low, self.lines.up)
        offset = torch.where(below, self.low_offset, self.lines.up_offset)
        self.value = torch.zeros_like(self.choice)
        values: dict[int, Tensor] = {0: self.x}
        for i in _before(network, self.start):
            node = network.nodes[i]
            assert node.operator is not None
            inputs = [values[j] for j in node.inputs]
            if isinstance(node.operator, Linear):
                values[i] = node.operator(*inputs)
                continue
            bend, z = bends[i], flat(inputs[0], 1)
            mine = z[:, bend.at]
            self.value[:, bend.columns] = mine
            y = z * flat(self.slopes[i], 1)
            stable = self.offsets[i]
            if stable is not None:
                y = y + flat(stable, 1)
            y[:, bend.at] = torch.addcmul(offset[:, bend.columns], slope[:, bend.columns], mine)
            values[i] = y.reshape(inputs[0].shape)
        return values[self.start]

    def step(self, enough: float) -> None:
        """One step of Adam up the bound's derivative, and not much further than takes it to `enough`."""
        end = self._evaluate()
        self.time += 1
        if self.time == 1 and not self.goes_on:
            self.means = self.means.clone()
        rising = self.met.clamp(min=0) * torch.addcmul(self.lines.offset_gain, self.lines.gain, self.value)
        _average(self.means[:, :2], rising, self.momentum)
        # Of all neurons: whichever is split next finds what its multiplier has to do.
        _average(self.means[:, 2:], self.value - self.kinks, self.momentum)
        slopes, sides = self.unbiased().chunk(2, 1)
        moves = [self._move("choice", rising, slopes[:, 0], slopes[:, 1], SLOPE_RATE * (SLOPES_ON if self.goes_on else 1.0), 1.0)]
        if self.branched:
            if self.scale is None:
                self.scale = self._scale()
            sign, rate = self.dual.sign, MULTIPLIER_RATE * (MULTIPLIERS_ON if self.goes_on else 1.0) * self.scale
            falling = -sign * (self.value - self.kinks)
            moves.append(self._move("multiplier", falling, -sign * sides[:, 0], sides[:, 1], rate, torch.inf))
        member = self.dual.member
        if self.several:
            rows = torch.einsum("krm,km->kr", flat(self.dual.rows, 2), flat(end, 1)) + self.dual.offset
            mean = (self.share * rows).sum(1, keepdim=True)
            gradient = (rows - mean) * member
            _average(self.weight_means, gradient, self.momentum)
            fade, spread = self._faded()
            weights = self.weight_means[:, 0] / fade, self.weight_means[:, 1] / spread
            moves.append(self._move("weight", gradient, *weights, WEIGHT_RATE, 1.0))
        # A leaf is often a little short of a goal that is known. Adam's first steps are as long for it as for any other, and jump
        # far over it; the bound is concave, or nearly, so that what they promise is too much.
        promised = torch.stack([move.promised for move in moves]).sum(0).clamp(min=1e-12)
        length = (AIM * (enough - self.estimate).clamp(min=1e-6) / promised).clamp(max=1.0)[:, None]
        for move in moves:
            value = torch.addcmul(getattr(self, move.name), move.step, length)
            setattr(self, move.name, value.clamp_(0.0, move.high))
        if self.several:
            self.weight = torch.where((self.weight * member).sum(1, keepdim=True) > 0, self.weight, member)

    def _scale(self) -> Tensor:
        """[k, U] the mean size of the coefficients that meet a node's neurons."""
        scale = torch.zeros_like(self.met)
        for bend in self.sketch.bends.values():
            if len(bend.at):
                scale[:, bend.columns] = self.met[:, bend.columns].abs().mean(1, keepdim=True)
        return scale

    def unbiased(self) -> Tensor:
        """[k, 4, U] the means, which began at 0 unless they were handed down."""
        if self.goes_on:
            return self.means
        fade, spread = self._faded()
        return self.means / torch.tensor([fade, spread, fade, spread])[:, None]

    def _faded(self) -> tuple[float, float]:
        """How much of means that began at 0 is about derivatives that were seen."""
        return 1 - self.momentum**self.time, 1 - SQUARE**self.time

    def _move(self, name: str, gradient: Tensor, mean: Tensor, square: Tensor, rate: float | Tensor, high: float) -> _Move:
        """Adam (Kingma and Ba, ICLR 2015), projected onto [0, high]."""
        step = (mean / square.sqrt().add_(1e-12)).mul_(DECAY**self.time).mul_(rate)
        value = getattr(self, name)
        inside = (value + step).clamp_(0.0, high).sub_(value)
        return _Move(name, step, high, inside.mul_(gradient).sum(1))


@dataclass(frozen=True, eq=False)
class _Move:
    """What Adam would add to one kind of choice."""

    name: str
    step: Tensor  # [k, *]
    high: float  # the choice's upper end
    promised: Tensor  # [k] what it would add to the bound, were the bound linear


def _average(means: Tensor, gradient: Tensor, momentum: float) -> None:
    """One more gradient [k, *] in the running means of it and of its square, [k, 2, *], in place."""
    means[:, 0].mul_(momentum).add_(gradient, alpha=1 - momentum)
    means[:, 1].mul_(SQUARE).addcmul_(gradient, gradient, value=1 - SQUARE)


def setattr_(found: Found, name: str, at: Tensor, value: Tensor) -> None:
    """Rows `at` of one field."""
    getattr(found, name)[at] = value


def _before(network: Network, start: int) -> list[int]:
    """The nodes that node `start` is made of, itself last, in order."""
    needed = {start}
    for i in range(start, 0, -1):
        if i in needed:
            needed.update(network.nodes[i].inputs)
    return sorted(needed - {0})
