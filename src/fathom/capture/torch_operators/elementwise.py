"""Operators that work element by element: activations, arithmetic, and what is rewritten into those."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fathom.capture import rewrite
from fathom.capture.torch_table import Call, Value, imports, packet
from fathom.core.operator import Operator
from fathom.ops.exp import Exp, Log
from fathom.ops.power import Sqrt
from fathom.ops.reciprocal import Reciprocal
from fathom.ops.relu import Abs, LeakyRelu, Relu
from fathom.ops.sigmoid import Erf, Sigmoid, Tanh
from fathom.ops.softplus import Softplus

NAMESAKES: dict[str, Operator] = {
    "relu": Relu(),
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "erf": Erf(),
    "exp": Exp(),
    "log": Log(),
    "sqrt": Sqrt(),
    "reciprocal": Reciprocal(),
    "abs": Abs(),
}


@imports(*NAMESAKES)
def namesake(call: Call, x: Any) -> Value:
    return call.add(NAMESAKES[packet(call.node.target)], call.value(x))


@imports("leaky_relu")
def leaky_relu(call: Call, x: Any, slope: float = 0.01) -> Value:
    slope = call.number(slope)
    if not 0 <= slope <= 1:
        return call.rewrite(rewrite.prelu, call.value(x).index, torch.tensor(slope, dtype=call.dtype))
    return call.add(LeakyRelu(slope), call.value(x))


@imports("prelu", "_prelu_kernel")
def prelu(call: Call, x: Any, weight: Any) -> Value:
    """A slope for every channel, or one for all."""
    x, weight = call.value(x), call.weight(weight)
    slope = call.sample(weight, 1).reshape(-1, *[1] * (len(x.shape) - 1)) if weight.numel() > 1 else weight.reshape(())
    return call.rewrite(rewrite.prelu, x.index, slope)


@imports("softplus")
def softplus(call: Call, x: Any, beta: float = 1, threshold: float = 20) -> Value:
    """Beyond the threshold torch returns x itself, which is within rounding of the function for the usual 20 and float32."""
    if beta != 1 or threshold < 20 or call.dtype != torch.float32:
        raise call.refuse(
            f"expected a float32 softplus of beta 1 and threshold 20 or more, got beta {beta}, threshold {threshold}"
        )
    return call.add(Softplus(), call.value(x))


@imports("gelu")
def gelu(call: Call, x: Any, *, approximate: str = "none") -> Value:
    return call.rewrite(rewrite.gelu if approximate == "none" else rewrite.gelu_tanh, call.value(x).index)


@imports("silu", "mish", "neg")
def unary(call: Call, x: Any) -> Value:
    functions = {"silu": rewrite.silu, "mish": rewrite.mish, "neg": rewrite.negate}
    return call.rewrite(functions[packet(call.node.target)], call.value(x).index)


@imports("elu")
def elu(call: Call, x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if (scale, input_scale) != (1, 1):
        raise call.refuse(f"expected an ELU without scales, got {scale} and {input_scale}")
    return call.rewrite(rewrite.elu, call.value(x).index, call.number(alpha))


@imports("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6")
def clamp(call: Call, x: Any, *limits: Any, **named: Any) -> Value:
    """min and max by place or by name; either may be left out, or be a tensor."""
    name, x = packet(call.node.target), call.value(x)
    low, high = (*limits, None, None)[:2]
    if name == "relu6":
        low, high = 0, 6
    elif name == "hardtanh" and not limits:
        low, high = -1, 1
    elif name == "clamp_max":
        low, high = None, low
    low = named.get("min", named.get("min_val", low))
    high = named.get("max", named.get("max_val", high))
    low, high = None if low == -math.inf else low, None if high == math.inf else high
    if isinstance(low, Value) or isinstance(high, Value):
        raise call.refuse("expected constant limits, got some that depend on the input", "use torch.maximum and torch.minimum")
    rank = len(x.shape)
    return call.rewrite(rewrite.clip, x.index, *(None if end is None else call.operand(end, rank) for end in (low, high)))


@imports("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(call: Call, x: Any, dimension: int, *options: Any, **named: Any) -> Value:
    x = call.value(x)
    function = rewrite.log_softmax if "log" in packet(call.node.target) else rewrite.softmax
    return call.rewrite(function, x.index, call.axis(x, dimension))


@imports("add", "sub", "rsub")
def add(call: Call, x: Any, y: Any, alpha: float = 1) -> Value:
    """x + alpha y, or with a minus sign."""
    name = packet(call.node.target)
    if name == "rsub":
        x, y = y, x
        if alpha != 1:
            raise call.refuse(f"expected a plain difference, got alpha={alpha}")
    a, b = call.operands(x, y)
    if alpha != 1:
        b = _times(call, b, alpha)
    return call.rewrite(rewrite.add if name == "add" else rewrite.subtract, a, b)


def _times(call: Call, operand: rewrite.Operand, factor: float) -> rewrite.Operand:
    """alpha y, for a sum."""
    if not isinstance(operand, Tensor):
        return rewrite.multiply(call.graph, call.step("alpha"), operand, torch.tensor(factor, dtype=call.dtype))
    if operand.requires_grad:
        raise call.refuse(
            f"it multiplies a live parameter by alpha={factor}", "multiply in a step of its own, or capture with live=False"
        )
    return operand * factor


@imports("mul")
def multiply(call: Call, x: Any, y: Any) -> Value:
    return call.rewrite(rewrite.multiply, *call.operands(x, y))


@imports("div")
def divide(call: Call, x: Any, y: Any, *, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise call.refuse(f"it rounds the quotient ({rounding_mode})", "a step function is not supported")
    return call.rewrite(rewrite.divide, *call.operands(x, y))


@imports("maximum", "minimum")
def extreme(call: Call, x: Any, y: Any) -> Value:
    function = rewrite.maximum if packet(call.node.target).startswith("max") else rewrite.minimum
    return call.rewrite(function, *call.operands(x, y))


@imports("pow", "square")
def power(call: Call, x: Any, exponent: Any = 2) -> Value:
    return call.rewrite(rewrite.power, call.value(x).index, call.number(exponent))


@imports("rsqrt")
def rsqrt(call: Call, x: Any) -> Value:
    return call.rewrite(rewrite.power, call.value(x).index, -0.5)
