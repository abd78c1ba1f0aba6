"""The backward pass: rows over one node's value, pushed back to rows over the input, with every rounding accounted for.

Each step keeps the statement true, for every x of the set,

    rows . value(start)  >=  sum over pending nodes of coefficient . value(node)  +  constant

as a statement about real numbers and the coefficients exactly as stored. A linear node multiplies its coefficient by the
weights; a nonlinear one chooses, by the coefficient's sign, the lower or the upper line. What a step may have lost to rounding is
bounded by |coefficient| times how large the node's value can be, and subtracted. Sums are charged for what goes into them, never
for their result alone: terms that cancel leave their rounding behind. Where the network is a float32 program
(`core.single`), values are those computed, and what the program may be off by at a node is subtracted likewise.

Reference: Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018
(CROWN); Xu et al., Automatic perturbation analysis for scalable certified robustness and beyond, NeurIPS 2020 (on graphs);
Wang et al., Beta-CROWN, NeurIPS 2021 (multipliers of split constraints).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fathom.bounds.contraction import Contraction, contract, contractions
from fathom.bounds.log_sums import log_sums, through
from fathom.core.box import Box
from fathom.core.network import Network, Node
from fathom.core.operator import Linear, Lines, Nonlinear
from fathom.core.region import Region
from fathom.core.rounding import down, gamma, tiny, up
from fathom.core.single import magnitudes, program_error
from fathom.core.value import flat, take

ELEMENTWISE = 4  # roundings of one coefficient in a nonlinear step: product, sum of two signs, and one to spare


@dataclass(frozen=True, eq=False)
class Reach:
    """How large values can be: what the rounding account multiplies coefficients by. Valid on every subset too.

    First dimensions are n, or 1 where one bound serves all.
    """

    value: tuple[Tensor, ...]  # per node: |value| at most this, [n, *shape]
    load: tuple[Tensor | None, ...]  # per linear node: |W| |inputs| + |bias|, [n, *shape]
    program: tuple[Tensor | None, ...]  # per node: how far the float32 program may be off there, [n, *shape]; None: not at all

    @staticmethod
    def of(network: Network, boxes: Sequence[Box]) -> Reach:
        """From a box for every node."""
        value = tuple(box.magnitude.detach() for box in boxes)
        account = [loads(node, value) for node in network.nodes]
        return Reach(value, tuple(load for load, _ in account), tuple(program for _, program in account))

    def take(self, index: Tensor) -> Reach:
        """The reach of the sets at `index`; one that serves all stays one."""
        return self if len(self.value[0]) == 1 else take(self, index)


def loads(node: Node, value: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """One node's entries in `Reach.load` and `Reach.program`, from the magnitudes of the nodes before."""
    operator = node.operator
    counts = isinstance(operator, Linear) and operator.accumulation > 0
    if operator is None or not (counts or node.rounded):
        return None, None
    size = magnitudes(operator, *(value[i] for i in node.inputs)).detach()
    return size if counts else None, program_error(operator, size) if node.rounded else None


@dataclass(frozen=True, eq=False)
class Split:
    """Constraints of a branch on the inputs of one nonlinear node: sign * (value - kink) >= 0 where sign is not 0."""

    sign: Tensor  # [n, *shape]: -1, 0 or 1, in the dtype of the bounds
    multiplier: Tensor  # [n, *shape] >= 0


@dataclass(frozen=True, eq=False)
class LinearBound:
    """value >= a x + constant for every x of the set; [n, rows, d] and [n, rows]; constant is rigorous."""

    a: Tensor
    constant: Tensor
    met: Mapping[int, Tensor] = field(default_factory=dict)  # the coefficient [n, rows, *shape] at each nonlinear node

    def minimise(self, region: Region) -> tuple[Tensor, Tensor]:
        """Rigorous lower bounds [n, rows] on the value over the region, and the inputs [n, rows, d] where they are attained."""
        values, minimisers = region.minimise(self.a)
        values = down(values + self.constant)
        return torch.where(values.isnan(), -torch.inf, values), minimisers  # NaN is an overflow, and proves nothing


