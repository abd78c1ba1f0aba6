"""Problems as files: the model computes the network in another program's arithmetic, and every number reads back exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import fathom.ops
from fathom.capture import rewrite
from fathom.capture.captured import Captured
from fathom.capture.export import export
from fathom.capture.export_onnx import WRITERS, dtype_of, write_network
from fathom.capture.graph import Graph
from fathom.capture.onnx_file import read_onnx
from fathom.capture.pool import max_pool
from fathom.capture.torch_module import capture_module
from fathom.core.box import Box
from fathom.core.discover import discover
from fathom.core.errors import NotUnderstood
from fathom.core.network import Join, Network, Select, fork, identity
from fathom.core.operator import Lines, Nonlinear, Operator
from fathom.core.problem import Problem
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
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.misclassification import Misclassification
from fathom.regions.linf import LinfBall

Shapes = tuple[tuple[int, ...], ...]


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


SAMPLE: Shapes = ((2, 3, 4),)
SPARSE = Sparse(
    torch.tensor([[2, 0], [1, 0]]),
    torch.tensor([[0.25, -1.5], [2.0, 0.0]]),
    torch.tensor([[0], [1], [0], [0]]),
    torch.tensor([[-1.5], [2.0], [0.25], [0.0]]),
    numbers(2),
)
INSTANCES: list[tuple[Operator, Shapes]] = [
    *((kind(), SAMPLE) for kind in (Relu, Abs, Exp, Sigmoid, Tanh, Erf, Softplus, Square, Sine, Cosine)),
    *((kind(), SAMPLE) for kind in (Log, Sqrt, Reciprocal)),
    (LeakyRelu(0.125), SAMPLE),
    (Product(), SAMPLE * 2),
    (Sum((1, -1, 1)), SAMPLE * 3),
    (Sum((-1, 1)), SAMPLE * 2),
    (Scale(numbers(2, 1, 1), numbers(4)), SAMPLE),
    (Scale(-torch.ones(())), SAMPLE),
    (Divide(numbers(3, 1)), SAMPLE),
    (Shift(numbers(3, 4)), SAMPLE),
    (Shift(numbers(2, 3, 4), sign=-1), SAMPLE),
    (BatchScale(numbers(2).abs(), numbers(2), numbers(2) + 1, 2.0**-10, 2), SAMPLE),
    (BatchScale(numbers(2).abs(), None, None, 2.0**-10, 2), SAMPLE),
    (Dense(numbers(5, 4), numbers(5)), SAMPLE),
    (Dense(numbers(5, 4)), ((4,),)),
    (SPARSE, ((4,),)),
    (Field(numbers(3, 2, 4)), ((3,),)),
    (Resample(), SAMPLE * 3),
    (LeftDense(numbers(5, 3)), SAMPLE),
    (Conv(numbers(4, 1, 2, 3), numbers(4), (3, 4), (2, 1), ((1, 0), (0, 2)), (1, 2), 2), SAMPLE),
    (Conv(numbers(4, 2, 2), None, (5,), (1,), ((-1, 1),), (1,)), ((2, 5),)),
    (ConvTranspose(numbers(2, 2, 2, 3), numbers(4), (2, 1), ((1, 0), (0, 1)), (1, 0), (1, 1), 2), SAMPLE),
    (Reshape((2, 3, 4), (6, 4)), SAMPLE),
    (Transpose((2, 0, 1)), SAMPLE),
    (Gather(1, torch.tensor([2, 0, 0]), 3), SAMPLE),
    (Pick((2, 3, 4), torch.tensor([[0, 23], [5, 5]])), SAMPLE),
    (Pad(((1, 0), (-1, 2))), SAMPLE),
    (Concat(1, (3, 2)), ((2, 3, 4), (2, 2, 4))),
    (Reduce((2, 3, 4), (0, 2), 8), SAMPLE),
    (Reduce((2, 3, 4), (1,)), SAMPLE),
    (Constant((2, 3, 4), numbers(2, 2)), SAMPLE),
    (Select(1, (2, 2), 6), ((6,),)),
    (Join(((2, 3, 4), (5,))), ((2, 3, 4), (5,))),
]


def alone(operator: Operator, shapes: Shapes) -> Network:
    """The operator on inputs of its own; positive ones, for those that ask for it."""
    graph = Graph([(f"x{i}", shape) for i, shape in enumerate(shapes)])
    values = [graph.input(f"x{i}") for i in range(len(shapes))]
    if isinstance(operator, Log | Sqrt | Reciprocal):
        values = [graph.add("positive", Shift(torch.tensor(0.5)), graph.add("magnitude", Abs(), values[0]))]
    return graph.finish([("y", graph.add("node", operator, *values))])


def run(model: onnx.ModelProto, network: Network, x: Tensor) -> Tensor:
    """The model in onnxruntime, or, for the float64 kernels that it lacks, in onnx's own reference program."""
    feeds = {p.name: x[:, p.start : p.stop].reshape(-1, *p.shape).numpy() for p in network.inputs}
    if x.dtype == torch.float32:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, feeds)[0])
    return torch.from_numpy(np.asarray(ReferenceEvaluator(model).run(None, feeds)[0]))


