"""A model file as linear operators and neurons: an ONNX reader that refuses what it does not know."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from fathom_checker.certificate import reading, require
from fathom_checker.numbers import Array, Numbers
from fathom_checker.operators import Bend, Dense, Entries, Linear, twins

OPSETS = range(7, 26)
FLOATS: dict[int, np.dtype[Any]] = {onnx.TensorProto.FLOAT: np.dtype(np.float32), onnx.TensorProto.DOUBLE: np.dtype(np.float64)}
THIN = 64  # how many products of a dense matrix one entry of a sparse one costs
MOST_ELEMENTS = 1 << 27


class Ids(np.ndarray[Any, Any]):
    """A tensor that depends on the input: its elements by their numbers, -1 for 0. All other tensors are constants."""


def constant(value: onnx.TensorProto) -> Array:
    outside = value.data_location == onnx.TensorProto.EXTERNAL or value.external_data
    require(not outside, "tensors in the model's file, which its digest covers", value.name)
    return onnx.numpy_helper.to_array(value)


def whole(values: Any) -> tuple[int, ...]:
    return tuple(operator.index(value) for value in np.ravel(values))


# Linear | Bends that only move elements. Of these and of those further below, inputs are positional arguments, and attributes are
# named ones; what opsets have now as an input and now as an attribute goes by one name.


def _reshape(x: Array, shape: Any, *, allowzero: int = 0) -> Array:
    require(not allowzero, "allowzero 0", allowzero)
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(whole(shape))])


def _slice(x: Array, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Array:
    count, where = len(whole(starts)), [slice(None)] * x.ndim
    axes, steps = range(count) if axes is None else whole(axes), (1,) * count if steps is None else whole(steps)
    require(min(steps, default=1) > 0, "steps above 0", steps)
    for axis, *part in zip(axes, whole(starts), whole(ends), steps, strict=True):
        where[axis] = slice(*part)
    return x[tuple(where)]


MOVES: dict[str, Callable[..., Array]] = {
    "Identity": lambda x: x,
    "Dropout": lambda x, ratio=None, *, seed=0: x,  # without a third input, which would say that it trains
    "Flatten": lambda x, *, axis=1: x.reshape(math.prod(x.shape[:axis]), -1),
    "Reshape": _reshape,
    "Squeeze": lambda x, axes=None: x.squeeze(None if axes is None else whole(axes)),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, whole(axes)),
    "Transpose": lambda x, *, perm=None: x.transpose(perm),
    "Gather": lambda x, indices, *, axis=0: np.take(x, indices, axis),
    "Slice": _slice,
}


def padded(x: Array, first: int, pads: Sequence[int]) -> Array:
    """With -1 before and after along the axes from the first one on."""
    pairs = [(0, 0)] * first + list(zip(pads, pads[len(pads) // 2 :]))
    fits = 2 * (x.ndim - first) == len(pads) and math.prod(n + sum(pair) for n, pair in zip(x.shape, pairs)) <= MOST_ELEMENTS
    require(fits, f"pads that fit {x.shape}", pads)
    return np.pad(x, pairs, constant_values=-1)


class Model:
    """A network as operators on flat values, for its real function or for its float32 program (`single`).

    Value 0 is the input; operator i makes value i + 1, the last of which is the output, or is None where that does not depend on
    it. `bends`: the operators that are neurons, by the tensor they put out; these are numbered by the order of `relus`, then of
    the file. While the file is read, the elements of all values are numbered through, in the order of the values.
    """

    def __init__(self, content: bytes, numbers: Numbers, relus: Sequence[str] = (), *, single: bool = False) -> None:
        self.numbers, self.single, self.neurons = numbers, single, 0
        self.operators: list[Linear | Bend | None] = []
        self.bends: dict[str, int] = {}
        with reading("the model is no ONNX file, or inconsistent"):
            model = onnx.load_from_string(content)
            opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
            plain = len(opsets) == 1 and opsets[0] in OPSETS and not model.functions and not model.graph.sparse_initializer
            require(plain, f"one opset from {OPSETS[0]} to {OPSETS[-1]}, no functions or sparse tensors", opsets)
            self._number(self._read(model.graph), relus)

    def _read(self, graph: onnx.GraphProto) -> int:
        """Every node in turn; returns the number of the value that is the output."""
        tensors: dict[str, Array] = {proto.name: constant(proto) for proto in graph.initializer}
        tensors |= self._inputs([port for port in graph.input if port.name not in tensors])
        for node in graph.node:
            self.making = node.output[0]
            with reading(f"node {self.making!r} ({node.op_type}) is not understood"):
                plain = node.domain in ("", "ai.onnx") and not any(node.output[1:]) and self.making not in tensors
                require(plain, "ONNX's own domain, one output, and each tensor made once", (node.domain, list(node.output)))
                inputs = [tensors[name] if name else None for name in node.input]
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                tensors[self.making] = self._made(node.op_type, inputs, attributes)
        found = [tensors[port.name] for port in graph.output]
        require(all(isinstance(x, Ids) for x in found), "outputs that depend on the input")
        ids = np.concatenate([x.reshape(-1) for x in found])
        self.sizes = self.inputs, ids.size
        return self._value(ids) or self._value(self._sum((ids, 1), terms=0))

    def _made(self, kind: str, inputs: list[Array], attributes: dict[str, Any]) -> Array:
        """What a node puts out. If not said otherwise, its first input is to be variable, and the others constants."""
        live = [isinstance(x, Ids) for x in inputs]
        if kind == "Constant":
            return constant(**attributes)
        if kind in MOVES:
            require(not any(live[1:]), "moves that constants say")
            return MOVES[kind](*inputs, **attributes).view(type(inputs[0]))
        require(kind in COMPUTED, f"one of {', '.join(sorted([*COMPUTED, *MOVES]))}", kind)
        require(any(live) if kind in ANY_ORDER else live[0] and not any(live[1:]), "a variable and constants")
        return COMPUTED[kind](self, *inputs, **attributes).view(Ids)

    def _number(self, last: int, relus: Sequence[str]) -> None:
        """Keep what the output depends on, and number its neurons."""
        alive = {last}
        for value in range(last, 0, -1):
            alive.update(op.inputs if value in alive and (op := self.operators[value - 1]) else ())
        self.operators = [op if i + 1 in alive else None for i, op in enumerate(self.operators[:last])]
        self.bends = {name: i for name, i in self.bends.items() if i + 1 in alive}
        known = set(relus) <= set(self.bends) and len(set(relus)) == len(relus)
        require(known, "`relus` to name outputs of Relu nodes that count, each once", list(relus))
        for i in dict.fromkeys([*map(self.bends.__getitem__, relus), *self.bends.values()]):
            bend = self.operators[i]
            assert isinstance(bend, Bend)
            self.operators[i] = replace(bend, neurons=self.neurons + bend.neurons)
            self.neurons += bend.whole

    def _inputs(self, ports: Sequence[onnx.ValueInfoProto]) -> dict[str, Array]:
        """Numbers the elements of the inputs. The first axis may be open, and is 1."""
        types = {port.type.tensor_type.elem_type for port in ports}
        shapes = [[d.dim_value or int(i == 0) for i, d in enumerate(port.type.tensor_type.shape.dim)] for port in ports]
        known = len(types) == 1 and types <= set(FLOATS) and all(min(shape, default=1) > 0 for shape in shapes)
        require(known, "inputs of float32 or all of float64, of known sizes", shapes)
        ends = np.cumsum([0, *map(math.prod, shapes)])
        self.starts, self.inputs, self.dtype = ends[[0, -1]], int(ends[-1]), FLOATS[types.pop()]
        return {port.name: np.arange(a, b).reshape(shape).view(Ids) for port, shape, a, b in zip(ports, shapes, ends, ends[1:])}

    def _emit(self, operator: Linear | Bend, shape: Sequence[int]) -> Array:
        require(operator.size <= MOST_ELEMENTS and operator.inputs, f"at most {MOST_ELEMENTS} elements, made from others", shape)
        self.operators.append(operator)
        self.starts = np.append(self.starts, self.starts[-1] + operator.size)  # of the values, and where the last one ends
        return np.arange(*self.starts[-2:]).reshape(shape)

    def _value(self, ids: Array) -> int:
        """The number of the value that has just these elements."""
        value = max(0, int(np.searchsorted(self.starts, ids.flat[0], "right")) - 1)
        if np.array_equal(ids.reshape(-1), np.arange(*self.starts[value : value + 2])):
            return value
        self._sum((ids, 1), terms=0)
        return len(self.operators)

    def _entries(self, shape: Any, to: Array, ids: Array, weight: Array, terms: int, bias: Array, rough: int = 0) -> Array:
        """Sums of elements, y[to] += weight * elements[ids], and perhaps a bias."""
        size, there = math.prod(shape), ids >= 0
        to, ids, weight = to[there], ids[there], weight[there]
        inputs, which = np.unique(np.searchsorted(self.starts, ids, "right") - 1, return_inverse=True)
        sizes = np.diff(self.starts)[inputs]
        begins = np.cumsum(sizes) - sizes
        at = ids + (begins - self.starts[inputs])[which]  # in the inputs, laid end to end
        forth, back = Entries(self.numbers, to, at, weight, size), Entries(self.numbers, at, to, weight, sizes.sum())
        most = max(int(np.bincount(places).max(initial=0)) for places in (to, at))
        fan = 0 if terms == 0 and most <= 1 and forth.plain and bias is None else most + 1
        return self._emit(Linear(tuple(inputs.tolist()), begins[1:].tolist(), size, forth, back, bias, fan, terms, rough), shape)

    def _matrix(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """A product over the last axis with a matrix [in, out]; by entries where it has few."""
        require(weight.ndim == 2 and x.shape[-1:] == weight.shape[:1], "matrices that fit", (x.shape, weight.shape))
        shape, terms, (to, at) = (*x.shape[:-1], weight.shape[1]), len(weight) + (bias is not None), weight.T.nonzero()
        size, bias = math.prod(shape), None if bias is None else np.broadcast_to(bias, shape).reshape(-1)
        if size == weight.shape[1] and 0 < THIN * len(to) < weight.size:
            return self._entries(shape, to, x.reshape(-1)[at], weight[at, to], terms, bias)
        fan = max(weight.shape) + 1
        return self._emit(Linear((self._value(x),), (), size, Dense(weight), Dense(weight.T), bias, fan, terms), shape)

    def _sum(self, *parts: tuple[Array, Any], bias: Any = None, terms: int, rough: int = 0) -> Array:
        """Elementwise sums of tensors times numbers, and perhaps a bias, each of any shape that fits."""
        shape = np.broadcast_shapes(*(np.shape(array) for part in (*parts, (bias,)) for array in part))
        ids, weights = ([np.broadcast_to(array, shape).reshape(-1) for array in column] for column in zip(*parts))
        bias = None if bias is None else np.broadcast_to(bias, shape).reshape(-1)
        to = np.tile(np.arange(math.prod(shape)), len(parts))
        return self._entries(shape, to, np.concatenate(ids), np.concatenate(weights), terms, bias, rough)

    def _floats(self, values: Array) -> Array:
        """A constant as numbers; None where it is left out."""
        plain = values is None or (values.dtype in FLOATS.values() and np.isfinite(values).all())
        require(plain, "finite constants of float32 or float64", values)
        return None if values is None else self.numbers.array(values)

    def _concat(self, *parts: Array, axis: int) -> Array:
        require(all(isinstance(part, Ids) for part in parts), "parts that depend on the input")
        return np.concatenate(parts, axis)

    def _pad(self, x: Array, pads: Any, value: Any = None, axes: Any = None, *, mode: bytes = b"constant") -> Array:
        require(mode == b"constant" and axes is None, "padding by a constant, of all axes", mode)
        ids, fill = padded(x, 0, whole(pads)), self._floats(np.float64(0 if value is None else value))
        return self._sum((ids, 1), bias=np.where(ids < 0, fill, self.numbers.zeros(1)), terms=0) if fill else ids

    def _gemm(self, x: Array, weight: Array, bias: Any = None, *, transB: int = 0, transA: int = 0, **factors: float) -> Array:
        plain = {"alpha": 1.0, "beta": 1.0} | factors == {"alpha": 1.0, "beta": 1.0} and not transA
        require(plain, "alpha 1, beta 1 and transA 0", (factors, transA))
        weight = self._floats(weight)
        return self._matrix(x, weight.T if transB else weight, self._floats(bias))

    def _matmul(self, x: Array, y: Array) -> Array:
        if isinstance(x, Ids):
            return self._matrix(x, self._floats(y))
        return self._matrix(y.swapaxes(-1, -2), self._floats(x).T).swapaxes(-1, -2)

    def _add(self, x: Array, y: Array, sign: int = 1) -> Array:
        """x + sign y; where y is constant, as the bias of the product that makes x."""
        if isinstance(x, Ids) and isinstance(y, Ids):
            return self._sum((x, 1), (y, sign), terms=1)
        x, factor, shift = (x, 1, sign * self._floats(y)) if isinstance(x, Ids) else (y, sign, self._floats(x))
        value = self._value(x)
        before = self.operators[value - 1] if value else None
        fits = factor == 1 and np.broadcast_shapes(x.shape, shift.shape) == x.shape
        if fits and isinstance(before, Linear) and before.terms > 0 and before.bias is None:
            return self._emit(replace(before, bias=np.broadcast_to(shift, x.shape).reshape(-1), terms=before.terms + 1), x.shape)
        return self._sum((x, factor), bias=shift, terms=1)

    def _multiply(self, x: Array, y: Array) -> Array:
        x, factor = (x, y) if isinstance(x, Ids) else (y, x)
        return self._sum((x, self._floats(factor)), terms=1)

    def _divide(self, x: Array, divisor: Array) -> Array:
        size = np.abs(self._floats(divisor))
        least, most = (2.0**-125, 2.0**125) if self.single else (0, np.inf)
        plain = (size > 0).all() and (size >= least).all() and (size <= most).all()
        require(plain, "a divisor other than 0, and of a reciprocal that float32 keeps", divisor)
        return self._sum((x, 1 / self._floats(divisor)), terms=2, rough=1)

    def _relu(self, x: Array) -> Array:
        """One neuron for twins: relu(-z) = relu(z) - z, for real numbers."""
        value = self._value(x)
        before, z = self.operators[value - 1] if value and not self.single else None, np.arange(*self.starts[value : value + 2])
        first, sign = twins(before) if isinstance(before, Linear) else (np.arange(x.size), np.ones(x.size))
        kept = np.unique(first)
        y = self._emit(Bend((self._value(z[kept]),), len(kept), kept, x.size), (len(kept),))
        self.bends[self.making] = len(self.operators) - 1
        if len(kept) < x.size:
            y = self._sum((y[np.searchsorted(kept, first)], 1), (np.where(sign < 0, z, -1), 1), terms=0)
        return y.reshape(x.shape)

    def _leaky(self, x: Array, *, alpha: float = float(np.float32(0.01))) -> Array:
        """max(z, alpha z) as alpha z + (1 - alpha) relu(z)."""
        require(0 <= alpha <= 1, "a slope in [0, 1]", alpha)
        slope = self.numbers.array(alpha)[()]
        return self._sum((x, slope), (self._relu(x), 1 - slope), terms=1, rough=1)

    def _conv(
        self, x: Array, weight: Array, bias: Any = None, group: int = 1, auto_pad: bytes = b"NOTSET", **sizes: Any
    ) -> Array:
        """A product of what the kernel sees, place by place, with the kernels as columns."""
        weight = self._floats(weight)
        if group != 1:  # kernels over all channels, with zeros
            own = np.repeat(np.eye(group, dtype=int), len(weight) // group, 0).reshape(-1, group, *[1] * (weight.ndim - 1))
            weight = (own * weight[:, None]).reshape(len(weight), -1, *weight.shape[2:])
        axes, kernel = weight.ndim - 2, list(weight.shape[2:])
        usual = {"kernel_shape": kernel, "strides": [1] * axes, "dilations": [1] * axes, "pads": [0] * 2 * axes}
        require(
            sizes.keys() <= usual.keys() and auto_pad == b"NOTSET", f"attributes from {list(usual)}", (sorted(sizes), auto_pad)
        )
        shape, strides, dilations, pads = (usual | sizes).values()
        fits = shape == kernel and len(strides) == len(dilations) == axes == x.ndim - 2 and min(*strides, *dilations) > 0
        require(fits, f"a kernel of {kernel} for {x.shape}", sizes)
        spans = [dilation * (n - 1) + 1 for n, dilation in zip(kernel, dilations)]
        seen = np.lib.stride_tricks.sliding_window_view(padded(x, 2, pads), spans, tuple(range(2, x.ndim)))
        seen = seen[(slice(None),) * 2 + tuple(slice(None, None, step) for step in (*strides, *dilations))]
        seen = np.moveaxis(seen, 1, axes + 1)  # [batch, *sizes, channels, *kernel]
        seen = seen.reshape(*seen.shape[: axes + 1], -1)
        return np.moveaxis(self._matrix(seen, weight.reshape(len(weight), -1).T, self._floats(bias)), -1, 1)

    def _total(self, x: Array, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
        """Sums over axes: a product with a column of ones."""
        require(not noop_with_empty_axes, "noop_with_empty_axes 0")
        axes = tuple(range(x.ndim)[axis] for axis in (() if axes is None else whole(axes)) or range(x.ndim))
        rows = np.moveaxis(x, axes, range(-len(axes), 0)).reshape(*np.delete(x.shape, axes), -1)
        y = self._matrix(rows, self.numbers.zeros(rows.shape[-1], 1) + 1)[..., 0]
        return np.expand_dims(y, axes) if keepdims else y

    def _mean(self, x: Array, *axes: Any, **attributes: int) -> Array:
        y = self._total(x, *axes, **attributes)
        return self._sum((y, 1 / self.numbers.array(x.size // y.size)), terms=2, rough=1)

    def _normalise(self, x: Array, *four: Array, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0) -> Array:
        """scale (x - mean) / sqrt(variance + epsilon) + shift, channel by channel."""
        epsilon = float(np.float32(epsilon))
        scale, shift, mean, variance = (self._floats(part).reshape(-1, *[1] * (x.ndim - 2)) for part in four)
        plain = not self.numbers.exact and not training_mode and epsilon > 0 and (variance >= 0).all()
        require(plain, "no training, no root of a rational, and none of less than 0", (training_mode, epsilon))
        centred = self._sum((x, 1), bias=-mean, terms=8)
        return self._sum((centred, scale / np.sqrt(variance + epsilon)), bias=shift, terms=8, rough=8)


COMPUTED: dict[str, Callable[..., Array]] = {
    "Add": lambda model, x, y: model._add(x, y),
    "Sub": lambda model, x, y: model._add(x, y, -1),
    "Mul": Model._multiply,
    "Div": Model._divide,
    "Gemm": Model._gemm,
    "MatMul": Model._matmul,
    "Conv": Model._conv,
    "BatchNormalization": Model._normalise,
    "ReduceSum": Model._total,
    "ReduceMean": Model._mean,
    "Relu": Model._relu,
    "LeakyRelu": Model._leaky,
    "Concat": Model._concat,
    "Pad": Model._pad,
}
ANY_ORDER = ("Add", "Sub", "Mul", "MatMul", "Concat")  # these look themselves which inputs are variable