def backward(
    network: Network,
    boxes: Sequence[Box],
    reach: Reach,
    start: int,
    rows: Tensor,
    choices: Mapping[int, Tensor] | None = None,
    splits: Mapping[int, Split] | None = None,
    *,
    keep: bool = False,
) -> LinearBound:
    """A linear lower bound in x on rows over the value of node `start`.

    Args:
        network: weights in the dtype of `rows`; may be live.
        boxes: for every node a box [n, *shape] that holds its values; only those of nonlinear nodes' inputs are read.
        reach: how large values can be, for the rounding account.
        start: the node that `rows` [n, rows, *shape] are over. Anything: the bound is linear in x for each row.
        choices: per nonlinear node the free parameter of its relaxation, [n, 1 or rows, *shape] in [0, 1].
        splits: per nonlinear node the constraints of a branch, and multipliers that price them in.
        keep: also return the coefficient at every nonlinear node.

    Returns:
        The bound; differentiable in rows, weights, choices and multipliers.
    """
    choices, splits = choices or {}, splits or {}
    pending: dict[int, Tensor] = {start: rows}
    constant, error, moved = (rows.new_zeros(rows.shape[:2]) for _ in range(3))  # moved: what constant is a sum of, in magnitude
    kept: dict[int, Tensor] = {}
    whole, sums = contractions(network), log_sums(network)
    for i in range(start, 0, -1):
        a = pending.pop(i, None)
        if a is None:
            continue
        node = network.nodes[i]
        inputs = whole[i].inputs if i in whole else (sums[i].source,) if i in sums else node.inputs
        values = [reach.value[j] for j in inputs]
        if i in whole:
            step = _through_contraction(whole[i], boxes, a, choices.get(whole[i].product), values)
            if keep:
                kept[whole[i].product] = a.unsqueeze(-1).expand(*a.shape, boxes[inputs[0]].lower.shape[-1])
        elif i in sums:
            over = through(sums[i], a, boxes[sums[i].source], values[0])
            step = _Step((over.part,), over.shift, over.moved, over.lost + _underflow(a, values))
        elif isinstance(node.operator, Linear):
            step = _through_linear(node.operator, node.shape, a, reach.load[i], values)
        else:
            assert isinstance(node.operator, Nonlinear)
            step = _through_lines(node.operator, [boxes[j] for j in node.inputs], a, choices.get(i), values)
            if i in splits:
                step = _priced(step, splits[i], node.operator.kink, values)
            if keep:
                kept[i] = a
        constant, moved, error = constant + step.shift, moved + step.moved, error + step.lost
        off = reach.program[i]
        if off is not None:
            error = error + _charge(a, off)
        for j, part, value in zip(inputs, step.parts, values, strict=True):
            pending[j], lost = _joined(pending[j], part, value) if j in pending else (part, 0.0)
            error = error + lost
    a = pending.get(0)
    if a is None:  # no path from the input: the value is a constant
        a = rows.new_zeros(*rows.shape[:2], network.input_size)
    error = error + gamma(len(network.nodes) * 4, a.dtype) * (moved + error)
    return LinearBound(a, down(down(constant - error)), kept)


@dataclass(frozen=True, eq=False)
class _Step:
    """Rows over a node's value turned into rows over its inputs' values."""

    parts: tuple[Tensor, ...]  # [n, rows, *in_i]
    shift: Tensor  # [n, rows]: added to the constant
    moved: Tensor  # [n, rows]: at least the magnitude of what `shift` is a sum of
    lost: Tensor  # [n, rows]: at most what rounding took from the statement


def _through_linear(operator: Linear, shape: tuple[int, ...], a: Tensor, load: Tensor | None, values: Sequence[Tensor]) -> _Step:
    """Exact but for rounding; and where nothing is computed (no `load`), exact."""
    parts, zero = operator.transpose(a), a.new_zeros(a.shape[:2])
    shift = zero if operator.bias is None else _dot(a, operator.bias.expand(shape)[None])
    if load is None:
        return _Step(parts, shift, shift.detach().abs(), zero)
    with torch.no_grad():
        lost = gamma(operator.accumulation + math.prod(shape) + 4, a.dtype) * _dot(a.abs(), load) + _underflow(a, values)
    return _Step(parts, shift, shift.detach().abs(), lost)


