"""ONNX files to networks: read, run to see every value, built up node by node, replayed.

onnxruntime, which runs the deployed model, also evaluates what does not depend on the input: shapes, indices and folded
weights are read off its runs, so they cannot differ from the deployed ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
from torch import Tensor

from fathom.capture.as_computed import as_computed, require_known_rounding
from fathom.capture.captured import Captured
from fathom.capture.condense import condense
from fathom.capture.fold import fold, foldable
from fathom.capture.graph import Graph
from fathom.capture.merge import merge_bias
from fathom.capture.onnx_model import Model, foreseen, is_trees, parse_model
from fathom.capture.onnx_program import Feeds, OnnxProgram, open_session
from fathom.capture.onnx_table import Array, Call, Value, described, table
from fathom.capture.replay import probes, replay
from fathom.capture.unpack import unpack
from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import NotUnderstood
from fathom.core.network import Network
from fathom.ops.constant import Constant

LIMIT = 2 << 30
"""Bytes of a model: what protobuf, and so ONNX in one file, can hold."""

MOST_VALUES = 1 << 26
"""Numbers computed for one sample: twice what the largest image classifiers compute."""

MOST_REPLAYED = 1 << 26
"""Numbers computed for all samples that a model is replayed on, unless two alone come to more: the replay takes some fifty bytes
for each."""

Run = Mapping[str, Array]
"""What onnxruntime computed for one sample, by name."""


def read_onnx(source: str | Path | bytes, arithmetic: Arithmetic | str = Arithmetic.REAL) -> Captured:
    """Read an ONNX model from a file (`.onnx`, or gzipped) or from its bytes.

    The network is what the model computes for one sample: a leading dimension that is symbolic or 1 is the batch, and is 1.

    Args:
        arithmetic: what claims are to be about. For `float32` the network keeps every operator of the file, and the program runs
            without the optimisations that change weights.

    Returns:
        The deployed program (onnxruntime on these bytes) and the network, replayed against it node by node.

    Raises:
        FathomError: there is no such file.
        NotUnderstood: it is no ONNX model, or has a feature that is not supported; the text names the node and the way out.
        ReplayMismatch: the captured network does not compute what the model computes.
    """
    model = parse_model(unpack(source, LIMIT))
    for node in filter(is_trees, model.nodes):
        raise NotUnderstood(
            f"{described(node)}: expected a network, got a tree ensemble, which can be run and not proved about; take it as the "
            "reference of another model (fathom.capture.trees.read_trees)"
        )
    for node in model.nodes:
        if _is_live(node, model) and node.op_type not in table():
            raise NotUnderstood(
                f"{described(node)}: expected one of the operators {', '.join(sorted(table()))}, got {node.op_type}; rewrite it "
                "with these, or cut the model before it"
            )
    x, runs = _observe(model, probes(sum(port.size for port in model.inputs), model.dtype))
    network = merge_bias(_build(model, runs))
    originals = {node.name: _stack(runs, node.name) for node in network.nodes if node.name in runs[0]}
    y = torch.cat([_stack(runs, name) for name in model.outputs], 1)
    replay(network, x, y, originals)
    if Arithmetic(arithmetic) is Arithmetic.FLOAT32:
        require_known_rounding(model, runs[0])
        network = as_computed(network.freeze(torch.float64))
        replay(network, x, y, originals)
        plain = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return Captured(OnnxProgram(model.raw, network.inputs, network.outputs, model.dtype, plain), network)
    if foldable(network):
        network = fold(network.freeze(torch.float64))
        replay(network, x, y, {node.name: originals[node.name] for node in network.nodes if node.name in originals})
    condensed = condense(network)
    if condensed is not None:
        network = condensed
        replay(network, x, y, {node.name: originals[node.name] for node in network.nodes if node.name in originals})
    return Captured(OnnxProgram(model.raw, network.inputs, network.outputs, model.dtype), network)


def _observe(model: Model, x: Tensor) -> tuple[Tensor, list[Run]]:
    """As many of x [k, d] as memory allows, two at least, and what the model computes at each.

    Each is one run of a copy in which every used value is an output.
    """
    _refuse_size(foreseen(model))
    names = list(dict.fromkeys([*model.computed, *model.outputs]))
    more = [ValueInfoProto(name=name) for name in names if name not in model.outputs]
    # Messages laid end to end are merged by every protobuf reader: these outputs are added to the graph's own.
    exposed = model.raw + ModelProto(graph=GraphProto(output=more)).SerializeToString()
    feeds = Feeds(open_session(exposed, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL), model.inputs)

    def run(sample: Tensor) -> Run:
        return dict(zip(names, feeds.run(names, sample.numpy()), strict=True))

    first = run(x[0])
    size = sum(np.size(value) for value in first.values())
    _refuse_size(size)
    step = next(step for step in (1, 2, len(x) // 2) if step == len(x) // 2 or size * len(x) // step <= MOST_REPLAYED)
    return x[::step], [first, *(run(sample) for sample in x[step::step])]


def _refuse_size(size: int) -> None:
    if size > MOST_VALUES:
        raise NotUnderstood(f"expected at most {MOST_VALUES} numbers to be computed for one sample, got {size}; is it damaged?")


def _build(model: Model, runs: Sequence[Run]) -> Network:
    """The graph of the nodes that depend on the input; what does not is taken from the runs."""
    dtypes = [port.dtype for port in model.inputs]
    graph = Graph([(port.name, port.shape) for port in model.inputs], dtypes)
    values: dict[str, Value | Array] = {
        port.name: Value(graph.input(port.name), shape) for port, shape in zip(model.inputs, model.shapes, strict=True)
    }
    for node in model.nodes:
        if not _is_live(node, model):
            values.update((name, _constant(node, name, runs)) for name in node.output if name in runs[0])
            continue
        _refuse_untyped(node, runs[0], dtypes[0])
        inputs = tuple(_input(name, values, model) if name else None for name in node.input)
        call = Call(graph, node, model.opset, inputs, model.dtype, model.batched)
        results = table()[node.op_type](call)
        for name, value in zip(node.output, results if isinstance(results, tuple) else (results,)):
            if name in runs[0]:
                values[name] = _checked(call, name, value, runs[0][name])
    outputs = [(name, _output(graph, name, _input(name, values, model), model.dtype)) for name in model.outputs]
    return graph.finish(outputs, [dtypes[0]] * len(outputs))


def _is_live(node: NodeProto, model: Model) -> bool:
    return not model.live.isdisjoint(node.output)


def _input(name: str, values: dict[str, Value | Array], model: Model) -> Value | Array:
    return values[name] if name in values else model.weight(name)


def _constant(node: NodeProto, name: str, runs: Sequence[Run]) -> Array:
    """A value that does not depend on the input."""
    value = runs[0][name]
    if not isinstance(value, np.ndarray):
        raise NotUnderstood(f"{described(node)}: expected {name!r} to be a tensor, got a list; export the model without lists")
    if not np.array_equal(value, runs[-1][name], equal_nan=value.dtype.kind == "f"):
        raise NotUnderstood(f"{described(node)}: expected a value that is always the same, got random numbers; remove the node")
    return value


def _refuse_untyped(node: NodeProto, run: Run, dtype: str) -> None:
    """Values that depend on the input are tensors of the input's type, and have elements."""
    for name in node.output:
        if name in run and (not isinstance(run[name], np.ndarray) or run[name].dtype != dtype or not run[name].size):
            got = f"{run[name].dtype} of shape {list(run[name].shape)}" if isinstance(run[name], np.ndarray) else "a list"
            raise NotUnderstood(
                f"{described(node)}: expected {name!r} to be of the input's type {dtype} and not empty, got {got}; export the "
                "model in one floating-point type, without quantisation"
            )


def _checked(call: Call, name: str, value: Value, original: Array) -> Value:
    """A value, if it has the shape that onnxruntime gave it."""
    if value.shape != original.shape:
        raise call.refuse(
            f"expected {name!r} to have shape {list(original.shape)}, as onnxruntime computes it, got {list(value.shape)}; "
            "please report this with the model"
        )
    return value


def _output(graph: Graph, name: str, value: Value | Array, dtype: torch.dtype) -> int:
    """An output's node; a constant becomes one."""
    if isinstance(value, Value):
        return value.index
    constant = torch.from_numpy(np.array(value))
    if constant.dtype != dtype:
        raise NotUnderstood(
            f"output {name!r}: expected the input's type {dtype}, got a constant of {constant.dtype}; leave it out"
        )
    return graph.add(f"{name}/output", Constant(graph.shape(0), constant), 0)


def _stack(runs: Sequence[Run], name: str) -> Tensor:
    """[k, size] the values called `name` in all runs."""
    return torch.from_numpy(np.stack([run[name].reshape(-1) for run in runs]))
