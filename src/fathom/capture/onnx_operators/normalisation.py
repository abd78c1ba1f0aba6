"""Normalisation, and the softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

from fathom.capture import rewrite
from fathom.capture.graph import Graph
from fathom.capture.onnx_table import Call, Value, imports

SOFT: dict[str, Callable[[Graph, str, int, int], int]] = {"LogSoftmax": rewrite.log_softmax, "Softmax": rewrite.softmax}


@imports("BatchNormalization")
def batch_norm(call: Call) -> Value:
    x = call.value()
    if call.attribute("training_mode", 0) or not call.attribute("spatial", 1):
        raise call.refuse("expected fixed statistics, one a channel; export the model in evaluation mode")
    if not x.led or len(x.shape) < 2:
        raise call.refuse(f"expected an input of shape [1, channels, ...], got {list(x.shape)}; export with a batch of 1")
    weight, shift, mean, variance = (call.weight(place) for place in range(1, 5))
    epsilon = call.attribute("epsilon", 1e-5)
    return Value(rewrite.batch_norm(call.graph, call.name, x.index, mean, variance, weight, shift, epsilon), x.shape)


@imports("LayerNormalization")
def layer_norm(call: Call) -> Value:
    """Over the axes from `axis` on."""
    x = call.value()
    first, (node,), lead = call.along(call.attribute("axis", -1), x)
    shape = call.graph.shape(node)
    weight = call.weight(1)
    shift = None if call.constant(2) is None else call.weight(2)
    epsilon = call.attribute("epsilon", 1e-5)
    y = rewrite.layer_norm(call.graph, call.name, node, range(first, len(shape)), weight, shift, epsilon)
    return call.settle(y, (*lead, *shape))


@imports(*SOFT)
def soft(call: Call) -> Value:
    """Along one axis; before operator set 13, along all from `axis` on, laid end to end."""
    x, function = call.value(), SOFT[call.node.op_type]
    axis = call.attribute("axis", -1 if call.opset >= 13 else 1)
    if call.opset >= 13:
        place, (node,), lead = call.along(axis, x)
        y = function(call.graph, call.name, node, place)
        return call.settle(y, lead + call.graph.shape(y))
    axis = axis % len(x.shape) if axis != len(x.shape) else axis
    call.alone(x, axis)
    flat = call.reshape(x, (1, math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), "flat")
    return call.settle(function(call.graph, call.name, flat.index, 1), x.shape)
