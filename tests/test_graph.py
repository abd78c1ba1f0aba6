"""The graph builder, and every rewrite against torch's own function, in values and in rigorous boxes."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fathom.capture import pool, rewrite
from fathom.capture.fold import fold
from fathom.capture.graph import Graph
from fathom.core.box import Box
from fathom.core.enclosure import enclose
from fathom.core.errors import FathomError, NotUnderstood
from fathom.core.network import Network
from fathom.core.operator import Operator
from fathom.ops.batch_norm import BatchScale
from fathom.ops.conv import Conv, ConvTranspose
from fathom.ops.dense import Dense
from fathom.ops.layout import Reshape
from fathom.ops.relu import Relu
from fathom.ops.scale import Shift
from fathom.ops.softplus import Softplus
from fathom.ops.sum import Sum

Build = Callable[..., int]
SEED = torch.Generator().manual_seed(7)


def random(*shape: int, low: float = -2.0, high: float = 2.0) -> Tensor:
    return torch.rand(shape, generator=SEED, dtype=torch.float64) * (high - low) + low


def check(
    build: Build, reference: Callable[..., Tensor], *shapes: tuple[int, ...], low: float = -2.0, high: float = 2.0
) -> Network:
    """The network of one rewrite computes the reference, its boxes hold it, and its last node has the asked name."""
    graph = Graph([(f"x{i}", shape) for i, shape in enumerate(shapes)])
    values = [graph.input(f"x{i}") for i in range(len(shapes))]
    y = build(graph, "wanted", *values)
    assert graph.nodes[y].name == "wanted"
    assert y == len(graph.nodes) - 1
    assert all(node.name.startswith("wanted") for node in graph.nodes[len(shapes) + 1 :])
    network = graph.finish([("y", y)]).to(torch.float64)
    inputs = [random(5, *shape, low=low, high=high) for shape in shapes]
    flat = torch.cat([x.reshape(len(x), -1) for x in inputs], 1)
    expected = reference(*inputs)
    assert graph.shape(y) == tuple(expected.shape[1:])
    torch.testing.assert_close(network(flat), expected.reshape(len(flat), -1), rtol=1e-9, atol=1e-9)
    radius = random(*flat.shape, low=0.0, high=0.1)
    box = Box((flat - radius).clamp(min=low), (flat + radius).clamp(max=high))
    boxes = enclose(network, box)
    for _ in range(10):
        x = box.lower + torch.rand(flat.shape, generator=SEED, dtype=torch.float64) * box.width
        for value, bound in zip(network.values(x), boxes, strict=True):
            slack = 1e-12 * (1 + value.abs())
            assert ((bound.lower <= value + slack) & (value - slack <= bound.upper)).all()
    return network


def test_builder_shapes_ports_and_reachability() -> None:
    graph = Graph([("a", (2, 3)), ("b", (4,))], ["float32", "float64"])
    flat = graph.add("flat", Reshape((2, 3), (6,)), graph.input("a"))
    hidden = graph.add("hidden", Dense(torch.randn(4, 6)), flat)
    graph.add("unused", Relu(), hidden)
    total = graph.add("total", Sum((1, -1)), hidden, graph.input("b"))
    network = graph.finish([("hidden", hidden), ("output", total)], ["float32", "float64"])
    assert [node.name for node in network.nodes] == ["(input)", "a", "b", "flat", "hidden", "total", "(output)"]
    assert [(p.name, p.shape, p.start, p.dtype) for p in network.inputs] == [
        ("a", (2, 3), 0, "float32"),
        ("b", (4,), 6, "float64"),
    ]
    assert [(p.name, p.shape, p.start, p.dtype) for p in network.outputs] == [
        ("hidden", (4,), 0, "float32"),
        ("output", (4,), 4, "float64"),
    ]
    x = torch.randn(5, 10)
    y = network(x)
    torch.testing.assert_close(y[:, 4:], y[:, :4] - x[:, 6:])


def test_builder_refuses_with_names() -> None:
    graph = Graph([("x", (3,))])
    with pytest.raises(NotUnderstood, match=r"node 'd'.*Dense.*\(3,\)"):
        graph.add("d", Dense(torch.ones(2, 4)), 1)
    with pytest.raises(FathomError, match="'x', which exists"):
        graph.add("x", Relu(), 1)
    with pytest.raises(FathomError, match=r"one of x, got 'y'"):
        graph.input("y")
    with pytest.raises(FathomError, match="exists already"):
        Graph([("x", (3,)), ("x", (2,))])
    with pytest.raises(NotUnderstood, match=r"Sum takes 2 values of one shape"):
        graph.add("s", Sum((1, 1)), 1, graph.add("two", Dense(torch.ones(2, 3)), 1))
    with pytest.raises(NotUnderstood, match="broadcast"):
        rewrite.add(graph, "b", 1, torch.ones(2))


def test_a_sample_without_axes_does_not_broadcast_over_the_batch() -> None:
    graph = Graph([("x", ())])
    y = rewrite.multiply(graph, "y", 1, torch.tensor([1.0, 2.0, 3.0]))
    network = graph.finish([("y", y)]).to(torch.float64)
    torch.testing.assert_close(network(torch.tensor([[2.0], [3.0]]).double()), torch.tensor([[2.0, 4, 6], [3, 6, 9]]).double())


def test_weights_stay_live() -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    graph = Graph([("x", (2, 3))])
    mean, var = torch.zeros(2), torch.ones(2)
    scaled = rewrite.multiply(graph, "scaled", 1, weight)
    normal = rewrite.batch_norm(graph, "normal", scaled, mean, var, torch.nn.Parameter(torch.ones(2)))
    network = graph.finish([("y", normal)])
    for _ in range(2):
        weight.grad = None
        network.to(torch.float64)(torch.ones(1, 6, dtype=torch.float64)).sum().backward()
        assert weight.grad is not None
        assert weight.grad.abs().min() > 0


BINARY = {
    "add": (rewrite.add, torch.add),
    "subtract": (rewrite.subtract, torch.sub),
    "multiply": (rewrite.multiply, torch.mul),
    "divide": (rewrite.divide, torch.div),
    "maximum": (rewrite.maximum, torch.maximum),
    "minimum": (rewrite.minimum, torch.minimum),
}
SHAPES = [((2, 3), (2, 3)), ((2, 3), (3,)), ((3,), (2, 1)), ((2, 1, 4), (3, 1)), ((), (3,)), ((4,), ())]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("kind", BINARY)
def test_binary_of_two_values(kind: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    build, reference = BINARY[kind]

    def aligned(a: Tensor, b: Tensor) -> Tensor:
        axes = max(a.ndim, b.ndim)
        a, b = (t.reshape(len(t), *[1] * (axes - t.ndim), *t.shape[1:]) for t in (a, b))
        return reference(a, b)

    check(build, aligned, *shapes, low=0.5 if kind == "divide" else -2.0)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("kind", BINARY)
def test_binary_with_a_constant_on_either_side(kind: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    build, reference = BINARY[kind]
    constant = random(*shapes[1], low=0.5)
    axes = max(len(shapes[0]), len(shapes[1]))

    def aligned(a: Tensor) -> Tensor:
        return a.reshape(len(a), *[1] * (axes - a.ndim + 1), *a.shape[1:])

    low = 0.5 if kind == "divide" else -2.0
    check(lambda g, n, x: build(g, n, x, constant), lambda x: reference(aligned(x), constant), shapes[0], low=low)
    check(lambda g, n, x: build(g, n, constant, x), lambda x: reference(constant, aligned(x)), shapes[0], low=low)


def test_divide_by_a_constant_zero_is_refused() -> None:
    with pytest.raises(NotUnderstood, match="zeros"):
        rewrite.divide(Graph([("x", (2,))]), "q", 1, torch.tensor([1.0, 0.0]))


def test_a_quotient_whose_divisor_may_be_zero_is_refused_when_bounded() -> None:
    graph = Graph([("x", (2,))])
    network = graph.finish([("y", rewrite.divide(graph, "q", torch.ones(2), 1))]).to(torch.float64)
    box = Box(torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[2.0, 1.0]]).double())
    with pytest.raises(FathomError, match=r"positive denominators.*\[-1.0, 1.0\]"):
        enclose(network, box)


def number(value: float) -> Tensor:
    return torch.tensor(value)


UNARY: dict[str, tuple[Build, Callable[[Tensor], Tensor]]] = {
    "identity": (lambda g, n, x: rewrite.reshape(g, n, x, g.shape(x)), lambda x: x),
    "negate": (rewrite.negate, torch.neg),
    "clip": (lambda g, n, x: rewrite.clip(g, n, x, number(-0.5), number(1.0)), lambda x: x.clamp(-0.5, 1.0)),
    "clip low": (lambda g, n, x: rewrite.clip(g, n, x, number(-0.5)), lambda x: x.clamp(min=-0.5)),
    "clip high": (lambda g, n, x: rewrite.clip(g, n, x, None, number(-0.5)), lambda x: x.clamp(max=-0.5)),
    "clip nothing": (rewrite.clip, lambda x: x),
    "clip crossed": (lambda g, n, x: rewrite.clip(g, n, x, number(1.0), number(-1.0)), lambda x: torch.full_like(x, -1.0)),
    "hard sigmoid": (lambda g, n, x: rewrite.hard_sigmoid(g, n, x, 0.2, 0.5), lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    "elu": (lambda g, n, x: rewrite.elu(g, n, x, 0.7), lambda x: functional.elu(x, 0.7)),
    "silu": (rewrite.silu, functional.silu),
    "mish": (rewrite.mish, functional.mish),
    "gelu": (rewrite.gelu, functional.gelu),
    "gelu tanh": (rewrite.gelu_tanh, lambda x: functional.gelu(x, approximate="tanh")),
    "prelu": (
        lambda g, n, x: rewrite.prelu(g, n, x, torch.tensor([[-0.5], [1.7]])),
        lambda x: functional.prelu(x, torch.tensor([-0.5, 1.7]).double()),
    ),
    "softmax": (lambda g, n, x: rewrite.softmax(g, n, x, -1), lambda x: x.softmax(-1)),
    "softmax first": (lambda g, n, x: rewrite.softmax(g, n, x, 0), lambda x: x.softmax(1)),
    "log softmax": (lambda g, n, x: rewrite.log_softmax(g, n, x, 1), lambda x: x.log_softmax(2)),
    "softmax of pairs": (lambda g, n, x: rewrite.softmax(g, n, x, -2), lambda x: x.softmax(-2)),
    "log sum exp": (lambda g, n, x: rewrite.reduce_log_sum_exp(g, n, x, [1], keep=True), lambda x: x.logsumexp(2, keepdim=True)),
    "log sum exp of all": (
        lambda g, n, x: rewrite.reduce_log_sum_exp(g, n, x, [0, 1], keep=False),
        lambda x: x.logsumexp((1, 2)),
    ),
    "sum": (lambda g, n, x: rewrite.reduce_sum(g, n, x, [0, -1], keep=False), lambda x: x.sum((1, 2))),
    "mean": (lambda g, n, x: rewrite.reduce_mean(g, n, x, [1], keep=True), lambda x: x.mean(2, keepdim=True)),
    "max": (lambda g, n, x: pool.reduce_max(g, n, x, [1], keep=True), lambda x: x.amax(2, keepdim=True)),
    "max over two": (lambda g, n, x: pool.reduce_max(g, n, x, [0, 1], keep=False), lambda x: x.amax((1, 2))),
    "min": (lambda g, n, x: pool.reduce_min(g, n, x, [0], keep=False), lambda x: x.amin(1)),
    "layer norm": (
        lambda g, n, x: rewrite.layer_norm(g, n, x, [-1], torch.arange(3.0), torch.ones(3)),
        lambda x: functional.layer_norm(x, (3,), torch.arange(3.0).double(), torch.ones(3).double()),
    ),
    "layer norm plain": (lambda g, n, x: rewrite.layer_norm(g, n, x, [0, 1]), lambda x: functional.layer_norm(x, (2, 3))),
    "expand": (lambda g, n, x: rewrite.expand(g, n, x, (4, 2, 3)), lambda x: x[:, None].expand(-1, 4, 2, 3)),
    "constant": (
        lambda g, n, x: rewrite.constant(g, n, torch.arange(3.0)),
        lambda x: torch.arange(3.0).double().expand(len(x), 3),
    ),
    **{
        f"power {p}": (lambda g, n, x, p=p: rewrite.power(g, n, x, p), lambda x, p=p: x**p)  # type: ignore[misc]
        for p in (1, 2, 3, 4, 5, 6, 7, 8, 2.0, 3.0)
    },
}


@pytest.mark.parametrize("kind", UNARY)
def test_unary(kind: str) -> None:
    build, reference = UNARY[kind]
    check(build, reference, (2, 3))


@pytest.mark.parametrize("exponent", [0.5, -0.5, -1, -2, -3])
def test_powers_of_positive_numbers(exponent: float) -> None:
    check(lambda g, n, x: rewrite.power(g, n, x, exponent), lambda x: x**exponent, (4,), low=0.5)


def test_other_powers_are_refused() -> None:
    for exponent in (0.3, 0, 9, -9.5):
        with pytest.raises(NotUnderstood, match="whole exponent"):
            rewrite.power(Graph([("x", (2,))]), "p", 1, exponent)


def test_softmax_of_one_element_is_one() -> None:
    check(lambda g, n, x: rewrite.softmax(g, n, x, 0), lambda x: x.softmax(1), (1, 3))
    check(lambda g, n, x: rewrite.log_softmax(g, n, x, 0), lambda x: x.log_softmax(1), (1, 3))


@pytest.mark.parametrize("shape", [(2,), (7,), (8,), (3, 5, 2)])
def test_softmax_along_axes_of_all_lengths(shape: tuple[int, ...]) -> None:
    for axis in range(len(shape)):
        check(lambda g, n, x, axis=axis: rewrite.softmax(g, n, x, axis), lambda x, axis=axis: x.softmax(axis + 1), shape)


@pytest.mark.parametrize("width", [1.0, 50.0, 1e4])
def test_softmax_box_is_a_share(width: float) -> None:
    """However wide the boxes, a share lies in [0, 1], and nothing overflows."""
    graph = Graph([("x", (5,))])
    network = graph.finish([("y", rewrite.softmax(graph, "s", 1, 0))]).to(torch.float64)
    y = enclose(network, Box(torch.full((1, 5), -width).double(), torch.full((1, 5), width).double()))[-1]
    assert (y.lower >= 0).all()
    assert (y.upper <= 1).all()


def test_softmax_of_many_shares_its_pairs() -> None:
    """The tree has about k log k elements that bend, not k^2."""
    graph = Graph([("x", (64,))])
    network = graph.finish([("y", rewrite.softmax(graph, "s", 1, 0))])
    assert sum(node.shape[0] for node in network.nodes if isinstance(node.operator, Softplus)) < 64 * 8


def test_clip_box_is_exact() -> None:
    graph = Graph([("x", (1,))])
    network = graph.finish([("y", rewrite.clip(graph, "c", 1, number(0.0), number(1.0)))]).to(torch.float64)
    y = enclose(network, Box(torch.tensor([[-3.0]]).double(), torch.tensor([[2.0]]).double()))[-1]
    torch.testing.assert_close(torch.cat([y.lower, y.upper], 1), torch.tensor([[0.0, 1.0]]).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 1)), ((2, 1, 2, 3), (4, 3, 2))])
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    def reference(a: Tensor, b: Tensor) -> Tensor:
        axes = max(a.ndim, b.ndim)
        a, b = (t.reshape(len(t), *[1] * (axes - t.ndim), *t.shape[1:]) for t in (a, b))
        return a @ b

    check(rewrite.matmul, reference, *shapes)


def test_matmul_of_wrong_shapes_is_refused() -> None:
    graph = Graph([("a", (2, 3)), ("b", (4, 3))])
    with pytest.raises(NotUnderstood, match=r"\(2, 3\) and \(4, 3\)"):
        rewrite.matmul(graph, "m", 1, 2)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 2, 3)])
def test_batch_norm(shape: tuple[int, ...], *, affine: bool) -> None:
    mean, var = random(4), random(4, low=0.1)
    weight, shift = (random(4), random(4)) if affine else (None, None)
    check(
        lambda g, n, x: rewrite.batch_norm(g, n, x, mean, var, weight, shift, 1e-3),
        lambda x: functional.batch_norm(x, mean, var, weight, shift, eps=1e-3),
        shape,
    )


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1), (1, 2, 0)])
def test_max_pool(kernel: int, stride: int, pad: int, dilation: int, *, ceil: bool) -> None:
    def build(g: Graph, n: str, x: int) -> int:
        axes = len(g.shape(x)) - 1
        return pool.max_pool(g, n, x, [kernel] * axes, [stride] * axes, ((pad, pad),) * axes, [dilation] * axes, ceil=ceil)

    check(build, lambda x: functional.max_pool2d(x, kernel, stride, pad, dilation, ceil), (2, 5, 6))
    check(build, lambda x: functional.max_pool1d(x, kernel, stride, pad, dilation, ceil), (2, 7))


def test_max_pool_with_uneven_padding() -> None:
    def reference(x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.pad(x, (0, 2, 1, 0), value=-torch.inf), (3, 3), 2)

    check(lambda g, n, x: pool.max_pool(g, n, x, [3, 3], [2, 2], ((1, 0), (0, 2)), [1, 1]), reference, (1, 6, 5))


def test_max_pool_window_of_padding_alone_is_refused() -> None:
    with pytest.raises(NotUnderstood, match="padding"):
        pool.max_pool(Graph([("x", (1, 3))]), "p", 1, [2], [2], ((2, 0),), [1])


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1), (3, 3, 1)])
def test_average_pool(kernel: int, stride: int, pad: int, *, ceil: bool, count_padding: bool) -> None:
    def build(g: Graph, n: str, x: int) -> int:
        axes = len(g.shape(x)) - 1
        pads = ((pad, pad),) * axes
        return pool.average_pool(g, n, x, [kernel] * axes, [stride] * axes, pads, ceil=ceil, count_padding=count_padding)

    check(build, lambda x: functional.avg_pool2d(x, kernel, stride, pad, ceil, count_padding), (2, 5, 6))
    check(build, lambda x: functional.avg_pool1d(x, kernel, stride, pad, ceil, count_padding), (2, 7))


def test_global_average_pool() -> None:
    check(rewrite.global_average_pool, lambda x: x.mean((2, 3), keepdim=True), (3, 4, 5))


def _normalised(layer: str) -> Network:
    """A layer, a normalisation whose shift nearly cancels, a rectifier; the layer's own shift missing at times."""
    graph = Graph([("x", (4, 5, 5))])
    if layer == "conv":
        y = graph.add("layer", Conv(random(6, 2, 3, 3), None, (5, 5), (2, 1), ((1, 0), (1, 1)), (1, 1), 2), 1)
    else:
        y = graph.add("layer", ConvTranspose(random(4, 3, 3, 2), random(6), (2, 1), ((1, 0), (1, 1)), (1, 0), (1, 1), 2), 1)
    y = rewrite.batch_norm(graph, "norm", y, random(6), random(6, low=0.1), random(6), random(6))
    return graph.finish([("y", graph.add("relu", Relu(), y))]).freeze(torch.float64)


