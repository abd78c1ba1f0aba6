"""Operators that move, copy and drop elements: torch itself is asked where every element goes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fathom.capture.torch_table import BATCH, Call, Value, imports, packet
from fathom.ops.constant import Constant
from fathom.ops.layout import Transpose
from fathom.ops.pick import Concat, Pad, Pick
from fathom.ops.scale import Shift


@imports(
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "t", "numpy_T", "mT", "detach"),
    *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "index", "index_select", "diagonal"),
    *("expand", "repeat", "tile", "repeat_interleave", "flip", "roll", "unfold", "pixel_shuffle", "pixel_unshuffle"),
    *(
        "upsample_nearest1d",
        "upsample_nearest2d",
        "reflection_pad1d",
        "reflection_pad2d",
        "replication_pad1d",
        "replication_pad2d",
    ),
    layout=True,
)
def move(call: Call, value: Any, *arguments: Any, **keywords: Any) -> Value | list[Value]:
    """Applied to the elements' own numbers, an operator of this kind gives the numbers of the elements it takes."""
    value = call.value(value)
    size = math.prod(value.shape)
    places = torch.arange(BATCH * size, dtype=torch.float64).reshape(BATCH, *value.shape)
    target: Any = call.node.target
    try:
        moved = target(places, *arguments, **keywords)
    except (RuntimeError, IndexError, TypeError) as error:
        raise call.refuse(f"torch refuses it for a sample of shape {list(value.shape)}: {error}") from error
    if isinstance(moved, Tensor):
        return _taken(call, value, moved, "")
    return [_taken(call, value, part, f"{i}") for i, part in enumerate(moved)]


def _taken(call: Call, value: Value, moved: Tensor, step: str) -> Value:
    """The value whose elements are those with the numbers `moved` [BATCH, ...]."""
    size = math.prod(value.shape)
    mixed = moved.ndim == 0 or len(moved) != BATCH
    if mixed or bool((moved - moved[:1] != size * torch.arange(BATCH).reshape(-1, *[1] * (moved.ndim - 1))).any()):
        raise call.refuse(
            f"it turns a batch of {BATCH} samples of shape {list(value.shape)} into {list(moved.shape)}, not sample by sample",
            "keep the batch on axis 0, alone",
        )
    index = moved[0].to(torch.int64)
    shape = tuple(index.shape)
    if index.numel() == size and bool((index.flatten() == torch.arange(size)).all()):
        return call.reshape(value, shape, step)
    picked = Pick(call.graph.shape(value.index), index.reshape(shape or (1,)))
    return Value(call.graph.add(call.step(step), picked, value.index), shape)


@imports("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like", layout=True)
def fill(call: Call, value: Any, *arguments: Any, **keywords: Any) -> Tensor:
    """Constants that take their shape and type from a value."""
    target: Any = call.node.target
    filled: Tensor = target(torch.zeros(BATCH, *call.value(value).shape, dtype=call.dtype), *arguments, **keywords)
    return filled


@imports("permute")
def permute(call: Call, value: Any, dimensions: Any) -> Value:
    value = call.value(value)
    rank = len(value.shape) + 1
    order = [dimension % rank for dimension in dimensions]
    if order[0] != 0:
        raise call.refuse("it moves the batch away from axis 0", "keep the batch on axis 0 (batch_first=True, in torch's layers)")
    return call.add(Transpose(tuple(axis - 1 for axis in order[1:])), value)


@imports("transpose")
def transpose(call: Call, value: Any, first: int, second: int) -> Value:
    value = call.value(value)
    order = list(range(len(value.shape) + 1))
    order[first], order[second] = order[second], order[first]
    return permute(call, value, order)


@imports("cat")
def cat(call: Call, tensors: Any, dim: int = 0) -> Value:
    """Values and constants end to end; a constant is made a node behind any of the values."""
    first = next(part for part in tensors if isinstance(part, Value))
    axis = call.axis(first, dim)
    parts = [_as_value(call, part, first, f"constant {i}") for i, part in enumerate(tensors)]
    return call.add(Concat(axis, tuple(part.shape[axis] for part in parts)), *parts)


@imports("stack")
def stack(call: Call, tensors: Any, dim: int = 0) -> Value:
    first = next(part for part in tensors if isinstance(part, Value))
    axis = dim % (len(first.shape) + 2) - 1
    if axis < 0:
        raise call.refuse("it puts a new axis before the batch", "stack along another axis than 0")
    parts = [_as_value(call, part, first, f"constant {i}") for i, part in enumerate(tensors)]
    longer = (*first.shape[:axis], 1, *first.shape[axis:])
    parts = [call.reshape(part, longer, f"part {i}") for i, part in enumerate(parts)]
    return call.add(Concat(axis, (1,) * len(parts)), *parts)


def _as_value(call: Call, part: Any, beside: Value, step: str) -> Value:
    if isinstance(part, Value):
        return part
    constant = call.sample(call.weight(part), len(beside.shape))
    return call.add(Constant(beside.shape, constant), beside, step=step)


@imports("constant_pad_nd")
def pad(call: Call, value: Any, pads: Any, fill: float = 0) -> Value:
    """Zeros, or another number added where the zeros are."""
    value = call.value(value)
    pairs = tuple(zip(pads[0::2], pads[1::2], strict=True))[::-1]
    if len(pairs) > len(value.shape):
        raise call.refuse("it pads the batch", "leave axis 0 out")
    if not fill:
        return call.add(Pad(pairs), value)
    padded = call.add(Pad(pairs), value, step="zeros")
    rim = torch.nn.functional.pad(torch.zeros(value.shape, dtype=call.dtype), list(pads), value=call.number(fill))
    if not bool(rim.isfinite().all()):
        raise call.refuse(f"expected to pad with a finite number, got {fill}")
    return call.add(Shift(rim), padded)


@imports("to", "_to_copy", "type_as")
def convert(call: Call, x: Any, *arguments: Any, **keywords: Any) -> Value:
    """A wider floating-point type holds the same numbers; a narrower one does not."""
    value = call.value(x)
    before: torch.dtype = call.node.all_input_nodes[0].meta["val"].dtype
    if not (call.dtype.is_floating_point and before.is_floating_point and _bits(call.dtype) >= _bits(before)):
        raise call.refuse(f"it rounds {before} to {call.dtype}", "keep to one floating-point type")
    return value


def _bits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


@imports("dropout", "native_dropout", "alpha_dropout", "feature_dropout")
def dropout(call: Call, value: Any, probability: float, train: bool | None = None) -> Any:  # noqa: FBT001
    """Nothing, in eval mode."""
    if train:
        raise call.refuse("it drops elements at random, although the module is in eval mode", "make it follow self.training")
    return (value, None) if packet(call.node.target).startswith("native") else value