def inputs(network: Network, count: int = 4) -> Tensor:
    return torch.randn(count, network.input_size, generator=torch.Generator().manual_seed(5))


# One operator at a time.


def test_every_operator_can_be_written_and_is_tried_here() -> None:
    found = {Select, Join, *discover(fathom.ops, Operator).values()}
    assert not found - WRITERS.keys(), f"give {found - WRITERS.keys()} a writer in fathom.capture.export_onnx"
    tried = {type(operator) for operator, _ in INSTANCES}
    assert not found - tried, f"give {found - tried} an instance in this file"


@pytest.mark.parametrize(("operator", "shapes"), INSTANCES, ids=lambda p: type(p).__name__ if isinstance(p, Operator) else "")
def test_an_operator_written_is_the_operator(operator: Operator, shapes: Shapes) -> None:
    network = alone(operator, shapes)
    model = write_network(network.freeze(torch.float64))
    onnx.checker.check_model(model, full_check=True)
    x = inputs(network)
    expected = network.freeze(torch.float64)(x.double())
    torch.testing.assert_close(run(model, network, x), expected.float(), rtol=1e-5, atol=1e-5)
    back = read_onnx(model.SerializeToString())
    assert [(p.name, p.shape, p.start) for p in back.network.inputs] == [(p.name, p.shape, p.start) for p in network.inputs]
    torch.testing.assert_close(back.network.freeze(torch.float64)(x.double()), expected, rtol=1e-12, atol=1e-12)


def test_an_operator_without_a_writer_is_named() -> None:
    @dataclass(frozen=True, eq=False)
    class Cosine(Nonlinear):
        def __call__(self, *x: Tensor) -> Tensor:
            return x[0].cos()

        def interval(self, *x: Box) -> Box:
            raise NotImplementedError

        def relax(self, *x: Box, choice: Tensor | None) -> Lines:
            raise NotImplementedError

    with pytest.raises(NotUnderstood, match="node 'node': expected an operator that can be written as ONNX, got Cosine"):
        write_network(alone(Cosine(), ((3,),)))


# Numbers that float32 does not hold.


@pytest.mark.parametrize(
    ("operator", "shapes"),
    [
        (Dense(numbers(3, 4).double() / 3), ((4,),)),
        (LeakyRelu(0.1), SAMPLE),
        (BatchScale(numbers(2).abs(), numbers(2), numbers(2), 1e-5, 2), SAMPLE),
        (Shift(torch.tensor(0.1, dtype=torch.float64)), SAMPLE),
    ],
    ids=lambda p: type(p).__name__ if isinstance(p, Operator) else "",
)
def test_a_number_that_is_no_float32_makes_the_model_double(operator: Operator, shapes: Shapes) -> None:
    network = alone(operator, shapes).freeze(torch.float64)
    assert dtype_of(network) == torch.float64
    model = write_network(network)
    onnx.checker.check_model(model, full_check=True)
    x = inputs(network).double() / 7
    torch.testing.assert_close(run(model, network, x), network(x), rtol=1e-15, atol=1e-16)


def test_weights_are_stored_bit_for_bit() -> None:
    weight = torch.tensor([[1e-45, -0.0, 3.4e38, 1 / 3]])
    model = write_network(alone(Dense(weight), ((4,),)).freeze(torch.float64))
    stored = [onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert stored[0].tobytes() == weight.numpy().tobytes()


# Names and shapes of whole networks.


def test_joined_networks_keep_their_nodes_apart() -> None:
    """`then` and `fork` repeat names, inputs may be called `output`, and a network may return x beside its own value."""
    graph = Graph([("output", (4,)), ("b", (2, 1))])
    flat = graph.add("flat", Reshape((2, 1), (2,)), graph.input("b"))
    value = graph.add("relu", Relu(), graph.add("join", Concat(0, (4, 2)), graph.input("output"), flat))
    first = graph.finish([("y", value), ("z", graph.input("b"))])
    second = Graph([("x", (8,))])
    after = second.finish([("y", second.add("relu", Dense(numbers(3, 8)), second.input("x")))])
    network = fork(identity(first.inputs), first.then(after), first).freeze(torch.float64)
    model = write_network(network)
    onnx.checker.check_model(model, full_check=True)
    x = inputs(network)
    torch.testing.assert_close(run(model, network, x), network(x.double()).float())
    back = read_onnx(model.SerializeToString())
    torch.testing.assert_close(back.network.freeze(torch.float64)(x.double()), network(x.double()))


def test_rewritten_operators_are_written() -> None:
    graph = Graph([("x", (2, 4, 4))])
    pooled = max_pool(graph, "pool", graph.input("x"), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))
    network = graph.finish([("y", rewrite.softmax(graph, "softmax", pooled, 0))]).freeze(torch.float64)
    x = inputs(network)
    expected = nn.functional.max_pool2d(x.reshape(-1, 2, 4, 4), 2).softmax(1).flatten(1)
    torch.testing.assert_close(run(write_network(network), network, x), expected)


