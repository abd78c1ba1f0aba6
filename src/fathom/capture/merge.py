"""A product and the sum behind it made one layer: the same real function, in one step and with one rounding account."""

from __future__ import annotations

from dataclasses import replace

from fathom.capture.fold import rebuilt
from fathom.core.network import Network, Node
from fathom.ops.dense import Dense
from fathom.ops.scale import Shift


def merge_bias(network: Network) -> Network:
    """Every dense layer without a shift that only a constant is added to, made one with a shift; it keeps the sum's name.

    Nothing is computed, so weights stay the original ones, and live.
    """
    readers = [0] * len(network.nodes)
    for node in network.nodes:
        for i in node.inputs:
            readers[i] += 1
    gone: set[int] = set()
    made: dict[int, tuple[Node, ...]] = {}
    for i, node in enumerate(network.nodes):
        if not isinstance(node.operator, Shift):
            continue
        place, offset = node.inputs[0], node.operator.sign * node.operator.offset
        layer = network.nodes[place].operator
        if not isinstance(layer, Dense) or layer.shift is not None or readers[place] != 1:
            continue
        if offset.shape[-1:] == layer.weight.shape[:1] and offset.numel() == len(layer.weight):
            gone.add(place)
            merged = replace(layer, shift=offset.reshape(-1))
            made[i] = (replace(node, operator=merged, inputs=network.nodes[place].inputs),)
    return rebuilt(network, gone, made)
