"""Logarithms of sums of exponentials, bounded whole: planes over all their elements instead of a chain of softplus.

Capture writes log(e^a + e^b) as b + softplus(a - b), and a longer sum as a tree of those. The trees are read back here: every
element of a node is then the log-sum-exp of a set of elements of one earlier value, and rows pass from the one to the other by
one matrix product with planes over that value's box. Only that value needs to be bounded, not the differences in the tree.

The plane below is Gibbs' inequality, log sum e^x_j >= sum p_j x_j + entropy(p) for every distribution p; the one above takes
each exponential's chord, and the tangent of the logarithm (Wei et al., Convex bounds on the softmax function with applications to
robustness verification, AISTATS 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fathom.core.arithmetic import Arithmetic
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Linear
from fathom.core.rounding import down, gamma, tiny, up
from fathom.core.value import flat
from fathom.ops.convex import chord
from fathom.ops.elementary import ULPS, widen
from fathom.ops.softplus import Softplus
from fathom.ops.sum import Sum


@dataclass(frozen=True, eq=False)
class LogSums:
    """A node whose elements are log-sum-exps of elements of node `source`, in groups that share no element of either."""

    source: int
    elements: Tensor  # [groups, k] flat places in the source
    results: Tensor  # [groups, m] flat places in the node
    member: Tensor  # [groups, m, k] bool: what each result sums


@dataclass(frozen=True, eq=False)
class Planes:
    """lower_slope x + lower_offset <= y <= upper_slope x + upper_offset for the groups' results y [m] and elements x [k]."""

    lower_slope: Tensor  # [n, groups, m, k]
    lower_offset: Tensor  # [n, groups, m]
    upper_slope: Tensor
    upper_offset: Tensor


_READ: WeakKeyDictionary[Network, dict[int, LogSums]] = WeakKeyDictionary()


def log_sums(network: Network) -> dict[int, LogSums]:
    """Per node that ends a tree of log-sum-exps and is read from outside of it: what it sums. Read once for each network.

    A float32 program errs at every node on the way, so its trees are left as they are.
    """
    if network not in _READ:
        _READ[network] = _Reading(network).found()
    return _READ[network]


