"""Convolutions and their transposes."""

from __future__ import annotations

from torch import Tensor

from fathom.capture.onnx_operators.windows import Pairs, Windows, halves
from fathom.capture.onnx_table import Call, Value, imports
from fathom.ops.conv import Conv, ConvTranspose


@imports("Conv")
def conv(call: Call) -> Value:
    x, weight, shift = _operands(call)
    size = x.shape[2:]
    windows = Windows.of(call, size, tuple(weight.shape[2:]))
    groups = call.attribute("group", 1)
    operator = Conv(weight, shift, size, windows.stride, windows.padding, windows.dilation, groups)
    y = call.add(operator, x.index)
    return call.settle(y, (1, *call.graph.shape(y)))


@imports("ConvTranspose")
def conv_transpose(call: Call) -> Value:
    x, weight, shift = _operands(call)
    size, kernel = x.shape[2:], tuple(weight.shape[2:])
    ones = (1,) * len(size)
    stride = tuple(call.attribute("strides", ones))
    dilation = tuple(call.attribute("dilations", ones))
    longer = tuple(call.attribute("output_padding", [0] * len(size)))
    spread = tuple(
        s * (n - 1) + more + d * (k - 1) + 1 for n, s, d, k, more in zip(size, stride, dilation, kernel, longer, strict=True)
    )
    padding = _rim(call, size, stride, spread)
    y = call.add(ConvTranspose(weight, shift, stride, padding, longer, dilation, call.attribute("group", 1)), x.index)
    return call.settle(y, (1, *call.graph.shape(y)))


def _operands(call: Call) -> tuple[Value, Tensor, Tensor | None]:
    """Picture, weight and, if there is one, shift."""
    x = call.picture()
    if len(x.shape) not in (3, 4):
        raise call.refuse(f"expected one or two spatial axes, got an input of shape {list(x.shape)}; that is not supported")
    return x, call.weight(1), None if call.constant(2) is None else call.weight(2)


def _rim(call: Call, size: tuple[int, ...], stride: tuple[int, ...], spread: tuple[int, ...]) -> Pairs:
    """How much is cut off either end of the whole spread: given, or what makes the output as large as asked for."""
    auto, shape = call.attribute("auto_pad", "NOTSET"), call.attribute("output_shape")
    if shape is None and auto in ("NOTSET", "VALID"):
        pads = call.attribute("pads", [0] * (2 * len(size))) if auto == "NOTSET" else [0] * (2 * len(size))
        return tuple(zip(pads[: len(size)], pads[len(size) :], strict=True))
    wanted = [n * s for n, s in zip(size, stride, strict=True)] if shape is None else shape[-len(size) :]
    totals = [have - want for have, want in zip(spread, wanted, strict=True)]
    if min(totals) < 0:
        raise call.refuse(
            f"expected an output no larger than {list(spread)}, got a request for {list(wanted)}; give pads instead"
        )
    return tuple(halves(total, upper=auto == "SAME_UPPER") for total in totals)
