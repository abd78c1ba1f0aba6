"""Small ONNX models: how the tests write them, and one or more for every operator that Fathom imports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Node:
    """An operator on named values and constants; its outputs are `name` or, for several, `name0`, `name1`, ..."""

    op: str
    inputs: tuple[str | Array | None, ...]
    attributes: dict[str, Any]
    name: str = "y"
    outputs: int = 1

    def named(self, name: str) -> Node:
        return replace(self, name=name)


def op(kind: str, *inputs: str | Array | None, outputs: int = 1, **attributes: Any) -> Node:
    return Node(kind, inputs, attributes, outputs=outputs)


def model(
    *nodes: Node,
    x: Sequence[int | str] = (1, 4),
    opset: int = 13,
    kind: int = TensorProto.FLOAT,
    more: dict[str, Sequence[int | str]] | None = None,
    outputs: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """A model of the given nodes on an input x; the last node's outputs are the model's."""
    protos, constants = [], []
    for node in nodes:
        names = []
        for value in node.inputs:
            if isinstance(value, np.ndarray):
                names.append(f"constant{len(constants)}")
                constants.append(numpy_helper.from_array(value, names[-1]))
            else:
                names.append(value or "")
        results = [node.name] if node.outputs == 1 else [f"{node.name}{i}" for i in range(node.outputs)]
        protos.append(helper.make_node(node.op, names, results, name=f"the {node.op} of {node.name}", **node.attributes))
    given = [helper.make_tensor_value_info(name, kind, shape) for name, shape in {"x": x, **(more or {})}.items()]
    made = [onnx.ValueInfoProto(name=name) for name in outputs or protos[-1].output]
    for info in made:
        info.type.tensor_type.elem_type = kind
    graph = helper.make_graph(protos, "test", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


RANDOM = np.random.default_rng(7)


def w(*shape: int) -> Array:
    """Normal float32 weights."""
    return np.asarray(RANDOM.normal(size=shape), dtype=np.float32)


def i(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def f(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


def number(value: float) -> Array:
    return np.array(value, dtype=np.float32)


IMAGE = (1, 3, 7, 6)
POSITIVE = op("Abs", "x").named("p")

CASES: dict[str, onnx.ModelProto] = {
    # Elementwise.
    **{
        name: model(op(name, "x"))
        for name in ("Abs", "Cos", "Erf", "Exp", "Identity", "Neg", "Relu", "Sigmoid", "Sin", "Softplus", "Tanh")
    },
    **{name: model(POSITIVE, op("Add", "p", f(0.1)).named("q"), op(name, "q")) for name in ("Log", "Reciprocal", "Sqrt")},
    "LeakyRelu": model(op("LeakyRelu", "x", alpha=0.2)),
    "LeakyRelu default": model(op("LeakyRelu", "x")),
    "LeakyRelu steep": model(op("LeakyRelu", "x", alpha=1.5)),
    "PRelu": model(op("PRelu", "x", w(3, 1, 1)), x=IMAGE),
    "Elu": model(op("Elu", "x", alpha=0.7)),
    "HardSigmoid": model(op("HardSigmoid", "x")),
    "HardSigmoid given": model(op("HardSigmoid", "x", alpha=0.3, beta=0.4)),
    "HardSwish": model(op("HardSwish", "x"), opset=14),
    "Gelu": model(op("Gelu", "x"), opset=20),
    "Gelu tanh": model(op("Gelu", "x", approximate="tanh"), opset=20),
    "Mish": model(op("Mish", "x"), opset=18),
    "Clip attributes": model(op("Clip", "x", min=-0.5, max=1.0), opset=10),
    "Clip attribute min": model(op("Clip", "x", min=0.0), opset=7),
    "Clip inputs": model(op("Clip", "x", number(-0.5), number(6)), opset=13),
    "Clip input max": model(op("Clip", "x", None, number(6)), opset=11),
    "Clip nothing": model(op("Clip", "x"), opset=13),
    # Arithmetic.
    "Add": model(op("Add", "x", w(4))),
    "Add before": model(op("Add", w(1, 4), "x")),
    "Add values": model(op("Relu", "x").named("r"), op("Add", "r", "x")),
    "Add channel": model(op("Add", "x", w(1, 3, 1, 1)), x=IMAGE),
    "Add larger": model(op("Add", "x", w(3, 1, 4))),
    "Add a row more": model(op("Add", "x", w(1, 1, 4))),
    "Add column and row": model(
        op("Reshape", "x", i(4, 1)).named("c"), op("Reshape", "x", i(1, 4)).named("r"), op("Add", "c", "r")
    ),
    "Sub": model(op("Sub", "x", w(4))),
    "Sub from": model(op("Sub", w(4), "x")),
    "Sub values": model(op("Relu", "x").named("r"), op("Sub", "x", "r")),
    "Mul": model(op("Mul", "x", w(4))),
    "Mul values": model(op("Tanh", "x").named("t"), op("Mul", "t", "x")),
    "Mul itself": model(op("Mul", "x", "x")),
    "Div": model(op("Div", "x", f(2, 3, -4, 0.3))),
    "Div of": model(op("Exp", "x").named("e"), op("Div", f(1, -2, 3, 4), "e")),
    "Div values": model(op("Exp", "x").named("e"), op("Div", "x", "e")),
    "Pow": model(op("Pow", "x", number(2))),
    "Pow 3": model(op("Pow", "x", f(3))),
    "Pow integer": model(op("Pow", "x", np.array(2)), opset=13),
    "Max": model(op("Max", "x", w(4))),
    "Max values": model(op("Neg", "x").named("m"), op("Max", "m", w(4), "x", f(0.1))),
    "Max one": model(op("Max", "x")),
    "Min": model(op("Min", w(1, 4), "x")),
    "Min values": model(op("Neg", "x").named("m"), op("Min", "x", "m")),
    "Sum": model(op("Neg", "x").named("m"), op("Sum", "x", w(4), "m", "x")),
    # Matrix products.
    "Gemm": model(op("Gemm", "x", w(4, 3), w(3))),
    "Gemm no shift": model(op("Gemm", "x", w(4, 3))),
    "Gemm transB": model(op("Gemm", "x", w(3, 4), w(1, 3), transB=1)),
    "Gemm scalar shift": model(op("Gemm", "x", w(4, 3), w(1))),
    "Gemm alpha beta": model(op("Gemm", "x", w(4, 3), w(3), alpha=0.3, beta=1.7)),
    "Gemm alpha": model(op("Gemm", "x", w(4, 3), alpha=0.3)),
    "Gemm transA": model(op("Reshape", "x", i(4, 2)).named("r"), op("Gemm", "r", w(4, 3), w(3), transA=1), x=(1, 8)),
    "Gemm a column of shifts": model(op("Reshape", "x", i(2, 4)).named("r"), op("Gemm", "r", w(4, 3), w(2, 1)), x=(1, 8)),
    "Gemm value right": model(op("Reshape", "x", i(4, 2)).named("r"), op("Gemm", w(3, 4), "r", w(3, 2)), x=(1, 8)),
    "Gemm values": model(op("Reshape", "x", i(2, 4)).named("r"), op("Gemm", "r", "r", transB=1, alpha=0.5), x=(1, 8)),
    "MatMul right": model(op("MatMul", "x", w(4, 3))),
    "MatMul sequence": model(op("MatMul", "x", w(4, 3)), x=(1, 5, 4)),
    "MatMul vector": model(op("MatMul", "x", w(4))),
    "MatMul leading ones": model(op("MatMul", "x", w(1, 1, 4, 3))),
    "MatMul left": model(op("MatMul", w(3, 5), "x"), x=(1, 5, 4)),
    "MatMul left of a column": model(op("Reshape", "x", i(4, 1)).named("c"), op("MatMul", w(3, 4), "c")),
    "MatMul left vector": model(op("Reshape", "x", i(4, 2)).named("r"), op("MatMul", w(4), "r"), x=(1, 8)),
    "MatMul of a vector": model(op("Reshape", "x", i(4)).named("v"), op("MatMul", w(3, 4), "v")),
    "MatMul batched constant": model(op("MatMul", "x", w(2, 4, 3)), x=(1, 2, 5, 4)),
    "MatMul values": model(op("Transpose", "x", perm=[0, 2, 1]).named("t"), op("MatMul", "x", "t"), x=(1, 5, 4)),
    "MatMul values of heads": model(op("Transpose", "x", perm=[0, 1, 3, 2]).named("t"), op("MatMul", "x", "t"), x=(1, 2, 5, 4)),
    "MatMul numbers": model(op("MatMul", "x", "x"), x=(1, 1)),
    "MatMul vectors": model(op("Reshape", "x", i(4)).named("v"), op("MatMul", "v", "v")),
    # Convolutions.
    "Conv": model(op("Conv", "x", w(4, 3, 3, 3), w(4)), x=IMAGE),
    "Conv asymmetric": model(op("Conv", "x", w(4, 3, 3, 2), pads=[0, 1, 2, 1], strides=[2, 1], dilations=[1, 2]), x=IMAGE),
    "Conv groups": model(op("Conv", "x", w(6, 1, 3, 3), w(6), group=3), x=IMAGE),
    "Conv same upper": model(op("Conv", "x", w(2, 3, 4, 4), auto_pad="SAME_UPPER", strides=[2, 3]), x=IMAGE),
    "Conv same lower": model(op("Conv", "x", w(2, 3, 4, 4), auto_pad="SAME_LOWER"), x=IMAGE),
    "Conv valid": model(op("Conv", "x", w(2, 3, 2, 2), auto_pad="VALID"), x=IMAGE),
    "Conv 1-D": model(op("Conv", "x", w(4, 3, 3), w(4), pads=[1, 0]), x=(1, 3, 8)),
    "ConvTranspose": model(op("ConvTranspose", "x", w(3, 4, 3, 3), w(4)), x=IMAGE),
    "ConvTranspose strides": model(
        op("ConvTranspose", "x", w(3, 2, 3, 3), strides=[2, 3], pads=[1, 0, 0, 2], output_padding=[1, 2]), x=IMAGE
    ),
    "ConvTranspose groups": model(op("ConvTranspose", "x", w(4, 2, 3, 3), group=2, dilations=[2, 1]), x=(1, 4, 5, 5)),
    "ConvTranspose same": model(op("ConvTranspose", "x", w(3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"), x=IMAGE),
    "ConvTranspose same lower": model(op("ConvTranspose", "x", w(3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"), x=IMAGE),
    "ConvTranspose output shape": model(op("ConvTranspose", "x", w(3, 2, 3, 3), strides=[2, 2], output_shape=[14, 13]), x=IMAGE),
    # Normalisation.
    "BatchNormalization": model(op("BatchNormalization", "x", w(3), w(3), w(3), w(3) ** 2, epsilon=0.01), x=IMAGE),
    "BatchNormalization flat": model(op("BatchNormalization", "x", w(4), w(4), w(4), w(4) ** 2), opset=9),
    "LayerNormalization": model(op("LayerNormalization", "x", w(4), w(4)), x=(1, 5, 4), opset=17),
    "LayerNormalization axes": model(op("LayerNormalization", "x", w(5, 4), axis=1, epsilon=0.1), x=(1, 5, 4), opset=17),
    "Softmax": model(op("Softmax", "x")),
    "Softmax axis": model(op("Softmax", "x", axis=1), x=IMAGE),
    "Softmax flattened": model(op("Softmax", "x", axis=2), x=(1, 2, 3, 2), opset=11),
    "Softmax old": model(op("Softmax", "x"), x=(1, 3, 2), opset=7),
    "Softmax old last": model(op("Softmax", "x", axis=-1), x=(1, 3, 2), opset=11),
    "LogSoftmax": model(op("LogSoftmax", "x", axis=-1)),
    "LogSoftmax old": model(op("LogSoftmax", "x", axis=1), x=(1, 3, 2), opset=12),
    # Pooling and reductions.
    "MaxPool": model(op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2]), x=IMAGE),
    "MaxPool padded": model(op("MaxPool", "x", kernel_shape=[3, 2], pads=[1, 0, 2, 1], dilations=[2, 1]), x=IMAGE),
    "MaxPool ceil": model(op("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), x=(1, 2, 6, 8)),
    "MaxPool same": model(op("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"), x=IMAGE),
    "MaxPool 1-D": model(op("MaxPool", "x", kernel_shape=[3], strides=[2]), x=(1, 2, 9)),
    "AveragePool": model(op("AveragePool", "x", kernel_shape=[2, 3], strides=[2, 1]), x=IMAGE),
    "AveragePool padded": model(op("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]), x=IMAGE),
    "AveragePool counted": model(op("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1), x=IMAGE),
    "AveragePool ceil": model(
        op("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[0, 1, 0, 1]), x=(1, 2, 6, 8), opset=19
    ),
    "GlobalAveragePool": model(op("GlobalAveragePool", "x"), x=IMAGE),
    "GlobalMaxPool": model(op("GlobalMaxPool", "x"), x=(1, 3, 3, 2)),
    "ReduceSum attribute": model(op("ReduceSum", "x", axes=[2], keepdims=0), x=IMAGE, opset=11),
    "ReduceSum input": model(op("ReduceSum", "x", i(1, -1)), x=IMAGE),
    "ReduceSum all": model(op("ReduceSum", "x", keepdims=0), x=(1, 2, 3)),
    "ReduceSum none": model(op("ReduceSum", "x", noop_with_empty_axes=1)),
    "ReduceSum batch": model(op("ReduceSum", "x", i(0), keepdims=0)),
    "ReduceMean": model(op("ReduceMean", "x", axes=[2, 3]), x=IMAGE),
    "ReduceMean input": model(op("ReduceMean", "x", i(1), keepdims=0), x=IMAGE, opset=18),
    "ReduceMax": model(op("ReduceMax", "x", axes=[1], keepdims=0), x=IMAGE),
    "ReduceMin": model(op("ReduceMin", "x", axes=[-1]), x=(1, 3, 4)),
    # Layout.
    "Flatten": model(op("Flatten", "x"), x=IMAGE),
    "Flatten axis": model(op("Flatten", "x", axis=2), x=IMAGE),
    "Flatten all": model(op("Flatten", "x", axis=0), x=IMAGE),
    "Flatten end": model(op("Flatten", "x", axis=-1), x=IMAGE),
    "Reshape": model(op("Reshape", "x", i(1, 6, -1)), x=(1, 3, 4)),
    "Reshape zero": model(op("Reshape", "x", i(0, -1)), x=(1, 3, 4)),
    "Reshape vector": model(op("Reshape", "x", i(-1)), x=(1, 3, 4)),
    "Reshape without batch": model(op("Reshape", "x", i(3, 4)).named("r"), op("MatMul", "r", w(4, 2)), x=(1, 12)),
    "Transpose": model(op("Transpose", "x", perm=[0, 2, 3, 1]), x=IMAGE),
    "Transpose default": model(op("Transpose", "x"), x=(1, 3, 4)),
    "Transpose batch inside": model(
        op("Transpose", "x", perm=[1, 0, 2]).named("t"),
        op("MatMul", "t", w(4, 2)).named("m"),
        op("Transpose", "m", perm=[1, 2, 0]),
        x=(1, 3, 4),
    ),
    "Squeeze attribute": model(op("Squeeze", "x", axes=[1]), x=(1, 1, 3), opset=11),
    "Squeeze input": model(op("Squeeze", "x", i(-1)), x=(1, 3, 1)),
    "Squeeze all": model(op("Squeeze", "x"), x=(1, 1, 3, 1)),
    "Unsqueeze attribute": model(op("Unsqueeze", "x", axes=[1, 3]), opset=11),
    "Unsqueeze input": model(op("Unsqueeze", "x", i(-1, 0)), opset=13),
    "Concat": model(op("Neg", "x").named("m"), op("Concat", "x", "m", w(1, 2), axis=1)),
    "Concat batch": model(op("Neg", "x").named("m"), op("Concat", "x", "m", axis=0)),
    "Concat batch of one value": model(op("Concat", "x", "x", axis=0)),
    "Concat last": model(op("Neg", "x").named("m"), op("Concat", "m", "x", axis=-1), x=IMAGE),
    "Slice attributes": model(op("Slice", "x", starts=[1, -3], ends=[100, -1], axes=[1, 2]), x=(1, 3, 4), opset=9),
    "Slice inputs": model(op("Slice", "x", i(0), i(3), i(-1)), x=(1, 3, 4)),
    "Slice steps": model(op("Slice", "x", i(10, 0), i(-100, 4), i(1, 2), i(-2, 3)), x=(1, 5, 4)),
    "Slice without axes": model(op("Slice", "x", i(0, 1), i(1, 3)), x=(1, 3, 4)),
    "Gather": model(op("Gather", "x", i(2, 0, -1), axis=1), x=(1, 3, 4)),
    "Gather matrix": model(op("Gather", "x", np.array([[0, 1], [2, 2]]), axis=2), x=(1, 3, 4)),
    "Gather one": model(op("Gather", "x", np.array(1), axis=1), x=(1, 3, 4)),
    "Gather the sample": model(op("Gather", "x", np.array(0), axis=0).named("g"), op("MatMul", "g", w(4, 2)), x=(1, 3, 4)),
    "Split attribute": model(op("Split", "x", axis=1, split=[1, 3], outputs=2), opset=11),
    "Split input": model(op("Split", "x", i(3, 1), axis=-1, outputs=2), opset=13),
    "Split equal": model(op("Split", "x", axis=1, outputs=2), opset=13),
    "Split uneven": model(op("Split", "x", axis=1, num_outputs=3, outputs=3), x=(1, 7), opset=18),
    "Expand": model(op("Expand", "x", i(1, 5, 4)), x=(1, 1, 4)),
    "Expand more": model(op("Expand", "x", i(2, 3, 1)), x=(1, 4)),
    "Tile": model(op("Tile", "x", i(1, 2)), x=(1, 4)),
    "Pad": model(op("Pad", "x", i(0, 0, 1, 0, 0, 0, 2, 3)), x=IMAGE),
    "Pad attributes": model(op("Pad", "x", pads=[0, 1, 0, 2], value=1.5), opset=10),
    "Pad value": model(op("Pad", "x", i(0, 1, 0, 2), number(-2))),
    "Pad crop": model(op("Pad", "x", i(0, -1, 0, 2))),
    "Pad axes": model(op("Pad", "x", i(1, 2), None, i(-1)), opset=18),
    "Pad batch": model(op("Pad", "x", i(1, 0, 1, 0))),
    "Pad reflect": model(op("Pad", "x", i(0, 0, 1, 2, 0, 0, 2, 3), mode="reflect"), x=IMAGE),
    "Pad edge": model(op("Pad", "x", i(0, 0, 1, 2, 0, 0, 2, 3), mode="edge"), x=IMAGE),
    "Upsample attribute": model(op("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0]), x=IMAGE, opset=7),
    "Upsample": model(op("Upsample", "x", f(1, 1, 2, 2)), x=IMAGE, opset=9),
    "Resize": model(op("Resize", "x", f(1, 1, 2, 2)), x=IMAGE, opset=10),
    "Resize scales": model(op("Resize", "x", None, f(1, 1, 3, 2)), x=IMAGE),
    "Resize sizes": model(op("Resize", "x", None, None, i(1, 3, 14, 18)), x=IMAGE),
    "Resize ceil": model(
        op("Resize", "x", None, f(1, 1, 2, 2), nearest_mode="ceil", coordinate_transformation_mode="asymmetric"), x=IMAGE
    ),
    "Dropout": model(op("Dropout", "x", ratio=0.3), opset=7),
    "Dropout inputs": model(op("Dropout", "x", number(0.3), np.array(0, dtype=bool))),
    "Cast": model(op("Cast", "x", to=TensorProto.FLOAT)),
}
