"""Boxes for the inside of a network: intervals first, then the backward pass for every element whose relaxation they shape.

An element that lies on one side of its kink needs no better bound, and an element that a parent region already fixed needs none
either; so the work shrinks as regions do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from fathom.bounds.affine import LEAN_INPUTS, Forms, lean_passes, pays
from fathom.bounds.backward import Reach, backward, loads
from fathom.bounds.log_sums import LogSums, log_sums
from fathom.bounds.work import PIECE, products
from fathom.core.arithmetic import Arithmetic
from fathom.core.box import Box
from fathom.core.enclosure import image
from fathom.core.network import Network
from fathom.core.operator import Linear, Nonlinear
from fathom.core.region import Region
from fathom.core.rounding import down, up
from fathom.core.value import flat, join
from fathom.ops.dense import Dense
from fathom.ops.sparse import Sparse

Bounder = Callable[[Sequence[Box], Reach, int, Sequence[float | None]], Box]
"""Given the boxes so far, the rounding account, a node and the kinks of its readers: the node's box."""

Rows = Callable[[Sequence[Box], Reach, int, Tensor, Region], Tensor]
"""Given the boxes so far, the rounding account, a node, rows [n, rows, *shape] over it and sets: lower bounds [n, rows]."""

WORKING_COPIES = 6  # tensors of a pass's size that are alive at once
FEWEST = 16  # elements of a piece, however dear: fewer would take hardly less time


def never() -> bool:
    """No limit of time."""
    return False


def tighten(
    network: Network,
    region: Region,
    known: Mapping[int, Box] | None = None,
    reach: Reach | None = None,
    memory: int = 1 << 30,
    late: Callable[[], bool] = never,
    bound: Bounder | None = None,
    *,
    lean: bool = False,
) -> tuple[list[Box], Reach]:
    """A box [n, *shape] for the value of every node over the n sets of a region.

    Args:
        network: in the dtype of the bounds.
        region: n sets.
        known: per node, boxes that hold already, from regions that contain these; only what they leave unstable is bounded again.
        reach: the rounding account of a region that contains these; None computes it, and so does a float32 program, whose errors
            are too large to be those of a larger region.
        memory: bytes of working tensors; the pass is cut into pieces that fit.
        late: asked between pieces; once it says so, what is left keeps its intervals, which are loose, and sound.
        bound: bounds the nodes whose boxes shape relaxations; by default the backward pass with default slopes.
        lean: by affine forms without symbols of their own, many sets at once (see `bounds.affine.halvings`).

    Returns:
        The boxes, and the rounding account.
    """
    value: list[Tensor] = []
    load: list[Tensor | None] = []
    program: list[Tensor | None] = []
    boxes: list[Box] = []
    bending = bends(network)
    reach = reach if network.arithmetic is Arithmetic.REAL else None
    box = region.box()
    forms = Forms(network, memory, symbols=0) if lean else Forms(network, memory) if pays(network, box) else None
    at_once = len(region) if forms is None else _sets_at_once(network, memory) if lean else 1  # other forms fill the memory
    if len(region) > at_once:
        return _in_pieces(network, region, known, reach, memory, late, at_once, lean=lean)
    for i, node in enumerate(network.nodes):
        operator = node.operator
        box = (
            region.box().to(torch.float64)
            if operator is None
            else image(operator, tuple(boxes[j] for j in node.inputs), rounded=node.rounded)
        )
        if known is not None and i in known:
            box = box.intersect(known[i])
        if forms is not None and not late():
            box = box.intersect(forms.step(i, boxes, box))
        if reach is None:
            mine = loads(node, value)
            load.append(mine[0])
            program.append(mine[1])
        boxes.append(box)
        value.append(box.magnitude.detach())
        if i in bending and i and forms is None:
            account = reach or Reach(tuple(value), tuple(load), tuple(program))
            if bound is not None:
                boxes[i] = bound(boxes, account, i, bending[i])
            else:
                boxes[i] = by_backward(network, region, boxes, account, i, bending[i], memory, late)
            value[i] = boxes[i].magnitude.detach()
    return boxes, reach or Reach(tuple(value), tuple(load), tuple(program))


