"""Maxima and means over windows and axes."""

from __future__ import annotations

import math
from typing import Any

from fathom.capture import pool
from fathom.capture.rewrite import reduce_sum
from fathom.capture.torch_operators.elementwise import extreme
from fathom.capture.torch_operators.linear import per_axis
from fathom.capture.torch_table import Call, Value, imports, packet
from fathom.ops.power import Sqrt, Square
from fathom.ops.relu import Abs


@imports("max_pool1d", "max_pool2d", "max_pool2d_with_indices")
def max_pool(
    call: Call,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002
) -> Any:
    """The greatest of each window; where it lies is not known."""
    x, name = call.value(x), packet(call.node.target)
    axes = _axes(call, x, 1 if "1d" in name else 2)
    value = call.rewrite(
        pool.max_pool,
        x.index,
        per_axis(kernel, axes),
        per_axis(stride if stride != [] and stride != () else kernel, axes),
        tuple((p, p) for p in per_axis(padding, axes)),
        per_axis(dilation, axes),
        ceil=ceil_mode,
    )
    return (value, None) if name.endswith("with_indices") else value


@imports("avg_pool1d", "avg_pool2d")
def average_pool(
    call: Call,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002
    count_include_pad: bool = True,  # noqa: FBT001, FBT002
    divisor_override: int | None = None,
) -> Value:
    x = call.value(x)
    if divisor_override is not None:
        raise call.refuse(f"expected means, got sums over divisor_override={divisor_override}", "scale in a step of its own")
    axes = _axes(call, x, 1 if "1d" in packet(call.node.target) else 2)
    return call.rewrite(
        pool.average_pool,
        x.index,
        per_axis(kernel, axes),
        per_axis(stride if stride != [] and stride != () else kernel, axes),
        tuple((p, p) for p in per_axis(padding, axes)),
        ceil=ceil_mode,
        count_padding=count_include_pad,
    )


@imports("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
def adaptive_pool(call: Call, x: Any, size: Any) -> Any:
    """Windows of one size, where they divide the sample evenly."""
    x, name = call.value(x), packet(call.node.target)
    axes = _axes(call, x, 1 if "1d" in name else 2)
    lengths = x.shape[-axes:]
    size = tuple(length if s is None else s for s, length in zip(per_axis(size, axes), lengths, strict=True))
    if any(length % s for length, s in zip(lengths, size, strict=True)):
        raise call.refuse(f"expected an output size that divides {list(lengths)}, got {list(size)}", "use fixed windows instead")
    window = tuple(length // s for length, s in zip(lengths, size, strict=True))
    whole = ((0, 0),) * axes
    if "max" in name:
        return call.rewrite(pool.max_pool, x.index, window, window, whole, (1,) * axes), None
    return call.rewrite(pool.average_pool, x.index, window, window, whole)


def _axes(call: Call, x: Value, axes: int) -> int:
    if len(x.shape) != axes + 1:
        raise call.refuse(f"expected samples of a channel axis and {axes} more, got {list(x.shape)}")
    return axes


@imports("amax", "amin")
def greatest(call: Call, x: Any, dimensions: Any = (), keepdim: bool = False) -> Value:  # noqa: FBT001, FBT002
    x = call.value(x)
    function = pool.reduce_max if packet(call.node.target) == "amax" else pool.reduce_min
    return call.reduce(function, x, call.axes(x, dimensions), keep=keepdim)


@imports("linalg_vector_norm")
def vector_norm(
    call: Call,
    x: Any,
    order: float = 2,
    dimensions: Any = None,
    keepdim: bool = False,  # noqa: FBT001, FBT002
    *,
    dtype: Any = None,
) -> Value:
    """The norms that have a linear or quadratic heart: 1, 2 and infinity."""
    x = call.value(x)
    axes = call.axes(x, dimensions)
    if order not in (1, 2, math.inf):
        raise call.refuse(f"expected a norm of order 1, 2 or infinity, got {order}")
    powers = call.add(Square() if order == 2 else Abs(), x, step="powers")
    total = call.reduce(pool.reduce_max if order == math.inf else reduce_sum, powers, axes, keep=keepdim)
    return call.add(Sqrt(), total, step="root") if order == 2 else total


@imports("max", "min")
def greatest_and_where(call: Call, x: Any, dimension: Any = None, keepdim: bool = False) -> Any:  # noqa: FBT001, FBT002
    """The greatest along an axis; where it lies is not known. Of two values, the greater element by element."""
    if isinstance(dimension, int):
        function = pool.reduce_max if packet(call.node.target) == "max" else pool.reduce_min
        x = call.value(x)
        return call.reduce(function, x, call.axes(x, dimension), keep=keepdim), None
    if dimension is None:
        raise call.refuse("it works along every axis, the batch too", "name an axis other than 0")
    return extreme(call, x, dimension)
