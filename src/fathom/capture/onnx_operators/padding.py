"""Padding: with a constant, or with copies of what is inside."""

from __future__ import annotations

import numpy as np
import torch

from fathom.capture.onnx_table import Call, Value, imports
from fathom.ops.pick import Pad
from fathom.ops.scale import Shift

COPIES = ("edge", "reflect", "wrap")
"""The modes that copy elements, by the names that they have in ONNX and numpy alike."""


@imports("Pad")
def pad(call: Call) -> Value:
    """Counts of elements before and after each axis; negative ones crop."""
    x, mode = call.value(), call.attribute("mode", "constant")
    pairs = _pairs(call, len(x.shape))
    if mode in COPIES:
        if min(min(pair) for pair in pairs) < 0:
            raise call.refuse(f"expected counts of at least 0 in mode {mode}, got {pairs}; crop with a Slice")
        places = np.pad(call.places(x), pairs, mode=mode)
        return call.move(x, places, [axis for axis, pair in enumerate(pairs) if pair != (0, 0)])
    if mode != "constant":
        raise call.refuse(f"expected the mode constant, {', '.join(COPIES)}, got {mode}")
    shape = tuple(before + size + after for (before, after), size in zip(pairs, x.shape, strict=True))
    node = x.index
    if x.led and pairs[0] == (0, 0):
        pairs = pairs[1:]
    else:
        node = call.whole(x)
    return call.settle(_padded(call, node, tuple(pairs), _filling(call)), shape)


def _padded(call: Call, node: int, pairs: tuple[tuple[int, int], ...], filling: float) -> int:
    operator = Pad(pairs)
    if not filling:
        return call.add(operator, node)
    rim = 1 - operator(torch.ones(1, *call.graph.shape(node), dtype=call.dtype))[0]
    return call.add(Shift(filling * rim), call.add(operator, node, step="zeros"))


def _filling(call: Call) -> float:
    given = call.constant(2)
    return float(call.attribute("value", 0.0) if given is None else given.item())


def _pairs(call: Call, rank: int) -> list[tuple[int, int]]:
    """(before, after) for every axis; all the counts before are written first, perhaps for some axes alone."""
    counts = call.integers("pads", 1) or [0] * (2 * rank)
    axes = call.integers("axes", 3) or range(rank)
    half = len(counts) // 2
    pairs = [(0, 0)] * rank
    for axis, before, after in zip(axes, counts[:half], counts[half:], strict=True):
        pairs[axis] = (before, after)
    return pairs
