"""From a `Network` to an ONNX model over named inputs and one flat output. One table says how each operator is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from fathom.capture.graph import Shape
from fathom.core.errors import NotUnderstood
from fathom.core.network import Join, Network, Node, Select
from fathom.core.operator import Operator
from fathom.ops.batch_norm import BatchScale
from fathom.ops.constant import Constant
from fathom.ops.conv import Conv, ConvTranspose
from fathom.ops.dense import Dense, LeftDense
from fathom.ops.exp import Exp, Log
from fathom.ops.field import Field
from fathom.ops.layout import Reshape, Transpose
from fathom.ops.pick import Concat, Gather, Pad, Pick
from fathom.ops.power import Sqrt, Square
from fathom.ops.product import Product
from fathom.ops.reciprocal import Reciprocal
from fathom.ops.reduce import Reduce
from fathom.ops.relu import Abs, LeakyRelu, Relu
from fathom.ops.resample import Resample
from fathom.ops.scale import Divide, Scale, Shift
from fathom.ops.sigmoid import Erf, Sigmoid, Tanh
from fathom.ops.sine import Cosine, Sine
from fathom.ops.softplus import Softplus
from fathom.ops.sparse import Sparse
from fathom.ops.sum import Sum

OPSET, FORMAT = 17, 8
"""The operator set and file format of 2022, which every reader in use knows."""

Writer = Callable[..., str]
W = TypeVar("W", bound=Writer)
WRITERS: dict[type[Operator], Writer] = {}


def writes(*kinds: type[Operator]) -> Callable[[W], W]:
    """Marks a function as the one that writes operators of these classes.

    It is called with the `Sheet`, the operator and a `Term` for each of its inputs, adds ONNX nodes, and returns the name of
    the last one's value.
    """

    def mark(function: W) -> W:
        WRITERS.update(dict.fromkeys(kinds, function))
        return function

    return mark


@dataclass(frozen=True)
class Term:
    """A value in the ONNX graph: its name, and the shape of one sample."""

    name: str
    shape: Shape


class Sheet:
    """An ONNX graph being written: nodes and initializers, named after the network's node at hand."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.base = ""
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        """The name, or the name with a number where it is taken."""
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}#{count}"
        self._taken.add(found)
        return found

    def call(self, kind: str, *inputs: str | Term, **attributes: Any) -> str:
        """Add a node; the name of its value."""
        name = self.unique(f"{self.base}.{kind}")
        names = [i.name if isinstance(i, Term) else i for i in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], name, **attributes))
        return name

    def numbers(self, value: Tensor | float) -> str:
        """An initializer of the model's dtype, which holds the value exactly."""
        tensor = torch.as_tensor(value, dtype=torch.float64)
        return self._store(tensor.to(self.dtype).numpy(), "weight")

    def integers(self, value: Sequence[int] | Tensor) -> str:
        """An initializer of int64."""
        return self._store(np.asarray(value, dtype=np.int64), "integers")

    def _store(self, array: np.ndarray[Any, Any], word: str) -> str:
        name = self.unique(f"{self.base}.{word}")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def reshape(self, value: str | Term, shape: Shape) -> str:
        """Samples of another shape; the 0 keeps the batch as it is."""
        return self.call("Reshape", value, self.integers([0, *shape]))

    def flat(self, value: Term) -> str:
        return value.name if len(value.shape) == 1 else self.call("Flatten", value, axis=1)


def dtype_of(network: Network) -> torch.dtype:
    """float32 if it holds every number of the network exactly, else float64."""
    exact = all(_single(number) for node in network.nodes for number in _numbers(node.operator))
    return torch.float32 if exact else torch.float64


def _numbers(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, float):
        yield torch.tensor(part, dtype=torch.float64)
    elif isinstance(part, tuple):
        for item in part:
            yield from _numbers(item)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        yield from _numbers(tuple(getattr(part, field.name) for field in dataclasses.fields(part)))


def _single(number: Tensor) -> bool:
    return not number.is_floating_point() or bool((number.to(torch.float32).to(torch.float64) == number).all())


