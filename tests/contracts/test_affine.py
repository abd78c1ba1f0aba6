"""Affine forms hold every value, whatever the network, the sizes of its numbers, and how few symbols they may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from fathom.audits.portfolio import recorded_at_no_cost
from fathom.bounds import affine
from fathom.bounds.affine import Forms, halvings, pays
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.crown import Crown
from fathom.bounds.intermediate import tighten
from fathom.capture.graph import Graph
from fathom.core.box import Box
from fathom.core.budget import Budget, Goal
from fathom.core.enclosure import enclose, image
from fathom.core.network import Network
from fathom.core.solver import Solver
from fathom.ops.conv import ConvTranspose
from fathom.ops.dense import Dense
from fathom.ops.layout import Reshape
from fathom.ops.relu import Relu
from fathom.prove import input_split
from fathom.prove.branch import BranchAndBound, halves_nimbly
from fathom.prove.input_split import InputTree
from fathom.prove.lean import NEVER, SURE
from fathom.prove.record import Record
from fathom.regions.box import BoxRegion
from tests.contracts.test_bounds import Maker, all_networks, check, made, points_of, pose, regions, wild
from tests.exact import ExactNetwork


@pytest.fixture(params=[0, 2, 384], ids=lambda count: f"{count} symbols")
def symbols(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Forms wherever few inputs vary, with at most so many new symbols a node."""
    monkeypatch.setattr(affine, "HEAVY", -1.0)
    monkeypatch.setattr(affine, "SYMBOLS", request.param)
    monkeypatch.setattr(affine, "AT_ONCE", 16)
    return int(request.param)


def walk(network: Network, box: Box, memory: int = 1 << 30) -> list[Box]:
    """The boxes of all forms; relaxations see theirs and those of intervals."""
    forms, boxes, own = Forms(network, memory), [], []
    for i, node in enumerate(network.nodes):
        loose = box if node.operator is None else image(node.operator, tuple(boxes[j] for j in node.inputs))
        own.append(forms.step(i, boxes, loose))
        boxes.append(loose.intersect(own[-1]))
    return own


@all_networks
@pytest.mark.parametrize("kind", range(2), ids=["box", "linf"])
def test_every_value_lies_in_the_box_of_its_form(symbols: int, maker: Callable[[Maker], Network], kind: int) -> None:
    for seed in range(3):
        network = made(maker, seed).freeze(torch.float64)
        region = regions(seed)[kind]
        x = points_of(region, seed)
        for memory in (1 << 30, 4096):
            own = walk(network, region.box(), memory)
            for i in range(len(region)):
                at = enclose(network, Box(x[i], x[i]))
                for node in range(len(network.nodes)):
                    assert (own[node].lower[i] <= at[node].upper).all() and (own[node].upper[i] >= at[node].lower).all()


@pytest.mark.parametrize("span", [0.5, 3.0, 8.0, 15.0])
@pytest.mark.parametrize("radius", [0.0, 1e-12, 1.0])
def test_rounding_is_in_the_rest(symbols: int, span: float, radius: float) -> None:
    """Weights of very different size, and paths that cancel, against rational arithmetic at the ends of boxes."""
    for seed in range(4):
        network = wild(seed, span)
        exact = ExactNetwork(network)
        g = torch.Generator().manual_seed(seed)
        middle = (10 ** ((2 * torch.rand(1, 3, generator=g) - 1) * span / 2) * torch.randn(1, 3, generator=g)).double()
        region = BoxRegion(middle - radius * middle.abs(), middle + radius * middle.abs())
        own = walk(network.freeze(torch.float64), region.box())[-1]
        for point in [region.lower[0], region.upper[0], *points_of(region, seed, 3)[0]]:
            for value, low, high in zip(exact(point.tolist()), own.lower[0].tolist(), own.upper[0].tolist(), strict=True):
                assert Fraction(low) <= value <= Fraction(high)


@pytest.mark.parametrize("bound", [Crown(), AlphaCrown(steps=3), BranchAndBound()], ids=["crown", "alpha", "branch and bound"])
@all_networks
def test_no_margin_is_below_a_bound_from_forms(symbols: int, bound: Solver, maker: Callable[[Maker], Network]) -> None:
    region = regions(1)[0]
    problem = pose(made(maker, 1), region, 1)
    check(problem, bound.solve(problem, Budget(passes=40)), points_of(region, 1))


@all_networks
def test_parts_inherit_and_sets_are_bounded_alike(symbols: int, maker: Callable[[Maker], Network]) -> None:
    network = made(maker, 2).freeze(torch.float64)
    region = regions(2)[0]
    boxes, reach = tighten(network, region)
    assert all(len(value) == len(region) for value in reach.value)
    one = torch.tensor([1])
    alone, _ = tighten(network, region.take(one))
    assert all(
        torch.equal(a.lower, b.lower[one]) and torch.equal(a.upper, b.upper[one]) for a, b in zip(alone, boxes, strict=True)
    )
    middle = region.box().middle
    half = replace(region, upper=middle)
    inner, _ = tighten(network, half, dict(enumerate(boxes)), reach)
    x = points_of(half, 2)
    for i in range(len(half)):
        at = enclose(network, Box(x[i], x[i]))
        for node in range(len(network.nodes)):
            assert (inner[node].lower[i] >= boxes[node].lower[i]).all() and (inner[node].upper[i] <= boxes[node].upper[i]).all()
            assert (inner[node].lower[i] <= at[node].upper).all() and (inner[node].upper[i] >= at[node].lower).all()


