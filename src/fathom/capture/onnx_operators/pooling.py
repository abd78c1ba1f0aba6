"""Pooling, and reductions over whole axes."""

from __future__ import annotations

from collections.abc import Callable

from fathom.capture import pool, rewrite
from fathom.capture.onnx_operators.windows import Windows
from fathom.capture.onnx_table import Call, Value, imports

REDUCTIONS: dict[str, Callable[..., int]] = {
    "ReduceMax": pool.reduce_max,
    "ReduceMean": rewrite.reduce_mean,
    "ReduceMin": pool.reduce_min,
    "ReduceSum": rewrite.reduce_sum,
}
GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


@imports("MaxPool")
def max_pool(call: Call) -> Value:
    x = call.picture()
    if len(call.node.output) > 1 and call.node.output[1]:
        raise call.refuse("expected the maxima alone, got a request for their indices; leave the second output out")
    w = Windows.of(call, x.shape[2:], tuple(call.attribute("kernel_shape")))
    ceil = bool(call.attribute("ceil_mode", 0))
    y = pool.max_pool(call.graph, call.name, x.index, w.kernel, w.stride, w.padding, w.dilation, ceil=ceil)
    return call.settle(y, (1, *call.graph.shape(y)))


@imports("AveragePool")
def average_pool(call: Call) -> Value:
    """Padding counts only where `count_include_pad` says so."""
    x = call.picture()
    w = Windows.of(call, x.shape[2:], tuple(call.attribute("kernel_shape")))
    if any(dilation != 1 for dilation in w.dilation):
        raise call.refuse(f"expected no dilations, got {list(w.dilation)}; that is not supported")
    ceil, padded = bool(call.attribute("ceil_mode", 0)), bool(call.attribute("count_include_pad", 0))
    y = pool.average_pool(call.graph, call.name, x.index, w.kernel, w.stride, w.padding, ceil=ceil, count_padding=padded)
    return call.settle(y, (1, *call.graph.shape(y)))


@imports(*GLOBAL)
def global_pool(call: Call) -> Value:
    x = call.picture()
    function = REDUCTIONS[GLOBAL[call.node.op_type]]
    y = function(call.graph, call.name, x.index, range(1, len(x.shape) - 1), keep=True)
    return call.settle(y, (1, *call.graph.shape(y)))


@imports(*REDUCTIONS)
def reduction(call: Call) -> Value:
    """Over `axes`, an attribute once and an input now; over all where none are given, unless `noop_with_empty_axes`."""
    x, given = call.value(), call.integers("axes", 1)
    if not given and call.attribute("noop_with_empty_axes", 0):
        return x
    rank = len(x.shape)
    axes = {axis % rank for axis in given} if given else set(range(rank))
    keep = bool(call.attribute("keepdims", 1))
    node, offset = (call.whole(x), 0) if 0 in axes else (x.index, int(x.led))
    inner = [axis - offset for axis in sorted(axes)]
    scalar = len(inner) == len(call.graph.shape(node))  # the graph's values have an axis at least
    y = REDUCTIONS[call.node.op_type](call.graph, call.name, node, inner, keep=keep or scalar)
    return call.settle(y, tuple(1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes))
