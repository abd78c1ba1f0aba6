"""Condensed networks compute the same real function, to the last digit, and are what the original was captured for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from fathom.bounds.intermediate import tighten
from fathom.bounds.margins import bound_margins
from fathom.capture.condense import condense
from fathom.capture.onnx_file import read_onnx
from fathom.capture.rows import Rows
from fathom.core.network import Join, Network, Node, Port
from fathom.core.spec import Spec
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.ops.sparse import Sparse
from fathom.regions.box import BoxRegion
from tests.exact import ExactNetwork, truths
from tests.onnx_models import Array, model, op

WEIGHTS = {
    "few digits": [1.0, -1.0, 0.5, 2.0, -0.75],
    "single precision": [float(np.float32(v)) for v in (0.1, -0.3, 0.7, 1e-3, -123.4)],
    "sums that round": [1.0, -1.0, 2.0**-60, 0.1, -(2.0**55)],
    "products that underflow": [1e-300, -1e-300, 1.0, -1.0, 1e-170],
}


def network_of(*layers: tuple[Tensor, Tensor] | None) -> Network:
    """Dense layers, with rectifiers for None."""
    size = len(layers[0][0].T) if layers[0] is not None else 0
    nodes = [Node("input", None, (), (size,))]
    for k, layer in enumerate(layers):
        operator = Relu() if layer is None else Dense(*layer)
        shape = nodes[-1].shape if layer is None else (len(layer[0]),)
        nodes.append(Node(f"n{k}", operator, (len(nodes) - 1,), shape))
    nodes.append(Node("output", Join((nodes[-1].shape,)), (len(nodes) - 1,), nodes[-1].shape))
    return Network(tuple(nodes), (Port("x", (size,), 0),), (Port("y", nodes[-1].shape, 0),))


def mirrored(generator: torch.Generator, before: int, values: list[float]) -> tuple[Tensor, Tensor]:
    """A layer of few entries a row in which rows are repeated, mirrored, zero but for the shift, and alone."""
    palette = torch.tensor(values, dtype=torch.float64)

    def draw(*shape: int) -> Tensor:
        return palette[torch.randint(len(values), shape, generator=generator)]

    rows = []
    for _ in range(3):
        weight = torch.zeros(before, dtype=torch.float64)
        weight[torch.randperm(before, generator=generator)[:2]] = draw(min(2, before))
        row = torch.cat([weight, draw(1)])
        rows += [row, -row, row, -row][: int(torch.randint(1, 5, (1,), generator=generator))]
    rows.append(torch.cat([torch.zeros(before, dtype=torch.float64), draw(1)]))
    layer = torch.stack(rows)[torch.randperm(len(rows), generator=generator)]
    return layer[:, :-1].clone(), layer[:, -1].clone()


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("seed", range(12))
def test_a_condensed_network_is_the_same_real_function(kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers: list[tuple[Tensor, Tensor] | None] = []
    size = 2
    for _ in range(3):
        layers.append(mirrored(generator, size, WEIGHTS[kind]))
        size = len(layers[-1][0])
        if seed % 3 == 0:
            layers.append(mirrored(generator, size, [1.0, -1.0]))
            size = len(layers[-1][0])
        layers.append(None)
    layers.append(mirrored(generator, size, WEIGHTS[kind]))
    network = network_of(*layers)
    condensed = condense(network)
    if condensed is None:
        assert kind != "few digits", "nothing rounds here, so something was to be gained"
        return
    before, after = ExactNetwork(network), ExactNetwork(condensed)
    for x in (torch.randn(20, 2, generator=generator, dtype=torch.float64) * 4).tolist():
        assert before(x) == after(x)


def minimum(size: int) -> tuple[list[Array], int]:
    """The matrices, to be applied with a rectifier between each two, that halve a vector by minima of neighbours."""
    first, second = np.zeros((2 * size, size), np.float32), np.zeros((size // 2, 2 * size), np.float32)
    for k in range(size // 2):
        a, b = 2 * k, 2 * k + 1
        for row, (one, other) in enumerate(((1, -1), (-1, 1), (1, 1), (-1, -1))):
            first[4 * k + row, [a, b]] = one, other
        second[k, 4 * k : 4 * k + 4] = -0.5, -0.5, 0.5, -0.5
    return [first, second], size // 2


def lattice(seed: int, size: int = 64) -> list[Array]:
    """Two inputs, `size` linear functions picked from 8, and minima of pairs until one is left."""
    random = np.random.default_rng(seed)
    picked = np.eye(8, dtype=np.float32)[random.integers(8, size=size)]
    matrices: list[Array] = [random.normal(size=(8, 2)).astype(np.float32), picked]
    while size > 1:
        pair, size = minimum(size)
        matrices += pair
    return matrices


def lattice_model(matrices: list[Array]) -> bytes:
    nodes, last = [], "x"
    for k, matrix in enumerate(matrices):
        nodes.append(op("MatMul", last, np.ascontiguousarray(matrix.T)).named(f"m{k}"))
        last = f"m{k}"
        if k >= 2 and k % 2 == 0:
            nodes.append(op("Relu", last).named(f"r{k}"))
            last = f"r{k}"
    return bytes(model(*nodes, x=(1, 2)).SerializeToString())


@pytest.mark.parametrize("seed", range(3))
def test_a_lattice_of_minima_is_read_as_one(seed: int) -> None:
    """One rectifier for each minimum of two different functions; and the import still computes what onnxruntime computes."""
    raw = lattice_model(lattice(seed))
    network = read_onnx(raw).network
    rectifiers = sum(node.shape[0] for node in network.nodes if isinstance(node.operator, Relu))
    assert rectifiers < 63, "64 functions take 63 minima, fewer where pairs occur twice"
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    for x in np.random.default_rng(seed + 100).normal(size=(20, 1, 2)).astype(np.float32):
        theirs = session.run(None, {"x": x})[0].ravel()
        assert np.allclose(network(torch.from_numpy(x).double())[0].numpy(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_bounds_through_a_condensed_network_hold_for_the_original(seed: int) -> None:
    matrices = lattice(seed, 8)
    weights = [torch.from_numpy(matrix).double() for matrix in matrices]
    layers: list[tuple[Tensor, Tensor] | None] = []
    for k, weight in enumerate(weights):
        layers += [(weight, torch.zeros(len(weight)).double()), *([None] if k >= 2 and k % 2 == 0 else [])]
    network = network_of(*layers)
    condensed = condense(network)
    assert condensed is not None
    middle = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    region = BoxRegion(middle - 0.7, middle + 0.5)
    spec = Spec.make(torch.ones(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(6))
    exact = [float(truth.worst) for truth in truths(network, region, spec) if truth.worst is not None]
    boxes, reach = tighten(condensed, region)
    margins = bound_margins(condensed, region, spec, boxes, reach)
    assert (margins.margin <= torch.tensor(exact, dtype=torch.float64)).all()


def test_large_layers_that_only_pick_are_picked() -> None:
    eye = torch.eye(300, dtype=torch.float64)
    dense = torch.randn(300, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = network_of((dense, torch.zeros(300)), None, (eye[torch.arange(299, -1, -1)] + eye, torch.ones(300)), None)
    condensed = condense(network)
    assert condensed is not None
    assert sum(isinstance(node.operator, Sparse) for node in condensed.nodes) == 1
    x = torch.randn(3, 40, dtype=torch.float64)
    assert torch.allclose(network(x), condensed(x), rtol=1e-14)


def test_ordinary_networks_stay_as_they_are() -> None:
    g = torch.Generator().manual_seed(0)
    network = network_of(
        (torch.randn(50, 5, generator=g), torch.randn(50, generator=g)), None, (torch.randn(5, 50, generator=g), torch.zeros(5))
    )
    assert condense(network) is None


def test_layers_are_composed_without_rounding_or_not_at_all() -> None:
    def layer(*weight: list[float], shift: list[float] | None = None) -> Rows:
        rows = Rows.of(Dense(torch.tensor(weight, dtype=torch.float64), None if shift is None else torch.tensor(shift).double()))
        assert rows is not None
        return rows

    inner = layer([1.0, 0.0], [2.0**-70, 1.0], shift=[0.25, 0.5])
    assert layer([1.0, 1.0]).after(inner) is None, "1 + 2^-70 is no float64"
    assert layer([0.1]).after(layer([0.3])) is None and Fraction(0.1) * Fraction(0.3) != Fraction(0.1 * 0.3)
    assert layer([1e-200]).after(layer([1e-200])) is None
    composed = layer([4.0, 0.0], [0.0, 0.5]).after(inner)
    assert composed is not None
    rounded = composed.operator()
    assert isinstance(rounded, Dense) and rounded.shift is not None
    assert rounded.weight.tolist() == [[4.0, 0.0], [2.0**-71, 0.5]] and rounded.shift.tolist() == [1.0, 0.25]


def test_a_layer_whose_neurons_all_cancel_is_condensed(tmp_path: Path) -> None:
    """relu(z) - relu(-z) = z leaves no neuron; there is nothing to pick from. It once broke off with an error of torch."""
    first, last = np.array([[1.0, -1.0], [2.0, -2.0]], np.float32), np.array([[1.0], [-1.0]], np.float32)
    nodes = op("MatMul", "x", first).named("z"), op("Relu", "z").named("r"), op("MatMul", "r", last)
    (tmp_path / "m.onnx").write_bytes(model(*nodes, x=(1, 2)).SerializeToString())
    network = read_onnx(tmp_path / "m.onnx").network
    x = torch.tensor([[3.0, -5.0], [1.0, 1.0]], dtype=torch.float64)
    assert network.freeze(torch.float64)(x).tolist() == [[-7.0], [3.0]]