def _folded_numbers(layer: Operator) -> list[float]:
    return [*layer.weight.flatten().tolist(), *layer.shift.tolist()]


def _exact_numbers(network: Network, kind: type[Operator]) -> list[mpmath.mpf]:
    """Weights and shift as they should be, to 60 digits: weight * gamma / sqrt(var + epsilon), channel by channel."""
    (layer,) = (node.operator for node in network.nodes if isinstance(node.operator, kind))
    (mean,) = (node.operator for node in network.nodes if isinstance(node.operator, Shift))
    (norm,) = (node.operator for node in network.nodes if isinstance(node.operator, BatchScale))
    with mpmath.workdps(60):
        roots = [mpmath.sqrt(mpmath.mpf(v) + mpmath.mpf(norm.epsilon)) for v in norm.variance.tolist()]
        factors = [mpmath.mpf(g) / root for g, root in zip(norm.weight.tolist(), roots, strict=True)]
        channel = torch.arange(6)
        if kind is ConvTranspose:  # the outputs of each of two groups lie along the second axis
            owner = channel.reshape(2, 1, 3, 1, 1).expand(2, 2, 3, *layer.weight.shape[2:])
        else:
            owner = channel.reshape(-1, *[1] * (layer.weight.ndim - 1)).expand(layer.weight.shape)
        numbers = [
            mpmath.mpf(w) * factors[c] for w, c in zip(layer.weight.flatten().tolist(), owner.flatten().tolist(), strict=True)
        ]
        shift = torch.zeros(6) if layer.shift is None else layer.shift
        gaps = zip(shift.tolist(), mean.offset.flatten().tolist(), factors, strict=True)
        return numbers + [(mpmath.mpf(b) - mpmath.mpf(m)) * f for b, m, f in gaps]