def test_what_overflows_is_unbounded_and_not_undefined(symbols: int) -> None:
    graph = Graph([("x", (2,))])
    x = graph.input("x")
    for k in range(5):
        x = graph.add(f"bend{k}", Relu(), graph.add(f"wide{k}", Dense(torch.full((2, 2), 1e30) * torch.eye(2).add(0.5)), x))
    network = graph.finish([("y", graph.add("difference", Dense(torch.tensor([[1.0, -1.0]])), x))]).freeze(torch.float64)
    huge = network.map(lambda t: t * 1e60)
    region = BoxRegion(torch.full((1, 2), -1.0).double(), torch.full((1, 2), 1.0).double())
    for box in walk(huge, region.box()):
        assert not (box.lower.isnan() | box.upper.isnan()).any()
        assert (box.lower <= box.upper).all()


@all_networks
@pytest.mark.parametrize("memory", [1 << 30, 1], ids=["at once", "one by one"])
def test_lean_boxes_hold_every_value_and_halves_inherit_them(maker: Callable[[Maker], Network], memory: int) -> None:
    for seed in range(2):
        network = made(maker, seed).freeze(torch.float64)
        for region in regions(seed)[:2]:
            boxes, reach = tighten(network, region, memory=memory, lean=True)
            middle = region.box().middle
            half = region.restrict(torch.arange(len(region)), region.box().lower, middle)
            inner, _ = tighten(network, half, dict(enumerate(boxes)), reach, memory, lean=True)
            for part, found in ((region, boxes), (half, inner)):
                x = points_of(part, seed)
                for i in range(len(part)):
                    at = enclose(network, Box(x[i], x[i]))
                    for node in range(len(network.nodes)):
                        assert (found[node].lower[i] <= at[node].upper).all() and (found[node].upper[i] >= at[node].lower).all()
                        assert (boxes[node].magnitude[i] <= reach.value[node][i]).all()


@all_networks
def test_no_margin_is_below_a_lean_search(maker: Callable[[Maker], Network], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_split, "lean", lambda problem, memory: True)
    monkeypatch.setattr("fathom.prove.branch.splits_inputs", lambda problem: True)
    for seed in range(3):
        region = regions(seed)[0]
        problem = pose(made(maker, seed), region, seed)
        for goal in Goal:
            check(problem, BranchAndBound().solve(problem, Budget(passes=100, goal=goal)), points_of(region, seed))


def test_lean_forms_are_for_few_inputs_and_for_what_is_much_work_backward() -> None:
    network, box = pictures(8, 40), Box(torch.zeros(2, 40), torch.ones(2, 40))

    def varying(count: int) -> Box:
        return Box(box.lower, box.upper * (torch.arange(40) < count))

    assert [halvings(network, varying(count)) > SURE for count in (0, 1, 4, 5, 40)] == [False, True, True, False, False]
    shallow = Graph([("x", (2,))])
    bent = shallow.add("bent", Relu(), shallow.add("wide", Dense(torch.ones(4, 2)), shallow.input("x")))
    assert halvings(shallow.finish([("y", bent)]), Box(torch.zeros(1, 2), torch.ones(1, 2))) < NEVER


def test_a_recorded_search_takes_no_forms() -> None:
    """The checker has no words for them."""
    network = pictures(8, 2)
    problem = pose(network, BoxRegion(torch.zeros(1, 2).double(), torch.ones(1, 2).double()), 0)
    assert InputTree(problem, 1 << 28, clip=True).lean
    assert not InputTree(problem, 1 << 28, clip=True, record=Record()).lean
    assert halves_nimbly(problem) and not recorded_at_no_cost(problem)


def pictures(size: int, inputs: int) -> Network:
    g = torch.Generator().manual_seed(0)
    graph = Graph([("x", (inputs,))])
    x = graph.add("seed", Dense(torch.randn(16 * size * size, inputs, generator=g) / inputs), graph.input("x"))
    x = graph.add("bend", Relu(), graph.add("shaped", Reshape((16 * size * size,), (16, size, size)), x))
    weight = torch.randn(16, 16, 4, 4, generator=g) / 16
    for k in range(2):
        up = graph.add(f"up{k}", ConvTranspose(weight, None, (2, 2), ((1, 1), (1, 1)), (0, 0), (1, 1), 1), x)
        x = graph.add(f"bend{k}", Relu(), up)
    flat = 16 * 16 * size * size
    return graph.finish(
        [
            (
                "y",
                graph.add(
                    "out", Dense(torch.ones(1, flat) / flat), graph.add("flat", Reshape((16, 4 * size, 4 * size), (flat,)), x)
                ),
            )
        ]
    )


def test_forms_pay_where_few_inputs_vary_and_the_network_is_large() -> None:
    box = Box(torch.zeros(2, 40), torch.ones(2, 40))
    assert pays(pictures(8, 4), box.map(lambda end: end[:, :4]))
    assert pays(pictures(8, 40), Box(box.lower, box.upper * (torch.arange(40) < 8)))
    assert not pays(pictures(8, 40), box)
    assert not pays(pictures(1, 4), box.map(lambda end: end[:, :4]))


def test_forms_are_tighter_than_intervals_by_orders_of_magnitude() -> None:
    network = pictures(8, 4).freeze(torch.float64)
    centre = torch.full((1, 4), 0.3, dtype=torch.float64)
    region = BoxRegion(centre - 1e-3, centre + 1e-3)
    boxes, _ = tighten(network, region)
    assert boxes[-1].width.item() < 0.05 * enclose(network, region.box())[-1].width.item()
