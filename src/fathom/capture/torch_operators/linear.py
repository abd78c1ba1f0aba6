"""Layers with weights, and sums and means: what is linear in the input."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fathom.capture.rewrite import batch_norm, layer_norm, reduce_mean, reduce_sum
from fathom.capture.rewrite import matmul as product
from fathom.capture.torch_table import Call, Value, imports, packet
from fathom.ops.conv import Conv, ConvTranspose
from fathom.ops.dense import Dense, LeftDense


@imports("linear")
def linear(call: Call, x: Any, weight: Any, bias: Any = None) -> Value:
    return dense(call, call.value(x), call.weight(weight), None if bias is None else call.weight(bias))


def dense(call: Call, x: Value, weight: Tensor, bias: Tensor | None, step: str = "") -> Value:
    """x W^T + b over the last axis of a sample; weight [out, in]."""
    if not x.shape or weight.ndim != 2:
        raise call.refuse(f"expected weights [out, in] on the last axis of a sample, got {list(weight.shape)} on {list(x.shape)}")
    return call.add(Dense(weight, bias), x, step=step)


@imports("matmul", "mm", "bmm")
def matmul(call: Call, x: Any, y: Any) -> Value:
    """A matrix product of two values, or of a value and constant weights on either side."""
    if isinstance(x, Value) and isinstance(y, Value):
        return call.rewrite(product, x.index, y.index)
    if isinstance(x, Value):
        weight = call.weight(y)
        if weight.ndim == 1:
            return call.reshape(dense(call, x, weight[None], None, "product"), x.shape[:-1])
        return dense(call, x, _matrix(call, weight).T, None)
    weight, x = _matrix(call, call.weight(x)), call.value(y)
    if len(x.shape) < 2:
        raise call.refuse("it sums over the batch", "keep the batch on axis 0")
    return call.add(LeftDense(weight), x)


def _matrix(call: Call, weight: Tensor) -> Tensor:
    while weight.ndim > 2 and weight.shape[0] == 1:
        weight = weight[0]
    if weight.ndim != 2:
        raise call.refuse(f"expected a matrix of weights, got a constant of shape {list(weight.shape)}")
    return weight


@imports("addmm")
def addmm(call: Call, bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1) -> Value:
    bias, weight = call.weight(bias), _matrix(call, call.weight(weight))
    if (beta, alpha) != (1, 1) or bias.ndim != 1:
        raise call.refuse(f"expected a plain x W + b, got beta={beta}, alpha={alpha}, and b of shape {list(bias.shape)}")
    return dense(call, call.value(x), weight.T, bias)


@imports("conv1d", "conv2d")
def conv(
    call: Call, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Value:
    x, weight = call.value(x), call.weight(weight)
    kernel = weight.shape[2:]
    dilation = per_axis(dilation, len(kernel))
    if len(x.shape) != len(kernel) + 1 or len(kernel) > 2:
        raise call.refuse(
            f"expected samples of a channel axis and 1 or 2 more, got {list(x.shape)}, weights {list(weight.shape)}"
        )
    if padding == "valid":
        pairs = ((0, 0),) * len(kernel)
    elif padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pairs = tuple((total // 2, total - total // 2) for total in totals)
    else:
        pairs = tuple((p, p) for p in per_axis(padding, len(kernel)))
    shift = None if bias is None else call.weight(bias)
    return call.add(Conv(weight, shift, x.shape[1:], per_axis(stride, len(kernel)), pairs, dilation, groups), x)


@imports("conv_transpose1d", "conv_transpose2d")
def conv_transpose(
    call: Call,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    x, weight = call.value(x), call.weight(weight)
    axes = weight.ndim - 2
    if len(x.shape) != axes + 1 or axes > 2:
        raise call.refuse(
            f"expected samples of a channel axis and 1 or 2 more, got {list(x.shape)}, weights {list(weight.shape)}"
        )
    pairs = tuple((p, p) for p in per_axis(padding, axes))
    stride, more, dilation = (per_axis(option, axes) for option in (stride, output_padding, dilation))
    shift = None if bias is None else call.weight(bias)
    return call.add(ConvTranspose(weight, shift, stride, pairs, more, dilation, groups), x)


@imports("convolution")
def convolution(
    call: Call,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,  # noqa: FBT001
    output_padding: Any,
    groups: int,
) -> Value:
    if transposed:
        return conv_transpose(call, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(call, x, weight, bias, stride, padding, dilation, groups)


def per_axis(option: Any, axes: int) -> tuple[int, ...]:
    """An option given once, or for every axis, as one number an axis."""
    given = (option,) if isinstance(option, int) else tuple(option)
    return given * axes if len(given) == 1 else given


@imports("sum", "mean")
def reduce(call: Call, x: Any, dimensions: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Value:  # noqa: FBT001, FBT002
    x = call.value(x)
    function = reduce_mean if packet(call.node.target) == "mean" else reduce_sum
    return call.reduce(function, x, call.axes(x, dimensions), keep=keepdim)


@imports("_native_batch_norm_legit_no_training")
def normalise_batch(
    call: Call, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> tuple[Value, None, None]:
    """With the statistics that are stored; what training would need beside the value is left out."""
    parts = [None if part is None else call.weight(part) for part in (mean, variance, weight, bias)]
    return call.rewrite(batch_norm, call.value(x).index, *parts, epsilon=call.number(eps)), None, None


@imports("batch_norm")
def normalise_stored(call: Call, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, train: bool, *options: Any) -> Value:  # noqa: FBT001
    if train or mean is None or variance is None:
        raise call.refuse(
            "it normalises by the statistics of the batch, and so mixes samples", "use track_running_stats=True, in eval mode"
        )
    return normalise_batch(call, x, weight, bias, mean, variance, *options[:2])[0]


@imports("layer_norm", "native_layer_norm")
def normalise_layer(
    call: Call, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *options: Any
) -> Any:
    x = call.value(x)
    axes = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    parts = [None if part is None else call.weight(part) for part in (weight, bias)]
    value = call.rewrite(layer_norm, x.index, axes, *parts, epsilon=call.number(eps))
    return (value, None, None) if packet(call.node.target) == "native_layer_norm" else value
