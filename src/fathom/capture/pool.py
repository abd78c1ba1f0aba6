"""Pooling, written with linear operators and rectifiers; the conventions of `rewrite` hold here too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.capture.graph import Graph, Shape
from fathom.capture.rewrite import groups, positive_axes
from fathom.capture.tree import combine
from fathom.core.errors import NotUnderstood
from fathom.ops.conv import Conv, Pairs
from fathom.ops.relu import Relu
from fathom.ops.scale import Divide, Scale


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
    return combine(graph, name, x, table, after, Relu())


def reduce_max(graph: Graph, name: str, x: int, axes: Sequence[int], *, keep: bool) -> int:
    """The maximum over axes; `keep` leaves them with length 1."""
    shape = graph.shape(x)
    table, after = groups(shape, positive_axes(name, shape, axes), keep=keep)
    return combine(graph, name, x, table, after, Relu())


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