def _sets_at_once(network: Network, memory: int) -> int:
    """How many sets lean forms have memory for."""
    widest = max(math.prod(node.shape) for node in network.nodes)
    return max(1, memory // (8 * WORKING_COPIES * lean_passes(LEAN_INPUTS) * widest))


def _in_pieces(
    network: Network,
    region: Region,
    known: Mapping[int, Box] | None,
    reach: Reach | None,
    memory: int,
    late: Callable[[], bool],
    count: int,
    *,
    lean: bool,
) -> tuple[list[Box], Reach]:
    """`tighten`, so many sets at a time."""
    parts = []
    for k in torch.split(torch.arange(len(region)), count):
        mine = None if known is None else {i: box.take(k) for i, box in known.items()}
        account = None if reach is None else reach.take(k)
        parts.append(tighten(network, region.take(k), mine, account, memory, late, lean=lean))
    boxes = join(*(tuple(boxes) for boxes, _ in parts))
    return list(boxes), reach or join(*(account for _, account in parts))


def bends(network: Network) -> dict[int, list[float | None]]:
    """For each node whose box shapes a relaxation: the kinks of its readers (None for one that bends everywhere).

    What a nonlinear node reads is traced back through copies, to where there are fewest of an element.
    """
    found: dict[int, list[float | None]] = {}
    sums = log_sums(network)
    passed = set(range(len(network.nodes))) if not sums else _passed(network, sums)
    for i, node in enumerate(network.nodes):
        if i in sums and i in passed:
            _trace(network, sums[i].source, None, found)
        elif isinstance(node.operator, Nonlinear) and i in passed:
            for j in node.inputs:
                _trace(network, j, node.operator.kink, found)
    return found


def _passed(network: Network, sums: Mapping[int, LogSums]) -> set[int]:
    """The nodes that rows over the output pass: what lies within log-sum-exps is gone round."""
    found, todo = set(), [len(network.nodes) - 1]
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            todo.extend((sums[i].source,) if i in sums else network.nodes[i].inputs)
    return found


def _trace(network: Network, i: int, kink: float | None, found: dict[int, list[float | None]]) -> None:
    node = network.nodes[i]
    if isinstance(node.operator, Nonlinear) and len(node.inputs) == 1:
        # Its image is as tight as its lines are on the same box, so it is its own input that is worth bounding.
        _trace(network, node.inputs[0], None, found)
    elif isinstance(node.operator, Linear) and node.operator.spreads:
        for j in node.inputs:
            _trace(network, j, None, found)
    elif (
        isinstance(node.operator, Linear)
        and node.operator.copies
        and all(_size(network, j) <= _size(network, i) for j in node.inputs)
    ):
        for j in node.inputs:
            _trace(network, j, kink, found)
    elif kink not in found.setdefault(i, []):
        found[i].append(kink)


def _size(network: Network, i: int) -> int:
    return math.prod(network.nodes[i].shape)


def unstable(box: Box, kinks: Sequence[float | None]) -> Tensor:
    """[n, *shape] the elements whose relaxation is not exact, and depends on the box."""
    wide = box.lower < box.upper
    crossing = [wide if k is None else (box.lower < k) & (box.upper > k) for k in kinks]
    return torch.stack(crossing).any(0)


def by_backward(
    network: Network,
    region: Region,
    boxes: list[Box],
    reach: Reach,
    at: int,
    kinks: Sequence[float | None],
    memory: int,
    late: Callable[[], bool],
    pushed: Rows | None = None,
) -> Box:
    """The box of node `at`, with its unstable elements bounded by `pushed`: the plain backward pass, if that is None."""
    pushed = partial(_plain, network) if pushed is None else pushed
    box = boxes[at]
    mask = flat(unstable(box, kinks), 1)
    most = int(mask.sum(1).max()) if len(mask) else 0
    if most == 0:
        return box
    shape = box.lower.shape[1:]
    lower, upper = flat(box.lower, 1), flat(box.upper, 1)
    # The unstable elements first; sets with fewer are padded with stable ones, which stay as they are: a set's boxes are the same
    # in whatever company it is bounded, and its certificate holds.
    index = torch.argsort(mask.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
    at_once = _at_once(network, at, memory, box.lower.device)
    count = min(most, at_once)
    sets = max(1, at_once // count)
    lowers, uppers = [], []
    for owners in torch.split(torch.arange(len(mask)), sets):
        part = region.take(owners)
        inner = [b.take(owners) for b in boxes]
        account = reach.take(owners)
        low, high = [], []
        for piece in torch.split(index[owners], count, 1):
            now = lower[owners].gather(1, piece), upper[owners].gather(1, piece)
            better = now if late() else _extremes(network, part, inner, account, at, piece, pushed)
            open_ = mask[owners].gather(1, piece)
            low.append(torch.where(open_, torch.maximum(now[0], better[0]), now[0]))
            high.append(torch.where(open_, torch.minimum(now[1], better[1]), now[1]))
        lowers.append(torch.cat(low, 1))
        uppers.append(torch.cat(high, 1))
    lower, upper = lower.scatter(1, index, torch.cat(lowers)), upper.scatter(1, index, torch.cat(uppers))
    return Box(lower.reshape(-1, *shape), upper.reshape(-1, *shape))


def _at_once(network: Network, at: int, memory: int, device: torch.device) -> int:
    """How many elements of node `at` to bound in one piece: what fits in memory and, on a CPU, in the time between two looks at
    the clock. Large pieces are no faster there: they leave its caches."""
    widest = max(math.prod(node.shape) for node in network.nodes[: at + 1])
    most = max(1, memory // (2 * widest * 8 * WORKING_COPIES))
    if device.type != "cpu":
        return most
    return min(most, max(FEWEST, int(PIECE / (2 * max(products(network)[at], 1.0)))))


def _plain(network: Network, boxes: Sequence[Box], reach: Reach, start: int, rows: Tensor, region: Region) -> Tensor:
    return backward(network, boxes, reach, start, rows).minimise(region)[0]


def _extremes(
    network: Network, region: Region, boxes: list[Box], reach: Reach, at: int, index: Tensor, pushed: Rows
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds [n, k] of the elements `index` [n, k] of node `at`."""
    node, operator = network.nodes[at], network.nodes[at].operator
    if isinstance(operator, Dense | Sparse) and len(node.shape) == 1:
        # The rows of the weights themselves: the first step without its product, and without its rounding.
        rows, start = operator.rows(index), node.inputs[0]
        shift = rows.new_zeros(index.shape) if operator.shift is None else operator.shift[index]
    else:
        size = math.prod(node.shape)
        rows = torch.zeros(*index.shape, size, dtype=boxes[at].lower.dtype).scatter_(2, index.unsqueeze(2), 1.0)
        rows, start = rows.reshape(*index.shape, *node.shape), at
        shift = rows.new_zeros(index.shape)
    values = pushed(boxes, reach, start, torch.cat([rows, -rows], 1), region)
    low, high = torch.split(values, index.shape[1], 1)
    low, high = down(low + shift), -down(high - shift)
    off = reach.program[at] if start != at else None
    if off is None:
        return low, high
    off = flat(off, 1).expand(len(index), -1).gather(1, index)
    return down(low - off), up(high + off)
