"""The words themselves: networks that are joined and cut, specs, brackets, the door to witnesses, fingerprints, rounding."""

from __future__ import annotations

import enum
import itertools
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fathom.core
from fathom.capture.graph import Graph
from fathom.core.answer import REASONS, Answers, Claim, ContradictionError, Cost, Reason, Verdict, Witnesses
from fathom.core.box import Box
from fathom.core.budget import Budget, Goal
from fathom.core.confirm import confirm
from fathom.core.discover import discover, entry
from fathom.core.errors import FathomError
from fathom.core.network import Network, Node, Port, fork, identity
from fathom.core.operator import Linear, Operator
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.core.region import Region
from fathom.core.rounding import dot_down, down, gamma, tiny, up
from fathom.core.solver import Hints, Solver
from fathom.core.spec import Spec
from fathom.core.value import fingerprint, flat, floats_to, join, map_tensors, take
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.ops.scale import Scale
from fathom.ops.sum import Sum
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.regions.box import BoxRegion
from tests.exact import Clauses

INF, NAN = float("inf"), float("nan")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(d: int, m: int, seed: int = 0) -> Network:
    """d inputs, m outputs, and a connection round a layer."""
    g = generator(seed)
    graph = Graph([("x", (d,))])
    x = graph.add("first", Dense(torch.randn(4, d, generator=g), torch.randn(4, generator=g)), graph.input("x"))
    y = graph.add("bent", Relu(), x)
    z = graph.add("sum", Sum((1, -1)), y, x)
    return graph.finish([("y", graph.add("last", Dense(torch.randn(m, 4, generator=g)), z))])


class Deployed(Program):
    """A network in float32, or anything else that is said to be deployed."""

    def __init__(self, network: Network, run: Callable[[Tensor], Tensor] | None = None) -> None:
        self.network, self.run = network.freeze(torch.float32), run
        self.inputs, self.outputs, self.dtype = network.inputs, network.outputs, torch.float32
        self.digest = self.network.digest

    def __call__(self, x: Tensor) -> Tensor:
        return self.network(x) if self.run is None else self.run(x)


def boxes(n: int, d: int) -> BoxRegion:
    return BoxRegion(-torch.ones(n, d, dtype=torch.float64), torch.ones(n, d, dtype=torch.float64))


def line(factor: float, shift: float) -> Network:
    """y = factor x + shift."""
    graph = Graph([("x", (1,))])
    return graph.finish([("y", graph.add("y", Scale(torch.tensor([factor]), torch.tensor([shift])), graph.input("x")))])


# --- networks -------------------------------------------------------------------------------------------------------------


def test_then_is_composition() -> None:
    first, second = network(3, 2, 1), network(2, 5, 2)
    both, x = first.then(second), torch.randn(7, 3, generator=generator())
    assert torch.equal(both(x), second(first(x)))
    assert both.inputs == first.inputs and both.outputs == second.outputs and len(both.values(x)) == len(both.nodes)
    assert torch.equal(first.then(identity(first.outputs))(x), first(x))
    with pytest.raises(FathomError, match=r"expected a network of 2 inputs .* got one of 3"):
        first.then(first)


def test_fork_shares_the_input() -> None:
    one, two, x = network(3, 2, 1), network(3, 4, 2), torch.randn(5, 3, generator=generator())
    both = fork(one, two, identity(one.inputs))
    assert torch.equal(both(x), torch.cat([one(x), two(x), x], 1))
    assert [(p.name, p.start, p.size) for p in both.outputs] == [("0/y", 0, 2), ("1/y", 2, 4), ("2/x", 6, 3)]
    assert len({n.name for n in both.nodes}) == len(both.nodes)
    with pytest.raises(FathomError, match=r"one input size to fork, got \[3, 2\]"):
        fork(one, network(2, 2))


@pytest.mark.parametrize("names", [["first"], ["bent", "first"], ["sum"], ["last"], ["x"], ["(input)"], ["sum", "first"]])
def test_cut_gives_two_networks_that_make_one(names: list[str]) -> None:
    whole, x = network(3, 2), torch.randn(6, 3, generator=generator())
    front, back = whole.cut(names)
    assert torch.equal(front.then(back)(x), whole(x))
    assert back.outputs == whole.outputs and front.inputs == whole.inputs
    assert torch.equal(back(front(x)), whole(x))


def test_cut_names_the_way_round_and_the_missing_node() -> None:
    with pytest.raises(FathomError, match=r"do not separate input from output: .*last <- sum <- first .*goes round"):
        network(3, 2).cut(["bent"])
    with pytest.raises(FathomError, match=r"expected the name of a node, got 'nowhere'; there are .*bent"):
        network(3, 2).cut(["nowhere"])


