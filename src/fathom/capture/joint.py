"""The models that a VNN-LIB 2 query speaks of, as one program and one network over the inputs of all.

Several networks lie side by side, or one behind the other where an input of one equals an output of another; hidden values and
the products in polynomial constraints are further outputs. What searches and proves then needs to know nothing of all this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from onnx import GraphProto, ModelProto, ValueInfoProto

from fathom.capture.captured import Captured
from fathom.capture.joint_program import Affine, JointProgram, Part
from fathom.capture.monomials import append_monomials
from fathom.capture.onnx_file import LIMIT, read_onnx
from fathom.capture.onnx_program import OnnxProgram
from fathom.capture.unpack import unpack
from fathom.capture.vnnlib.declarations import MOST_MONOMIALS, REAL, Declaration, Query, Tensor
from fathom.capture.vnnlib.formula import Variable
from fathom.capture.vnnlib.problem import MOST_NUMBERS
from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError, NotUnderstood
from fathom.core.network import Join, Network, Node, Port, Select, fork, identity
from fathom.core.operator import Linear
from fathom.ops.dense import Dense
from fathom.ops.pick import Pick


def read_joint(query: Query, files: Mapping[str, str | Path] | str | Path, arithmetic: Arithmetic = Arithmetic.REAL) -> Captured:
    """The networks of a query from the ONNX files given for them by name; where it needs just one, the file is enough.

    Args:
        arithmetic: what claims are to be about; the element type that the query has to declare its variables as.

    Raises:
        FathomError: a file is missing or not asked for, or a model is not what the query declares.
        NotUnderstood: a model, or an element type, is not supported.
    """
    sources = {name: unpack(file, LIMIT) for name, file in _files(query, files).items()}
    graphs = {name: _graph(raw) for name, raw in sources.items()}
    known: dict[tuple[str, tuple[str, ...]], tuple[Captured, Part]] = {}
    parts: list[tuple[Captured, Part]] = []
    for declared in query.networks:
        kind, other = declared.equivalence or ("", "")
        name = other if kind == "equal-to" else declared.name
        if kind == "isomorphic-to":
            _check_isomorphic(declared, graphs[name], graphs[other])
        shown = tuple(_value(declared, tensor, graphs[name]) for tensor in declared.hidden)
        if (name, shown) not in known:
            known[name, shown] = _read(sources[name], shown, arithmetic)
        captured, part = known[name, shown]
        _check_ports(declared, captured)
        start = declared.inputs[0].start
        size = sum(tensor.size for tensor in declared.inputs)
        columns = query.columns[start : start + size]
        index = torch.tensor([v if v >= 0 else query.inputs + ~v for v in columns])
        parts.append((captured, part._replace(places=index)))
    _check_types(query, [captured for captured, _ in parts], arithmetic)
    plain = query.columns == tuple(range(query.inputs)) and not query.networks[0].hidden and not query.monomials
    return parts[0][0] if plain and len(parts) == 1 else _join(query, parts)


def _files(query: Query, files: Mapping[str, str | Path] | str | Path) -> Mapping[str, str | Path]:
    needed = [n.name for n in query.networks if n.equivalence is None or n.equivalence.kind != "equal-to"]
    if not isinstance(files, Mapping):
        files = {needed[0]: files} if len(needed) == 1 else {"": files}
    if set(files) != set(needed):
        got = ", ".join(name or "a file without a name" for name in files) or "none"
        raise FathomError(
            f"expected a model for each network that the query declares and that is not equal-to another "
            f"({', '.join(needed)}), and for no other, got {got}; give each as --network NAME=FILE"
        )
    return files


def _graph(raw: bytes) -> GraphProto:
    """A model's graph; what is no model at all is refused by its reader."""
    try:
        model: ModelProto = ModelProto.FromString(raw)
        return model.graph
    except Exception:  # protobuf's exceptions depend on its implementation; the reader says what is wrong
        read_onnx(raw)
        raise


