"""Pooling, written with linear operators and rectifiers; the conventions of `rewrite` hold here too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.capture.graph import Graph, Shape
from fathom.capture.rewrite import positive_axes, reshape
from fathom.core.errors import NotUnderstood
from fathom.ops.conv import Conv, Pairs
from fathom.ops.pick import Concat, Pick
from fathom.ops.relu import Relu
from fathom.ops.scale import Divide, Scale
from fathom.ops.sum import Sum


def max_pool(
    graph: Graph,
    name: str,
    x: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    *,
    ceil: bool = False,
) -> int:
    """The maximum over windows of the trailing axes. What lies in the padding counts as absent.

    Raises:
        NotUnderstood: a window that lies in the padding altogether.
    """
    shape = graph.shape(x)
    table, after = _windows(name, shape, kernel, stride, padding, dilation, ceil=ceil)
    return _greatest(graph, name, x, table, after)


def reduce_max(graph: Graph, name: str, x: int, axes: Sequence[int], *, keep: bool) -> int:
    """The maximum over axes; `keep` leaves them with length 1."""
    shape = graph.shape(x)
    axes = positive_axes(name, shape, axes)
    others = [axis for axis in range(len(shape)) if axis not in axes]
    places = torch.arange(math.prod(shape)).reshape(shape).permute(*others, *axes)
    table = places.reshape(-1, math.prod(shape[axis] for axis in axes))
    after = [1 if axis in axes else length for axis, length in enumerate(shape) if keep or axis not in axes]
    return _greatest(graph, name, x, table, tuple(after))


def reduce_min(graph: Graph, name: str, x: int, axes: Sequence[int], *, keep: bool) -> int:
    """The minimum over axes, as the negative of a maximum."""
    minus = -torch.ones(())
    turned = graph.add(f"{name}/negative", Scale(minus), x)
    return graph.add(name, Scale(minus), reduce_max(graph, f"{name}/max", turned, axes, keep=keep))


def average_pool(
    graph: Graph,
    name: str,
    x: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    *,
    ceil: bool = False,
    count_padding: bool = True,
) -> int:
    """The mean over windows of the trailing axes: a convolution with ones, divided by how many elements each window has.

    Args:
        count_padding: whether elements of the padding count, as zeros; what `ceil` adds beyond it never does.
    """
    shape = graph.shape(x)
    lengths = shape[-len(kernel) :]
    ones = [1] * len(kernel)
    counts = _lengths(lengths, kernel, stride, padding, ones, ceil=ceil)
    # The last window may reach beyond the padding: make room for it.
    room = tuple(
        (before, max(after, (count - 1) * s + k - length - before))
        for (before, after), count, s, k, length in zip(padding, counts, stride, kernel, lengths, strict=True)
    )
    inner = torch.ones(
        tuple(length + sum(pair) for length, pair in zip(lengths, padding, strict=True)) if count_padding else lengths
    )
    rim = tuple((0, r[1] - p[1]) for r, p in zip(room, padding, strict=True)) if count_padding else room
    one = Conv(torch.ones(1, 1, *kernel), None, tuple(inner.shape), tuple(stride), rim, tuple(ones))
    divisor = one(inner[None, None])[0]
    if bool((divisor == divisor.flatten()[0]).all()):
        divisor = divisor.flatten()[0]
    channels = shape[0]
    weight = torch.ones(channels, 1, *kernel)
    total = graph.add(f"{name}/sum", Conv(weight, None, lengths, tuple(stride), room, tuple(ones), groups=channels), x)
    return graph.add(name, Divide(divisor), total)


def _lengths(
    lengths: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    *,
    ceil: bool,
) -> list[int]:
    """How many windows there are along each axis. One that `ceil` adds must start before the end padding."""
    counts = []
    for length, k, s, (before, after), d in zip(lengths, kernel, stride, padding, dilation, strict=True):
        span = length + before + after - d * (k - 1) - 1
        count = (-(-span // s) if ceil else span // s) + 1
        if ceil and (count - 1) * s >= length + before:
            count -= 1
        counts.append(count)
    return counts


def _windows(
    name: str,
    shape: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    *,
    ceil: bool,
) -> tuple[Tensor, Shape]:
    """A table [windows, elements] of flat places in a sample, -1 for the padding; and the shape of the windows."""
    axes = len(kernel)
    lead, lengths = shape[:-axes], shape[-axes:]
    counts = _lengths(lengths, kernel, stride, padding, dilation, ceil=ceil)
    place, inside = torch.zeros(()).long(), torch.ones((), dtype=torch.bool)
    for axis in range(axes):
        start = torch.arange(counts[axis]) * stride[axis] - padding[axis][0]
        along = start[:, None] + torch.arange(kernel[axis]) * dilation[axis]
        view = [1] * (2 * axes)
        view[axis], view[axes + axis] = counts[axis], kernel[axis]
        along = along.reshape(view)
        place = place * lengths[axis] + along
        inside = inside & (along >= 0) & (along < lengths[axis])
    table = torch.where(inside, place, -1).reshape(math.prod(counts), math.prod(kernel))
    if (table < 0).all(1).any():
        raise NotUnderstood(
            f"node {name!r}: expected padding smaller than the window, got {padding} round windows of {list(kernel)}"
        )
    starts = torch.arange(math.prod(lead))[:, None, None] * math.prod(lengths)
    table = torch.where(table >= 0, starts + table, -1).reshape(-1, table.shape[1])
    return table, (*lead, *counts)


def _greatest(graph: Graph, name: str, x: int, table: Tensor, after: Shape) -> int:
    """The maximum of each row of `table` [rows, elements] of places in a sample of x, -1 for none, in the shape `after`.

    A balanced tree: neighbours meet as max(a, b) = b + relu(a - b), each pair once however many rows share it, and elements
    without a partner wait for the next round.
    """
    level = 0
    while table.shape[1] > 1:
        if table.shape[1] % 2:
            table = torch.nn.functional.pad(table, (0, 1), value=-1)
        first, second = table[:, 0::2], table[:, 1::2]
        paired = (first >= 0) & (second >= 0)
        alone = torch.maximum(first, second)
        pairs, of_pair = torch.unique(torch.stack([first[paired], second[paired]]), dim=1, return_inverse=True)
        rest, of_rest = torch.unique(alone[~paired & (alone >= 0)], return_inverse=True)
        table = torch.full_like(first, -1)
        table[paired] = of_pair
        table[~paired & (alone >= 0)] = of_rest + pairs.shape[1]
        x = _meet_pairs(graph, f"{name}/round{level}", x, pairs, rest)
        level += 1
    index = table[:, 0]
    if graph.shape(x) == (len(index),) and bool((index == torch.arange(len(index))).all()):
        return reshape(graph, name, x, after)
    return graph.add(name, Pick(graph.shape(x), index.reshape(after)), x)


def _meet_pairs(graph: Graph, name: str, x: int, pairs: Tensor, rest: Tensor) -> int:
    """The maxima of pairs [2, k] of places, then the elements at `rest` [j]: [k + j]."""
    before = graph.shape(x)
    single = graph.add(f"{name}/rest", Pick(before, rest), x) if len(rest) else None
    if not pairs.shape[1]:
        assert single is not None
        return single
    a = graph.add(f"{name}/a", Pick(before, pairs[0].contiguous()), x)
    b = graph.add(f"{name}/b", Pick(before, pairs[1].contiguous()), x)
    over = graph.add(f"{name}/over", Relu(), graph.add(f"{name}/difference", Sum((1, -1)), a, b))
    maxima = graph.add(f"{name}/max", Sum((1, 1)), over, b)
    if single is None:
        return maxima
    return graph.add(f"{name}/all", Concat(0, (pairs.shape[1], len(rest))), maxima, single)