@pytest.mark.parametrize("layer", ["conv", "transposed"])
def test_fold_keeps_the_function_and_counts_its_roundings(layer: str) -> None:
    network = _normalised(layer)
    folded = fold(network)
    assert len(folded.nodes) == len(network.nodes) - 1
    assert folded.index("norm")
    assert not any(isinstance(node.operator, BatchScale) for node in folded.nodes)
    kind = {"conv": Conv, "transposed": ConvTranspose}[layer]
    (operator,) = (node.operator for node in folded.nodes if isinstance(node.operator, kind))
    assert operator.roundings == 6
    with mpmath.workdps(60):
        for got, exact in zip(_folded_numbers(operator), _exact_numbers(network, kind), strict=True):
            assert abs(mpmath.mpf(got) - exact) <= 6 * mpmath.mpf(2) ** -53 * abs(exact)
    x = random(8, network.input_size)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        folded.values(x)[folded.index("norm")], network.values(x)[network.index("norm")], rtol=1e-12, atol=1e-12
    )
    ours, theirs = enclose(folded, Box(x, x))[-1], enclose(network, Box(x, x))[-1]
    assert (torch.maximum(ours.lower, theirs.lower) <= torch.minimum(ours.upper, theirs.upper)).all()


@pytest.mark.parametrize("dense", [False, True])
def test_fold_leaves_dense_layers_and_what_others_read(*, dense: bool) -> None:
    graph = Graph([("x", (4,) if dense else (4, 5))])
    layer = Dense(random(6, 4)) if dense else Conv(random(6, 4, 2), None, (5,), (1,), ((0, 0),), (1,))
    y = graph.add("layer", layer, 1)
    norm = rewrite.batch_norm(graph, "norm", y, random(6), random(6, low=0.1))
    network = graph.finish([("y", norm)] if dense else [("y", norm), ("layer", y)]).freeze(torch.float64)
    assert [node.name for node in fold(network).nodes] == [node.name for node in network.nodes]