def _value(declared: Declaration, tensor: Tensor, graph: GraphProto) -> str:
    """The name of the value in the model that a hidden variable is.

    Raises:
        FathomError: there is none, or it is no hidden one.
    """
    values = [name for node in graph.node for name in node.output if name]
    nodes = [node for node in graph.node if node.name == tensor.onnx]
    found = [tensor.onnx] if tensor.onnx in values else [name for node in nodes for name in node.output if name]
    if len(found) != 1:
        near = ", ".join(values[:20])
        raise FathomError(
            f"network {declared.name}: expected {tensor.name} to be one value that the model computes, got {tensor.onnx!r}, the "
            f"name of {len(found)} of them; there are {near}{', ...' if len(values) > 20 else ''}"
        )
    (value,) = found
    if value in {output.name for output in graph.output}:
        raise FathomError(
            f"network {declared.name}: expected {tensor.name} to be hidden, got {tensor.onnx!r}, which is an output of the model "
            "itself; use the variable that is declared for that"
        )
    return value


def _read(raw: bytes, shown: Sequence[str], arithmetic: Arithmetic) -> tuple[Captured, Part]:
    """The model with the values called `shown` behind its outputs."""
    nowhere = torch.zeros(0, dtype=torch.int64)
    if not shown:
        captured = read_onnx(raw, arithmetic)
        return captured, Part(captured.program, nowhere, None)
    # Messages laid end to end are merged by every protobuf reader: these outputs are added to the graph's own.
    more = GraphProto(output=[ValueInfoProto(name=name) for name in shown])
    exposed = raw + ModelProto(graph=more).SerializeToString()
    captured = read_onnx(exposed, arithmetic)
    program, ports = captured.program, captured.program.outputs
    outputs, hidden = ports[: -len(shown)], ports[-len(shown) :]
    rest = [replace(port, start=port.start - hidden[0].start) for port in hidden]
    assert isinstance(program, OnnxProgram)
    part = Part(
        OnnxProgram(raw, program.inputs, outputs, program.dtype, program.level),
        nowhere,
        OnnxProgram(exposed, program.inputs, rest, program.dtype, program.level),
    )
    return captured, part


def _check_isomorphic(declared: Declaration, mine: GraphProto, theirs: GraphProto) -> None:
    """Isomorphic graphs have as many nodes of each operator: what is different there is another file than was meant."""
    counts, others = (Counter(node.op_type for node in graph.node) for graph in (mine, theirs))
    if counts != others:
        assert declared.equivalence is not None
        name = min((counts - others) + (others - counts))
        raise FathomError(
            f"network {declared.name}: expected a model of the same graph as {declared.equivalence.other}, as isomorphic-to "
            f"says, got {counts[name]} nodes of {name} where that has {others[name]}; leave isomorphic-to out if that is meant"
        )


def _check_ports(declared: Declaration, captured: Captured) -> None:
    """The declared tensors are those of the model: as many, of the same shapes but for sizes of one."""
    program = captured.program
    for word, tensors, ports in (
        ("inputs", declared.inputs, program.inputs),
        ("outputs and hidden values", (*declared.outputs, *declared.hidden), program.outputs),
    ):
        wanted = [[size for size in tensor.shape if size != 1] for tensor in tensors]
        if wanted != [[size for size in port.shape if size != 1] for port in ports]:
            mine = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in tensors)
            theirs = ", ".join(f"{port.name} {list(port.shape)}" for port in ports)
            raise FathomError(f"network {declared.name}: expected {word} as the model has them ({theirs}), got {mine}")


