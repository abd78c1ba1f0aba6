"""Operators that move elements and compute nothing: numpy moves their places, and the graph follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fathom.capture.onnx_table import Call, Value, imports
from fathom.ops.layout import Transpose
from fathom.ops.pick import Concat


@imports("Identity", "Dropout", "Cast")
def alias(call: Call) -> Value:
    """The same value: nothing is dropped at inference, and a cast that changes the type is refused for its type."""
    training = call.constant(2) if call.node.op_type == "Dropout" else None
    if training is not None and training.any():
        raise call.refuse("expected dropout to be off, got training_mode = True; export the model in evaluation mode")
    return call.value()


@imports("Flatten")
def flatten(call: Call) -> Value:
    x = call.value()
    axis = call.attribute("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    return call.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@imports("Reshape")
def reshape(call: Call) -> Value:
    """To `shape`: -1 is what is left, 0 the size at the same place unless `allowzero`."""
    x, shape = call.value(), call.integers("shape", 1) or []
    if not call.attribute("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    known = math.prod(size for size in shape if size != -1)
    return call.reshape(x, [math.prod(x.shape) // known if size == -1 else size for size in shape])


@imports("Squeeze")
def squeeze(call: Call) -> Value:
    x, axes = call.value(), call.integers("axes", 1)
    gone = [axis % len(x.shape) for axis in axes] if axes is not None else [i for i, size in enumerate(x.shape) if size == 1]
    return call.reshape(x, [size for i, size in enumerate(x.shape) if i not in gone])


@imports("Unsqueeze")
def unsqueeze(call: Call) -> Value:
    x, axes = call.value(), call.integers("axes", 1) or []
    return call.reshape(x, np.expand_dims(call.places(x), tuple(axes)).shape)


@imports("Transpose")
def transpose(call: Call) -> Value:
    x = call.value()
    return exchanged(call, x, call.attribute("perm", list(range(len(x.shape)))[::-1]))


def exchanged(call: Call, x: Value, order: Sequence[int], step: str = "") -> Value:
    """Axis k is axis order[k] of x. An axis of size 1 may be anywhere, so the leading one is left out of the order."""
    shape = tuple(x.shape[axis] for axis in order)
    inner = tuple(axis - x.led for axis in order if not (x.led and axis == 0))
    if inner == tuple(sorted(inner)):
        return call.reshape(x, shape, step)
    return call.settle(call.add(Transpose(inner), x.index, step=step), shape)


@imports("Slice")
def slices(call: Call) -> Value:
    """numpy's slices, except that ends are clipped first, so that -1 counts from the end and less is before the start."""
    x = call.value()
    starts, ends = call.integers("starts", 1) or [], call.integers("ends", 2) or []
    axes = call.integers("axes", 3) or list(range(len(starts)))
    steps = call.integers("steps", 4) or [1] * len(starts)
    places = call.places(x)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = places.take(range(places.shape[axis])[_bounds(start, end, step, places.shape[axis])], axis)
    return call.move(x, places, [axis % len(x.shape) for axis in axes])


def _bounds(start: int, end: int, step: int, size: int) -> slice:
    """A slice for Python, in which an end before the first element is None."""
    end = end + size if end < 0 else end
    return slice(start, None if end < 0 else end, step)


@imports("Gather")
def gather(call: Call) -> Value:
    x, axis = call.value(), call.attribute("axis", 0)
    return call.move(x, call.places(x).take(call.required(1), axis), [axis % len(x.shape)])


@imports("Split")
def split(call: Call) -> tuple[Value, ...]:
    """Pieces of the sizes `split`; of equal ones, the last perhaps smaller, where that is not given."""
    x, axis = call.value(), call.attribute("axis", 0)
    sizes = call.integers("split", 1)
    if sizes is None:
        each = -(-x.shape[axis] // call.attribute("num_outputs", len(call.node.output)))
        cuts = list(range(each, x.shape[axis], each))
    else:
        cuts = np.cumsum(sizes)[:-1].tolist()
    pieces = np.split(call.places(x), cuts, axis)
    return tuple(call.of_output(i).move(x, piece, [axis % len(x.shape)]) for i, piece in enumerate(pieces))


@imports("Expand")
def expand(call: Call) -> Value:
    x, shape = call.value(), call.integers("shape", 1) or []
    return call.broadcast(x, np.broadcast_shapes(x.shape, tuple(shape)))


@imports("Tile")
def tile(call: Call) -> Value:
    x, repeats = call.value(), call.integers("repeats", 1) or []
    return call.move(x, np.tile(call.places(x), repeats), [i for i, count in enumerate(repeats) if count != 1])


@imports("Concat")
def concat(call: Call) -> Value:
    """Values, and constants among them, end to end."""
    axis = call.attribute("axis")
    values = [call.lifted(place) for place in range(len(call.node.input))]
    axis, nodes, lead = call.along(axis, *values)
    y = call.add(Concat(axis, tuple(call.graph.shape(node)[axis] for node in nodes)), *nodes)
    return call.settle(y, lead + call.graph.shape(y))