def write_network(network: Network) -> onnx.ModelProto:
    """A model that computes the network, with its input ports, the batch symbolic, and one output [batch, m].

    Args:
        network: frozen in float64.

    Raises:
        NotUnderstood: an operator that the table does not know.
    """
    sheet = Sheet(dtype_of(network))
    kind = TensorProto.FLOAT if sheet.dtype == torch.float32 else TensorProto.DOUBLE
    inputs = {port.start: Term(sheet.unique(port.name), port.shape) for port in network.inputs}
    output = sheet.unique("output")
    terms: dict[int, Term] = {}
    for place, node in enumerate(network.nodes[1:], 1):
        sheet.base = node.name.replace("/", ".")  # readers, this package's own too, name their own steps with a slash
        direct = _port(node, inputs)
        if direct is None and 0 in node.inputs and 0 not in terms:
            terms[0] = Term(_whole(sheet, list(inputs.values())), network.nodes[0].shape)
        terms[place] = direct or Term(_write(sheet, node, [terms[i] for i in node.inputs]), node.shape)
    last = helper.make_node("Identity", [terms[len(network.nodes) - 1].name], [output], output)
    graph = helper.make_graph(
        [*sheet.nodes, last],
        "fathom",
        [helper.make_tensor_value_info(term.name, kind, ["batch", *term.shape]) for term in inputs.values()],
        [helper.make_tensor_value_info(output, kind, ["batch", network.output_size])],
        sheet.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=FORMAT, producer_name="fathom")


def _port(node: Node, inputs: dict[int, Term]) -> Term | None:
    """The model's own input, where the node takes exactly that from the flat input."""
    if not isinstance(node.operator, Select) or node.inputs != (0,):
        return None
    term = inputs.get(node.operator.start)
    return term if term is not None and term.shape == node.shape else None


def _whole(sheet: Sheet, inputs: list[Term]) -> str:
    parts = [sheet.flat(term) for term in inputs]
    return parts[0] if len(parts) == 1 else sheet.call("Concat", *parts, axis=1)


def _write(sheet: Sheet, node: Node, inputs: list[Term]) -> str:
    """The node by its writer; what that added last is named like the node."""
    assert node.operator is not None  # only the flat input has none
    writer = WRITERS.get(type(node.operator))
    if writer is None:
        raise NotUnderstood(
            f"node {node.name!r}: expected an operator that can be written as ONNX, got {type(node.operator).__name__}; give it "
            f"a writer in {__name__}"
        )
    before = len(sheet.nodes)
    name = writer(sheet, node.operator, *inputs)
    if len(sheet.nodes) == before:
        return name
    sheet.nodes[-1].output[0] = sheet.nodes[-1].name = sheet.unique(sheet.base)
    return str(sheet.nodes[-1].output[0])


@writes(Sine, Cosine)
def wave(sheet: Sheet, operator: Sine | Cosine, x: Term) -> str:
    return sheet.call("Sin" if isinstance(operator, Sine) else "Cos", x)


@writes(Relu, Abs, Exp, Log, Sqrt, Reciprocal, Sigmoid, Tanh, Erf, Softplus)
def namesake(sheet: Sheet, operator: Operator, x: Term) -> str:
    """Operators that ONNX calls by the same name."""
    return sheet.call(type(operator).__name__, x)


@writes(LeakyRelu)
def leaky_relu(sheet: Sheet, operator: LeakyRelu, x: Term) -> str:
    """ONNX's slope is float32; another one, in [0, 1] too, is written as max(x, slope x)."""
    if sheet.dtype == torch.float32:
        return sheet.call("LeakyRelu", x, alpha=operator.slope)
    return sheet.call("Max", x, sheet.call("Mul", x, sheet.numbers(operator.slope)))


@writes(Square)
def square(sheet: Sheet, operator: Square, x: Term) -> str:
    return sheet.call("Mul", x, x)


@writes(Product)
def product(sheet: Sheet, operator: Product, x: Term, y: Term) -> str:
    return sheet.call("Mul", x, y)


