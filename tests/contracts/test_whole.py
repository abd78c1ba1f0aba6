"""Matrix products and log-sum-exps that the backward pass takes whole: read right, and never above what they bound."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import pytest
import torch
from torch import Tensor

from fathom.bounds.backward import backward
from fathom.bounds.contraction import contractions
from fathom.bounds.intermediate import bends, tighten
from fathom.bounds.log_sums import LogSums, log_sums, planes
from fathom.capture import rewrite
from fathom.capture.graph import Graph
from fathom.core.box import Box
from fathom.core.enclosure import enclose_point
from fathom.core.network import Network
from fathom.core.rounding import dot_down
from fathom.ops.dense import Dense
from fathom.ops.layout import Reshape
from fathom.ops.product import Product
from fathom.ops.softplus import Softplus
from fathom.regions.box import BoxRegion

HEADS, QUERIES, KEYS, WIDTH = 2, 3, 4, 2


def attention(seed: int, size: float) -> Network:
    """Two heads of three queries, four keys and two features."""
    g = torch.Generator().manual_seed(seed)
    graph = Graph([("x", (5,))])

    def value(name: str, *shape: int) -> int:
        count = torch.Size(shape).numel()
        weight = torch.randn(count, 5, generator=g) * size
        flat = graph.add(f"{name}/flat", Dense(weight, torch.randn(count, generator=g)), graph.input("x"))
        return graph.add(name, Reshape((count,), shape), flat)

    scores = rewrite.matmul(graph, "scores", value("q", HEADS, QUERIES, WIDTH), value("k", HEADS, WIDTH, KEYS))
    heed = rewrite.softmax(graph, "softmax", scores, 2)
    return graph.finish([("y", rewrite.matmul(graph, "heeded", heed, value("v", HEADS, KEYS, WIDTH)))]).freeze(torch.float64)


def test_an_attention_is_read_whole() -> None:
    network = attention(0, 1.0)
    found = contractions(network)
    assert [network.nodes[i].name for i in found] == ["scores", "heeded"]
    (sums,) = log_sums(network).values()
    assert network.nodes[sums.source].name == "scores"
    assert sums.member.shape == (HEADS * QUERIES, KEYS, KEYS)
    assert (sums.member.sum(2) == KEYS - 1).all()
    assert not any(isinstance(network.nodes[i].operator, Product | Softplus) for i in bends(network))
    inner = [j for j, node in enumerate(network.nodes) if isinstance(node.operator, Softplus)]
    assert not {network.nodes[j].inputs[0] for j in inner} & bends(network).keys()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_read_is_what_is_computed(axis: int) -> None:
    graph = Graph([("x", (3, 4, 5))])
    ends = [
        ("a", rewrite.softmax(graph, "a", graph.input("x"), axis)),
        ("b", rewrite.reduce_log_sum_exp(graph, "b", graph.input("x"), [axis], keep=False)),
    ]
    network = graph.finish(ends).freeze(torch.float64)
    x = torch.randn(7, 60, generator=torch.Generator().manual_seed(1)).double()
    values = network.values(x)
    read = log_sums(network)
    assert len(read) == 2
    for i, sums in read.items():
        y = values[i].flatten(1)[:, sums.results]
        expected = torch.where(sums.member, values[sums.source].flatten(1)[:, sums.elements].unsqueeze(-2), -torch.inf).logsumexp(
            -1
        )
        torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)


def test_what_sums_an_element_twice_is_left_alone() -> None:
    graph = Graph([("x", (3,))])
    x = graph.input("x")
    bent = graph.add("bent", Softplus(), rewrite.subtract(graph, "none", x, x))
    network = graph.finish([("y", rewrite.add(graph, "y", bent, x))])
    assert log_sums(network) == {}


def test_a_product_that_is_read_elsewhere_is_left_alone() -> None:
    graph = Graph([("x", (2, 3)), ("z", (3, 2))])
    y = rewrite.matmul(graph, "y", graph.input("x"), graph.input("z"))
    (terms,) = (i for i, node in enumerate(graph.nodes) if node.name == "y/terms")
    assert contractions(graph.finish([("y", y), ("terms", terms)])) == {}


def test_the_float32_program_is_taken_node_by_node() -> None:
    """It errs at every node that would be gone round."""
    network = attention(0, 1.0)
    nodes = tuple(node if node.operator is None else replace(node, rounded=True) for node in network.nodes)
    program = Network(nodes, network.inputs, network.outputs)
    assert contractions(program) == {}
    assert log_sums(program) == {}


@pytest.mark.parametrize("size", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("shape", [None, (HEADS, QUERIES, KEYS, WIDTH), (HEADS, QUERIES, 1, WIDTH), (HEADS, 1, KEYS, WIDTH)])
def test_rows_through_an_attention_stay_below_it(size: float, shape: tuple[int, ...] | None) -> None:
    """With choices for the product of queries and keys: for each term, for each element of one side, or none."""
    network = attention(3, size)
    g = torch.Generator().manual_seed(4)
    centre = torch.randn(2, 5, generator=g).double()
    region = BoxRegion(centre - 0.3, centre + 0.3)
    boxes, reach = tighten(network, region)
    rows = torch.randn(2, 6, network.output_size, generator=g).double()
    at = next(iter(contractions(network).values())).product
    if shape is not None:
        assert network.nodes[at].shape == (HEADS, QUERIES, KEYS, WIDTH)
    choices = {} if shape is None else {at: torch.rand(2, 6, *shape, generator=g).double()}
    bound = backward(network, boxes, reach, len(network.nodes) - 1, rows, choices)
    for corner in range(60):
        share = torch.rand(2, 5, generator=g).double()
        x = centre - 0.3 + 0.6 * (share.round() if corner % 2 else share)
        y = enclose_point(network, x)
        most = torch.where(rows > 0, rows * y.upper.unsqueeze(1), rows * y.lower.unsqueeze(1)).sum(2)
        below = dot_down(bound.a, x.unsqueeze(1)) + bound.constant
        assert (below <= most + 1e-12 * (1 + most.abs())).all()


def test_choices_of_every_term_are_those_of_the_product() -> None:
    """Whole, or term by term in a network where the product has a second reader: one bound, but for rounding."""
    g = torch.Generator().manual_seed(6)
    bounds = []
    choice = torch.rand(1, 2, 2, 2, 3, generator=g).double()
    rows = torch.randn(1, 2, 4, generator=g).double()
    for apart in (False, True):
        graph = Graph([("x", (2, 3)), ("z", (3, 2))])
        y = rewrite.matmul(graph, "y", graph.input("x"), graph.input("z"))
        (terms,) = (i for i, node in enumerate(graph.nodes) if node.name == "y/terms")
        network = graph.finish([("y", y), ("terms", terms)] if apart else [("y", y)]).freeze(torch.float64)
        centre = torch.randn(1, 12, generator=torch.Generator().manual_seed(7)).double()
        region = BoxRegion(centre - 0.5, centre + 1.0)
        boxes, reach = tighten(network, region)
        for choices in (None, {terms: choice}):
            padded = torch.nn.functional.pad(rows, (0, network.output_size - 4))
            bounds.append(backward(network, boxes, reach, len(network.nodes) - 1, padded, choices).minimise(region)[0])
    torch.testing.assert_close(bounds[0], bounds[2], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bounds[1], bounds[3], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(bounds[0], bounds[1])


def exact(value: float) -> mpmath.mpf:
    return mpmath.mpf(value)


@pytest.mark.parametrize("width", [0.0, 1e-300, 1e-12, 0.3, 4.0, 60.0, 1200.0])
def test_planes_hold_log_sum_exps(width: float) -> None:
    """With 60 digits, at corners and inside, for sets of one element and of all."""
    mpmath.mp.dps = 60
    slack = mpmath.mpf(10) ** -50  # its own rounding
    member = torch.tensor([[[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0]]], dtype=torch.bool)
    sums = LogSums(0, torch.arange(4)[None], torch.arange(4)[None], member)
    g = torch.Generator().manual_seed(2)
    lower = torch.randn(6, 4, generator=g).double() * (1 + width)
    box = Box(lower, lower + width * torch.rand(6, 4, generator=g).double())
    lines = planes(sums, box)
    for trial in range(12):
        share = torch.rand(6, 4, generator=g).double()
        x = box.lower + (share.round() if trial % 2 else share) * (box.upper - box.lower)
        x = torch.minimum(torch.maximum(x, box.lower), box.upper)
        for n in range(6):
            at = [exact(v) for v in x[n].tolist()]
            for m in range(4):
                y = mpmath.log(sum(mpmath.exp(v) for v, inside in zip(at, member[0, m], strict=True) if inside))
                for slope, offset, sign in (
                    (lines.lower_slope, lines.lower_offset, 1),
                    (lines.upper_slope, lines.upper_offset, -1),
                ):
                    line = exact(offset[n, 0, m].item()) + sum(
                        exact(s) * v for s, v in zip(slope[n, 0, m].tolist(), at, strict=True)
                    )
                    assert sign * line <= sign * y + slack, f"width {width}, set {m}: {line} beside {y}"


def test_planes_are_tight_on_narrow_boxes() -> None:
    member = torch.ones(1, 1, 5, dtype=torch.bool)
    lower = torch.randn(1, 5, generator=torch.Generator().manual_seed(1)).double()
    lines = planes(LogSums(0, torch.arange(5)[None], torch.zeros(1, 1).long(), member), Box(lower, lower + 1e-3))

    def gap(x: Tensor) -> float:
        over = (lines.upper_slope[0, 0, 0] * x).sum() + lines.upper_offset
        return float(over - (lines.lower_slope[0, 0, 0] * x).sum() - lines.lower_offset)

    assert max(gap(lower[0]), gap(lower[0] + 1e-3)) < 1e-6