def test_only_a_frozen_network_has_a_digest_and_it_tells_networks_apart() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    graph = Graph([("x", (3,))])
    live = graph.finish([("y", graph.add("y", Dense(weight), graph.input("x")))])
    with pytest.raises(FathomError, match="expected a frozen network"):
        _ = live.digest
    frozen = live.freeze(torch.float32)
    before = frozen.digest
    assert torch.autograd.grad(live.to(torch.float64)(torch.ones(1, 3, dtype=torch.float64)).sum(), weight)[0].eq(1).all()
    with torch.no_grad():
        weight.add_(1)
    assert frozen.digest == before and not frozen(torch.ones(1, 3)).requires_grad and frozen(torch.ones(1, 3)).sum() == 6
    assert live.freeze(torch.float32).digest != before == live.freeze(torch.float32).map(lambda w: w - 1).digest
    assert len({network(3, 2, s).digest for s in range(5)} | {network(3, 2, 0).freeze(torch.float64).digest}) == 6
    renamed = replace(frozen.nodes[-1], name="other")
    assert Network((*frozen.nodes[:-1], renamed), frozen.inputs, frozen.outputs).digest != before


# --- specs ----------------------------------------------------------------------------------------------------------------


def random_spec(g: torch.Generator, n: int, m: int = 2) -> Spec:
    rows = torch.randn(3, 5, m, generator=g).double()
    clause = torch.randint(-1, 3, (3, 5), generator=g)
    clause[2] = -1  # one spec without clauses
    strict = torch.rand(3, 5, generator=g) < 0.4
    return Spec.make(rows, torch.randn(3, 5, generator=g), clause, torch.arange(n) % 3, strict)


