"""The backward pass: rows over one node's value, pushed back to rows over the input, with every rounding accounted for.

Each step keeps the statement true, for every x of the set,

    rows . value(start)  >=  sum over pending nodes of coefficient . value(node)  +  constant

as a statement about real numbers and the coefficients exactly as stored. A linear node multiplies its coefficient by the
weights; a nonlinear one chooses, by the coefficient's sign, the lower or the upper line. What a step may have lost to rounding is
bounded by |coefficient| times how large the node's value can be, and subtracted.

Reference: Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018
(CROWN); Xu et al., Automatic perturbation analysis for scalable certified robustness and beyond, NeurIPS 2020 (on graphs);
Wang et al., Beta-CROWN, NeurIPS 2021 (multipliers of split constraints).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Linear, Nonlinear
from fathom.core.region import Region
from fathom.core.rounding import down, gamma

ELEMENTWISE = 4  # roundings of one coefficient in a nonlinear step: product, sum of two signs, and one to spare


@dataclass(frozen=True, eq=False)
class Reach:
    """How large values can be: what the rounding account multiplies coefficients by. Valid on every subset too.

    First dimensions are n, or 1 where one bound serves all.
    """

    value: tuple[Tensor, ...]  # per node: |value| at most this, [n, *shape]
    load: tuple[Tensor | None, ...]  # per linear node: |W| |inputs| + |bias|, [n, *shape]

    @staticmethod
    def of(network: Network, boxes: Sequence[Box]) -> Reach:
        """From a box for every node."""
        value = tuple(box.magnitude.detach() for box in boxes)
        load: list[Tensor | None] = [None]
        for node in network.nodes[1:]:
            operator = node.operator
            if isinstance(operator, Linear) and operator.accumulation:
                size = operator.magnitude(*(value[i] for i in node.inputs))
                load.append((size if operator.bias is None else size + operator.bias.abs()).detach())
            else:
                load.append(None)
        return Reach(value, tuple(load))

    def take(self, index: Tensor) -> Reach:
        """The reach of the sets at `index`; one that serves all stays one."""
        if len(self.value[0]) == 1:
            return self
        return Reach(tuple(v[index] for v in self.value), tuple(None if v is None else v[index] for v in self.load))


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
        return down(values + self.constant), minimisers


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
    constant = rows.new_zeros(rows.shape[:2])
    error = rows.new_zeros(rows.shape[:2])
    kept: dict[int, Tensor] = {}
    for i in range(start, 0, -1):
        a = pending.pop(i, None)
        if a is None:
            continue
        node = network.nodes[i]
        operator = node.operator
        if isinstance(operator, Linear):
            parts = operator.transpose(a)
            load = reach.load[i]
            if load is not None:
                with torch.no_grad():
                    size = _dot(a.abs(), load)
                    error = error + gamma(operator.accumulation + load[0].numel() + 4, a.dtype) * size
            if operator.bias is not None:
                constant = constant + _dot(a, operator.bias.expand(node.shape)[None])
        else:
            assert isinstance(operator, Nonlinear)
            if keep:
                kept[i] = a
            parts, shift, loss = _through(operator, [boxes[j] for j in node.inputs], a, choices.get(i))
            constant, error = constant + shift, error + loss
            if i in splits:
                split, kink = splits[i], operator.kink
                assert kink is not None
                price = split.sign * split.multiplier
                parts = (parts[0] - price[:, None],)
                if kink:
                    constant = constant + kink * price.flatten(1).sum(1)[:, None]
                    error = error + gamma(price[0].numel() + 4, a.dtype) * abs(kink) * price.abs().flatten(1).sum(1)[:, None]
        for j, part in zip(node.inputs, parts, strict=True):
            joined = j in pending
            pending[j] = pending[j] + part if joined else part
            if joined or isinstance(operator, Nonlinear):
                with torch.no_grad():
                    error = error + gamma(ELEMENTWISE, a.dtype) * _dot(pending[j].abs(), reach.value[j])
    a = pending.get(0)
    if a is None:  # no path from the input: the value is a constant
        a = rows.new_zeros(*rows.shape[:2], network.input_size)
    error = error + gamma(len(network.nodes) * 4, a.dtype) * (constant.detach().abs() + error)
    return LinearBound(a, down(down(constant - error)), kept)


def _through(
    operator: Nonlinear, boxes: list[Box], a: Tensor, choice: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Rows through a relaxation: coefficients over each input, what the offsets add, and what that sum may have lost."""
    lines = operator.relax(*(box.map(lambda t: t.unsqueeze(1)) for box in boxes), choice=choice)
    plus, minus = a.clamp(min=0), a.clamp(max=0)
    slopes = zip(lines.lower_slope, lines.upper_slope, strict=True)
    parts = tuple(plus * lower + minus * upper for lower, upper in slopes)
    shift, size = a.new_zeros(a.shape[:2]), a.new_zeros(a.shape[:2])
    for side, offset in ((plus, lines.lower_offset), (minus, lines.upper_offset)):
        if offset.any():
            shift = shift + _dot(side, offset)
            with torch.no_grad():
                size = size + _dot(side.abs(), offset.abs())
    return parts, shift, gamma(a[0, 0].numel() + ELEMENTWISE, a.dtype) * size


def _dot(a: Tensor, v: Tensor) -> Tensor:
    """[n, rows] sums of a [n, rows, *shape] times v, which is [n or 1, *shape] or [n or 1, 1 or rows, *shape]."""
    if v.ndim == a.ndim:
        if v.shape[1] > 1:
            return (a * v).flatten(2).sum(2)
        v = v[:, 0]
    if len(v) == 1:
        return a.flatten(2) @ v.flatten()
    return torch.matmul(a.flatten(2), v.flatten(1).unsqueeze(2)).squeeze(2)