def test_fold_refuses_what_is_not_frozen() -> None:
    graph = Graph([("x", (4,))])
    y = graph.add("layer", Dense(torch.nn.Parameter(torch.ones(2, 4))), 1)
    network = graph.finish([("y", y)])
    for other in (network, network.to(torch.float64), network.freeze(torch.float32)):
        with pytest.raises(FathomError, match=r"freeze\(torch.float64\)"):
            fold(other)


def test_a_sum_behind_a_product_becomes_its_shift_and_stays_live() -> None:
    from fathom.capture.merge import merge_bias

    weight, offset = torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(3))
    graph = Graph([("x", (2,))])
    product = graph.add("product", Dense(weight), graph.input("x"))
    total = graph.add("sum", Shift(offset, -1), product)
    network = graph.finish([("y", graph.add("relu", Relu(), total))])
    merged = merge_bias(network)
    x = torch.randn(5, 2)
    assert torch.equal(merged(x), network(x))
    assert [node.name for node in merged.nodes if isinstance(node.operator, Dense | Shift)] == ["sum"]
    merged(x).sum().backward()
    assert offset.grad is not None
    # What is read elsewhere too stays as it is.
    graph = Graph([("x", (2,))])
    product = graph.add("product", Dense(weight), graph.input("x"))
    total = graph.add("sum", Shift(offset), product)
    kept = graph.finish([("a", product), ("b", total)])
    assert len(merge_bias(kept).nodes) == len(kept.nodes)