class _Reading:
    """Which elements of which value each element of a node sums, where it does.

    A table [width, *shape] names places, counted from 1 in float64, so that copying operators take it like values; 0 is none.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.tables: dict[int, tuple[int, Tensor, bool]] = {}  # source, table, and whether anything is summed
        self.inner: set[int] = set()

    def found(self) -> dict[int, LogSums]:
        """All that can be bounded whole."""
        if self.network.arithmetic is not Arithmetic.REAL:
            return {}
        ends = [i for i, node in enumerate(self.network.nodes) if self._pair(i) is not None]
        if not ends:
            return {}
        readers: dict[int, list[int]] = {}
        for i, node in enumerate(self.network.nodes):
            for j in node.inputs:
                readers.setdefault(j, []).append(i)
            if i >= ends[0] and self._table(i)[2]:
                self.inner.add(i)
        inside = {j for i in ends for j in self._links(i) if i in self.inner} | self.inner
        found = {}
        for i in sorted(self.inner):
            if any(reader not in inside for reader in readers.get(i, [-1])):
                whole = _grouped(*self._table(i)[:2])
                if whole is not None:
                    found[i] = whole
        return found

    def _pair(self, i: int) -> tuple[int, int] | None:
        """Nodes a and b, where node i is b + softplus(a - b)."""
        node = self.network.nodes[i]
        if not isinstance(node.operator, Sum) or node.operator.signs != (1, 1):
            return None
        for soft, b in (node.inputs, node.inputs[::-1]):
            if isinstance(self.network.nodes[soft].operator, Softplus):
                difference = self.network.nodes[self.network.nodes[soft].inputs[0]]
                if isinstance(difference.operator, Sum) and difference.operator.signs == (1, -1) and difference.inputs[1] == b:
                    return difference.inputs[0], b
        return None

    def _links(self, i: int) -> tuple[int, ...]:
        """The softplus and the difference of such a node."""
        soft = next(j for j in self.network.nodes[i].inputs if isinstance(self.network.nodes[j].operator, Softplus))
        return soft, self.network.nodes[soft].inputs[0]

    def _table(self, i: int) -> tuple[int, Tensor, bool]:
        if i not in self.tables:
            self.tables[i] = self._read(i)
        return self.tables[i]

    def _read(self, i: int) -> tuple[int, Tensor, bool]:
        node = self.network.nodes[i]
        pair = self._pair(i)
        if pair is not None:
            first, second = (self._table(j) for j in pair)
            if first[0] == second[0]:
                return first[0], torch.cat([first[1], second[1]]), True
        elif isinstance(node.operator, Linear) and node.operator.copies and node.inputs:
            parts = [self._table(j) for j in node.inputs]
            width = max(len(table) for _, table, _ in parts)
            if len({source for source, _, _ in parts}) == 1:
                tables = [torch.cat([t, t.new_zeros(width - len(t), *t.shape[1:])]) for _, t, _ in parts]
                return parts[0][0], node.operator(*tables), any(summed for _, _, summed in parts)
        return i, torch.arange(1.0, math.prod(node.shape) + 1, dtype=torch.float64).reshape(1, *node.shape), False


def _grouped(source: int, table: Tensor) -> LogSums | None:
    """The sets of a table in groups of one size; None where an element is summed twice or not at all, or groups differ."""
    rows = flat(table, 1).T.long().sort(1, descending=True).values
    rows = rows[:, : int((rows > 0).sum(1).max())]
    if bool((rows[:, 0] == 0).any()) or bool(((rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] > 0)).any()):
        return None
    label = torch.arange(int(rows.max()) + 1)
    while True:  # the least place that any set in common leads to
        least = torch.where(rows > 0, label[rows], len(label)).amin(1, keepdim=True)
        spread = label.scatter_reduce(0, rows.flatten(), least.expand(rows.shape).flatten(), "amin")
        spread[0] = 0
        if torch.equal(spread, label):
            break
        label = spread
    places = torch.unique(rows[rows > 0])
    names, of_place, sizes = torch.unique(label[places], return_inverse=True, return_counts=True)
    _, of_row, counts = torch.unique(label[rows[:, 0]], return_inverse=True, return_counts=True)
    if bool((sizes != sizes[0]).any()) or bool((counts != counts[0]).any()):
        return None
    elements = places[of_place.argsort(stable=True)].reshape(len(names), -1)
    results = of_row.argsort(stable=True).reshape(len(names), -1)
    groups, k = elements.shape
    column = torch.full((int(rows.max()) + 1,), k).index_copy(0, elements.flatten(), torch.arange(k).repeat(groups))
    member = torch.zeros(len(rows), k + 1, dtype=torch.bool).scatter(1, column[rows], value=True)[:, :k]
    return LogSums(source, elements - 1, results, member[results])


def planes(whole: LogSums, box: Box) -> Planes:
    """Planes over the box [n, *shape] of the source.

    Everything is done for x less the largest upper end of its group, which is added again at the end. What is computed of a slope
    is what is meant; offsets follow from the slopes as they are.
    """
    member = whole.member
    x = box.map(lambda t: flat(t, 1)[:, whole.elements].unsqueeze(-2))  # [n, groups, 1, k]
    top = torch.where(member, x.upper, -torch.inf).amax(-1, keepdim=True)
    low, high = (torch.where(member, t, 0.0) for t in (down(x.lower - top), up(x.upper - top)))
    far = low.abs().amax(-1)
    k, dtype = member.shape[-1], low.dtype
    # Below: the distribution at the middle, its sum within `off` of one.
    middle = (low / 2 + high / 2).masked_fill(~member, -torch.inf)
    p = middle.softmax(-1)
    entropy = torch.where(p > 0, -p * p.clamp(min=tiny(dtype)).log(), 0.0)
    off = (p.sum(-1) - 1).abs() + gamma(k + 2, dtype)
    size = entropy.sum(-1) + off * (2 * far + 2 * entropy.sum(-1) + 4)
    lower = entropy.sum(-1) - (gamma(k + 2 * ULPS["log"] + 8, dtype) * size + 2 * off * (far + entropy.sum(-1) + 2))
    # Above: chords of the exponential, and log v <= r v - 1 - log r for any r > 0.
    start, end = widen(low.exp(), ULPS["exp"]), widen(high.exp(), ULPS["exp"])
    steep = chord(Box(low, high), start.middle, end.middle)
    steep = torch.minimum(torch.maximum(steep, start.lower.clamp(min=0.0)), end.upper)
    cover = torch.maximum(up(start.upper + up(steep * -low)), up(end.upper + up(steep * -high)))
    cover, steep = (torch.where(member, t, 0.0) for t in (cover, steep))
    total = (cover + steep * (low / 2 + high / 2)).sum(-1).clamp(min=tiny(dtype) ** 0.25)
    r = 1 / total
    slope = r.unsqueeze(-1) * steep
    over = r * cover.sum(-1)
    log = widen(r.log(), ULPS["log"]).lower
    upper = over - 1 - log
    upper = upper + gamma(2 * k + 16, dtype) * (over + 1 + log.abs() + (slope * low.abs()).sum(-1))
    single = member.sum(-1) == 1
    one = member.to(dtype) * single.unsqueeze(-1)
    p, slope = (torch.where(single.unsqueeze(-1), one, t) for t in (p, slope))
    lower, upper = (torch.where(single, 0.0, t) for t in (lower, upper))
    # Back to x itself: y = top + f(x - top).
    at = top.squeeze(-1)
    ends = []
    for s, offset, sign in ((p, lower, -1), (slope, upper, 1)):
        moved = at * (1 - s.sum(-1))
        error = gamma(k + 8, dtype) * (at.abs() * (2 + s.sum(-1)) + offset.abs()) + tiny(dtype)
        ends.append(torch.where(single, 0.0, offset + moved + sign * error))
    return Planes(p, down(ends[0]), slope, up(ends[1]))


@dataclass(frozen=True, eq=False)
class Passed:
    """Rows over a node turned into rows over its source; as the steps of the backward pass."""

    part: Tensor
    shift: Tensor
    moved: Tensor
    lost: Tensor


def through(whole: LogSums, a: Tensor, box: Box, value: Tensor) -> Passed:
    """Rows a [n, rows, *shape] over log-sum-exps, by the sign of each coefficient, through the lower or the upper plane.

    `box` is the source's; `value` bounds its magnitude, [n or 1, *source].
    """
    lines = planes(whole, box)
    groups, m, k = whole.member.shape
    rows = flat(a, 2)[:, :, whole.results].transpose(1, 2)  # [n, groups, rows, m]
    plus, minus = rows.clamp(min=0), rows.clamp(max=0)
    part = plus @ lines.lower_slope + minus @ lines.upper_slope
    back = a.new_zeros(*a.shape[:2], math.prod(box.lower.shape[1:]))
    back = back.index_copy(2, whole.elements.flatten(), part.transpose(1, 2).reshape(*a.shape[:2], groups * k))
    shift = (plus * lines.lower_offset.unsqueeze(2) + minus * lines.upper_offset.unsqueeze(2)).sum((1, 3))
    with torch.no_grad():
        size = rows.abs()
        offset = torch.maximum(lines.lower_offset.abs(), lines.upper_offset.abs()).unsqueeze(2)
        slope = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs())
        reach = (slope * flat(value, 1)[:, whole.elements].unsqueeze(-2)).sum(-1).unsqueeze(2)
        moved = (size * offset).sum((1, 3))
        lost = gamma(groups * m + 8, a.dtype) * moved + gamma(2 * m + k + 8, a.dtype) * (size * reach).sum((1, 3))
    return Passed(back.reshape(*a.shape[:2], *box.lower.shape[1:]), shift, moved, lost)