def _through_lines(operator: Nonlinear, boxes: list[Box], a: Tensor, choice: Tensor | None, values: Sequence[Tensor]) -> _Step:
    """Through a relaxation: by the sign of each coefficient, its lower or its upper line."""
    lines = operator.relax(*(box.map(lambda t: t.unsqueeze(1)) for box in boxes), choice=choice)
    if all(low is high for low, high in zip(lines.lower_slope, lines.upper_slope, strict=True)):
        return _between_planes(lines, a, values)
    plus, minus = a.clamp(min=0), a.clamp(max=0)
    slopes = zip(lines.lower_slope, lines.upper_slope, strict=True)
    parts = tuple(plus * lower + minus * upper for lower, upper in slopes)
    shift, moved = a.new_zeros(a.shape[:2]), a.new_zeros(a.shape[:2])
    for side, offset in ((plus, lines.lower_offset), (minus, lines.upper_offset)):
        if offset.any():
            shift = shift + _dot(side, offset)
            with torch.no_grad():
                moved = moved + _dot(side.abs(), offset.abs())
    with torch.no_grad():
        lost = gamma(math.prod(a.shape[2:]) + ELEMENTWISE, a.dtype) * moved + _underflow(a, values)
        for part, value in zip(parts, values, strict=True):
            lost = lost + gamma(ELEMENTWISE, a.dtype) * _dot(part.abs(), value)
    return _Step(parts, shift, moved, lost)


def _through_contraction(
    whole: Contraction, boxes: Sequence[Box], a: Tensor, choice: Tensor | None, values: list[Tensor]
) -> _Step:
    """Through a matrix product of two values, whole."""
    x, z = (boxes[j] for j in whole.inputs)
    passed = contract(a, x, z, (values[0], values[1]), choice)
    return _Step(passed.parts, passed.shift, passed.moved, passed.lost + _underflow(a, values))


def _between_planes(lines: Lines, a: Tensor, values: Sequence[Tensor]) -> _Step:
    """Through parallel planes, where the sign of a coefficient moves the offset alone: fewer passes over what is large."""
    size = a.abs()
    parts = tuple(a * slope for slope in lines.lower_slope)
    middle = lines.lower_offset / 2 + lines.upper_offset / 2
    half = up(torch.maximum(lines.upper_offset - middle, middle - lines.lower_offset))
    shift = _dot(a, middle) - _dot(size, half)
    with torch.no_grad():
        size = size.detach()
        moved = _dot(size, middle.abs() + half)
        weight = torch.stack([slope.abs() * v.unsqueeze(1) for slope, v in zip(lines.lower_slope, values, strict=True)]).sum(0)
        lost = gamma(math.prod(a.shape[2:]) + 2 * ELEMENTWISE, a.dtype) * moved + _underflow(a, values)
        lost = lost + gamma(2 * ELEMENTWISE, a.dtype) * _dot(size, weight)
    return _Step(parts, shift, moved, lost)


def _priced(step: _Step, split: Split, kink: float | None, values: Sequence[Tensor]) -> _Step:
    """The constraints of a split, each times its multiplier, taken from what is minimised: they are >= 0 on the branch."""
    assert kink is not None
    price = (split.sign * split.multiplier)[:, None]
    part, lost = _joined(step.parts[0], -price, values[0])
    shift = kink * flat(price, 2).sum(2)
    moved = abs(kink) * flat(price.detach().abs(), 2).sum(2)
    lost = lost + gamma(math.prod(price.shape[2:]) + 4, part.dtype) * moved
    return _Step((part,), step.shift + shift, step.moved + moved, step.lost + lost)


def _joined(a: Tensor, part: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of two rows over one node, and at most what its rounding takes."""
    total = a + part
    with torch.no_grad():
        return total, gamma(ELEMENTWISE, a.dtype) * _dot(total.abs(), value)


def _charge(a: Tensor, off: Tensor) -> Tensor:
    """At least |a| off: what the errors of a node are worth to rows over it."""
    with torch.no_grad():
        return _dot(a.abs(), off) * (1 + gamma(math.prod(a.shape[2:]) + 4, a.dtype)) + tiny(a.dtype)


def _underflow(a: Tensor, values: Sequence[Tensor]) -> Tensor:
    """At most what underflows in the coefficients of a step can lose, however much the values magnify them."""
    return tiny(a.dtype) * torch.stack([flat(value, 1).sum(1) for value in values]).sum(0)[:, None]


def _dot(a: Tensor, v: Tensor) -> Tensor:
    """[n, rows] sums of a [n, rows, *shape] times v, which is [n or 1, *shape] or [n or 1, 1 or rows, *shape]."""
    if v.ndim == a.ndim:
        if v.shape[1] > 1:
            return flat(a * v, 2).sum(2)
        v = v[:, 0]
    if len(v) == 1:
        return flat(a, 2) @ v.flatten()
    return torch.matmul(flat(a, 2), flat(v, 1).unsqueeze(2)).squeeze(2)
