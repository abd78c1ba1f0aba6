"""An ONNX model as it lies in the file: parsed, checked against what Fathom supports, its nodes put in order."""

from __future__ import annotations

import graphlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
    shape_inference,
)

from fathom.capture.graph import Shape
from fathom.capture.onnx_table import Array, described, stored
from fathom.core.errors import NotUnderstood
from fathom.core.network import Port

OPSETS = range(7, 23)
FLOATS: dict[int, torch.dtype] = {TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64}
KINDS = {number: name for name, number in TensorProto.DataType.items()}
MOST_INPUTS = 1 << 24
"""More numbers than any sample has; a damaged shape may ask for petabytes."""

DEFAULT_DOMAINS = ("", "ai.onnx")
TREE_DOMAIN = "ai.onnx.ml"
TREES = ("TreeEnsemble", "TreeEnsembleRegressor", "TreeEnsembleClassifier")
"""Operators that are run and never captured: see `capture.trees`."""

SHAPE_LIKE = 256
"""Weights of at most so many elements may be shapes, paddings or indices: shape inference is shown their values."""

OF_SHAPE = ("Shape", "Size")
"""Operators whose value depends on nothing but the shape of their input."""


@dataclass(frozen=True, eq=False)
class Model:
    """The parts of a model that its outputs need."""

    raw: bytes
    inputs: tuple[Port, ...]
    shapes: tuple[Shape, ...]  # of the inputs, at a batch of one
    outputs: tuple[str, ...]
    weights: Mapping[str, TensorProto]
    nodes: tuple[NodeProto, ...]  # in topological order
    opset: int
    dtype: torch.dtype
    batched: bool  # an input's leading dimension is symbolic

    @cached_property
    def live(self) -> frozenset[str]:
        """Names of the values that depend on the model's input by more than their shape."""
        live = {port.name for port in self.inputs}
        for node in self.nodes:
            if node.op_type not in OF_SHAPE and not live.isdisjoint(node.input):
                live.update(node.output)
        return frozenset(live)

    @property
    def computed(self) -> list[str]:
        """Names of the values that nodes compute and that others, or the outputs, use."""
        used = {name for node in self.nodes for name in node.input} | set(self.outputs)
        return [name for node in self.nodes for name in node.output if name in used and name]

    def weight(self, name: str) -> Array:
        """An initializer.

        Raises:
            NotUnderstood: its bytes are not what its shape and type say.
        """
        try:
            return np.asarray(numpy_helper.to_array(self.weights[name]))
        except (ValueError, TypeError, KeyError) as problem:
            raise NotUnderstood(f"initializer {name!r}: its data does not fit its shape and type: {problem}") from problem