def test_margins_are_the_least_clause_of_greatest_rows() -> None:
    g = generator()
    spec, y = random_spec(g, 30), torch.randn(30, 2, generator=g).double()
    margin, box = spec.margin(y), spec.enclose(Box(y, y))
    for i in range(30):
        exact = Clauses.of(spec, i).margin([Fraction(v) for v in y[i].tolist()])
        if exact is None:
            assert margin[i] == box.lower[i] == INF and not spec.has()[i].any()
        else:
            assert abs(Fraction(margin[i].item()) - exact) < Fraction(1, 10**12)
            assert Fraction(box.lower[i].item()) <= exact <= Fraction(box.upper[i].item())
            assert box.upper[i] - box.lower[i] < 1e-12
    index = torch.tensor([4, 4, 0])
    assert torch.equal(spec.take(index).margin(y[index]), margin[index])
    alone = torch.cat([spec.alone(i).margin(y[i : i + 1]) if spec.has()[i].any() else torch.tensor([INF]) for i in range(30)])
    assert torch.allclose(alone, margin)
    both = Spec.stack([spec, Spec.make(torch.ones(1, 7, 2), torch.ones(1, 7), torch.arange(7)[None] // 3, torch.zeros(2))])
    assert torch.allclose(both.take(torch.arange(30)).margin(y), margin) and len(both) == 32
    with pytest.raises(ValueError, match=r"one size, got sizes \[1, 2\]"):
        Spec.stack([spec, Spec.make(torch.ones(1, 1, 1), torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1))])


def test_boxes_of_outputs_hold_every_margin() -> None:
    g = generator(1)
    spec = random_spec(g, 12)
    low = torch.randn(12, 2, generator=g).double()
    y = Box(low, low + torch.rand(12, 2, generator=g).double())
    box = spec.enclose(y)
    for _ in range(200):
        inside = y.lower + torch.rand(12, 2, generator=g).double() * y.width
        margin = spec.margin(torch.minimum(inside, y.upper))
        assert (box.lower <= margin).all() and (margin <= box.upper).all()


@pytest.mark.parametrize("rows", [[-INF, -INF, -INF], [NAN, NAN, NAN], [-INF, 3.0, NAN], [-INF, NAN, -INF]])
def test_a_clause_of_which_nothing_is_known_is_no_absent_one(rows: list[float]) -> None:
    """Regression: a row known only to be at least -inf read as padding, its clause as absent, and the margin as +inf."""
    spec = Spec.make(torch.ones(1, 3, 1), torch.zeros(1, 3), torch.tensor([[0, 1, -1]]), torch.zeros(1))
    assert not bool(spec.combine(torch.tensor([rows], dtype=torch.float64)) > 0)
    huge = torch.tensor([[INF]], dtype=torch.float64)
    box = spec.enclose(Box(-huge, huge))
    assert box.lower == -INF and box.upper == INF


def test_padding_reads_nothing_and_hides_nothing() -> None:
    """Regression: padding wrote over the first clause wherever clauses were looked up by scattering."""
    spec = Spec.make(torch.ones(1, 4, 1), torch.tensor([[-1.0, 5.0, 0.0, 0.0]]), torch.tensor([[0, 2, -1, -1]]), torch.zeros(1))
    assert spec.has().tolist() == [[True, False, True]]
    y = torch.tensor([[-3.0]], dtype=torch.float64)
    assert spec.clauses(spec.values(y)).tolist() == [[-4.0, INF, 2.0]] and spec.margin(y) == -4
    assert len(Spec.make(torch.zeros(2, 0, 1), torch.zeros(2, 0), torch.zeros(2, 0), torch.arange(2)).margin(y.expand(2, 1))) == 2


def test_strict_rows_do_not_hold_at_zero() -> None:
    spec = Spec.make(torch.ones(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(3), torch.ones(1, 1))
    margin = spec.margin(torch.tensor([[0.0], [-0.0], [-5e-324]], dtype=torch.float64))
    assert (margin[:2] > 0).all() and (margin[:2] < 1e-300).all() and margin[2] < 0
    assert (spec.enclose(Box(torch.zeros(3, 1).double(), torch.zeros(3, 1).double())).upper > 0).all()


def test_certain_margins_have_the_sign_of_the_exact_value() -> None:
    g = generator(2)
    for _ in range(60):
        m = 6
        rows = (torch.randn(1, 1, m, generator=g) * 10 ** torch.randint(-8, 8, (m,), generator=g)).double()
        y = (torch.randn(4, m, generator=g) * 10 ** torch.randint(-8, 8, (m,), generator=g)).double()
        exact = [sum(Fraction(a) * Fraction(v) for a, v in zip(rows[0, 0].tolist(), p, strict=True)) for p in y.tolist()]
        offsets = torch.tensor([[-float(e)] for e in exact])[:, :]  # the margin is what rounding leaves
        offsets = torch.tensor([[-float(e)] for e in exact], dtype=torch.float64)
        spec = Spec.make(rows.expand(4, 1, m), offsets, torch.zeros(4, 1), torch.arange(4))
        margin = spec.certain_margin(y)
        for i, e in enumerate(exact):
            true = e + Fraction(offsets[i].item())
            assert (margin[i] > 0) == (true > 0) and (margin[i] < 0) == (true < 0)
        blurred = replace(spec, blur=torch.full((4, 1), 1e-300, dtype=torch.float64))
        assert (blurred.certain_margin(y)[torch.tensor([e + Fraction(o.item()) == 0 for e, o in zip(exact, offsets)])] > 0).all()


@pytest.mark.parametrize(
    ("y", "fails"),
    [((NAN, 0.0), False), ((INF, 1.0), False), ((-INF, 1.0), True), ((1e308, -1e308), False), ((5e-324, 0.0), False)],
)
def test_outputs_at_the_ends_of_the_number_range_are_judged(y: tuple[float, float], *, fails: bool) -> None:
    """Regression: an output that overflowed made the exact evaluation raise OverflowError."""
    spec = Spec.make(torch.tensor([[[2.0, 1e-300]]], dtype=torch.float64), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))
    assert bool(spec.certain_margin(torch.tensor([y], dtype=torch.float64)) <= 0) is fails


# --- brackets -------------------------------------------------------------------------------------------------------------


def witnesses(deployed: list[float], lower: list[float], upper: list[float], known: list[bool] | None = None) -> Witnesses:
    n = len(deployed)
    x = torch.zeros(n, 1)
    if known is not None:
        x[~torch.tensor(known)] = NAN
    numbers = (torch.tensor(v, dtype=torch.float64) for v in (deployed, lower, upper))
    return Witnesses(x, torch.zeros(n, 1, dtype=torch.float64), *numbers, torch.ones(n, dtype=torch.bool))


def answers(lower: list[float], found: Witnesses | None = None) -> Answers:
    n = len(lower)
    none = Answers.none(n, 1, 1, torch.float32)
    return replace(none, lower=torch.tensor(lower, dtype=torch.float64), found=found or none.found)


def test_what_makes_a_witness() -> None:
    #             fails both,  real only, deployed only, neither, unjudged
    found = witnesses([-1, 1, -1, 1, -1], [-2, -2, -1, 0, -INF], [-1, -1, 1, 2, INF])
    assert found.broken.tolist() == [True, False, False, False, True]
    assert found.rounding_failure.tolist() == [False, True, True, False, False]
    assert found.upper.tolist() == [-1, -1, 1, 2, -1]
    nothing = Witnesses.none(2, 3, 1, torch.float32)
    assert not nothing.known.any() and not nothing.broken.any() and (nothing.upper == INF).all()
    strange = witnesses([NAN, NAN], [-INF, 0.0], [INF, 1.0])
    assert not strange.broken.any()


def test_brackets_only_tighten() -> None:
    g = generator(3)
    for _ in range(50):
        lower = -torch.rand(8, generator=g).double()
        parts = []
        for _ in range(4):
            at = torch.randn(8, generator=g).double().abs() + 0.1
            mine = torch.where(torch.rand(8, generator=g) < 0.3, -torch.inf, lower - torch.rand(8, generator=g))
            known = (torch.rand(8, generator=g) < 0.7).tolist()
            upper = torch.where(torch.tensor(known), at, torch.inf)
            parts.append(
                answers(mine.tolist(), witnesses(upper.tolist(), (upper - 0.1).clamp(max=1e9).tolist(), upper.tolist(), known))
            )
        whole = parts[0]
        for part in parts[1:]:
            tighter = whole.tighten(part)
            assert torch.equal(tighter.lower, torch.maximum(whole.lower, part.lower))
            assert torch.equal(tighter.upper, torch.minimum(whole.upper, part.upper))
            assert torch.equal(tighter.tighten(part).lower, tighter.lower)
            whole = tighter
        orders = [p[0].tighten(p[1]).tighten(p[2]).upper for p in itertools.permutations(parts[:3])]
        assert all(torch.equal(order, orders[0]) for order in orders)


def test_contradictions_are_never_hidden() -> None:
    proof = answers([0.5, 0.5])
    point = answers([-INF, -INF], witnesses([1.0, -1.0], [0.4, -1.1], [0.6, -1.0]))
    with pytest.raises(ContradictionError, match=r"set 1: a proof says that the margin is at least 0\.5, .* at most -1\.0"):
        proof.tighten(point)
    with pytest.raises(ContradictionError):
        point.tighten(proof)
    with pytest.raises(ContradictionError):
        answers([-INF] * 3, None).put(torch.tensor([2, 0]), proof).put(torch.tensor([0, 2]), point)
    assert proof.take(torch.tensor([0])).tighten(point.take(torch.tensor([0]))).verdict(0) is Verdict.PROVED


def test_nan_is_no_bound() -> None:
    assert answers([1.0, NAN]).tighten(answers([NAN, -2.0])).lower.tolist() == [1.0, -2.0]


def test_a_proof_makes_an_unjudged_failure_one_of_rounding() -> None:
    """Regression: a set whose real margin at the witness is not judged was proved and broken at once."""
    both = answers([0.1]).tighten(answers([-INF], witnesses([-1e-7], [-INF], [INF])))
    assert both.verdict(0) is Verdict.PROVED and both.claim(0) is Claim.CERTIFICATE
    assert both.proved.all() and not both.broken.any() and both.rounding_failure.all()
    alone = answers([-INF], witnesses([-1e-7], [-INF], [INF]))
    assert alone.verdict(0) is Verdict.BROKEN and not alone.rounding_failure.any()


def test_a_witness_is_never_given_up_for_a_point_that_is_none() -> None:
    broken = witnesses([-1e-9], [-2e-9], [-1e-9])
    for other in (witnesses([1.0], [-5.0], [-5.0]), witnesses([0.0], [0.0], [1e-300]), Witnesses.none(1, 1, 1, torch.float32)):
        assert broken.best(other).broken.all() and other.best(broken).broken.all()
    assert broken.best(witnesses([-1.0], [-1.0], [-1.0])).upper == -1


def test_put_reaches_only_its_sets() -> None:
    whole = answers([0.0, -1.0, -2.0]).because(Reason.TIME)
    part = replace(answers([5.0, 1.0]).because(Reason.PASSES), cost=Cost.zero(2).spend(2.0, forward=3))
    after = whole.put(torch.tensor([2, 0]), part)
    assert after.lower.tolist() == [1.0, -1.0, 5.0] and after.cost.forward.tolist() == [3, 0, 3]
    assert [REASONS[k] for k in after.reason.tolist()] == [Reason.PASSES, Reason.TIME, Reason.PASSES]
    assert after.why(0) is Reason.DECIDED and after.why(1) is Reason.TIME and after.cost.seconds.sum() == 2
    assert torch.equal(whole.lower, torch.tensor([0.0, -1.0, -2.0]).double())  # unchanged


# --- the door to witnesses ------------------------------------------------------------------------------------------------


def rule(sets: int = 1) -> LinearRules:
    """The margin is y."""
    return LinearRules.make([[1.0]], [0.0], sets=sets)


def test_no_witness_lies_outside_the_deployed_region() -> None:
    net = line(1.0, -5.0)  # fails everywhere in [-1, 1]
    problem = Problem.make(Deployed(net), net, boxes(6, 1), rule(6))
    x = torch.tensor([1.0, 1.0 + 1e-9, 1.0000002, NAN, INF, -1.0], dtype=torch.float64)[:, None]
    found = confirm(problem, x)
    # The second is rounded to the program's type, and so back inside.
    assert found.known.tolist() == [True, True, False, False, False, True] and torch.equal(found.broken, found.known)
    assert found.x.dtype == torch.float32 and found.x[1] == 1 and (found.deployed[~found.known] == INF).all()
    g = generator(4)
    many = torch.randn(4000, 1, generator=g).double() * 1.5
    found = confirm(problem.take(torch.zeros(4000, dtype=torch.int64)), many)
    assert problem.deployed.take(torch.zeros(4000, dtype=torch.int64)).contains(found.x)[found.known].all()
    assert torch.equal(found.known, many.float().abs()[:, 0] <= 1)


def test_witnesses_lie_in_the_rounded_region_and_say_whether_in_the_written_one() -> None:
    net = line(1.0, -5.0)
    tenth = torch.tensor([[0.1]], dtype=torch.float64)
    problem = Problem.make(Deployed(net), net, BoxRegion(tenth, tenth), rule())
    found = confirm(problem, tenth)
    assert found.broken.all() and not found.in_written.any() and found.x.double().item() != 0.1
    box = problem.region.box()
    assert box.lower <= tenth and box.upper >= found.x.double()


def test_rounding_failures_are_told_apart() -> None:
    """Where program and real network disagree, neither says broken."""
    net = line(1.0, 1e-9)
    for deployed, fails in ((lambda x: x * 0 - 1.0, True), (lambda x: x * 0 + 1.0, False)):
        for shift, real_fails in ((1e-9, False), (-1e-9, True)):
            net = line(0.0, shift)
            found = confirm(Problem.make(Deployed(net, deployed), net, boxes(1, 1), rule()), torch.zeros(1, 1))
            assert found.known.all() and (found.deployed <= 0).item() is fails
            assert found.broken.item() is (fails and real_fails) and found.rounding_failure.item() is (fails != real_fails)


def test_an_output_that_is_exactly_zero_fails_where_zero_does() -> None:
    """A rectifier that is off has an exact value, which the allowance for underflow must not blur."""
    graph = Graph([("x", (1,))])
    x = graph.add("off", Dense(torch.full((1, 1), 0.3), torch.tensor([-5.0])), graph.input("x"))
    net = graph.finish([("y", graph.add("y", Relu(), x))])
    at = torch.linspace(-1, 1, 5)[:, None]
    closed, strict = (LinearRules.make([[1.0]], [0.0], strict=[s], sets=5) for s in (False, True))
    found = confirm(Problem.make(Deployed(net), net, boxes(5, 1), closed), at)
    assert found.broken.all() and (found.upper == 0).all() and (found.real_lower <= 0).all()
    assert not confirm(Problem.make(Deployed(net), net, boxes(5, 1), strict), at).broken.any()


@pytest.mark.parametrize("value", [NAN, INF])
def test_outputs_that_are_no_numbers_are_no_failures(value: float) -> None:
    net = line(0.0, -1.0)
    found = confirm(Problem.make(Deployed(net, lambda x: x * 0 + value), net, boxes(1, 1), rule()), torch.zeros(1, 1))
    assert not found.broken.any()


def test_an_enclosure_that_overflows_is_a_judgement() -> None:
    """Regression: it looked like the lack of a spec, and the deployed program alone was believed."""
    graph = Graph([("x", (1,))])
    x = graph.input("x")
    for k in range(12):
        x = graph.add(f"scale{k}", Scale(torch.tensor([1e38])), x)
    net = graph.finish([("y", x)])
    problem = Problem.make(Deployed(net, lambda x: x * 0 - 1), net, boxes(1, 1), rule())
    found = confirm(problem, torch.ones(1, 1))
    assert found.known.all() and found.judged_real.all() and found.upper == INF
    assert not found.broken.any() and found.rounding_failure.all()


@dataclass(frozen=True, eq=False)
class Rough(Region):
    """A box that only over-approximates what was asked for."""

    inner: BoxRegion

    @property
    def exact(self) -> bool:
        return False

    def box(self) -> Box:
        return self.inner.box()

    def contains(self, x: Tensor) -> Tensor:
        return self.inner.contains(x)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.inner.sample(count, generator)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.minimise(a)

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Region:
        return Rough(self.inner.restrict(owner, lower, upper))


def test_what_over_approximates_makes_no_witness() -> None:
    net = line(1.0, -5.0)
    problem = Problem.make(Deployed(net), net, Rough(boxes(1, 1)), rule())
    assert not confirm(problem, torch.zeros(1, 1)).broken.any()
    loose = replace(Problem.make(Deployed(net), net, boxes(1, 1), rule()), exact=False)
    found = confirm(loose, torch.zeros(1, 1))
    assert not found.judged_real.any() and found.broken.all()  # by the overseer itself, on the deployed program


# --- problems -------------------------------------------------------------------------------------------------------------


def test_equal_digests_equal_questions() -> None:
    one, two = network(2, 3, 0), network(2, 3, 1)
    label = torch.tensor([0, 1])

    def digests(net: Network, region: Region, overseer: object, owner: Tensor | None = None) -> list[str]:
        return Problem.make(Deployed(net), net, region, overseer, owner).digests()  # type: ignore[arg-type]

    judge = Misclassification(label, 3)
    base = digests(one, boxes(2, 2), judge)
    assert base == digests(network(2, 3, 0), boxes(2, 2), Misclassification(label, 3, names=("a", "b", "c")))
    wider = BoxRegion(boxes(2, 2).lower, torch.nextafter(boxes(2, 2).upper, torch.full((2, 2), 9.0).double()))
    others = [
        digests(two, boxes(2, 2), judge),
        digests(one, wider, judge),
        digests(one, boxes(2, 2), Misclassification(torch.tensor([1, 2]), 3)),
        digests(one, boxes(2, 2), LinearRules.make([[1.0, 0.0, 0.0]], [0.0], sets=2)),
        digests(one, boxes(2, 2), LinearRules.make([[1.0, 0.0, 0.0]], [0.0], strict=[True], sets=2)),
        digests(one, boxes(2, 2), LinearRules.make([[1.0, 0.0, 0.0]], [-0.1], sets=2)),
        digests(one, boxes(2, 2), LinearRules.make([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0.0, 0.0], clause=[0, 0], sets=2)),
        digests(one, boxes(2, 2), LinearRules.make([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0.0, 0.0], clause=[0, 1], sets=2)),
        digests(one, boxes(2, 2), PythonOverseer(lambda x, y: y[:, 0], name="first")),
        digests(one, boxes(2, 2), judge, torch.tensor([0, 0])),  # one case of two sets
    ]
    first = [base[0], *(d[0] for d in others)]
    assert len(set(first)) == len(first) and base[0] != base[1]
    # The company of other sets does not matter, nor their order.
    assert digests(one, boxes(1, 2), Misclassification(label[1:], 3)) == base[1:]


def test_problems_refuse_what_does_not_fit() -> None:
    with pytest.raises(FathomError, match="expected a region of 2 inputs for this model, got one of 3"):
        Problem.make(Deployed(network(2, 3)), network(2, 3), boxes(1, 3), Misclassification(torch.tensor([0]), 3))
    problem = Problem.make(Deployed(network(2, 1)), network(2, 1), boxes(3, 2), PythonOverseer(lambda x, y: y[:, 0]))
    assert not problem.provable and "Python function" in problem.obstacle and problem.cases == 3
    part = Problem.make(problem.program, problem.network, boxes(4, 2), rule(4), torch.tensor([0, 1, 1, 0])).take(
        torch.tensor([3, 2])
    )
    assert part.owner.tolist() == [0, 1] and len(part) == 2 and part.sets_of(1).tolist() == [1]


# --- budgets --------------------------------------------------------------------------------------------------------------


def test_budgets_and_their_parts() -> None:
    whole = Budget(seconds=10, passes=100, memory=5, goal=Goal.VALUE)
    part = whole.part(seconds=20, passes=3)
    assert (part.seconds, part.passes, part.memory, part.goal) == (10, 3, 5, Goal.VALUE) and part.stop is whole.stop
    assert Budget().part(seconds=2).seconds == 2 and Budget(seconds=1).part().seconds == 1
    clock = part.start()
    assert clock.over() is None and 9 < clock.remaining <= 10
    clock.passes = 3
    assert clock.over() is Reason.PASSES
    assert Budget(seconds=0).start().over() is Reason.TIME and Budget(passes=0).start().over() is Reason.PASSES
    whole.stop.set()
    assert clock.over() is Reason.INTERRUPTED and Budget().start().remaining == INF
    assert Budget() == Budget(stop=threading.Event()) and "stop" not in repr(Budget())


def test_hints_are_indexed_with_their_sets() -> None:
    hints = Hints(torch.arange(6.0).reshape(3, 2, 1), answers([1.0, 2.0, 3.0]))
    part = hints.take(torch.tensor([2]))
    assert part.points is not None and part.points.flatten().tolist() == [4, 5]
    assert part.answers is not None and part.answers.lower.tolist() == [3.0] and Hints().take(torch.tensor([0])).points is None


# --- values ---------------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True, eq=False)
class Leaf:
    t: Tensor
    name: str = ""


@dataclass(frozen=True, eq=False)
class Tree:
    leaf: Leaf
    pair: tuple[Tensor, Leaf]
    table: dict[int, Tensor]
    size: int = 3


def tree(n: int, start: float = 0.0) -> Tree:
    t = torch.arange(n) + start
    return Tree(Leaf(t, "a"), (t[:, None] * torch.ones(2), Leaf(t.long())), {1: t > 1, 7: t.double()})


def test_batched_values_are_indexed_and_joined_throughout() -> None:
    value, index = tree(4), torch.tensor([3, 0, 0])
    part = take(value, index)
    assert part.leaf.t.tolist() == [3, 0, 0] and part.pair[0].shape == (3, 2) and part.pair[1].t.tolist() == [3, 0, 0]
    assert part.table[1].tolist() == [True, False, False] and part.size == 3 and part.leaf.name == "a"
    both = join(part, tree(2, 10.0))
    assert both.leaf.t.tolist() == [3, 0, 0, 10, 11] and both.table[7].tolist() == [3, 0, 0, 10, 11]
    assert fingerprint(take(both, torch.arange(3)).leaf) == fingerprint(part.leaf)
    cast = map_tensors(value, floats_to(torch.float64))
    assert cast.leaf.t.dtype == torch.float64 and cast.pair[1].t.dtype == torch.int64 and cast.table[1].dtype == torch.bool
    assert flat(torch.ones(2, 3, 4), 1).shape == (2, 12) and flat(torch.ones(2), 1).shape == (2, 1)
    assert flat(torch.ones(0, 3, 2), 2).shape == (0, 3, 2) and flat(torch.ones(2, 0), 2).shape == (2, 0, 1)


def test_fingerprints_tell_different_values_apart() -> None:
    t = torch.tensor([1.0, 2.0])
    values: list[object] = [
        t, t.double(), t[None], t[:, None], t.int(), t.half(), t.bfloat16(), torch.tensor([2.0, 1.0]), torch.tensor([1.0]),
        torch.zeros(0), torch.zeros(0, 2), torch.zeros(2, 0), torch.zeros(1), -torch.zeros(1), torch.zeros(()),
        torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.uint8), torch.stack([t, t]), (t, t), (t,),
        0, 0.0, -0.0, False, None, "", b"", "0", "None", 1, True, 1.0, "ab", b"ab", NAN, INF, -INF, "tensor torch.float32 (2,)",
        (), ((),), (1, 2), (1, (2,)), ((1,), 2), ("a", "b"), ("ab",), ("", "ab"), Colour.RED, Colour.BLUE,
        Leaf(t), Leaf(t, "x"), Leaf(t.double()), (Leaf(t), "x"),
    ]  # fmt: skip
    prints = [fingerprint(value) for value in values]
    assert len(set(prints)) == len(prints)
    assert prints == [fingerprint(value) for value in values]
    assert fingerprint(t) == fingerprint(torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, 0]) == fingerprint(nn.Parameter(t))
    for bad in (lambda: 0, object(), {1: 2}, Leaf):
        with pytest.raises(TypeError, match="expected a tensor, number, string, tuple or dataclass"):
            fingerprint(bad)