# Whole problems.


def classifier() -> tuple[nn.Module, Captured]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(12, 4),
    )
    module(torch.randn(8, 1, 7, 7))
    return module, capture_module(module, (1, 7, 7))


def problem(captured: Captured, count: int = 3) -> Problem:
    x = torch.rand(count, 49, generator=torch.Generator().manual_seed(1))
    region = LinfBall.around(x, 0.1, (0, 1))
    return Problem.make(captured.program, captured.network, region, Misclassification(torch.arange(count) % 4, 4))


def exact(value: object) -> Tensor:
    """A JSON array of numbers, by another parser's rules: Python's own float of the text."""
    return torch.tensor(np.vectorize(float, otypes=[np.float64])(np.array(value, dtype=object)))


def test_a_problem_reads_back_exactly(tmp_path: Path) -> None:
    _, captured = classifier()
    given = problem(captured)
    given.export(tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "problem.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["digests"] == given.digests()
    assert found["model"]["dtype"] == "float32"
    for name, region in (("written", given.written), ("deployed", given.deployed), ("region", given.region)):
        assert found["sets"][name]["class"] == type(region).__name__
        for end in ("lower", "upper"):
            assert torch.equal(exact(found["sets"][name]["box"][end]), getattr(region.box(), end))
    assert torch.equal(exact(found["sets"]["written"]["fields"]["centre"]), given.written.centre)
    for name in ("rows", "offsets", "clause", "strict", "of", "blur"):
        assert torch.equal(exact(found["spec"]["fields"][name]), getattr(given.spec, name).double())
    assert found["overseer"]["fields"]["label"] == [0, 1, 2] and found["owner"] == [0, 1, 2]


def test_the_exported_model_answers_as_the_problem_does(tmp_path: Path) -> None:
    """Margins of onnxruntime's outputs by the JSON's rows are those of the overseer on the module's own."""
    _, captured = classifier()
    given = problem(captured)
    export(given, tmp_path)
    found = json.loads((tmp_path / "problem.json").read_text())
    model = onnx.load(tmp_path / "model.onnx")
    x = given.deployed.sample(1, torch.Generator().manual_seed(0))[:, 0].float()
    y = run(model, given.network, x).double()
    rows, offsets, clause = (exact(found["spec"]["fields"][name]) for name in ("rows", "offsets", "clause"))
    margins = []
    for i, k in enumerate(found["spec"]["fields"]["of"]):
        values = rows[k] @ y[i] + offsets[k]
        margins.append(min(values[clause[k] == c].max() for c in clause[k].unique() if c >= 0))
    torch.testing.assert_close(torch.stack(margins), given.overseer.margin(x, given.program(x)).double(), rtol=1e-4, atol=1e-5)


def test_live_parameters_are_written_as_they_are_now(tmp_path: Path) -> None:
    module, captured = classifier()
    given = problem(captured)
    export(given, tmp_path)
    before = (tmp_path / "model.onnx").read_bytes()
    with torch.no_grad():
        module[0].weight.add_(1)
    export(given, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() != before
    x = inputs(captured.network)
    module.eval()
    expected = module(x.reshape(-1, 1, 7, 7)).detach()
    torch.testing.assert_close(run(onnx.load(tmp_path / "model.onnx"), captured.network, x), expected, rtol=1e-4, atol=1e-4)
    back = read_onnx(tmp_path / "model.onnx")
    torch.testing.assert_close(back.program(x), expected, rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "problem.json"]


def test_a_problem_that_cannot_be_proved_is_written_with_the_reason(tmp_path: Path) -> None:
    _, captured = classifier()
    given = problem(captured)
    limits = torch.tensor([math.inf, -math.inf, 0.1])
    judge = PythonOverseer(lambda x, y, limit: y[:, 0] - limit, (limits,), "first score")
    judged = Problem.make(captured.program, captured.network, given.written, judge)
    export(judged, tmp_path)
    found = json.loads((tmp_path / "problem.json").read_text())
    assert found["overseer"]["fields"]["data"] == [["inf", "-inf", limits[2].item()]]
    assert found["spec"] is None and "first score" in found["obstacle"] and found["overseer"]["fields"]["name"] == "first score"
    value_only = Problem.make(captured.program, None, given.written, given.overseer)
    with pytest.raises(NotUnderstood, match=r"expected a captured network to export, got none \(the model could not be captured"):
        export(value_only, tmp_path)


def test_nothing_is_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, captured = classifier()
    given = problem(captured)
    export(given, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write: Callable[[Path, bytes], int] = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        write(path, content[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        export(given, tmp_path)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