@writes(Sum)
def total(sheet: Sheet, operator: Sum, *x: Term) -> str:
    value = x[0].name if operator.signs[0] > 0 else sheet.call("Neg", x[0])
    for sign, term in zip(operator.signs[1:], x[1:], strict=True):
        value = sheet.call("Add" if sign > 0 else "Sub", value, term)
    return value


@writes(Scale)
def scale(sheet: Sheet, operator: Scale, x: Term) -> str:
    return _shifted(sheet, sheet.call("Mul", x, sheet.numbers(operator.factor)), operator.shift)


def _shifted(sheet: Sheet, value: str, shift: Tensor | None) -> str:
    return value if shift is None else sheet.call("Add", value, sheet.numbers(shift))


@writes(Divide)
def divide(sheet: Sheet, operator: Divide, x: Term) -> str:
    return sheet.call("Div", x, sheet.numbers(operator.divisor))


@writes(Shift)
def shift(sheet: Sheet, operator: Shift, x: Term) -> str:
    return sheet.call("Add" if operator.sign > 0 else "Sub", x, sheet.numbers(operator.offset))


@writes(BatchScale)
def batch_scale(sheet: Sheet, operator: BatchScale, x: Term) -> str:
    """ONNX's epsilon is float32; in a float64 model the factor is spelt out, so that none is rounded."""
    variance, channels = operator.variance, torch.ones_like(operator.variance)
    weight = channels if operator.weight is None else operator.weight
    shift = 0 * channels if operator.shift is None else operator.shift
    if sheet.dtype == torch.float32:
        given = [sheet.numbers(part) for part in (weight, shift, 0 * channels, variance)]
        return sheet.call("BatchNormalization", x, *given, epsilon=operator.epsilon)
    trailing = [1] * operator.trailing
    root = sheet.call("Sqrt", sheet.call("Add", sheet.numbers(variance.reshape(-1, *trailing)), sheet.numbers(operator.epsilon)))
    factor = sheet.call("Div", sheet.numbers(weight.reshape(-1, *trailing)), root)
    return _shifted(sheet, sheet.call("Mul", x, factor), shift.reshape(-1, *trailing))


@writes(Dense, Sparse)
def dense(sheet: Sheet, operator: Dense | Sparse, x: Term) -> str:
    return _shifted(sheet, sheet.call("MatMul", x, sheet.numbers(operator.weight.T)), operator.shift)


@writes(Field)
def spread(sheet: Sheet, operator: Field, x: Term) -> str:
    flat = sheet.call("MatMul", x, sheet.numbers(operator.basis.flatten(1)))
    return sheet.reshape(flat, tuple(operator.basis.shape[1:]))


@writes(Resample)
def resample(sheet: Sheet, operator: Resample, column: Term, row: Term, picture: Term) -> str:
    """The sum over pixels that the operator's docstring gives: columns by a product of matrices, then rows."""
    channels, height, width = picture.shape
    places = column.shape[1] * column.shape[2]
    along = _hats(sheet, column, (channels, places, 1), width)
    across = _hats(sheet, row, (channels, places, 1), height)
    lines = sheet.call("MatMul", along, sheet.call("Transpose", picture, perm=[0, 1, 3, 2]))
    total = sheet.call("ReduceSum", sheet.call("Mul", lines, across), sheet.integers([3]), keepdims=0)
    return sheet.reshape(total, column.shape)


def _hats(sheet: Sheet, place: Term, shape: Shape, count: int) -> str:
    """max(0, 1 - |place - k|) for k below `count`, along a last axis of its own."""
    distance = sheet.call("Abs", sheet.call("Sub", sheet.reshape(place, shape), sheet.numbers(torch.arange(float(count)))))
    return sheet.call("Relu", sheet.call("Sub", sheet.numbers(1.0), distance))


@writes(LeftDense)
def left_dense(sheet: Sheet, operator: LeftDense, x: Term) -> str:
    return sheet.call("MatMul", sheet.numbers(operator.weight), x)


