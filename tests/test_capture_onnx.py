"""ONNX import: every table entry against onnxruntime, the quirks of files in the wild, and what must be refused."""

from __future__ import annotations

import copy
import gzip
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from fathom.capture import onnx_file
from fathom.capture.onnx_file import read_onnx
from fathom.capture.onnx_table import Call, Value, table
from fathom.capture.replay import probes, replay
from fathom.capture.unpack import unpack
from fathom.core.errors import FathomError, NotUnderstood, ReplayMismatch
from fathom.ops.dense import Dense
from fathom.ops.relu import LeakyRelu
from tests.onnx_models import CASES, IMAGE, Array, f, i, model, number, op, w


def original(proto: onnx.ModelProto, x: Array) -> Array:
    """What onnxruntime makes of one flat sample, all outputs end to end; without any of Fathom's code."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed, start = {}, 0
    for port in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in port.shape]
        feed[port.name] = x[start : start + int(np.prod(shape))].reshape(shape)
        start += int(np.prod(shape))
    assert start == len(x)
    return np.concatenate([value.reshape(-1) for value in session.run(None, feed)])


def check(proto: onnx.ModelProto, tolerance: float = 2e-5) -> onnx_file.Captured:
    """Network and program against onnxruntime, on inputs that the replay has not seen."""
    captured = read_onnx(proto.SerializeToString())
    network, program = captured.network, captured.program
    x = probes(network.input_size, program.dtype, seed=1)[[0, 2, 4, 6]]
    theirs = torch.from_numpy(np.stack([original(proto, row) for row in x.numpy()]))
    assert torch.equal(program(x), theirs)
    scale = theirs.abs().amax(1, keepdim=True).clamp(min=1e-6)
    assert ((network.to(torch.float64)(x.double()) - theirs).abs() <= tolerance * scale).all()
    assert network.outputs == program.outputs and network.inputs == program.inputs
    return captured


@pytest.mark.parametrize("name", CASES)
def test_operator_computes_what_onnxruntime_computes(name: str) -> None:
    check(CASES[name])


def test_every_table_entry_has_a_case() -> None:
    covered = {node.op_type for proto in CASES.values() for node in proto.graph.node}
    assert table().keys() <= covered


@pytest.mark.parametrize("name", CASES)
def test_operator_with_a_symbolic_batch_is_the_same_or_refused_for_mixing_samples(name: str) -> None:
    proto = copy.deepcopy(CASES[name])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    try:
        check(proto)
    except NotUnderstood as refusal:
        assert "mixes samples" in str(refusal) and proto.graph.node[-1].name in str(refusal)


# Quirks of files in the wild.


def test_several_inputs_and_outputs_are_slices_of_the_flat_vectors() -> None:
    proto = model(
        op("Mul", "x", "b").named("p"),
        op("Relu", "c").named("r"),
        more={"b": (1, 1), "c": ("batch", 2, 3)},
        outputs=["r", "p", "b"],
    )
    captured = check(proto)
    assert [(p.name, p.shape, p.start) for p in captured.network.inputs] == [("x", (4,), 0), ("b", (1,), 4), ("c", (2, 3), 5)]
    assert [(p.name, p.shape, p.start) for p in captured.network.outputs] == [("r", (2, 3), 0), ("p", (4,), 6), ("b", (1,), 10)]


def test_initializers_may_be_listed_as_inputs_and_be_unused() -> None:
    proto = model(op("MatMul", "x", w(4, 3)).named("m"), op("Add", "m", w(3)))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w(2, 2), "nobody's"))
    assert check(proto).network.input_size == 4


def test_nodes_may_be_out_of_order() -> None:
    proto = model(op("MatMul", "x", w(4, 3)).named("m"), op("Add", "m", w(3)).named("a"), op("Relu", "a"))
    for node in reversed([proto.graph.node.pop() for _ in range(3)]):
        proto.graph.node.insert(0, node)
    check(proto)


def test_what_the_outputs_do_not_need_is_not_looked_at() -> None:
    proto = model(op("Floor", "x").named("dead"), op("Relu", "x").named("y"))
    assert [node.name for node in check(proto).network.nodes] == ["(input)", "x", "y", "(output)"]


@pytest.mark.parametrize("shape", [(5,), (1,), (2, 3), ("n",), (-1, 5), (1, 1)])
def test_inputs_with_and_without_a_batch(shape: tuple[int | str, ...]) -> None:
    check(model(op("Mul", "x", number(2.0)).named("a"), op("Relu", "a"), x=shape))


def test_the_names_input_and_output_are_free() -> None:
    proto = model(op("Relu", "x").named("input"), op("Neg", "input").named("output"))
    assert check(proto).network.outputs[0].name == "output"


def test_double_models_are_doubles_throughout() -> None:
    proto = model(op("Gemm", "x", w(4, 3).astype("d"), w(3).astype("d")).named("g"), op("Tanh", "g"), kind=TensorProto.DOUBLE)
    captured = check(proto, tolerance=1e-12)
    assert captured.program.dtype == torch.float64 and captured.network.inputs[0].dtype == "float64"


def test_shape_arithmetic_is_folded() -> None:
    """The way in which torch writes x.view(x.shape[0], -1, 2)."""
    proto = model(
        op("Shape", "x").named("shape"),
        op("Gather", "shape", np.array(0), axis=0).named("size"),
        op("Unsqueeze", "size", i(0)).named("batch"),
        op("Concat", "batch", i(-1), i(2), axis=0).named("target"),
        op("Reshape", "x", "target"),
        x=("batch", 3, 4),
    )
    assert check(proto).network.outputs[0].shape == (6, 2)


def test_weights_may_be_computed_from_constants() -> None:
    proto = model(
        op("Constant", value=onnx.numpy_helper.from_array(w(3, 4))).named("c"),
        op("Transpose", "c", perm=[1, 0]).named("t"),
        op("ConstantOfShape", i(4, 3), value=onnx.numpy_helper.from_array(f(0.5))).named("half"),
        op("Mul", "t", "half").named("weight"),
        op("MatMul", "x", "weight"),
    )
    nodes = check(proto).network.nodes
    assert isinstance(nodes[2].operator, Dense) and len(nodes) == 4


def test_outputs_may_be_inputs_aliases_and_constants() -> None:
    proto = model(
        op("Identity", "x").named("same"),
        op("Constant", value=onnx.numpy_helper.from_array(w(1, 3))).named("fixed"),
        op("Relu", "x").named("y"),
        outputs=["same", "x", "fixed", "y"],
    )
    check(proto)


def test_deep_graphs_need_no_recursion() -> None:
    nodes = [op("Add", "x" if k == 0 else f"a{k - 1}", f(0.001)).named(f"a{k}") for k in range(1500)]
    assert len(read_onnx(model(*nodes).SerializeToString()).network.nodes) == 1503


def test_nodes_without_names_are_described_by_what_they_compute() -> None:
    proto = model(op("Floor", "x"))
    proto.graph.node[0].name = ""
    with pytest.raises(NotUnderstood, match=r"node \(Floor, computing 'y'\)"):
        read_onnx(proto.SerializeToString())


def test_files_and_bytes_and_gzip_are_the_same_model(tmp_path: Path) -> None:
    raw = CASES["Conv"].SerializeToString()
    (tmp_path / "plain.onnx").write_bytes(raw)
    (tmp_path / "zipped.onnx").write_bytes(gzip.compress(raw))
    read = [read_onnx(source) for source in (raw, gzip.compress(raw), tmp_path / "plain.onnx", str(tmp_path / "zipped.onnx"))]
    assert {captured.program.digest for captured in read} == {hashlib.sha256(raw).hexdigest()}
    assert len({captured.network.freeze(torch.float64).digest for captured in read}) == 1


def test_reading_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    proto = model(op("Relu", "x"), outputs=["y"])
    proto.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, (1, 9)))  # wrong: makes a warning
    captured = read_onnx(proto.SerializeToString())
    captured.program(torch.ones(2, 4))
    assert capfd.readouterr() == ("", "")


def test_the_program_gives_each_sample_the_same_bits_in_any_company() -> None:
    proto = model(op("MatMul", "x", w(64, 64)).named("m"), op("Relu", "m").named("r"), op("MatMul", "r", w(64, 10)), x=("n", 64))
    program = read_onnx(proto.SerializeToString()).program
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(program(x), torch.cat([program(row[None]) for row in x]))
    assert program(x[:0]).shape == (0, 10)


# What is refused, and how.


def control_flow() -> onnx.ModelProto:
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["b"])], "branch", [], [onnx.ValueInfoProto(name="b")])
    return model(
        op("ReduceSum", "x", keepdims=0).named("s"),
        op("Cast", "s", to=9).named("c"),
        op("If", "c", then_branch=branch, else_branch=branch),
    )


def changed(proto: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = copy.deepcopy(proto)
    change(proto)
    return proto


RELU = model(op("Relu", "x"))
EXTERNAL = [onnx.StringStringEntryProto(key="location", value="../../etc/passwd")]

REFUSED: dict[str, tuple[onnx.ModelProto, list[str]]] = {
    "unknown operator": (model(op("Floor", "x")), ["the Floor of y", "Relu", "Floor"]),
    "control flow": (control_flow(), ["the If of y", "control flow", "simplify"]),
    "domain": (changed(RELU, lambda m: setattr(m.graph.node[0], "domain", "com.example")), ["the Relu of y", "com.example"]),
    "dynamic size": (model(op("Relu", "x"), x=(1, 3, "height", 4)), ["'x'", "height", "make_dynamic_shape_fixed"]),
    "no shape": (changed(RELU, lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")), ["'x'", "shape"]),
    "whole input": (model(op("Relu", "x"), kind=TensorProto.INT64), ["'x'", "INT64", "cast"]),
    "half input": (model(op("Relu", "x"), kind=TensorProto.FLOAT16), ["'x'", "FLOAT16"]),
    "no input": (
        changed(model(op("Constant", value=onnx.numpy_helper.from_array(w(1)))), lambda m: m.graph.ClearField("input")),
        ["input", "initializers"],
    ),
    "mixed types": (model(op("Cast", "x", to=11).named("d"), op("Cast", "d", to=1)), ["the Cast of d", "float64", "float32"]),
    "whole numbers inside": (model(op("Cast", "x", to=7).named("n"), op("Cast", "n", to=1)), ["the Cast of n", "int64"]),
    "quantised": (
        model(op("QuantizeLinear", "x", number(0.1), np.array(0, np.uint8)).named("q"), op("DequantizeLinear", "q", number(0.1))),
        ["the QuantizeLinear of q"],
    ),
    "old operator set": (model(op("Relu", "x"), opset=6), ["7", "22", "6"]),
    "new operator set": (model(op("Relu", "x"), opset=23), ["22", "23"]),
    "no operator set": (changed(RELU, lambda m: m.ClearField("opset_import")), ["operator set", "none"]),
    "functions": (changed(RELU, lambda m: m.functions.add(name="mine", domain="d")), ["mine", "inline"]),
    "sparse": (
        changed(RELU, lambda m: m.graph.sparse_initializer.add().values.CopyFrom(TensorProto(name="s"))),
        ["'s'", "sparse"],
    ),
    "external data": (
        changed(CASES["MatMul right"], lambda m: m.graph.initializer[0].external_data.extend(EXTERNAL)),
        ["'constant0'", "save_as_external_data"],
    ),
    "external data in a node": (
        changed(
            model(op("Constant", value=onnx.numpy_helper.from_array(w(4), "t")).named("c"), op("Add", "x", "c")),
            lambda m: setattr(m.graph.node[0].attribute[0].t, "data_location", TensorProto.EXTERNAL),
        ),
        ["'t'", "outside"],
    ),
    "damaged weight": (
        changed(CASES["MatMul right"], lambda m: setattr(m.graph.initializer[0], "raw_data", b"123")),
        ["constant0"],
    ),
    "missing value": (changed(RELU, lambda m: m.graph.node[0].input.__setitem__(0, "gone")), ["the Relu of y", "'gone'"]),
    "missing output": (changed(RELU, lambda m: setattr(m.graph.output[0], "name", "gone")), ["'gone'"]),
    "computed twice": (model(op("Relu", "x"), op("Neg", "x")), ["the Neg of y", "twice"]),
    "cycle": (model(op("Add", "x", "y").named("a"), op("Relu", "a")), ["depends on its own value"]),
    "random": (model(op("RandomNormal", shape=[1, 4]).named("noise"), op("Add", "x", "noise")), ["the RandomNormal", "random"]),
    "training": (
        model(op("BatchNormalization", "x", w(4), w(4), w(4), w(4) ** 2, training_mode=1, outputs=1), opset=15),
        ["BatchNormalization"],
    ),
    "dropout on": (model(op("Dropout", "x", number(0.3), np.array(1, dtype=bool))), ["the Dropout of y", "training_mode"]),
    "computed weight": (
        model(op("Reshape", "x", i(1, 1, 2, 2)).named("k"), op("Conv", "p", "k"), more={"p": (1, 1, 5, 5)}),
        ["the Conv of y", "'k'", "constant"],
    ),
    "computed shape": (
        model(op("Relu", "x").named("r"), op("Shape", "r").named("s"), op("Gather", "s", i(0)).named("g"), op("Floor", "r")),
        ["the Floor of y"],
    ),
    "mixed batch": (model(op("ReduceMean", "x", axes=[0]), x=("batch", 4)), ["the ReduceMean of y", "batch of 1"]),
    "powers": (model(op("Pow", "x", f(1, 2, 3, 4))), ["the Pow of y", "one exponent"]),
    "odd power": (model(op("Pow", "x", number(2.5))), ["'y'", "2.5"]),
    "zero divisor": (model(op("Div", "x", f(1, 0, 1, 1))), ["'y'", "zero"]),
    "linear resize": (model(op("Resize", "x", None, f(1, 1, 2, 2), mode="linear"), x=IMAGE), ["the Resize of y", "linear"]),
    "half resize": (model(op("Resize", "x", None, f(1, 1, 0.5, 1)), x=(1, 1, 4, 4)), ["the Resize of y", "0.5"]),
    "indices of maxima": (
        model(op("MaxPool", "x", kernel_shape=[2, 2], outputs=2), x=IMAGE, outputs=["y0"]),
        ["the MaxPool of y", "indices"],
    ),
    "volumes": (model(op("Conv", "x", w(1, 1, 2, 2, 2)), x=(1, 1, 3, 3, 3)), ["the Conv of y", "spatial"]),
    "two samples": (model(op("Conv", "x", w(1, 1, 2, 2)), x=(2, 1, 3, 3)), ["the Conv of y", "batch of 1"]),
    "huge input": (model(op("Relu", "x"), x=(1, 1 << 40)), [str(1 << 40)]),
    "bad attribute": (model(op("Transpose", "x", perm="x")), ["onnxruntime", "perm"]),
    "wrong sizes": (model(op("MatMul", "x", w(5, 2))), ["onnxruntime"]),
    "no such reshape": (model(op("Reshape", "x", i(3, -1))), ["onnxruntime", "the Reshape of y"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    proto, fragments = REFUSED[name]
    with pytest.raises(NotUnderstood) as refusal:
        read_onnx(proto.SerializeToString())
    for fragment in fragments:
        assert fragment in str(refusal.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not a model at all",
        b'{"model": 1}',
        bytes(1000),
        CASES["Conv"].SerializeToString()[:-100],
        CASES["Conv"].SerializeToString()[:7],
        gzip.compress(CASES["Conv"].SerializeToString())[:-20],
        gzip.compress(b"something else"),
        b"\x1f\x8b\x08\x00 no gzip",
        random.Random(5).randbytes(4000),
    ],
    ids=range(10),
)
def test_what_is_no_model_is_refused(raw: bytes) -> None:
    with pytest.raises(NotUnderstood, match="expected"):
        read_onnx(raw)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(FathomError, match=r"expected a file to read at .*: (Is a directory|No such file)"):
            read_onnx(path)


def test_small_archives_of_large_files_are_refused_before_they_fill_the_memory() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < 1 << 20
    with pytest.raises(NotUnderstood, match="at most 1048576 bytes"):
        unpack(bomb, 1 << 20)
    assert unpack(gzip.compress(bytes(1 << 20)), 1 << 20) == bytes(1 << 20)


def test_values_too_large_for_memory_are_refused_before_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "open_session", lambda *_: pytest.fail("it was about to be run"))
    petabytes = model(op("Pad", "x", i(0, 0, 0, 1 << 50)).named("padded"), op("ReduceSum", "padded", keepdims=0))
    with pytest.raises(NotUnderstood, match=r"at most 67108864 numbers to be computed for one sample, got 1125899906842"):
        read_onnx(petabytes.SerializeToString())


def test_a_weight_of_no_known_type_is_refused() -> None:
    """Shape inference raises an error of its own kind for it."""
    proto = model(op("Reshape", "x", i(0, -1)))
    proto.graph.initializer[0].data_type = 58
    with pytest.raises(NotUnderstood, match="onnxruntime does not load the model"):
        read_onnx(proto.SerializeToString())


def test_large_models_are_replayed_on_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = []
    monkeypatch.setattr(onnx_file, "replay", lambda network, x, y, originals: replayed.append((x, y, originals)))
    for most, samples in ((onnx_file.MOST_REPLAYED, 8), (128, 4), (1, 2)):
        monkeypatch.setattr(onnx_file, "MOST_REPLAYED", most)
        read_onnx(model(op("Pad", "x", i(0, 0, 0, 12)).named("padded"), op("Relu", "padded")).SerializeToString())
        x, y, originals = replayed[-1]
        assert len(x) == len(y) == samples and all(len(value) == samples for value in originals.values())
        assert (x < 0).any() and (x >= 0).all(1).any()  # of either kind of probe


def test_damaged_models_never_end_in_another_error() -> None:
    generator = random.Random(11)
    outcomes = []
    for _ in range(300):
        raw = bytearray(CASES[generator.choice(list(CASES))].SerializeToString())
        for _ in range(generator.choice([1, 1, 2, 5])):
            raw[generator.randrange(len(raw))] = generator.randrange(256)
        try:
            read_onnx(bytes(raw))
            outcomes.append(True)
        except FathomError as error:
            outcomes.append(not str(error))
    assert 0 < sum(outcomes) < 300


# The replay can fail.


def test_a_wrong_table_entry_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call: Call) -> Value:
        x = call.value()
        return Value(call.add(LeakyRelu(1e-3), x.index), x.shape)

    monkeypatch.setitem(table(), "Relu", wrong)
    proto = model(op("Add", "x", w(4)).named("a"), op("Relu", "a").named("r"), op("Neg", "r"))
    with pytest.raises(ReplayMismatch, match=r"node 'r' \(LeakyRelu\).*on the input \["):
        read_onnx(proto.SerializeToString())


def test_a_table_entry_of_the_wrong_shape_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table(), "Transpose", lambda call: call.value())
    with pytest.raises(NotUnderstood, match=r"the Transpose of y.*shape"):
        read_onnx(CASES["Transpose"].SerializeToString())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_perturbed_weight_is_caught_at_its_node(layer: int) -> None:
    """One weight of 4,096 off by a thousandth of the largest; deeper layers are not blamed."""
    weights = [w(64, 64) for _ in range(3)]
    names = ["m0", "m1", "m2"]
    nodes = [op("MatMul", before, weight).named(name) for before, weight, name in zip(["x", *names], weights, names)]
    captured = read_onnx(model(*nodes, x=(1, 64)).SerializeToString())
    x = probes(64, torch.float32)
    values = captured.network.values(x)
    originals = {node.name: value for node, value in zip(captured.network.nodes, values)}
    replay(captured.network, x, values[-1], originals)

    def perturb(weight: torch.Tensor) -> torch.Tensor:
        weight = weight.clone()
        if torch.equal(weight, torch.from_numpy(weights[layer].T)):
            weight[3, 5] += 1e-3 * weight.abs().max()
        return weight

    with pytest.raises(ReplayMismatch, match=f"node 'm{layer}'"):
        replay(captured.network.map(perturb), x, values[-1], originals)


def test_a_difference_is_seen_without_any_intermediate_value() -> None:
    network = read_onnx(CASES["Conv"].SerializeToString()).network
    x = probes(network.input_size, torch.float32)
    replay(network, x, network(x), {})
    with pytest.raises(ReplayMismatch, match=r"\(output\)"):
        replay(network, x, network(x) + 1e-3, {})
    with pytest.raises(ReplayMismatch, match="elements"):
        replay(network, x, network(x)[:, 1:], {})


def test_what_is_never_finite_cannot_be_checked() -> None:
    proto = model(op("Abs", "x").named("a"), op("Neg", "a").named("n"), op("Sqrt", "n"))
    with pytest.raises(ReplayMismatch, match="node 'y': the original gave no finite value"):
        read_onnx(proto.SerializeToString())


def test_some_infinite_samples_do_not_hide_the_others() -> None:
    captured = check_finite(model(op("Log", "x").named("l"), op("MatMul", "l", w(4, 3))))
    wrong = captured.network.map(lambda t: t * 1.01)
    x = probes(4, torch.float32)
    with pytest.raises(ReplayMismatch, match=r"\(output\).*a difference"):
        replay(wrong, x, captured.network(x), {})


def check_finite(proto: onnx.ModelProto) -> onnx_file.Captured:
    """As `check`, where only positive inputs have finite values."""
    captured = read_onnx(proto.SerializeToString())
    x = probes(captured.network.input_size, torch.float32, seed=1)[4:]
    theirs = captured.program(x)
    assert theirs.isfinite().all() and torch.allclose(captured.network(x), theirs, rtol=1e-4)
    return captured


def test_live_parameters_are_replayed_without_gradients() -> None:
    network = read_onnx(CASES["Gemm"].SerializeToString()).network
    parameters: list[torch.Tensor] = []

    def enliven(weight: torch.Tensor) -> torch.Tensor:
        parameters.append(weight.clone().requires_grad_())
        return parameters[-1]

    live = network.map(enliven)
    x = probes(4, torch.float32)
    replay(live, x, network(x), {})
    assert len(parameters) == 2 and all(parameter.grad is None for parameter in parameters)