def _check_types(query: Query, models: Sequence[Captured], arithmetic: Arithmetic) -> None:
    wanted = REAL if arithmetic is Arithmetic.REAL else arithmetic.value
    for declared, captured in zip(query.networks, models, strict=True):
        if captured.program.dtype != models[0].program.dtype:
            raise NotUnderstood(
                f"expected models of one element type, got {models[0].program.dtype} for {query.networks[0].name} and "
                f"{captured.program.dtype} for {declared.name}; convert one of them"
            )
        for tensor in declared.tensors:
            if tensor.dtype != wanted:
                raise NotUnderstood(
                    f"expected variables of type {wanted}, got {tensor.name} of {tensor.dtype}: proofs are about {arithmetic} "
                    f"arithmetic with the weights of the model file; declare all variables as {REAL}, or all as float32"
                )
    if arithmetic is Arithmetic.FLOAT32 and query.monomials:
        raise NotUnderstood("expected linear constraints for float32, got products of variables; declare all variables as real")


def _join(query: Query, parts: Sequence[tuple[Captured, Part]]) -> Captured:
    dtype = str(parts[0][0].program.dtype).removeprefix("torch.")
    nodes = [Node("input", None, (), (query.inputs,))]
    ends: list[int] = []
    for declared, (captured, part) in zip(query.networks, parts, strict=True):
        known = [0, *ends]
        shapes = tuple(nodes[i].shape for i in known)
        if bool((part.places >= query.inputs).any()):
            nodes.append(Node(f"{declared.name}/known", Join(shapes), tuple(known), (sum(shape[0] for shape in shapes),)))
        source = len(nodes) - 1 if bool((part.places >= query.inputs).any()) else 0
        nodes.append(
            Node(f"{declared.name}/input", _pick(part.places, nodes[source].shape[0]), (source,), tuple(part.places.shape))
        )
        joint = len(nodes) - 1
        for node in captured.network.nodes[1:]:
            nodes.append(replace(node, name=f"{declared.name}/{node.name}", inputs=tuple(i + joint for i in node.inputs)))
        ends.append(len(nodes) - 1)
    shapes = tuple(nodes[i].shape for i in ends)
    nodes.append(Node("output", Join(shapes), tuple(ends), (query.outputs,)))
    inputs, outputs = (Port("inputs", (query.inputs,), 0, dtype),), (Port("outputs", (query.outputs,), 0, dtype),)
    network = Network(tuple(nodes), inputs, outputs)
    products, sums = _products(query)
    program = JointProgram([part for _, part in parts], query.inputs, products, sums)
    if products:
        front = fork(network, identity(inputs))
        network = front.then(append_monomials(front.output_size, query.outputs, products, _dense(sums, front.output_size)))
        network = Network(network.nodes, inputs, program.outputs)
    return Captured(program, network)


def _products(query: Query) -> tuple[list[tuple[int, ...]], list[Affine]]:
    """The products and the sums of a query over places: all outputs, then all inputs, then the sums."""

    def place(variable: Variable) -> int:
        if variable >= 0:
            return query.outputs + variable
        output = ~variable
        return output if output < query.outputs else output - MOST_MONOMIALS + query.inputs

    sums = [(tuple((place(v), float(c)) for v, c in terms), float(constant)) for terms, constant in query.sums]
    return [tuple(sorted(map(place, monomial))) for monomial in query.monomials], sums


def _dense(sums: Sequence[Affine], size: int) -> Dense | None:
    if not sums:
        return None
    if len(sums) * size > MOST_NUMBERS:
        raise NotUnderstood(
            f"expected sums inside products with at most {MOST_NUMBERS} coefficients, got {len(sums)} over {size} variables, "
            "zeros counted; split the property"
        )
    weight = torch.zeros(len(sums), size, dtype=torch.float64)
    for row, (terms, _) in zip(weight, sums, strict=True):
        for place, coefficient in terms:
            row[place] = coefficient
    return Dense(weight, torch.tensor([constant for _, constant in sums], dtype=torch.float64))


def _pick(index: torch.Tensor, size: int) -> Linear:
    """The elements of a flat vector at `index`."""
    start = int(index[0])
    if torch.equal(index, torch.arange(start, start + len(index))):
        return Select(start, (len(index),), size)
    return Pick((size,), index)