# --- discovery ------------------------------------------------------------------------------------------------------------


def room(folder: Path, name: str, **files: str) -> object:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    for file, text in files.items():
        (folder / name / f"{file}.py").write_text("from fathom.core.operator import Linear, Operator\n" + text)
    sys.path.insert(0, str(folder))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(folder))


CONCRETE = """
class {name}(Operator):
    def __call__(self, *x): return x[0]
"""


def test_rooms_are_found_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    found = room(
        tmp_path,
        "room_one",
        b=CONCRETE.format(name="Zebra") + "class Half(Operator):\n    pass\n" + CONCRETE.format(name="_Hidden"),
        a=CONCRETE.format(name="Apple") + "from room_one.b import Zebra\n",
    )
    assert list(discover(found, Operator)) == ["Apple", "Zebra"]  # type: ignore[arg-type]
    assert discover(found, Linear) == {}  # type: ignore[arg-type]
    assert entry(found, Operator, "Apple").__name__ == "Apple"  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="room_one has no operator 'Pear'; it has Apple, Zebra"):
        entry(found, Operator, "Pear")  # type: ignore[arg-type]
    twice = room(tmp_path, "room_two", a=CONCRETE.format(name="Same"), b=CONCRETE.format(name="Same"))
    with pytest.raises(ValueError, match=r"Same is defined twice: in room_two\.a and in room_two\.b"):
        discover(twice, Operator)  # type: ignore[arg-type]
    assert discover(fathom.core, Solver) == {}


