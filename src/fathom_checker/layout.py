"""ONNX operators that only move elements, as functions on arrays of anything: of constants, or of the elements' numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fathom_checker.node import Node
from fathom_checker.numbers import Array

MOST_ELEMENTS = 1 << 27


def flatten(node: Node, x: Array) -> Array:
    axis = node.attribute("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))


def reshape(node: Node, x: Array) -> Array:
    if node.attribute("allowzero", 0):
        raise node.unknown("allowzero")
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(node.integers(1, "shape", None))])


def transpose(node: Node, x: Array) -> Array:
    return x.transpose(node.attribute("perm", tuple(reversed(range(x.ndim)))))


def squeeze(node: Node, x: Array) -> Array:
    return x.squeeze(node.integers(1, "axes", None))


def unsqueeze(node: Node, x: Array) -> Array:
    return np.expand_dims(x, node.integers(1, "axes", ()))


def slice_(node: Node, x: Array) -> Array:
    starts, ends = node.integers(1, "starts", ()), node.integers(2, "ends", ())
    axes, steps = node.integers(3, "axes", tuple(range(len(starts)))), node.integers(4, "steps", (1,) * len(starts))
    if not len(starts) == len(ends) == len(axes) == len(steps) or min(steps, default=1) < 1:
        raise node.unknown("a slice with steps below 1, or whose parts differ in length,")
    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps):
        where[axis] = slice(start, end, step)
    return x[tuple(where)]


def split(node: Node, x: Array) -> list[Array]:
    axis, count = node.attribute("axis", 0), len(node.outputs)
    each = -(-x.shape[axis] // count)
    even = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    sizes = node.integers(1, "split", even)
    if node.attribute("num_outputs", count) != count or sum(sizes) != x.shape[axis] or len(sizes) != count or min(sizes) < 0:
        raise node.unknown(f"a split of {x.shape[axis]} into {list(sizes)}")
    return np.split(x, np.cumsum(sizes)[:-1].tolist(), axis)


def gather(node: Node, x: Array) -> Array:
    return np.take(x, node.constant(1), axis=node.attribute("axis", 0))


def identity(node: Node, x: Array) -> Array:
    return x


def dropout(node: Node, x: Array) -> Array:
    node.attribute("ratio", 0.5), node.attribute("seed", 0)
    if len(node.outputs) > 1 or (node.has(2) and bool(np.any(node.constant(2)))):
        raise node.unknown("a Dropout that trains, or puts out its mask,")
    return x


def concat(node: Node, arrays: list[Array]) -> Array:
    return np.concatenate(arrays, node.attribute("axis", None))


def pad(node: Node, x: Array, fill: Any) -> Array:
    axes = node.integers(3, "axes", tuple(range(x.ndim)))
    pads = node.integers(1, "pads", ())
    if node.attribute("mode", b"constant") != b"constant" or len(pads) != 2 * len(axes) or min(pads, default=0) < 0:
        raise node.unknown(f"a mode of padding other than constant, or pads {list(pads)},")
    widths = [(0, 0)] * x.ndim
    for axis, before, after in zip(axes, pads, pads[len(axes) :]):
        widths[axis] = (before, after)
    if np.prod([n + sum(width) for n, width in zip(x.shape, widths)], dtype=float) > MOST_ELEMENTS:
        raise node.unknown(f"a value of more than {MOST_ELEMENTS} elements")
    return np.pad(x, widths, constant_values=fill)


LAYOUT: dict[str, Any] = {
    f.__name__.strip("_").capitalize(): f
    for f in (flatten, reshape, transpose, squeeze, unsqueeze, slice_, split, gather, identity, dropout, concat, pad)
}