def parse_model(raw: bytes) -> Model:
    """A model from the bytes of an ONNX file.

    Raises:
        NotUnderstood: they are no ONNX model, or one with a feature that is not supported; the text says which and where.
    """
    model = ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError as problem:
        raise NotUnderstood(
            f"expected an ONNX model, got {len(raw)} bytes that are none ({problem}); copy the file again"
        ) from problem
    graph = model.graph
    if not graph.output:
        raise NotUnderstood(f"expected an ONNX model, got {len(raw)} bytes without a graph that has outputs; is it an ONNX file?")
    opset = _opset(model)
    _refuse_unsupported(model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    shapes, batched = _shapes(inputs)
    ports = _ports(inputs, shapes)
    outputs = tuple(o.name for o in graph.output)
    nodes = _ordered(graph, {port.name for port in ports} | weights.keys(), outputs)
    domains = (*DEFAULT_DOMAINS, TREE_DOMAIN) if any(is_trees(node) for node in nodes) else DEFAULT_DOMAINS
    for node in nodes:
        _refuse_control_flow(node, domains)
    dtype = FLOATS[inputs[0].type.tensor_type.elem_type]
    return Model(raw, ports, shapes, outputs, weights, nodes, opset, dtype, batched)


def is_trees(node: NodeProto) -> bool:
    """Whether a node is a tree ensemble; a model with one may have other nodes of that domain, since it is only run."""
    return node.domain == TREE_DOMAIN and node.op_type in TREES


def foreseen(model: Model) -> int:
    """How many numbers all values of one sample hold together, as far as shapes can be inferred without computing anything."""
    inputs = [
        helper.make_tensor_value_info(port.name, TensorProto.FLOAT, shape)
        for port, shape in zip(model.inputs, model.shapes, strict=True)
    ]
    shown = []
    for name, tensor in model.weights.items():
        if math.prod(tensor.dims) <= SHAPE_LIKE:
            shown.append(tensor)
        else:
            inputs.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    graph = GraphProto(name="shapes", node=model.nodes, input=inputs, initializer=shown)
    opsets = [OperatorSetIdProto(version=model.opset)]
    try:
        inferred = shape_inference.infer_shapes(ModelProto(ir_version=8, opset_import=opsets, graph=graph), data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError):  # a model that onnxruntime will refuse, saying why
        return 0
    return sum(math.prod(d.dim_value for d in value.type.tensor_type.shape.dim) for value in inferred.graph.value_info)


def _opset(model: ModelProto) -> int:
    versions = sorted({entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS})
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise NotUnderstood(
            f"expected one ONNX operator set from {OPSETS[0]} to {OPSETS[-1]}, got {versions or 'none'}; "
            "convert the model (onnx.version_converter) or export it with such an opset"
        )
    return int(versions[0])


def _refuse_unsupported(model: ModelProto) -> None:
    if model.functions:
        raise NotUnderstood(
            f"the model defines functions of its own ({model.functions[0].name!r} ...); inline them with "
            "onnx.inliner.inline_local_functions"
        )
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise NotUnderstood(f"initializer {name!r} is sparse; store it densely")
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise NotUnderstood(
                f"tensor {tensor.name!r} is stored outside the model's file; save the model in one file "
                "(onnx.save with save_as_external_data=False)"
            )


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _refuse_control_flow(node: NodeProto, domains: Sequence[str]) -> None:
    if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
        raise NotUnderstood(
            f"{described(node)} is control flow, which is not supported; export the model with fixed shapes and simplify it with "
            "a constant-folding tool, so that its branches are decided"
        )
    if node.domain not in domains:
        raise NotUnderstood(
            f"{described(node)} is of the domain {node.domain!r}, which is not supported; export the model with the "
            "standard ONNX operators"
        )


def _ports(inputs: Sequence[ValueInfoProto], shapes: Sequence[Shape]) -> tuple[Port, ...]:
    """The model's inputs, laid end to end; of one floating-point type."""
    if not inputs:
        raise NotUnderstood("expected a model with an input, got one whose graph has none but initializers")
    types = {i.type.tensor_type.elem_type for i in inputs}
    ports: list[Port] = []
    for i, shape in zip(inputs, shapes, strict=True):
        kind = i.type.tensor_type.elem_type
        if kind not in FLOATS or len(types) > 1:
            raise NotUnderstood(
                f"input {i.name!r}: expected all inputs to be tensors of FLOAT, or all of DOUBLE, got "
                f"{KINDS.get(kind, kind)}; cast outside the model"
            )
        dtype = str(FLOATS[kind]).removeprefix("torch.")
        ports.append(Port(i.name, stored(shape), ports[-1].stop if ports else 0, dtype))
    return tuple(ports)


def _shapes(inputs: Sequence[ValueInfoProto]) -> tuple[tuple[Shape, ...], bool]:
    """The shapes of the inputs at a batch of one, and whether a batch is symbolic."""
    declared = [_shape(i) for i in inputs]
    shapes = tuple(tuple(size or 1 for size in shape) for shape in declared)
    if sum(math.prod(shape) for shape in shapes) > MOST_INPUTS:
        raise NotUnderstood(f"expected inputs of at most {MOST_INPUTS} numbers, got shapes {[list(shape) for shape in shapes]}")
    return shapes, any(None in shape for shape in declared)


def _shape(info: ValueInfoProto) -> tuple[int | None, ...]:
    """The declared shape of an input; None for a symbolic batch."""
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        raise NotUnderstood(f"input {info.name!r} has no shape; export the model with fixed input shapes")
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
    if None in shape[1:]:
        written = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        raise NotUnderstood(
            f"input {info.name!r}: expected fixed dimensions behind the batch, got {written}; fix them with "
            "onnxruntime.tools.make_dynamic_shape_fixed or at export"
        )
    return shape


def _ordered(graph: GraphProto, given: set[str], outputs: tuple[str, ...]) -> tuple[NodeProto, ...]:
    """The nodes that the outputs need, each behind those that it needs."""
    makers: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers or name in given:
                raise NotUnderstood(f"{described(node)}: {name!r} is computed or given twice; no ONNX model may do that")
            makers[name] = place
    needs: dict[int, set[int]] = {}
    todo = [(name, "an output") for name in outputs]
    while todo:
        name, asker = todo.pop()
        if name in given or not name:
            continue
        if name not in makers:
            raise NotUnderstood(f"{asker} needs {name!r}, which no node, input or initializer gives; the model is damaged")
        place = makers[name]
        if place not in needs:
            node = graph.node[place]
            needs[place] = {makers[i] for i in node.input if i in makers}
            todo.extend((i, described(node)) for i in node.input)
    sorter = graphlib.TopologicalSorter({place: sorted(before) for place, before in sorted(needs.items())})
    try:
        return tuple(graph.node[place] for place in sorter.static_order())
    except graphlib.CycleError as problem:
        node = graph.node[problem.args[1][0]]
        raise NotUnderstood(f"{described(node)} depends on its own value; the model is damaged") from problem