@writes(Conv)
def conv(sheet: Sheet, operator: Conv, x: Term) -> str:
    shift = () if operator.shift is None else (sheet.numbers(operator.shift),)
    pairs = operator.padding
    if min(count for pair in pairs for count in pair) < 0:
        x = Term(_padded(sheet, x, pairs), x.shape)
        pairs = ((0, 0),) * len(pairs)
    return sheet.call(
        "Conv",
        x,
        sheet.numbers(operator.weight),
        *shift,
        strides=operator.stride,
        pads=_ends(pairs),
        dilations=operator.dilation,
        group=operator.groups,
    )


@writes(ConvTranspose)
def conv_transpose(sheet: Sheet, operator: ConvTranspose, x: Term) -> str:
    if min(count for pair in operator.padding for count in pair) < 0:
        raise NotUnderstood(f"node {sheet.base!r}: expected padding of 0 or more to write as ONNX, got {operator.padding}")
    shift = () if operator.shift is None else (sheet.numbers(operator.shift),)
    return sheet.call(
        "ConvTranspose",
        x,
        sheet.numbers(operator.weight),
        *shift,
        strides=operator.stride,
        pads=_ends(operator.padding),
        output_padding=operator.output_padding,
        dilations=operator.dilation,
        group=operator.groups,
    )


def _ends(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Pairs (before, after) as ONNX lists them: every before, then every after."""
    return [before for before, _ in pairs] + [after for _, after in pairs]


@writes(Pad)
def pad(sheet: Sheet, operator: Pad, x: Term) -> str:
    return _padded(sheet, x, operator.pairs)


def _padded(sheet: Sheet, x: Term, pairs: Sequence[tuple[int, int]]) -> str:
    whole = ((0, 0),) * (len(x.shape) + 1 - len(pairs))
    return sheet.call("Pad", x, sheet.integers(_ends([*whole, *pairs])))


@writes(Reshape)
def reshape(sheet: Sheet, operator: Reshape, x: Term) -> str:
    return sheet.reshape(x, operator.after)


@writes(Transpose)
def transpose(sheet: Sheet, operator: Transpose, x: Term) -> str:
    return sheet.call("Transpose", x, perm=[0, *(axis + 1 for axis in operator.order)])


@writes(Gather)
def gather(sheet: Sheet, operator: Gather, x: Term) -> str:
    return sheet.call("Gather", x, sheet.integers(operator.index), axis=operator.axis + 1)


@writes(Pick)
def pick(sheet: Sheet, operator: Pick, x: Term) -> str:
    return sheet.call("Gather", sheet.flat(x), sheet.integers(operator.index), axis=1)


@writes(Concat)
def concat(sheet: Sheet, operator: Concat, *x: Term) -> str:
    return sheet.call("Concat", *x, axis=operator.axis + 1)


@writes(Reduce)
def reduce(sheet: Sheet, operator: Reduce, x: Term) -> str:
    value = x.name
    if operator.axes:
        value = sheet.call("ReduceSum", x, sheet.integers([axis + 1 for axis in operator.axes]), keepdims=0)
    return value if operator.divisor == 1 else sheet.call("Div", value, sheet.numbers(float(operator.divisor)))


@writes(Constant)
def constant(sheet: Sheet, operator: Constant, x: Term) -> str:
    """The constant, once for every sample of x."""
    batch = sheet.call("Slice", sheet.call("Shape", x), sheet.integers([0]), sheet.integers([1]))
    sizes = sheet.call("Concat", batch, sheet.integers(operator.value.shape), axis=0)
    return sheet.call("Expand", sheet.numbers(operator.value), sizes)


@writes(Select)
def select(sheet: Sheet, operator: Select, x: Term) -> str:
    stop = operator.start + int(np.prod(operator.shape, dtype=np.int64))
    part = sheet.call("Slice", x, sheet.integers([operator.start]), sheet.integers([stop]), sheet.integers([1]))
    return part if len(operator.shape) == 1 else sheet.reshape(part, operator.shape)


@writes(Join)
def join(sheet: Sheet, operator: Join, *x: Term) -> str:
    parts = [sheet.flat(term) for term in x]
    return parts[0] if len(parts) == 1 else sheet.call("Concat", *parts, axis=1)
