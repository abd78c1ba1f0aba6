"""Functions of one value, element by element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fathom.capture import rewrite
from fathom.capture.onnx_table import Call, Value, imports
from fathom.core.operator import Operator
from fathom.ops.exp import Exp, Log
from fathom.ops.power import Sqrt
from fathom.ops.reciprocal import Reciprocal
from fathom.ops.relu import Abs, LeakyRelu, Relu
from fathom.ops.sigmoid import Erf, Sigmoid, Tanh
from fathom.ops.sine import Cosine, Sine
from fathom.ops.softplus import Softplus

PLAIN: dict[str, Callable[[], Operator]] = {
    "Abs": Abs,
    "Cos": Cosine,
    "Erf": Erf,
    "Exp": Exp,
    "Log": Log,
    "Reciprocal": Reciprocal,
    "Relu": Relu,
    "Sigmoid": Sigmoid,
    "Sin": Sine,
    "Softplus": Softplus,
    "Sqrt": Sqrt,
    "Tanh": Tanh,
}


@imports(*PLAIN)
def plain(call: Call) -> Value:
    """An operator of the same name, without attributes."""
    x = call.value()
    return Value(call.add(PLAIN[call.node.op_type](), x.index), x.shape)


@imports("Neg")
def negative(call: Call) -> Value:
    x = call.value()
    return Value(rewrite.negate(call.graph, call.name, x.index), x.shape)


@imports("LeakyRelu")
def leaky_relu(call: Call) -> Value:
    x, slope = call.value(), call.attribute("alpha", float(np.float32(0.01)))
    if 0 <= slope <= 1:
        return Value(call.add(LeakyRelu(slope), x.index), x.shape)
    return Value(rewrite.prelu(call.graph, call.name, x.index, call.number(slope)), x.shape)


@imports("PRelu")
def prelu(call: Call) -> Value:
    x = call.value()
    slope = call.aligned(call.required(1), x.shape)
    return Value(rewrite.prelu(call.graph, call.name, x.index, slope), x.shape)


@imports("Elu")
def elu(call: Call) -> Value:
    x = call.value()
    return Value(rewrite.elu(call.graph, call.name, x.index, call.attribute("alpha", 1.0)), x.shape)


@imports("HardSigmoid")
def hard_sigmoid(call: Call) -> Value:
    x, alpha, beta = call.value(), call.attribute("alpha", np.float32(0.2)), call.attribute("beta", 0.5)
    return Value(rewrite.hard_sigmoid(call.graph, call.name, x.index, float(alpha), float(beta)), x.shape)


@imports("HardSwish")
def hard_swish(call: Call) -> Value:
    """x times the hard sigmoid of slope 1/6."""
    x = call.value()
    gate = rewrite.hard_sigmoid(call.graph, call.step("gate"), x.index, float(np.float32(1 / 6)), 0.5)
    return Value(rewrite.multiply(call.graph, call.name, x.index, gate), x.shape)


@imports("Gelu")
def gelu(call: Call) -> Value:
    x = call.value()
    function = rewrite.gelu_tanh if call.attribute("approximate", "none") == "tanh" else rewrite.gelu
    return Value(function(call.graph, call.name, x.index), x.shape)


@imports("Mish")
def mish(call: Call) -> Value:
    x = call.value()
    return Value(rewrite.mish(call.graph, call.name, x.index), x.shape)


@imports("Clip")
def clip(call: Call) -> Value:
    """min(max(x, low), high); a bound that no finite number of the type passes is none."""
    x = call.value()
    low, high = _bound(call, "min", 1), _bound(call, "max", 2)
    return Value(rewrite.clip(call.graph, call.name, x.index, low, high), x.shape)


def _bound(call: Call, name: str, place: int) -> Tensor | None:
    given = call.attribute(name)
    value = call.constant(place) if given is None else np.asarray(given)
    if value is None or abs(value.item()) >= torch.finfo(call.dtype).max:
        return None
    return call.tensor(value).reshape(())