# --- rounding -------------------------------------------------------------------------------------------------------------

EDGES = [0.0, -0.0, 5e-324, -5e-324, 2.3e-308, 1e-200, -1e-200, 1.0, -1.0, 1 + 2**-52, 1e16, -3e200, 1.7e308, 0.1, -1 / 3]


def test_directed_numbers_enclose_one_operation() -> None:
    a, b = (torch.tensor(v, dtype=torch.float64) for v in zip(*itertools.product(EDGES, EDGES), strict=True))
    operations = [(a + b, lambda p, q: p + q), (a - b, lambda p, q: p - q), (a * b, lambda p, q: p * q)]
    for result, exact in operations:
        low, high = down(result), up(result)
        for i in torch.isfinite(result).nonzero()[:, 0].tolist():
            true = exact(Fraction(a[i].item()), Fraction(b[i].item()))
            assert low[i] == -INF or Fraction(low[i].item()) < true or true == Fraction(low[i].item())
            assert high[i] == INF or Fraction(high[i].item()) >= true
    quotient = 1 / a[a != 0]
    for q, v in zip(quotient.tolist(), a[a != 0].tolist(), strict=True):
        if abs(q) != INF:
            near = torch.tensor(q, dtype=torch.float64)
            assert Fraction(down(near).item()) <= 1 / Fraction(v) <= Fraction(up(near).item())


