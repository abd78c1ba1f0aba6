"""A model file as linear operators and neurons: an ONNX reader that refuses what it does not know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view

from fathom_checker.graph import MOVES, Node, padded, tensor
from fathom_checker.numbers import Array, Numbers
from fathom_checker.operators import Bend, Dense, Entries, Linear, Operator, twins
from fathom_checker.reading import MOST_ELEMENTS, Malformed

OPSETS = range(7, 26)
FLOATS: dict[int, np.dtype[Any]] = {onnx.TensorProto.FLOAT: np.dtype(np.float32), onnx.TensorProto.DOUBLE: np.dtype(np.float64)}
THIN = 64  # how many products of a dense matrix one entry of a sparse one costs


@dataclass(frozen=True, eq=False)
class Model:
    """Value 0 is the flat input; operator i makes value i + 1 from earlier ones; the last value is the flat output."""

    operators: list[Operator]
    bends: dict[str, int]  # the operators that are neurons, by the tensor they put out
    neurons: int
    inputs: int
    outputs: int
    dtype: np.dtype[Any]  # of the inputs


def read_model(content: bytes, numbers: Numbers, relus: Sequence[str] = (), *, real: bool = True) -> Model:
    """The model, with neurons numbered by the order of `relus`, then of the file; `real`: only for its real function.

    Raises:
        Malformed: it is no ONNX model, or one that uses what is not understood, by name; or has no such `relus`.
    """
    try:
        model = onnx.load_from_string(content)
    except Exception as reason:  # protobuf's own
        raise Malformed(f"the model is no ONNX file ({type(reason).__name__})") from reason
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(opsets) != 1 or opsets[0] not in OPSETS or model.functions or model.graph.sparse_initializer:
        raise Malformed(f"expected one opset from {OPSETS[0]} to {OPSETS[-1]} and no functions or sparse tensors, got {opsets}")
    try:
        return _Reader(numbers, real=real).model(model.graph, relus)
    except (ValueError, IndexError, TypeError, KeyError, ArithmeticError) as reason:  # shapes that do not fit one another
        raise Malformed(f"the model is inconsistent: {reason}") from reason


class _Reader:
    """Elements of all values are numbered through, in the order of the values; a tensor is an array of such numbers, -1 for 0."""

    def __init__(self, numbers: Numbers, *, real: bool) -> None:
        self.numbers, self.real = numbers, real
        self.operators: list[Operator] = []
        self.starts = np.zeros(1, np.int64)  # of the values, and where the last one ends
        self.bends: dict[str, int] = {}  # numbers of the values that neurons put out

    def model(self, graph: onnx.GraphProto, relus: Sequence[str]) -> Model:
        constants = {proto.name: tensor(proto) for proto in graph.initializer}
        variables, dtype = self._inputs([port for port in graph.input if port.name not in constants])
        for proto in graph.node:
            node = Node(proto, constants, variables)
            if node.op == "Constant":
                constants[node.output] = tensor(node.attribute("value", onnx.TensorProto()))
            elif node.op in MOVES:
                made = constants if node.is_constant(0) else variables
                made[node.output] = MOVES[node.op](node, made[node.inputs[0]])
            elif node.op in COMPUTED:
                variables[node.output] = COMPUTED[node.op](self, node)
            else:
                raise node.unknown("this operator")
            if node.attributes:
                raise node.unknown(f"the attribute {min(node.attributes)!r}")
        ids = np.concatenate([variables[port.name].reshape(-1) for port in graph.output])
        last = self._value(ids) or self._value(self._scale(ids, None, None))
        inputs, alive = int(self.starts[1]), {0, last}
        for number in range(last, 0, -1):
            if number in alive:
                alive.update(self.operators[number - 1].inputs)
        place = {number: i for i, number in enumerate(sorted(alive))}  # only what the output depends on
        operators = [self.operators[number - 1] for number in list(place)[1:]]
        operators = [replace(op, inputs=tuple(place[value] for value in op.inputs)) for op in operators]
        bends = {name: place[number] - 1 for name, number in self.bends.items() if number in alive}
        if not set(relus) <= set(bends) or len(set(relus)) < len(relus):
            raise Malformed(f"expected `relus` to name outputs of Relu nodes that count, each once, got {list(relus)}")
        neurons = 0
        for i in dict.fromkeys([*map(bends.__getitem__, relus), *bends.values()]):
            bend = operators[i]
            assert isinstance(bend, Bend)
            operators[i] = replace(bend, neurons=neurons + bend.neurons)
            neurons += bend.whole
        return Model(operators, bends, neurons, inputs, ids.size, dtype)

    def _inputs(self, ports: Sequence[onnx.ValueInfoProto]) -> tuple[dict[str, Array], np.dtype[Any]]:
        """Numbers the elements of the inputs; and their type. The first axis may be open, and is 1."""
        types: set[Any] = {port.type.tensor_type.elem_type for port in ports}
        sizes = [[d.dim_value if d.HasField("dim_value") else 0 for d in port.type.tensor_type.shape.dim] for port in ports]
        shapes = [[1 if n == i == 0 else n for i, n in enumerate(size)] for size in sizes]
        ends = np.cumsum([0, *map(math.prod, shapes)])
        if len(types) != 1 or not types <= set(FLOATS) or min(min(shape, default=1) for shape in shapes) < 1:
            raise Malformed("expected inputs of float32 or all of float64, of known sizes")
        self.starts = ends[[0, -1]]
        made = {port.name: np.arange(a, b).reshape(shape) for port, shape, a, b in zip(ports, shapes, ends, ends[1:])}
        return made, FLOATS[types.pop()]

    # What values are made by.

    def _emit(self, operator: Operator, shape: Sequence[int]) -> Array:
        if operator.size > MOST_ELEMENTS or not operator.inputs:
            raise Malformed(f"expected values of at most {MOST_ELEMENTS} elements, made from others, got {shape}")
        self.operators.append(operator)
        self.starts = np.append(self.starts, self.starts[-1] + operator.size)
        return np.arange(*self.starts[-2:]).reshape(shape)

    def _value(self, ids: Array) -> int:
        """The number of the value that has just these elements."""
        value = int(np.searchsorted(self.starts, ids.flat[0], "right")) - 1
        if (
            ids.size == np.diff(self.starts[value : value + 2]).sum()
            and (np.diff(ids.flat, prepend=self.starts[value] - 1) == 1).all()
        ):
            return value
        self._scale(ids, None, None, terms=0)
        return len(self.operators)

    def _entries(self, shape: Sequence[int], to: Array, ids: Array, weight: Array | None = None, **more: Any) -> Array:
        """Sums of elements, y[to] += weight * elements[ids], and perhaps a bias."""
        there, size, given = ids >= 0, math.prod(shape), weight is not None or more.get("bias") is not None
        to, ids, weight = to[there], ids[there], (self.numbers.zeros(len(ids)) + 1 if weight is None else weight)[there]
        inputs, which = np.unique(np.searchsorted(self.starts, ids, "right") - 1, return_inverse=True)
        sizes = self.starts[inputs + 1] - self.starts[inputs]
        at = ids + (np.cumsum(sizes) - sizes - self.starts[inputs])[which]  # in the inputs, laid end to end
        most = max(int(np.bincount(places).max(initial=0)) for places in (to, at))
        forth, back = (Entries.sorted(self.numbers, *parts) for parts in ((to, at, weight, size), (at, to, weight, sizes.sum())))
        parts = {"inputs": tuple(inputs.tolist()), "ends": np.cumsum(sizes)[:-1], "terms": 0, **more}
        return self._emit(Linear(size=size, forth=forth, back=back, fan=most + 1 if given or most > 1 else 0, **parts), shape)

    def _matrix(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """A product over the last axis with a matrix [in, out]; by entries where it has few."""
        if weight.ndim != 2 or x.shape[-1:] != weight.shape[:1]:
            raise Malformed(f"a product of {x.shape} and {weight.shape} is not understood")
        shape, terms, (to, at) = (*x.shape[:-1], weight.shape[1]), len(weight) + (bias is not None), weight.T.nonzero()
        bias = None if bias is None else np.broadcast_to(bias, shape).reshape(-1)
        if math.prod(shape) == weight.shape[1] and 0 < THIN * len(to) < weight.size:
            return self._entries(shape, to, x.reshape(-1)[at], weight[at, to], bias=bias, terms=terms)
        parts = {"inputs": (self._value(x),), "size": math.prod(shape), "fan": max(weight.shape) + 1, "ends": ()}
        return self._emit(Linear(forth=Dense(weight), back=Dense(weight.T), bias=bias, terms=terms, **parts), shape)

    def _scale(self, x: Array, weight: Array | None, bias: Array | None, terms: int = 1, rough: int = 0) -> Array:
        """Elementwise, with parts of any shape that fits."""
        shape = np.broadcast_shapes(x.shape, *(part.shape for part in (weight, bias) if part is not None))
        weight, bias = (None if part is None else np.broadcast_to(part, shape).reshape(-1) for part in (weight, bias))
        ids, each = np.broadcast_to(x, shape).reshape(-1), np.arange(math.prod(shape))
        return self._entries(shape, each, ids, weight, bias=bias, terms=terms, rough=rough)

    def _total(self, x: Array, y: Array, weights: tuple[Any, Any], rough: int = 0) -> Array:
        """Two tensors, each times a number, added up."""
        ids = np.stack(np.broadcast_arrays(x, y)).reshape(2, -1)
        to, weight = np.tile(np.arange(ids.shape[1]), 2), np.repeat(self.numbers.array(weights), ids.shape[1])
        return self._entries(np.broadcast_shapes(x.shape, y.shape), to, ids.reshape(-1), weight, terms=1, rough=rough)

    def _floats(self, node: Node, index: int) -> Array:
        """A constant input as numbers; None where it is left out."""
        values = node.constant(index) if node.has(index) else None
        if values is not None and not (values.dtype in FLOATS.values() and np.isfinite(values).all()):
            raise node.unknown(f"an input number {index} that is infinite, or of type {values.dtype},")
        return None if values is None else self.numbers.array(values)

    # Operators that compute.

    def _concat(self, node: Node) -> Array:
        return np.concatenate([node.variable(i) for i in range(len(node.inputs))], node.attribute("axis", None))

    def _pad(self, node: Node) -> Array:
        fill = self.numbers.array([node.attribute("value", 0.0)]) if not node.has(2) else self._floats(node, 2)
        if node.attribute("mode", b"constant") != b"constant" or node.has(3):
            raise node.unknown("a mode of padding other than constant, or padding of some axes,")
        ids = padded(node, node.variable(), 0, node.integers(1, "pads", ()))
        return self._scale(ids, None, np.where(ids < 0, fill, self.numbers.zeros(1)), terms=0) if fill else ids

    def _gemm(self, node: Node) -> Array:
        if node.attribute("alpha", 1.0) != 1 or node.attribute("beta", 1.0) != 1 or node.attribute("transA", 0):
            raise node.unknown("an alpha or beta other than 1, or transA,")
        weight = self._floats(node, 1)
        return self._matrix(node.variable(), weight.T if node.attribute("transB", 0) else weight, self._floats(node, 2))

    def _matmul(self, node: Node) -> Array:
        if node.is_constant(1):
            return self._matrix(node.variable(), self._floats(node, 1))
        return self._matrix(node.variable(1).swapaxes(-1, -2), self._floats(node, 0).T).swapaxes(-1, -2)

    def _add(self, node: Node) -> Array:
        sign, at = -1 if node.op == "Sub" else 1, 1 if node.is_constant(1) else 0
        if not node.is_constant(at):
            return self._total(node.variable(), node.variable(1), (1, sign))
        x, shift = node.variable(1 - at), self._floats(node, at)
        if sign == -1 and at == 0:
            return self._scale(x, self.numbers.array([-1]), shift)
        value, bias = self._value(x), sign * shift
        before = self.operators[value - 1] if value else None
        fits = np.broadcast_shapes(x.shape, bias.shape) == x.shape
        if fits and isinstance(before, Linear) and before.terms and before.bias is None:  # the bias of a product
            bias = np.broadcast_to(bias, x.shape).reshape(-1)
            return self._emit(replace(before, bias=bias, terms=before.terms + 1), x.shape)
        return self._scale(x, None, bias)

    def _times(self, node: Node) -> Array:
        divide, at = node.op == "Div", 1 if node.is_constant(1) else 0
        factor = self._floats(node, at)
        if divide and not (at and np.all(factor)):
            raise node.unknown("a division by a variable or by zero")
        if divide and not self.real and not np.all((np.abs(factor) >= 2.0**-125) & (np.abs(factor) <= 2.0**125)):
            raise node.unknown("for float32, a divisor whose reciprocal may be subnormal or overflow,")
        return self._scale(node.variable(1 - at), 1 / factor if divide else factor, None, terms=1 + divide, rough=int(divide))

    def _relu(self, node: Node) -> Array:
        """One neuron for twins: relu(-z) = relu(z) - z, for real numbers."""
        x = node.variable()
        value = self._value(x)
        before, z, each = (
            self.operators[value - 1] if value else None,
            np.arange(*self.starts[value : value + 2]),
            np.arange(x.size),
        )
        first, sign = twins(before) if self.real and isinstance(before, Linear) else (each, each + 1)
        kept, opposite = np.unique(first), np.flatnonzero(sign < 0)
        y = self._emit(Bend(inputs=(self._value(z[kept]),), size=len(kept), neurons=kept, whole=x.size), (len(kept),))
        self.bends[node.output] = len(self.operators)
        if len(kept) == x.size:
            return y.reshape(x.shape)
        return self._entries(x.shape, np.append(each, opposite), np.append(y[np.searchsorted(kept, first)], z[opposite]))

    def _leaky(self, node: Node) -> Array:
        """max(z, leak z) as leak z + (1 - leak) relu(z)."""
        leak = self.numbers.array(node.attribute("alpha", float(np.float32(0.01))))[()]
        if not 0 <= leak <= 1:
            raise node.unknown(f"a slope of {leak}")
        return self._total(node.variable(), self._relu(node), (leak, 1 - leak), rough=1)

    def _conv(self, node: Node) -> Array:
        """A product of what the kernel sees, place by place, with the kernels as columns."""
        x, weight, groups = node.variable(), self._floats(node, 1), node.attribute("group", 1)
        if groups != 1:  # kernels over all channels, with zeros
            own = np.repeat(np.eye(groups, dtype=int), len(weight) // groups, 0).reshape(-1, groups, *[1] * (weight.ndim - 1))
            weight = (own * weight[:, None]).reshape(len(weight), -1, *weight.shape[2:])
        kernel, axes = weight.shape[2:], weight.ndim - 2
        strides, dilations = node.attribute("strides", [1] * axes), node.attribute("dilations", [1] * axes)
        known = node.attribute("auto_pad", b"NOTSET") == b"NOTSET" and tuple(node.attribute("kernel_shape", kernel)) == kernel
        fits = len(strides) == len(dilations) == axes == x.ndim - 2 and x.shape[1] == weight.shape[1]
        if not known or not fits or min(*strides, *dilations) < 1:
            raise node.unknown(f"auto_pad, or a kernel {weight.shape} on {x.shape} with {strides}, {dilations},")
        spans = [dilation * (n - 1) + 1 for n, dilation in zip(kernel, dilations)]
        seen = sliding_window_view(padded(node, x, 2, node.attribute("pads", [0] * 2 * axes)), spans, tuple(range(2, x.ndim)))
        seen = seen[(slice(None),) * 2 + tuple(slice(None, None, step) for step in (*strides, *dilations))]
        if seen.size > MOST_ELEMENTS:
            raise node.unknown(f"what kernels see, {seen.shape},")
        seen = np.moveaxis(seen, 1, axes + 1)  # [batch, *sizes, channels, *kernel]
        seen = seen.reshape(*seen.shape[: axes + 1], -1)
        return np.moveaxis(self._matrix(seen, weight.reshape(len(weight), -1).T, self._floats(node, 2)), -1, 1)

    def _reduce(self, node: Node) -> Array:
        """Sums or means over axes: a product with a column of ones."""
        x, axes = node.variable(), node.integers(1, "axes", ())
        if not axes and node.attribute("noop_with_empty_axes", 0):
            raise node.unknown("noop_with_empty_axes")
        axes = tuple(range(x.ndim)[axis] for axis in axes or range(x.ndim))
        rows = np.moveaxis(x, axes, range(-len(axes), 0)).reshape(*np.delete(x.shape, axes), -1)
        y = self._matrix(rows, self.numbers.zeros(rows.shape[-1], 1) + 1)[..., 0]
        if node.op == "ReduceMean":
            y = self._scale(y, 1 / self.numbers.array([rows.shape[-1]]), None, terms=2, rough=1)
        return np.expand_dims(y, axes) if node.attribute("keepdims", 1) else y

    def _normalise(self, node: Node) -> Array:
        """scale (x - mean) / sqrt(variance + epsilon) + shift, channel by channel."""
        x, epsilon = node.variable(), node.attribute("epsilon", float(np.float32(1e-5)))
        parts = (np.reshape(self._floats(node, i), (-1, *[1] * (x.ndim - 2))) for i in (1, 2, 3, 4))
        scale, shift, mean, variance = parts
        node.attribute("momentum", 0.9)
        if self.numbers.exact or node.attribute("training_mode", 0) or not 0 < epsilon < 1 or (variance < 0).any():
            raise node.unknown("a BatchNormalization that trains, or a square root in rational arithmetic,")
        return self._scale(self._scale(x, None, -mean, terms=8), scale / np.sqrt(variance + epsilon), shift, terms=8, rough=8)


COMPUTED: dict[str, Callable[[_Reader, Node], Array]] = {
    **dict.fromkeys(("Add", "Sub"), _Reader._add),
    **dict.fromkeys(("Mul", "Div"), _Reader._times),
    **dict.fromkeys(("ReduceSum", "ReduceMean"), _Reader._reduce),
    "Gemm": _Reader._gemm,
    "MatMul": _Reader._matmul,
    "Conv": _Reader._conv,
    "BatchNormalization": _Reader._normalise,
    "Relu": _Reader._relu,
    "LeakyRelu": _Reader._leaky,
    "Concat": _Reader._concat,
    "Pad": _Reader._pad,
}
