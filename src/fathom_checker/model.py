"""A model file as linear operators and neurons: an ONNX reader that refuses what it does not know."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fathom_checker.layout import LAYOUT, MOST_ELEMENTS, concat, pad
from fathom_checker.node import Node
from fathom_checker.numbers import Array, Numbers
from fathom_checker.operators import Bend, Conv, Matrix, Operator, Pick, Scale, Shape, Sum
from fathom_checker.reading import Malformed

OPSETS = range(7, 26)
FLOATS: dict[int, np.dtype[Any]] = {onnx.TensorProto.FLOAT: np.dtype(np.float32), onnx.TensorProto.DOUBLE: np.dtype(np.float64)}


@dataclass(frozen=True, eq=False)
class Model:
    """Value 0 is the flat input; operator i makes value i + 1 from earlier ones; the last value is the flat output."""

    operators: tuple[Operator, ...]
    bends: dict[str, int]  # the operators that are neurons, by the tensor they put out
    inputs: int
    outputs: int
    dtype: np.dtype[Any]  # of the inputs

    @property
    def neurons(self) -> int:
        return sum(math.prod(self.operators[i].shape) for i in self.bends.values())

    def numbered(self, relus: list[str]) -> Model:
        """The same model with neurons numbered by the order of `relus`, then of the file."""
        if len(set(relus)) != len(relus) or not set(relus) <= set(self.bends):
            strange = sorted(set(relus) - set(self.bends))
            raise Malformed(f"expected `relus` to name outputs of Relu nodes that count, each once, got {strange or 'one twice'}")
        operators, start = list(self.operators), 0
        for i in dict.fromkeys([*map(self.bends.__getitem__, relus), *self.bends.values()]):
            bend = operators[i]
            assert isinstance(bend, Bend)
            operators[i] = replace(bend, start=start)
            start += math.prod(bend.shape)
        return replace(self, operators=tuple(operators))


def read_model(content: bytes, numbers: Numbers) -> Model:
    """Raises: Malformed: it is no ONNX model, or one that uses what is not understood, by name."""
    try:
        model = onnx.load_from_string(content)
    except Exception as reason:  # protobuf's own
        raise Malformed(f"the model is no ONNX file ({type(reason).__name__})") from reason
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(opsets) != 1 or opsets[0] not in OPSETS or model.functions or model.graph.sparse_initializer:
        raise Malformed(f"expected one opset from {OPSETS[0]} to {OPSETS[-1]} and no functions or sparse tensors, got {opsets}")
    try:
        return _Reader(model.graph, opsets[0], numbers).read()
    except (ValueError, IndexError, TypeError, KeyError, OverflowError) as reason:  # shapes that do not fit one another
        raise Malformed(f"the model is inconsistent: {reason}") from reason


@dataclass(frozen=True)
class _Value:
    number: int
    shape: Shape

    @property
    def ids(self) -> Array:
        """Numbers of its elements."""
        return np.arange(math.prod(self.shape)).reshape(self.shape)


class _Reader:
    def __init__(self, graph: onnx.GraphProto, opset: int, numbers: Numbers) -> None:
        self.graph, self.opset, self.numbers = graph, opset, numbers
        self.constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
        self.values: dict[str, _Value] = {}
        self.operators: list[Operator] = []
        self.names: dict[int, str] = {}  # of the tensors that neurons put out, by value

    def read(self) -> Model:
        dtype, size = self._inputs()
        for proto in self.graph.node:
            node = Node(proto, self.opset, self.constants)
            for name in {*node.inputs, *node.outputs} - {""}:
                if (name in self.constants or name in self.values) == (name in node.outputs):
                    raise Malformed(f"{node}: the tensor {name!r} is made twice, or not before it is read")
            self._node(node)
            node.finish()
        outputs = [self.values[port.name] for port in self.graph.output]
        ids = np.arange(sum(output.ids.size for output in outputs))
        return self._alive(self._moved(outputs, ids).number, size, ids.size, dtype)

    def _inputs(self) -> tuple[np.dtype[Any], int]:
        ports = [port for port in self.graph.input if port.name not in self.constants]
        types: set[Any] = {port.type.tensor_type.elem_type for port in ports}
        sizes = [[d.dim_value if d.HasField("dim_value") else 0 for d in port.type.tensor_type.shape.dim] for port in ports]
        shapes = [tuple(1 if n == i == 0 else n for i, n in enumerate(size)) for size in sizes]
        ends = np.cumsum([0, *map(math.prod, shapes)])
        sized = all(min(shape, default=1) > 0 for shape in shapes) and ends[-1] <= MOST_ELEMENTS
        if len(types) != 1 or not types <= set(FLOATS) or not sized:
            raise Malformed("expected inputs of float32 or all of float64, of known sizes (the first may be open, and is 1)")
        whole = _Value(0, (int(ends[-1]),))
        for port, shape, start in zip(ports, shapes, ends):
            self.values[port.name] = self._moved([whole], np.arange(start, start + math.prod(shape)).reshape(shape))
        return FLOATS[types.pop()], int(ends[-1])

    def _emit(self, operator: Operator) -> _Value:
        if math.prod(operator.shape) > MOST_ELEMENTS:
            raise Malformed(f"expected values of at most {MOST_ELEMENTS} elements, got {list(operator.shape)}")
        self.operators.append(operator)
        return _Value(len(self.operators), operator.shape)

    def _floats(self, values: Array) -> Array:
        if values.dtype not in FLOATS.values() or not np.isfinite(values).all():
            raise Malformed(f"weights that are infinite, or of type {values.dtype}, are not understood")
        return self.numbers.array(values)

    def _moved(self, sources: list[_Value], ids: Array, constants: Array | None = None) -> _Value:
        """The value whose elements `ids` numbers: through the sources one after the other; -1 - i is constant i."""
        flat, ends = ids.reshape(-1), np.cumsum([0, *(source.ids.size for source in sources)])
        parts, bias, most = None, None, 0
        if len(sources) == 1 and np.array_equal(flat, np.arange(ends[1])):
            if ids.shape == sources[0].shape:
                return sources[0]
        else:
            inside = [((flat >= a) & (flat < b)).nonzero()[0] for a, b in itertools.pairwise(ends)]
            parts = tuple((places, flat[places] - start) for places, start in zip(inside, ends))
            most = int(np.bincount(flat[flat >= 0]).max(initial=0))
        if constants is not None and (flat < 0).any():
            bias = self.numbers.zeros(flat.size)
            bias[flat < 0] = self._floats(constants)[-1 - flat[flat < 0]]
            bias = bias.reshape(ids.shape)
        inputs, sizes = tuple(source.number for source in sources), tuple(source.shape for source in sources)
        shared = most if most > 1 else 0  # times that one element is used, so that rows are added up
        return self._emit(
            Pick(inputs=inputs, shape=ids.shape, fan=shared, terms=0, bias=bias, numbers=self.numbers, parts=parts, sizes=sizes)
        )

    def _alive(self, last: int, size: int, outputs: int, dtype: np.dtype[Any]) -> Model:
        """Only what the output depends on."""
        alive = {last}
        for number in range(last, 0, -1):
            if number in alive:
                alive.update(self.operators[number - 1].inputs)
        kept = sorted(alive - {0})
        if not kept:
            raise Malformed("the model computes nothing")
        place = {0: 0} | {number: i + 1 for i, number in enumerate(kept)}
        operators = [self.operators[number - 1] for number in kept]
        operators = [replace(op, inputs=tuple(place[value] for value in op.inputs)) for op in operators]
        bends = {self.names[number]: place[number] - 1 for number in kept if number in self.names}
        return Model(tuple(operators), bends, size, outputs, dtype)

    def _node(self, node: Node) -> None:
        if node.op == "Constant":
            value = node.attribute("value", None)
            if value is None:
                raise node.unknown("a Constant without a tensor `value`")
            self.constants[node.outputs[0]] = value
        elif node.op in LAYOUT:
            self._layout(node)
        elif node.op in COMPUTED:
            self.values[node.outputs[0]] = COMPUTED[node.op](self, node)
        else:
            raise Malformed(f"{node}: the operator {node.op} is not understood")

    def _layout(self, node: Node) -> None:
        names = [name for name in node.inputs if name] if node.op == "Concat" else node.inputs[:1]
        fill = node.attribute("value", 0.0) if self.opset < 11 else node.constant(2) if node.has(2) else 0.0
        if all(name in self.constants for name in names):
            made = _run(node, [self.constants[name] for name in names], fill)
            self.constants.update(zip(node.outputs, made))
            return
        sources: list[_Value] = []
        ids, fixed = [], [np.asarray(fill).astype(np.float32 if isinstance(fill, float) else None).reshape(1)]
        for name in names:
            if name in self.values:
                ids.append(self.values[name].ids + sum(source.ids.size for source in sources))
                sources.append(self.values[name])
            else:
                value = self.constants[name]
                ids.append(-1 - sum(part.size for part in fixed) - np.arange(value.size).reshape(value.shape))
                fixed.append(value.reshape(-1))
        for name, array in zip(node.outputs, _run(node, ids, -1)):
            self.values[name] = self._moved(sources, np.ascontiguousarray(array), np.concatenate(fixed))

    def _gemm(self, node: Node) -> _Value:
        alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
        x, weight = self.values[node.inputs[0]], node.constant(1)
        if node.attribute("transA", 0):
            x = self._moved([x], x.ids.T)
        weight = self._floats(weight.T if node.attribute("transB", 0) else weight)
        bias = self._floats(node.constant(2)) if node.has(2) else None
        scaled = 2 * (alpha != 1 or beta != 1)
        if scaled:
            weight = weight * self.numbers.array(alpha)[()]
            bias = None if bias is None else bias * self.numbers.array(beta)[()]
        return self._matrix(node, x, weight, bias, scaled)

    def _matrix(self, node: Node, x: _Value, weight: Array, bias: Array | None = None, scaled: int = 0) -> _Value:
        if weight.ndim != 2 or not x.shape or x.shape[-1] != len(weight):
            raise node.unknown(f"a product of {list(x.shape)} and {list(weight.shape)}")
        shape, counts = (*x.shape[:-1], weight.shape[1]), len(weight) + (bias is not None) + scaled
        weight, bias = np.ascontiguousarray(weight), None if bias is None else np.broadcast_to(bias, shape)
        fan = max(weight.shape) + 1
        return self._emit(Matrix(inputs=(x.number,), shape=shape, weight=weight, bias=bias, fan=fan, terms=counts, rough=scaled))

    def _matmul(self, node: Node) -> _Value:
        if node.is_constant(1):
            return self._matrix(node, self.values[node.inputs[0]], self._floats(node.constant(1)))
        x, weight = self.values[node.inputs[1]], self._floats(node.constant(0))
        if len(x.shape) < 2:
            raise node.unknown("a product with a vector")
        y = self._matrix(node, self._moved([x], x.ids.swapaxes(-1, -2)), weight.T)
        return self._moved([y], y.ids.swapaxes(-1, -2))

    def _operands(self, node: Node) -> tuple[_Value, Array]:
        """The variable and the constant of a node that has one of each, of one shape."""
        at = 1 if node.is_constant(1) else 0
        constant = self._floats(node.constant(at))
        x = self.values[node.inputs[1 - at]]
        shape = np.broadcast_shapes(x.shape, constant.shape)
        return self._moved([x], np.broadcast_to(x.ids, shape)), np.broadcast_to(constant, shape)

    def _add(self, node: Node) -> _Value:
        sign = -1 if node.op == "Sub" else 1
        if not (node.is_constant(0) or node.is_constant(1)):
            pair = [self.values[name] for name in node.inputs]
            shape = np.broadcast_shapes(*(x.shape for x in pair))
            inputs = tuple(self._moved([x], np.broadcast_to(x.ids, shape)).number for x in pair)
            return self._emit(Sum(inputs=inputs, shape=shape, fan=0, terms=1, sign=sign))
        x, shift = self._operands(node)
        if sign == -1 and node.is_constant(0):
            return self._scale(x, self.numbers.array(-np.ones(x.shape)), shift)
        shift = shift if sign == 1 else -shift
        before = self.operators[x.number - 1] if x.number else None
        if isinstance(before, Matrix) and before.bias is None:  # the bias of a product
            return self._emit(replace(before, bias=shift, terms=before.terms + 1))
        return self._scale(x, None, shift)

    def _scale(self, x: _Value, weight: Array | None, bias: Array | None = None, rough: int = 0) -> _Value:
        fan = int(weight is not None)
        return self._emit(
            Scale(inputs=(x.number,), shape=x.shape, weight=weight, bias=bias, fan=fan, terms=1 + rough, rough=rough)
        )

    def _times(self, node: Node) -> _Value:
        divide = node.op == "Div"
        if (divide and not node.is_constant(1)) or (node.is_constant(1) and divide and not np.all(node.constant(1))):
            raise node.unknown("a division by a variable or by zero")
        x, factor = self._operands(node)
        return self._scale(x, 1 / factor if divide else factor, rough=int(divide))

    def _bend(self, node: Node) -> _Value:
        leak = node.attribute("alpha", float(np.float32(0.01))) if node.op == "LeakyRelu" else 0
        if not 0 <= leak <= 1:
            raise node.unknown(f"a slope of {leak}")
        x = self.values[node.inputs[0]]
        value = self._emit(Bend((x.number,), x.shape, self.numbers.array(leak)[()], 0))
        self.names[value.number] = node.outputs[0]
        return value

    def _windows(self, node: Node, weight: Array, groups: int, bias: Array | None = None) -> _Value:
        x, kernel = self.values[node.inputs[0]], weight.shape[2:]
        axes = len(kernel)
        flat, strides = node.attribute("pads", [0] * 2 * axes), tuple(node.attribute("strides", [1] * axes))
        dilations, pads = tuple(node.attribute("dilations", [1] * axes)), tuple(zip(flat[:axes], flat[axes:]))
        expected = (axes, 2 * axes, axes, tuple(kernel), b"NOTSET", axes + 2)
        got = (len(strides), len(flat), len(dilations), tuple(node.attribute("kernel_shape", kernel)))
        if expected != (*got, node.attribute("auto_pad", b"NOTSET"), len(x.shape)) or not axes:
            raise node.unknown(f"auto_pad, or a kernel {list(kernel)} on {list(x.shape)} with {strides}, {flat}, {dilations},")
        spans = zip(x.shape[2:], kernel, strides, pads, dilations)
        sizes = [(n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in spans]
        fits = groups > 0 and len(weight) % groups == 0 and x.shape[1] == weight.shape[1] * groups
        if not fits or min(*sizes, *strides, *dilations) < 1 or min(flat) < 0:
            raise node.unknown(f"{groups} groups, strides {strides}, pads {flat}, dilations {dilations} on {list(x.shape)}")
        shape = (x.shape[0], len(weight), *sizes)
        count = math.prod(kernel)
        bias = None if bias is None else np.broadcast_to(bias.reshape(-1, *[1] * axes), shape)
        parts: dict[str, Any] = {"shape": shape, "bias": bias, "weight": weight, "size": x.shape, "groups": groups}
        parts |= {"strides": strides, "pads": pads, "dilations": dilations}
        fan, terms = max(len(weight) // groups, weight.shape[1]) * count + 1, weight.shape[1] * count + (bias is not None)
        return self._emit(Conv(inputs=(x.number,), numbers=self.numbers, fan=fan, terms=terms, **parts))

    def _conv(self, node: Node) -> _Value:
        bias = self._floats(node.constant(2)) if node.has(2) else None
        return self._windows(node, self._floats(node.constant(1)), node.attribute("group", 1), bias)

    def _average(self, node: Node) -> _Value:
        """A convolution by ones, channel by channel, over how many elements each window has."""
        channels = self.values[node.inputs[0]].shape[1]
        ones = self.numbers.array(np.ones((channels, 1, *node.attribute("kernel_shape", ()))))
        padded = node.attribute("count_include_pad", 0)
        if node.attribute("ceil_mode", 0):
            raise node.unknown("ceil_mode")
        y = self._windows(node, ones, channels)
        window = self.operators[-1]
        assert isinstance(window, Conv)
        inside = window.forward([self.numbers.array(np.ones((1, *window.size)))], absolute=True)[0]
        return self._scale(y, 1 / (inside * 0 + math.prod(ones.shape[2:]) if padded else inside), rough=1)

    def _reduce(self, node: Node) -> _Value:
        """Sums or means over axes: a product with a column of ones."""
        x = self.values[node.inputs[0]]
        axes = node.integers(1, "axes", ())
        if not axes and node.attribute("noop_with_empty_axes", 0):
            raise node.unknown("noop_with_empty_axes")
        gone = sorted(range(len(x.shape))[axis] for axis in axes) or list(range(len(x.shape)))
        rest = [i for i in range(len(x.shape)) if i not in gone]
        count = math.prod(x.shape[i] for i in gone)
        moved = self._moved([x], x.ids.transpose(*rest, *gone).reshape(*(x.shape[i] for i in rest), count))
        y = self._matrix(node, moved, self.numbers.array(np.ones((count, 1))))
        if node.op == "ReduceMean":
            y = self._scale(y, 1 / self.numbers.array(np.full(y.shape, float(count))), rough=1)
        keep = node.attribute("keepdims", 1)
        return self._moved([y], y.ids.reshape([1 if i in gone else n for i, n in enumerate(x.shape) if keep or i not in gone]))

    def _normalise(self, node: Node) -> _Value:
        """scale (x - mean) / sqrt(variance + epsilon) + shift, channel by channel."""
        x = self.values[node.inputs[0]]
        scale, shift, mean, variance = (self._floats(node.constant(i)) for i in (1, 2, 3, 4))
        epsilon = node.attribute("epsilon", float(np.float32(1e-5)))
        node.attribute("momentum", 0.9)
        trains = node.attribute("training_mode", 0) or not node.attribute("spatial", 1) or len(node.outputs) > 1
        if self.numbers.exact or trains or not 0 < epsilon < 1 or (variance < 0).any():
            raise node.unknown("a BatchNormalization that trains, or a square root in rational arithmetic,")
        factor = scale / np.sqrt(variance + epsilon)
        made = (factor, shift - mean * factor, np.abs(shift) + 2 * np.abs(mean * factor))
        weight, bias, size = (np.broadcast_to(m.reshape(-1, *[1] * (len(x.shape) - 2)), x.shape) for m in made)
        parts = {"weight": weight, "bias": bias, "bias_size": size}
        return self._emit(Scale(inputs=(x.number,), shape=x.shape, fan=1, terms=8, rough=8, **parts))


COMPUTED = {
    name: reader
    for reader, names in {
        _Reader._gemm: "Gemm",
        _Reader._matmul: "MatMul",
        _Reader._add: "Add Sub",
        _Reader._times: "Mul Div",
        _Reader._bend: "Relu LeakyRelu",
        _Reader._conv: "Conv",
        _Reader._average: "AveragePool",
        _Reader._reduce: "ReduceMean ReduceSum",
        _Reader._normalise: "BatchNormalization",
    }.items()
    for name in names.split()
}


def _run(node: Node, arrays: list[Array], fill: Any) -> list[Array]:
    """The outputs of a node that moves elements."""
    made = concat(node, arrays) if node.op == "Concat" else pad(node, arrays[0], fill) if node.op == "Pad" else None
    made = LAYOUT[node.op](node, arrays[0]) if made is None else made
    return made if isinstance(made, list) else [made]


def _array(tensor: onnx.TensorProto) -> Array:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise Malformed(f"the tensor {tensor.name!r} is in another file, which no digest covers")
    try:
        return numpy_helper.to_array(tensor)
    except Exception as reason:  # damaged data raise many kinds
        raise Malformed(f"the tensor {tensor.name!r} is damaged ({reason})") from reason