def test_rigorous_dot_products() -> None:
    g = generator(5)
    for scale in (0, 5, 100, 160):
        a = torch.randn(50, 40, generator=g).double() * 10.0 ** torch.randint(-scale, scale + 1, (50, 40), generator=g).double()
        x = torch.randn(40, generator=g).double() * 10.0 ** torch.randint(-scale, scale + 1, (40,), generator=g).double()
        a[:, 20:] = -a[:, :20]
        x[20:] = x[:20] * (1 + 2**-50)
        low = dot_down(a, x)
        for row, value in zip(a.tolist(), low.tolist(), strict=True):
            true = sum(Fraction(p) * Fraction(q) for p, q in zip(row, x.tolist(), strict=True))
            assert value == -INF or value != value or Fraction(value) <= true


def test_the_account_refuses_more_than_it_covers() -> None:
    assert gamma(10, torch.float64) == 10 * 2.0**-52 and tiny(torch.float64) == 2.0**-900 and 0 < tiny(torch.float32) < 1e-26
    with pytest.raises(ValueError, match="more than the rounding account covers"):
        gamma(1 << 20, torch.float32)


def test_middle_and_radius_hold_the_box() -> None:
    ends = torch.tensor(list(itertools.combinations(sorted(set(EDGES)), 2)) + [(e, e) for e in EDGES], dtype=torch.float64)
    box = Box(ends[:, 0], ends[:, 1])
    assert (box.lower <= box.middle).all() and (box.middle <= box.upper).all()
    for low, high, middle, radius in torch.stack([box.lower, box.upper, box.middle, box.radius], 1).tolist():
        exact = max(Fraction(high) - Fraction(middle), Fraction(middle) - Fraction(low))
        assert radius == INF or Fraction(radius) >= exact
        assert radius == 0 or low < high
    one = Box(torch.zeros(2, 3), torch.ones(2, 3))
    assert one.contains(torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.1, 0.5]])).tolist() == [True, False]
    assert not one.contains(torch.tensor([[NAN, 0.5, 0.5]]).expand(2, 3)).any()
    apart = one.intersect(Box(torch.full((2, 3), 2.0), torch.full((2, 3), 3.0)))
    assert apart.empty().all() and not one.empty().any() and one.hull(apart).contains(torch.ones(2, 3)).all()


def test_ports_and_nodes_are_what_they_say() -> None:
    port = Port("x", (2, 3), 4)
    assert (port.size, port.stop) == (6, 10) and Node("n", None, (), (3,)).operator is None
