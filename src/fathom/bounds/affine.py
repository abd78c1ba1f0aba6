"""Affine forms: every value as a linear function of the few inputs that vary, with symbols for what relaxations lose.

A value is centre + sum over k of columns_k e_k + rest [-1, 1], for some e in [-1, 1]^K that all values share. Linear operators
take a form through in one pass for all columns, however many elements are to be bounded; the backward pass takes a row for each.
So forms are the cheaper way where few inputs vary and the network is large, like a generator of pictures from a few numbers.

Reference: de Figueiredo and Stolfi, Affine arithmetic: concepts and applications, Numerical Algorithms 37, 2004; Singh et al.,
Fast and effective robustness certification, NeurIPS 2018 (DeepZ).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fathom.bounds.work import products
from fathom.core.arithmetic import Arithmetic
from fathom.core.box import Box
from fathom.core.network import Network, Select
from fathom.core.operator import Linear, Lines, Nonlinear
from fathom.core.rounding import down, gamma, tiny, up
from fathom.core.value import flat
from fathom.ops.constant import Constant

FEW_INPUTS = 16  # that vary: each is a column from the first node to the last
HEAVY = 2e10  # multiplications of bounding every element backward, from which on forms are worth it
LEAN_INPUTS = 4  # that vary: up to here boxes may be halved so often that lean forms do
ROWS = 0.25  # of the elements of a network's inside, about: what the backward pass has to bound of a set not yet halved
SYMBOLS = 384  # new ones of a node at most: the largest; what is left of its relaxations goes into the rest
AT_ONCE = 1 << 22  # numbers that an operator is given at once: convolutions unfold them, many times over


@dataclass(frozen=True, eq=False)
class Form:
    """n values of one shape; the statement is about real numbers, and the tensors exactly as stored."""

    centre: Tensor  # [n, *shape]
    columns: Tensor  # [n, K, *shape]; K may be less than that of another value: the rest is zero
    rest: Tensor  # [n, *shape] >= 0: what has no symbol of its own, rounding included

    @cached_property
    def radius(self) -> Tensor:
        """[n, *shape]: no less than how far a value is from its centre."""
        total = self.columns.abs().sum(1) + self.rest
        return up(total * (1 + gamma(self.columns.shape[1] + 4, total.dtype)))

    @property
    def size(self) -> Tensor:
        """[n, *shape]: about the largest magnitude, and no less than that but for a relative error of a few units."""
        return self.centre.abs() + self.radius

    def box(self) -> Box:
        """What the values may be; infinite where something overflowed."""
        lower, upper = down(self.centre - self.radius), up(self.centre + self.radius)
        return Box(lower.nan_to_num(nan=-torch.inf, neginf=-torch.inf), upper.nan_to_num(nan=torch.inf, posinf=torch.inf))

    def widened(self, count: int) -> Tensor:
        """The columns with zeros for further symbols, `count` in all."""
        missing = count - self.columns.shape[1]
        if not missing:
            return self.columns
        zeros = self.columns.new_zeros(len(self.columns), missing, *self.centre.shape[1:])
        return torch.cat([self.columns, zeros], 1)


def pays(network: Network, box: Box) -> bool:
    """Whether forms are worth it, by the structure of a network and how many of its inputs vary in a box [n, d]; never for a
    float32 program, whose errors they do not carry."""
    if network.arithmetic is not Arithmetic.REAL or int((box.lower < box.upper).any(0).sum()) > FEW_INPUTS:
        return False
    return _multiplications(network)[0] > HEAVY


def halvings(network: Network, box: Box) -> float:
    """How often each input that varies in a box [n, d] may be halved until the boxes by lean forms are as much work as the one by
    rows sent backward; -inf where lean forms are out of the question.

    Lean forms have no symbols of their own: a column for each of the q inputs that vary. They are looser than rows sent backward,
    and as quick as a few evaluations. Where lines are level in a value that varies nothing closes in as the square of a box's
    width, and boxes would be far too many.
    """
    varying = int((box.lower < box.upper).any(0).sum()) if len(box) else 0
    if network.arithmetic is not Arithmetic.REAL or not 0 < varying <= LEAN_INPUTS or _levels(network, box):
        return -math.inf
    backward, forward = _multiplications(network)
    return math.log2(max(ROWS * backward, 1.0) / (lean_passes(varying) * max(forward, 1.0))) / varying


def _levels(network: Network, box: Box) -> bool:
    """Whether an operator reads a value that varies in a box [n, d], and relaxes it without a slope."""
    inputs = (box.lower < box.upper).any(0)
    varies = [True]
    for node in network.nodes[1:]:
        operator = node.operator
        if isinstance(operator, Select):
            varies.append(bool(inputs[operator.start : operator.start + math.prod(operator.shape)].any()))
            continue
        if isinstance(operator, Nonlinear) and any(varies[node.inputs[k]] for k in operator.level):
            return True
        varies.append(not isinstance(operator, Constant) and any(varies[j] for j in node.inputs))
    return False


def lean_passes(varying: int) -> int:
    """How many evaluations of a network lean forms are worth, about: columns, centre, magnitudes."""
    return varying + 6


def _multiplications(network: Network) -> tuple[float, float]:
    """What it takes to bound every element that bends backward, from both sides; and to evaluate the network once."""
    sums = products(network)
    bent = (i for i, node in enumerate(network.nodes) if node.operator is not None and not isinstance(node.operator, Linear))
    return sum(2 * math.prod(network.nodes[i].shape) * sums[i] for i in bent), sums[-1]


class Forms:
    """The forms of a network's values, node by node, in order."""

    def __init__(self, network: Network, memory: int, symbols: int | None = None) -> None:
        """`memory`: bytes of columns, about; there are fewer symbols where it is short.

        `symbols`: new ones of a node, at most; by default `SYMBOLS`.
        """
        self.network = network
        self.symbols = SYMBOLS if symbols is None else symbols
        self.forms: dict[int, Form] = {}
        self.count = 0  # symbols so far
        self.last = list(range(len(network.nodes)))  # for each node its last reader
        for i, node in enumerate(network.nodes):
            for j in node.inputs:
                self.last[j] = i
        widest = [math.prod(node.shape) for node in network.nodes]
        for i in range(len(widest) - 2, -1, -1):
            widest[i] = max(widest[i], widest[i + 1])
        self.room = [memory // (16 * size) for size in widest]  # symbols that later nodes have memory for

    def step(self, i: int, boxes: Sequence[Box], box: Box) -> Box:
        """The box of node i by its form.

        Args:
            boxes: of the nodes before i, at least as tight as this method's.
            box: of node i, by other means; read for the input alone.
        """
        node = self.network.nodes[i]
        operator, read = node.operator, [self.forms[j] for j in node.inputs]
        if operator is None:
            form = _start(box)
        elif isinstance(operator, Linear):
            form = _linear(operator, read)
        else:
            assert isinstance(operator, Nonlinear)
            form = self._bent(i, operator, [boxes[j] for j in node.inputs], read)
        self.forms[i] = form
        self.count = max(self.count, form.columns.shape[1])
        for j in (*node.inputs, i):
            if self.last[j] <= i:
                self.forms.pop(j, None)
        return form.box()

    def _bent(self, i: int, operator: Nonlinear, boxes: list[Box], read: list[Form]) -> Form:
        """Between two parallel planes; half their distance is a new symbol."""
        n = len(boxes[0])
        slopes, low, high = _parallel(operator, boxes)
        middle = low / 2 + high / 2
        half = up(torch.maximum(high - middle, middle - low)).where(high > low, 0.0)
        old = max(form.columns.shape[1] for form in read)
        centre, rest, size = middle, torch.zeros_like(middle), middle.abs()
        columns = torch.zeros(())
        for slope, form in zip(slopes, read, strict=True):
            centre = centre + slope * form.centre
            columns = columns + slope.unsqueeze(1) * form.widened(old)
            rest = rest + slope.abs() * form.rest
            size = size + slope.abs() * form.size
        lost = gamma(2 * len(read) + 6, size.dtype) * size + (old + 2) * tiny(size.dtype)
        rest = up(rest * (1 + gamma(len(read) + 4, rest.dtype)))
        spare = max(0, min(self.symbols, self.room[i] - self.count))
        if not spare:
            return Form(centre, columns, up(rest + up(lost + half)))
        errors = flat(half, 1)
        top = errors.topk(min(spare, int((errors > 0).sum(1).max()) if n else 0), dim=1)
        new = errors.new_zeros(n, top.indices.shape[1], errors.shape[1]).scatter(
            2, top.indices.unsqueeze(2), top.values.unsqueeze(2)
        )
        left = errors.scatter(1, top.indices, 0.0).reshape(half.shape)
        rest = up(rest + up(lost + left))
        if not new.shape[1]:
            return Form(centre, columns, rest)
        columns = Form(centre, columns, rest).widened(self.count)
        return Form(centre, torch.cat([columns, new.reshape(n, -1, *half.shape[1:])], 1), rest)


def _start(box: Box) -> Form:
    """The flat input: a symbol for each element that varies in some set."""
    varying = (box.lower < box.upper).any(0).nonzero()[:, 0]
    columns = torch.zeros(len(box), len(varying), box.lower.shape[1], dtype=box.lower.dtype)
    columns[:, torch.arange(len(varying)), varying] = box.radius[:, varying]
    return Form(box.middle, columns, torch.zeros_like(box.lower))


def _linear(operator: Linear, read: list[Form]) -> Form:
    """Columns like values, without the bias; the rest by magnitudes, with all that rounding may have lost."""
    n, count = len(read[0].centre), max(form.columns.shape[1] for form in read)
    centre = operator(*(form.centre for form in read))
    rest = operator.magnitude(*(form.rest for form in read))
    bias = operator.bias
    many = [form.widened(count).reshape(n * count, *form.centre.shape[1:]) for form in read]
    width = max(math.prod(t.shape[1:]) for t in (*many, centre))
    chunks = zip(*(torch.split(t, max(1, AT_ONCE // width)) for t in many), strict=True)
    pieces = [operator(*part) for part in chunks]
    columns = torch.cat(pieces).reshape(n, count, *centre.shape[1:])
    if bias is not None:
        columns = columns - bias
    if operator.copies:
        return Form(centre, columns, rest)
    size = operator.magnitude(*(form.size for form in read))
    if bias is not None:  # added to every column, and taken off again
        size = size + (2 * count + 3) * bias.abs()
    lost = gamma(operator.accumulation + 8, size.dtype) * size + (count + 2) * tiny(size.dtype)
    return Form(centre, columns, up(up(rest * (1 + gamma(operator.accumulation + 4, rest.dtype))) + up(lost)))


def _parallel(operator: Nonlinear, boxes: list[Box]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Slopes, and rigorous bounds on y - sum of slope_i x_i over the boxes: [n, *shape] each."""
    lines = operator.relax(*boxes, choice=_across(operator, boxes))
    slopes = [low / 2 + high / 2 for low, high in zip(lines.lower_slope, lines.upper_slope, strict=True)]
    least = _least(lines.lower_slope, lines.lower_offset, slopes, boxes)
    most = -_least([-s for s in lines.upper_slope], -lines.upper_offset, [-s for s in slopes], boxes)
    return slopes, least, torch.maximum(least, most)


def _least(line: Sequence[Tensor], offset: Tensor, slopes: Sequence[Tensor], boxes: Sequence[Box]) -> Tensor:
    """A lower bound on offset + sum of (line_i - slope_i) x_i over the boxes."""
    total, error = offset, torch.zeros_like(offset)
    for mine, slope, box in zip(line, slopes, boxes, strict=True):
        excess = mine - slope
        total = total + torch.minimum(excess * box.lower, excess * box.upper)
        error = error + excess.abs() * box.magnitude
    if not error.any():
        return offset
    return torch.where(error > 0, down(total - gamma(2 * len(boxes) + 6, total.dtype) * (error + offset.abs())), offset)


def _across(operator: Nonlinear, boxes: list[Box]) -> Tensor | None:
    """For a bend at a kink the choice of a lower line parallel to the upper one; None for other operators."""
    if operator.kink is None:
        return None
    zero = torch.zeros_like(boxes[0].lower)
    ends: list[Lines] = [operator.relax(*boxes, choice=zero + share) for share in (0.0, 1.0)]
    first, last = (lines.lower_slope[0] for lines in ends)
    return ((ends[0].upper_slope[0] - first) / (last - first).clamp(min=1e-9)).clamp(0, 1)
