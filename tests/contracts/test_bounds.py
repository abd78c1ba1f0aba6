"""The laws of every bound, found by discovery: never above the margin of any input, by not so much as a unit in the last place.

Margins at points are enclosed rigorously, or computed in rational arithmetic, so that nothing here needs a tolerance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import fathom.bounds
from fathom.attacks.gradient import Gradient
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.backward import LinearBound, Reach, Split, backward
from fathom.bounds.crown import Crown, crown
from fathom.bounds.intermediate import bends, tighten
from fathom.bounds.margins import bound_margins
from fathom.capture import rewrite
from fathom.capture.graph import Graph
from fathom.core.answer import Answers, Reason
from fathom.core.budget import Budget, Goal
from fathom.core.discover import discover
from fathom.core.enclosure import enclose, enclose_point
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.core.region import Region
from fathom.core.solver import Hints, Solver
from fathom.core.spec import Spec
from fathom.ops.conv import Conv
from fathom.ops.dense import Dense
from fathom.ops.exp import Exp
from fathom.ops.layout import Reshape
from fathom.ops.pick import Gather, Pick
from fathom.ops.power import Square
from fathom.ops.product import Product
from fathom.ops.relu import Abs, LeakyRelu, Relu
from fathom.ops.scale import Scale, Shift
from fathom.ops.sigmoid import Sigmoid, Tanh
from fathom.ops.sum import Sum
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.box import BoxRegion
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from tests.exact import ExactNetwork, Hinge, truths

KINDS = discover(fathom.bounds, Solver)
BOUNDS = {name: kind() for name, kind in KINDS.items()} | {"AlphaCrown, inside too": AlphaCrown(inner_steps=5)}
every = pytest.mark.parametrize("bound", BOUNDS.values(), ids=list(BOUNDS))


class Deployed(Program):
    """A network as its owner runs it: in float32, one sample at a time."""

    def __init__(self, network: Network) -> None:
        self.network, self.dtype, self.digest = network.freeze(torch.float32), torch.float32, network.freeze(torch.float32).digest
        self.inputs, self.outputs = network.inputs, network.outputs

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([self.network(row) for row in x.split(1)]) if len(x) else self.network(x)


# --- random networks ------------------------------------------------------------------------------------------------------


class Maker:
    """A graph of random weights, of 4 inputs, or two of them."""

    def __init__(self, seed: int, inputs: tuple[tuple[str, tuple[int, ...]], ...] = (("x", (4,)),)) -> None:
        self.g = torch.Generator().manual_seed(seed)
        self.graph = Graph(inputs)
        self.count = 0

    def weights(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.g) * shape[-1] ** -0.5

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def dense(self, x: int, size: int) -> int:
        shape = (size, self.graph.shape(x)[-1])
        return self.graph.add(self.name(), Dense(self.weights(*shape) * 1.5, 0.3 * self.weights(size)), x)

    def add(self, operator: object, *x: int) -> int:
        return self.graph.add(self.name(), operator, *x)  # type: ignore[arg-type]

    def finish(self, x: int) -> Network:
        return self.graph.finish([("y", self.dense(x, 3))])


def dense(m: Maker) -> Network:
    x = m.add(Relu(), m.dense(m.graph.input("x"), 8))
    return m.finish(m.add(Relu(), m.dense(x, 6)))


def leaky(m: Maker) -> Network:
    x = m.add(LeakyRelu(0.1), m.dense(m.graph.input("x"), 8))
    return m.finish(m.add(Abs(), m.dense(x, 6)))


def hinged(m: Maker) -> Network:
    x = m.add(Hinge(0.25), m.dense(m.graph.input("x"), 6))
    return m.finish(m.add(Sum((1, 1)), m.add(Hinge(-0.5), x), x))


def residual(m: Maker) -> Network:
    """Nodes with several readers, a node that two bends read, and one that an operator reads twice."""
    x = m.dense(m.graph.input("x"), 6)
    a, b = m.add(Relu(), x), m.add(LeakyRelu(0.3), x)
    y = m.add(Sum((1, -1, 1, 1)), a, b, x, x)
    z = m.add(Relu(), m.dense(y, 6))
    return m.finish(m.add(Sum((1, 1, -1)), z, y, a))


def convolution(m: Maker) -> Network:
    x = m.add(Reshape((4,), (1, 4)), m.graph.input("x"))
    x = m.add(Relu(), m.add(Conv(m.weights(3, 1, 3), m.weights(3), (4,), (1,), ((1, 1),), (1,)), x))
    x = m.add(Relu(), m.add(Conv(m.weights(2, 3, 2), m.weights(2), (4,), (2,), ((0, 1),), (1,)), x))
    return m.finish(m.add(Reshape((2, 2), (4,)), x))


def smooth(m: Maker) -> Network:
    x = m.add(Sigmoid(), m.dense(m.graph.input("x"), 6))
    return m.finish(m.add(Tanh(), m.dense(x, 6)))


def products(m: Maker) -> Network:
    """A product of one node with itself, of two, and of a gate with what it gates."""
    x = m.dense(m.graph.input("x"), 5)
    square, gate = m.add(Product(), x, x), m.add(Sigmoid(), x)
    return m.finish(m.add(Sum((1, 1, -1)), m.add(Product(), gate, square), x, square))


def softmax(m: Maker) -> Network:
    x = m.add(Relu(), m.dense(m.graph.input("x"), 5))
    return m.finish(rewrite.softmax(m.graph, "softmax", m.dense(x, 4), 0))


def attention(m: Maker) -> Network:
    """Two tokens of two features that look at each other."""
    x = m.graph.input("x")
    query, key, value = (m.add(Reshape((4,), (2, 2)), m.dense(x, 4)) for _ in range(3))
    scores = rewrite.matmul(m.graph, "scores", query, key)
    heeded = rewrite.matmul(m.graph, "heeded", rewrite.softmax(m.graph, "softmax", scores, 1), value)
    return m.finish(m.add(Relu(), m.add(Reshape((2, 2), (4,)), heeded)))


def maxima(m: Maker) -> Network:
    x, y = m.dense(m.graph.input("x"), 5), m.dense(m.graph.input("x"), 5)
    z = rewrite.maximum(m.graph, "max", x, y)
    return m.finish(rewrite.clip(m.graph, "clip", z, torch.tensor(-0.5), torch.tensor(0.75)))


def exponential(m: Maker) -> Network:
    x = m.add(Exp(), m.dense(m.graph.input("x"), 4))
    return m.finish(rewrite.layer_norm(m.graph, "norm", x, [0], epsilon=1e-2))


def several(m: Maker) -> Network:
    """Two inputs of different shapes, two outputs, a constant."""
    x, z = m.graph.input("x"), m.graph.input("z")
    y = m.add(Relu(), m.dense(m.add(Reshape((1, 2), (2,)), z), 3))
    y = m.add(Sum((1, 1)), y, m.dense(x, 3))
    y = m.add(Sum((1, 1)), y, rewrite.constant(m.graph, "constant", m.weights(3)))
    return m.graph.finish([("a", m.add(Relu(), y)), ("b", m.dense(y, 2))])


MAKERS: list[Callable[[Maker], Network]] = [
    dense, leaky, hinged, residual, convolution, smooth, products, softmax, attention, maxima, exponential, several,
]  # fmt: skip
TWO = (("x", (2,)), ("z", (1, 2)))
all_networks = pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)


def made(maker: Callable[[Maker], Network], seed: int = 0) -> Network:
    return maker(Maker(seed, TWO) if maker is several else Maker(seed))


def regions(seed: int, n: int = 3, d: int = 4, radius: float = 0.3) -> list[Region]:
    g = torch.Generator().manual_seed(seed)
    centre = torch.randn(n, d, generator=g).double()
    thin = torch.where(torch.rand(n, d, generator=g) < 0.3, 0.0, radius).double()
    thin[0] = 0  # a point
    return [
        BoxRegion(centre - thin, centre + 1.5 * thin),
        LinfBall.around(centre, radius),
        L2Ball.around(centre, 2 * radius, (centre - radius, centre + 1.0)),
        L1Ball.around(centre, 3 * radius, (centre - radius, centre + 1.0)),
    ]


def rules(seed: int, n: int, outputs: int, inputs: int = 0) -> LinearRules:
    """For every set a spec of its own: clauses of one to three rows, some strict; with `inputs`, rows over x too."""
    g = torch.Generator().manual_seed(seed + 1000)
    rows = torch.randn(n, 4, outputs + inputs, generator=g).double()
    clause = torch.randint(-1, 3, (n, 4), generator=g)
    clause[:, 0] = 0
    strict = torch.rand(n, 4, generator=g) < 0.3
    return LinearRules(Spec.make(rows, torch.randn(n, 4, generator=g), clause, torch.arange(n), strict))


def pose(network: Network, region: Region, seed: int, *, over_inputs: bool = False) -> Problem:
    judge = rules(seed, len(region), network.output_size, network.input_size if over_inputs else 0)
    return Problem.make(Deployed(network), network, region, judge)


def points_of(region: Region, seed: int, count: int = 60) -> Tensor:
    """[n, k, d] points that lie in the sets: samples, corners, and where linear functions are least; none is NaN."""
    g = torch.Generator().manual_seed(seed + 2000)
    n, d = len(region), region.size
    box = region.box()
    corner = torch.where(torch.rand(n, count, d, generator=g) < 0.5, box.lower[:, None], box.upper[:, None])
    least = region.minimise(torch.randn(n, count, d, generator=g).double())[1]
    x = torch.cat([region.sample(count, g), corner, least], 1)
    own = torch.arange(n).repeat_interleave(x.shape[1])
    inside = region.take(own).contains(x.flatten(0, 1)).reshape(n, -1)
    first = region.sample(1, g)
    return torch.where(inside[:, :, None], x, first)


def highest(problem: Problem, x: Tensor) -> Tensor:
    """[n] the least of rigorous upper bounds on the real margins at points x [n, k, d] of the sets."""
    assert problem.network is not None and problem.spec is not None
    own = torch.arange(len(x)).repeat_interleave(x.shape[1])
    inside = problem.region.take(own).contains(x.flatten(0, 1))
    upper = problem.spec.take(own).enclose(enclose_point(problem.network.freeze(torch.float64), x.flatten(0, 1))).upper
    return torch.where(inside, upper, torch.inf).reshape(len(x), -1).amin(1)


def check(problem: Problem, answers: Answers, x: Tensor) -> None:
    assert len(answers) == len(problem) and not answers.lower.isnan().any()
    assert (answers.lower <= highest(problem, x)).all()
    found = answers.found
    assert (problem.deployed.contains(found.x) | ~found.known).all()
    assert problem.network is not None and problem.spec is not None
    known = found.known.nonzero()[:, 0]
    real = problem.spec.take(known).enclose(enclose_point(problem.network.freeze(torch.float64), found.x[known]))
    assert (found.upper[known] >= real.lower).all()
    assert not (answers.proved & answers.broken).any()


# --- never above any input's margin ----------------------------------------------------------------------------------------


@every
@all_networks
@pytest.mark.parametrize("kind", range(4), ids=["box", "linf", "l2", "l1"])
def test_no_input_has_a_smaller_margin(bound: Solver, maker: Callable[[Maker], Network], kind: int) -> None:
    for seed in range(2):
        region = regions(seed)[kind]
        problem = pose(made(maker, seed), region, seed, over_inputs=seed == 1)
        answers = bound.solve(problem, Budget())
        check(problem, answers, points_of(region, seed))
        attacked = Gradient(restarts=1).solve(problem, Budget(passes=60, goal=Goal.VALUE)) if kind == 0 else answers
        assert (answers.lower <= attacked.upper).all()
        assert torch.isfinite(answers.lower).all()


@every
@pytest.mark.parametrize("kind", ["box", "l1"])
@pytest.mark.parametrize("maker", [dense, leaky, hinged, residual], ids=lambda maker: maker.__name__)
def test_no_bound_is_above_the_exact_minimum(bound: Solver, maker: Callable[[Maker], Network], kind: str) -> None:
    for seed in range(3):
        network = maker(Maker(seed, (("x", (2,)),)))
        box, _, _, ball = regions(seed, n=4, d=2, radius=0.4)
        problem = pose(network, box if kind == "box" else ball, seed)
        answers = bound.solve(problem, Budget())
        assert problem.spec is not None
        for i, truth in enumerate(truths(network, problem.region, problem.spec)):
            assert truth.worst is not None and Fraction(answers.lower[i].item()) <= truth.worst


@every
def test_a_linear_network_is_bounded_exactly_but_for_rounding(bound: Solver) -> None:
    m = Maker(0)
    network = m.graph.finish([("y", m.dense(m.dense(m.graph.input("x"), 5), 1))])
    for region in regions(3):
        judge = LinearRules.make([[1.0]], [0.0], sets=3)
        problem = Problem.make(Deployed(network), network, region, judge)
        answers = bound.solve(problem, Budget())
        least = highest(problem, points_of(region, 0, 400))
        if type(bound).__name__ != "Interval":
            matrix = network.freeze(torch.float64).nodes
            a = matrix[3].operator.weight @ matrix[2].operator.weight  # type: ignore[union-attr]
            shift = network.freeze(torch.float64)(torch.zeros(1, 4, dtype=torch.float64))[0]
            exact = region.minimise(a.expand(3, 1, 4))[0][:, 0] + shift
            assert torch.allclose(answers.lower, exact, rtol=1e-12, atol=1e-12)
        assert (answers.lower <= least).all()


def test_optimised_relaxations_are_never_below_the_default_ones() -> None:
    for maker in MAKERS:
        for region in regions(5):
            problem = pose(made(maker, 5), region, 5)
            default, optimised = Crown().solve(problem, Budget()), AlphaCrown(steps=4).solve(problem, Budget())
            assert (optimised.lower >= default.lower).all()


@pytest.mark.parametrize("maker", [dense, attention])
def test_an_optimised_inside_pays(maker: Callable[[Maker], Network]) -> None:
    """Not for every set: with other boxes the last rows start from other relaxations. Over many sets, on balance."""
    gained = 0.0
    for seed in range(4):
        for region in regions(seed)[1:]:
            problem = pose(made(maker, seed), region, seed)
            plain, inside = (AlphaCrown(inner_steps=n).solve(problem, Budget(goal=Goal.VALUE)).lower for n in (0, 10))
            gained += (inside - plain).sum().item()
    assert gained > 0.1


@every
@all_networks
def test_sets_are_bounded_alike_alone_and_in_company(bound: Solver, maker: Callable[[Maker], Network]) -> None:
    region = regions(7, n=5)[0]
    problem = pose(made(maker, 7), region, 7)
    whole = bound.solve(problem, Budget())
    index = torch.tensor([3, 0, 3, 1])
    others = [(bound.solve(problem.take(index), Budget()), index)]
    others += [(bound.solve(problem.take(torch.tensor([i])), Budget()), torch.tensor([i])) for i in range(5)]
    others += [(bound.solve(problem, Budget(memory=1)), torch.arange(5))]  # one set, one row at a time
    for part, at in others:
        # An optimiser goes on for whoever is still open: in company proofs may become better still.
        same = torch.isclose(part.lower, whole.lower[at], rtol=1e-9, atol=1e-9)
        assert (same | (isinstance(bound, AlphaCrown) & (part.lower > 0) & (whole.lower[at] > 0))).all()


@every
def test_budgets_and_hints(bound: Solver) -> None:
    problem = pose(made(dense, 2), regions(2)[0], 2)
    spent = bound.solve(problem, Budget(seconds=0.0))
    assert (spent.lower == -torch.inf).all() and spent.why(1) is Reason.TIME
    stopped = Budget()
    stopped.stop.set()
    assert bound.solve(problem, stopped).why(1) is Reason.INTERRUPTED
    whole = bound.solve(problem, Budget())
    known = replace(whole, lower=torch.tensor([1.0, -torch.inf, 1.0], dtype=torch.float64))
    again = bound.solve(problem, Budget(), Hints(answers=known))
    assert (again.lower[torch.tensor([0, 2])] == -torch.inf).all() or bool(whole.broken[1])
    assert len(bound.solve(problem.take(torch.zeros(0, dtype=torch.int64)), Budget())) == 0
    seen: list[Answers] = []
    bound.solve(problem, Budget(memory=1), observe=seen.append)
    assert len(seen) == 3 and all((a.lower <= b.lower).all() for a, b in itertools.pairwise(seen))


@every
def test_no_clause_no_catastrophe(bound: Solver) -> None:
    network, region = made(dense), regions(0)[0]
    nothing = LinearRules.make(torch.zeros(0, 3), torch.zeros(0), clause=[], sets=3)
    answers = bound.solve(Problem.make(Deployed(network), network, region, nothing), Budget())
    assert answers.proved.all() and not answers.broken.any()


# --- inside the network ---------------------------------------------------------------------------------------------------


@all_networks
@pytest.mark.parametrize("kind", range(4), ids=["box", "linf", "l2", "l1"])
def test_every_node_lies_in_its_box(maker: Callable[[Maker], Network], kind: int) -> None:
    network = made(maker, 3).freeze(torch.float64)
    region = regions(3)[kind]
    x = points_of(region, 3)
    boxes, reach = tighten(network, region)
    loose = enclose(network, region.box())
    for i in range(len(region)):
        at = enclose(network, type(boxes[0])(x[i], x[i]))
        for node in range(len(network.nodes)):
            low, high = at[node].lower, at[node].upper
            assert (boxes[node].lower[i] <= high).all() and (boxes[node].upper[i] >= low).all()
            assert (reach.value[node][i] >= torch.minimum(low.abs(), high.abs())).all()
            assert (boxes[node].lower[i] >= loose[node].lower[i] - 1e-9).all()


def test_copies_are_bounded_where_there_are_fewest_of_them() -> None:
    graph = Graph([("x", (4,))])
    source = graph.add("dense", Dense(torch.eye(4)), graph.input("x"))
    shaped = graph.add("shaped", Reshape((4,), (2, 2)), source)
    left = graph.add("left", Gather(0, torch.tensor([0, 1, 0, 1]), 2), shaped)
    gate = graph.add("gate", Sigmoid(), left)
    pair = graph.add("pair", Product(), left, gate)
    few = graph.add("few", Pick((4, 2), torch.tensor([1, 2, 7])), pair)
    ends = graph.add("squared", Square(), few), graph.add("folded", Relu(), shaped)
    network = graph.finish([("y", ends[0]), ("z", ends[1])])
    assert bends(network) == {source: [None, 0.0], few: [None]}


@all_networks
def test_parts_inherit_what_is_known_of_the_whole(maker: Callable[[Maker], Network]) -> None:
    """Boxes of sub-regions, given those of the whole, and its rounding account."""
    network = made(maker, 4).freeze(torch.float64)
    region = regions(4)[0]
    boxes, reach = tighten(network, region)
    box = region.box()
    owner = torch.tensor([0, 1, 1, 2, 2])
    share = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)).double().sort(dim=0).values
    ends = box.lower[owner] + share * (box.upper - box.lower)[owner]
    part = region.restrict(owner, ends[0], ends[1])
    known = {i: b.take(owner) for i, b in enumerate(boxes)}
    inner, same = tighten(network, part, known, reach.take(owner))
    assert all(v is w for v, w in zip(same.value, reach.take(owner).value, strict=True)) or len(same.value) == len(reach.value)
    problem = pose(made(maker, 4), region, 4)
    assert problem.spec is not None
    margins = bound_margins(network, part, problem.spec.take(owner), inner, reach.take(owner))
    x = points_of(part, 4)
    here = problem.take(owner)
    here = replace(here, region=part)
    assert (margins.margin <= highest(here, x)).all()
    for i in range(5):
        at = enclose(network, type(boxes[0])(x[i], x[i]))
        for node in range(len(network.nodes)):
            assert (inner[node].lower[i] <= at[node].upper).all() and (inner[node].upper[i] >= at[node].lower).all()


@pytest.mark.parametrize("maker", [dense, leaky, hinged, residual, convolution, maxima], ids=lambda maker: maker.__name__)
def test_any_multipliers_and_choices_are_sound_on_their_branch(maker: Callable[[Maker], Network]) -> None:
    """Splits of random phases, priced at random: the bound holds at every input of the branch, and may fail elsewhere."""
    network = made(maker, 6).freeze(torch.float64)
    region = regions(6, radius=1.0)[0].take(torch.tensor([1, 2]))
    boxes, reach = tighten(network, region)
    g = torch.Generator().manual_seed(6)
    x = points_of(region, 6, 200)
    values = [network.values(x[i]) for i in range(2)]
    rows = torch.randn(2, 3, network.output_size, generator=g).double()
    held = 0
    for _ in range(30):
        splits, choices, cut, on = {}, {}, list(boxes), torch.ones(2, x.shape[1], dtype=torch.bool)
        for i, node in enumerate(network.nodes):
            kink = None if node.operator is None else getattr(node.operator, "kink", None)
            if kink is None:
                continue
            j = node.inputs[0]
            sign = torch.randint(-1, 2, (2, *node.shape), generator=g) * (torch.rand(2, *node.shape, generator=g) < 0.3)
            size = 10 ** (4 * torch.rand(2, *node.shape, generator=g) - 2)
            splits[i] = Split(sign.double(), size.double())
            choices[i] = torch.rand(2, 3, *node.shape, generator=g).double()
            for s in range(2):
                on[s] &= (sign[s] * (values[s][j] - kink) >= 0).flatten(1).all(1)
            lower = torch.where(sign > 0, cut[j].lower.clamp(min=kink), cut[j].lower)
            upper = torch.where(sign < 0, cut[j].upper.clamp(max=kink), cut[j].upper)
            cut[j] = type(cut[j])(torch.minimum(lower, upper), torch.maximum(lower, upper))
        bound = backward(network, cut, reach, len(network.nodes) - 1, rows, choices, splits)
        for s in range(2):
            y = values[s][-1][on[s]]
            line = x[s][on[s]] @ bound.a[s].T + bound.constant[s]
            exact = y @ rows[s].T
            assert (line <= exact + 1e-9 * (1 + exact.abs() + (x[s][on[s]].abs() @ bound.a[s].abs().T))).all()
            held += len(y)
    assert held > 100


# --- rounding -------------------------------------------------------------------------------------------------------------


def wild(seed: int, span: float, depth: int = 3) -> Network:
    """Weights of sizes 10^-span to 10^span, sums that cancel, nodes read by linear and bent operators alike."""
    g = torch.Generator().manual_seed(seed)

    def number(*shape: int) -> Tensor:
        size = 10 ** ((2 * torch.rand(*shape, generator=g) - 1) * span)
        return size * (torch.randint(0, 2, shape, generator=g) * 2 - 1)

    graph = Graph([("x", (3,))])
    x = graph.add("in", Dense(number(4, 3), number(4)), graph.input("x"))
    for k in range(depth):
        bent = graph.add(f"bend{k}", (Relu(), LeakyRelu(0.1), Abs())[k % 3], x)
        near = graph.add(f"near{k}", Sum((1, -1, 1)), bent, x, bent)
        moved = graph.add(f"moved{k}", Shift(number(4)), near)
        back = graph.add(f"back{k}", Sum((1, -1)), moved, near)  # leaves the shift, and its rounding
        wide = graph.add(f"scaled{k}", Scale(number(4)), back)
        x = graph.add(f"dense{k}", Dense(number(4, 4), number(4)), graph.add(f"joined{k}", Sum((1, 1, -1)), wide, x, near))
    return graph.finish([("y", graph.add("out", Dense(number(2, 4)), x))])


@every
@pytest.mark.parametrize("span", [0.5, 3.0, 8.0, 15.0])
def test_rounding_is_accounted_for_at_points(bound: Solver, span: float) -> None:
    """On a box of one point all that is left is rounding: the bound must be at most the exact margin, and near it."""
    for seed in range(6):
        network = wild(seed, span)
        g = torch.Generator().manual_seed(seed)
        size = 10 ** ((2 * torch.rand(8, 3, generator=g) - 1) * span / 2)
        x = (size * torch.randn(8, 3, generator=g)).double()
        x[0] = 0
        problem = Problem.make(Deployed(network), network, BoxRegion(x, x), LinearRules(rules(seed, 8, 2).spec))
        answers = bound.solve(problem, Budget())
        assert problem.spec is not None
        for i, truth in enumerate(truths_at(network, x, problem.spec)):
            assert answers.lower[i] > -torch.inf and Fraction(answers.lower[i].item()) <= truth
            if span < 1 and isinstance(bound, Crown | AlphaCrown):
                assert truth - Fraction(answers.lower[i].item()) <= Fraction(1, 10**10) * (1 + abs(truth))


def truths_at(network: Network, x: Tensor, spec: Spec) -> list[Fraction]:
    from tests.exact import Clauses

    exact = ExactNetwork(network)
    margins = [Clauses.of(spec, i).margin(exact(x[i].tolist())) for i in range(len(x))]
    assert all(m is not None for m in margins)
    return [m for m in margins if m is not None]


@pytest.mark.parametrize("span", [0.5, 8.0, 20.0])
def test_a_linear_bound_holds_as_stored(span: float) -> None:
    """The bound's own coefficients and constant, taken as exact numbers, against the exact network at the ends of boxes."""
    for seed in range(5):
        network = wild(seed + 50, span)
        frozen, exact = network.freeze(torch.float64), ExactNetwork(network)
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 3, generator=g).double()
        region = BoxRegion(x - 0.5, x + 0.5)
        boxes, reach = tighten(frozen, region)
        rows = torch.tensor([[[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]], dtype=torch.float64)
        bound: LinearBound = backward(frozen, boxes, reach, len(frozen.nodes) - 1, rows)
        for point in [x[0], *points_of(region, seed, 5)[0]]:
            y = exact(point.tolist())
            for r in range(3):
                value = sum(Fraction(a) * v for a, v in zip(rows[0, r].tolist(), y, strict=True))
                line = sum(Fraction(a) * Fraction(p) for a, p in zip(bound.a[0, r].tolist(), point.tolist(), strict=True))
                assert line + Fraction(bound.constant[0, r].item()) <= value


@every
def test_shifts_that_cancel_leave_their_rounding(bound: Solver) -> None:
    """Regression: the running constant of a deep network was charged for its end alone, and small shifts beside a large one
    that cancels were lost unpaid: by 2 million."""
    graph = Graph([("x", (1,))])
    large = rewrite.constant(graph, "large", torch.tensor([-1e20]))
    x = graph.input("x")
    for k in range(300):
        x = graph.add(f"shift{k}", Shift(torch.tensor([-8000.0])), x)
    y = graph.add("back", Shift(torch.tensor([1e20])), graph.add("sum", Sum((1, 1)), x, large))
    network = graph.finish([("y", y)])
    zero = torch.zeros(1, 1, dtype=torch.float64)
    problem = Problem.make(Deployed(network), network, BoxRegion(zero, zero), LinearRules.make([[1.0]], [0.0]))
    assert bound.solve(problem, Budget()).lower <= -2.4e6


def test_products_that_cancel_leave_their_rounding() -> None:
    """Regression: a bend's coefficient was charged after it had cancelled against another reader's, or against a multiplier."""
    one = torch.ones(1, 1, dtype=torch.float64)
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        w, slope = -torch.rand((), generator=g).double().item(), torch.rand((), generator=g).double().item() / 3
        graph = Graph([("x", (1,))])
        big = graph.add("big", Scale(torch.tensor(2.0**60)), graph.input("x"))
        network = graph.finish([("bent", graph.add("bent", LeakyRelu(slope), big)), ("big", big)])
        x = -torch.rand(1, 1, generator=g).double() - 0.5
        region, z = BoxRegion(x, x), Fraction(x.item()) * 2**60
        boxes, reach = tighten(network, region)
        price = {3: Split(-one, abs(w * slope) * one)}
        for second, splits in ((-(w * slope), None), (0.0, price)):
            rows = torch.tensor([[[w, second]]], dtype=torch.float64)
            bound = backward(network, boxes, reach, len(network.nodes) - 1, rows, None, splits)
            paid = Fraction(w * slope) * z  # to the other reader, or to the multiplier
            assert Fraction(bound.minimise(region)[0].item()) <= Fraction(w) * Fraction(slope) * z - paid


def test_boxes_inside_hold_the_exact_ends() -> None:
    """Rows of the weights, started from unrounded, still pay for the shift that is added in the end."""
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        weight, shift = torch.randn(30, 3, generator=g), torch.randn(30, generator=g)
        graph = Graph([("x", (3,))])
        network = graph.finish([("y", graph.add("y", Sigmoid(), graph.add("z", Dense(weight, shift), graph.input("x"))))])
        radius = 1e-9 * torch.rand(1, 3, generator=g).double()
        boxes, _ = tighten(network.freeze(torch.float64), BoxRegion(-radius, radius))
        z = network.index("z")
        for row, b, low, high in zip(
            weight.tolist(), shift.tolist(), boxes[z].lower[0].tolist(), boxes[z].upper[0].tolist(), strict=True
        ):
            far = sum(abs(Fraction(w)) * Fraction(r) for w, r in zip(row, radius[0].tolist(), strict=True))
            assert Fraction(low) <= Fraction(b) - far and Fraction(b) + far <= Fraction(high)


@every
def test_offsets_that_were_rounded_are_taken_at_their_worst(bound: Solver) -> None:
    network, region = made(dense), regions(0)[0]
    for k in range(2):
        spec = rules(k, 3, 3).spec
        blurred = replace(spec, blur=torch.rand(spec.offsets.shape, generator=torch.Generator().manual_seed(k)).double())
        worse = replace(spec, offsets=spec.offsets - blurred.blur)
        lower = bound.solve(Problem.make(Deployed(network), network, region, LinearRules(blurred)), Budget()).lower
        least = highest(Problem.make(Deployed(network), network, region, LinearRules(worse)), points_of(region, 0))
        assert (lower <= least).all()


@every
def test_two_ways_to_one_product_differ_by_rounding(bound: Solver) -> None:
    """y = 0, whatever x, as the difference of the same factors in different order."""
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        factors = [torch.tensor(f) for f in torch.randn(5, generator=g).tolist()]
        graph = Graph([("x", (1,))])
        ends = []
        for side in (0, 1):
            x = graph.input("x")
            for k in torch.randperm(5, generator=g).tolist():
                x = graph.add(f"{side}/{k}", Scale(factors[k]), x)
            ends.append(x)
        network = graph.finish([("y", graph.add("y", Sum((1, -1)), *ends))])
        x = torch.randn(4, 1, generator=g).double()
        problem = Problem.make(Deployed(network), network, BoxRegion(x, x), LinearRules.make([[1.0]], [0.0], sets=4))
        answers = bound.solve(problem, Budget())
        assert (answers.lower <= 0).all() and (answers.lower > -1e-13).all()


@every
@pytest.mark.parametrize("order", list(itertools.permutations([1.0, 2.0**-60, -1.0])))
def test_paths_that_cancel_leave_their_rounding(bound: Solver, order: tuple[float, ...]) -> None:
    """One value that is three outputs: nothing but the sum of their coefficients is rounded."""
    graph = Graph([("x", (1,))])
    x = graph.input("x")
    network = graph.finish([("a", x), ("b", x), ("c", x)])
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem.make(Deployed(network), network, BoxRegion(-one, -one), LinearRules.make([list(order)], [0.0]))
    assert bound.solve(problem, Budget()).lower <= -(2.0**-60)


@every
def test_underflow_is_accounted_for(bound: Solver) -> None:
    """Regression: coefficients that underflow on the way back count for nothing, however large the values they stand for."""
    for sign in (1.0, -1.0):
        graph = Graph([("x", (1,))])
        x = graph.input("x")
        for k in range(8):
            x = graph.add(f"large{k}", Scale(torch.tensor([1e38])), x)
        for k in range(9):
            x = graph.add(f"small{k}", Scale(torch.tensor([1e-38])), x)
        for k in range(2):
            x = graph.add(f"more{k}", Scale(torch.tensor([1e-38])), x)
        network = graph.finish([("y", graph.add("turned", Scale(torch.tensor([sign])), x))])
        one = torch.ones(1, 1, dtype=torch.float64)
        problem = Problem.make(Deployed(network), network, BoxRegion(-one, one), LinearRules.make([[1.0]], [0.0]))
        answers = bound.solve(problem, Budget())
        (y,) = ExactNetwork(network)([-sign])
        assert answers.lower == -torch.inf or Fraction(answers.lower[0].item()) <= y < 0


@every
@pytest.mark.parametrize("factor", [1e30, 1e38])
def test_overflow_proves_nothing(bound: Solver, factor: float) -> None:
    """Regression: a row known only to be at least -inf was taken for an absent clause, and its set for proved."""
    graph = Graph([("x", (1,))])
    x = graph.input("x")
    for k in range(12):
        x = graph.add(f"bend{k}", Relu(), graph.add(f"dense{k}", Dense(torch.full((1, 1), factor)), x))
    network = graph.finish([("y", x)])
    one = torch.ones(2, 1, dtype=torch.float64)
    judge = LinearRules.make([[-1.0], [1.0]], [0.0, 5.0], clause=[0, 0], sets=2)
    for rows in (judge, LinearRules.make([[-1.0]], [0.0], sets=2)):
        answers = bound.solve(Problem.make(Deployed(network), network, BoxRegion(-one, one), rows), Budget())
        assert not answers.lower.isnan().any()
        assert not answers.proved.any() or rows is judge


# --- training through bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", [dense, leaky, residual, convolution, smooth, products, maxima], ids=lambda m: m.__name__)
def test_margins_are_differentiable_in_live_weights_and_still_rigorous(maker: Callable[[Maker], Network]) -> None:
    network = made(maker, 9)
    live = network.map(lambda t: nn.Parameter(t.double()) if t.is_floating_point() else t)
    parameters: list[Tensor] = []
    live.map(lambda t: (parameters.append(t), t)[1])
    region = regions(9)[1]
    problem = pose(network, region, 9)
    problem = replace(problem, network=live)
    margin = crown(problem, live).margin
    frozen = crown(problem, live.freeze(torch.float64)).margin
    assert torch.equal(margin, frozen) and (frozen <= highest(problem, points_of(region, 9))).all()
    weight = max((p for p in parameters if p.requires_grad), key=lambda p: p.numel())
    (slope,) = torch.autograd.grad(margin.sum(), weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    ends = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight.add_(step * direction)
        ends.append(crown(problem, live.freeze(torch.float64)).margin.sum())
        with torch.no_grad():
            weight.sub_(step * direction)
    numeric = (ends[0] - ends[1]) / 2e-6
    assert torch.allclose((slope * direction).sum(), numeric, rtol=1e-3, atol=1e-4)


def test_reach_serves_subsets() -> None:
    network = made(residual, 1).freeze(torch.float64)
    boxes, reach = tighten(network, regions(1)[0])
    again = Reach.of(network, boxes)
    for mine, other in zip(reach.value, again.value, strict=True):
        assert torch.allclose(mine, other)
    for mine, other in zip(reach.load, again.load, strict=True):
        assert (mine is None) == (other is None) and (mine is None or torch.allclose(mine, other))  # type: ignore[arg-type]


@pytest.mark.parametrize("span", [0.5, 8.0, 30.0])
def test_planes_of_products_hold_as_stored(span: float) -> None:
    """The line through products of numbers of very different size, and of points, against rational arithmetic at corners."""
    graph = Graph([("x", (6,))])
    ends = [graph.add(f"part{k}", Pick((6,), torch.arange(3) + 3 * k), graph.input("x")) for k in range(2)]
    network = graph.finish([("y", graph.add("product", Product(), *ends))]).freeze(torch.float64)
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        size = (10 ** ((2 * torch.rand(3, 6, generator=g) - 1) * span / 2)).double()
        lower = torch.randn(3, 6, generator=g).double() * size
        width = torch.rand(3, 6, generator=g).double() * size * (torch.rand(3, 6, generator=g) < 0.7)
        region = BoxRegion(lower, lower + width)
        boxes, reach = tighten(network, region)
        rows = torch.randn(3, 4, 3, generator=g).double()
        bound = backward(network, boxes, reach, len(network.nodes) - 1, rows)
        for i, corners in itertools.product(range(3), itertools.product((0, 1), repeat=6)):
            x = [Fraction(v) for v in torch.where(torch.tensor(corners) == 1, region.upper[i], region.lower[i]).tolist()]
            for r in range(4):
                value = sum(Fraction(rows[i, r, k].item()) * x[k] * x[k + 3] for k in range(3))
                line = sum(Fraction(a) * v for a, v in zip(bound.a[i, r].tolist(), x, strict=True))
                assert line + Fraction(bound.constant[i, r].item()) <= value
