"""The discrete attack beside exhaustive enumeration: choices, whole numbers, tokens, few changes, and what ties them together."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fathom.attacks.discrete import Discrete
from fathom.attacks.gradient import Gradient
from fathom.attacks.values import Values
from fathom.audits.planting import fresh
from fathom.audits.portfolio import Portfolio
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.solver import Solver
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.product import Product
from fathom.regions.tabular import Tabular
from tests.contracts.test_attacks import Deployed, check, linear_network, random_network

to_the_end = Budget(goal=Goal.VALUE)
N = 12  # sets of each problem
SHARE = 0.95  # of the sets in which the least margin has to be found
GROUPS = ((0, 1, 2, 3), (4, 5, 6))


def rows(seed: int) -> Tensor:
    """[N, 10]: a choice of four, a choice of three, and whole numbers from 0 to 4."""
    g = torch.Generator().manual_seed(seed)
    first = torch.nn.functional.one_hot(torch.randint(4, (N,), generator=g), 4)
    second = torch.nn.functional.one_hot(torch.randint(3, (N,), generator=g), 3)
    return torch.cat([first, second, torch.randint(5, (N, 3), generator=g)], 1).float()


TIES = {
    "free": {},
    "two units": {"budget": 2.0, "unit": [2.0] * 7 + [1.0] * 3},
    "immutable": {"immutable": (8,)},
    "a relation": {"relations": ([[0.0] * 7 + [1.0, 1.0, -1.0]], [8.0])},
}


def every_row() -> Tensor:
    """All 4 * 3 * 5 ** 3 of them."""
    choices = [
        torch.eye(4).tolist(),
        torch.eye(3).tolist(),
        [[k] for k in range(5)],
        [[k] for k in range(5)],
        [[k] for k in range(5)],
    ]
    return torch.tensor([list(itertools.chain(*pick)) for pick in itertools.product(*choices)])


def least(problem: Problem, points: Tensor) -> Tensor:
    """[n] the least margins over those of `points` [k, d] that lie in each set, as the program computes them."""
    best = []
    for i in torch.arange(len(problem)):
        one = i.expand(len(points))
        inside = problem.deployed.take(one).contains(points)
        margins = problem.overseer.take(one).margin(points.double(), problem.program(points).double())
        best.append(margins[inside].amin())
    return torch.stack(best)


def judged(region: Region, centre: Tensor, seed: int, classes: int = 3, *, scale: float = 1.0) -> Problem:
    network = random_network(region.size, classes, seed, scale=scale)
    return Problem.make(Deployed(network), network, region, Misclassification(network(centre).argmax(1), classes))


@pytest.mark.parametrize("tie", TIES)
def test_the_least_row_of_a_table_is_found(tie: str) -> None:
    hits = total = 0
    for seed in range(2):
        centre = rows(seed)
        region = Tabular.around(centre, (0, 4), step=[0] * 7 + [1] * 3, groups=GROUPS, **TIES[tie])  # type: ignore[arg-type]
        problem = judged(region, centre, seed)
        answers = Discrete().solve(problem, to_the_end)
        check(problem, answers)
        best = least(problem, every_row())
        assert (answers.upper >= best - 1e-4).all()
        hits, total = hits + int((answers.upper <= best + 1e-4).sum()), total + N
    assert hits >= SHARE * total


@pytest.mark.parametrize("classes", [2, 3])
def test_the_worst_tokens_are_found(classes: int) -> None:
    """Five places, each with one of six embeddings in three numbers."""
    g = torch.Generator().manual_seed(1)
    table = torch.randn(N, 6, 3, generator=g)  # a set has embeddings of its own
    region = Product((FiniteSet.of(table),) * 5)
    said = table[torch.arange(N)[:, None], torch.randint(6, (N, 5), generator=g)].flatten(1)
    problem = judged(region, said, 4, classes)
    answers = Discrete().solve(problem, to_the_end)
    check(problem, answers)
    place = torch.cartesian_prod(*[torch.arange(6)] * 5)
    best = [
        problem.spec.take(torch.full((6**5,), i)).margin(problem.network(table[i][place].flatten(1))).amin() for i in range(N)
    ]
    assert (answers.upper <= torch.stack(best) + 1e-4).double().mean() >= SHARE


@pytest.mark.parametrize("pixels", [False, True])
def test_the_worst_few_changes_are_found(pixels: bool) -> None:  # noqa: FBT001
    """On a linear network every change goes to an end; the pairs of places are enumerated."""
    g = torch.Generator().manual_seed(2)
    network = linear_network(torch.randn(3, 12, generator=g), torch.randn(3, generator=g))
    centre = 10 * torch.rand(N, 12, generator=g) - 5
    groups = torch.arange(6).repeat(2) if pixels else None
    region = L0Ball.around(centre, 2, (-5, 5), groups=groups)
    problem = Problem.make(Deployed(network), network, region, Misclassification(network(centre).argmax(1), 3))
    answers = Discrete().solve(problem, to_the_end)
    check(problem, answers)
    dense = network.nodes[1].operator
    weights = problem.spec.rows[problem.spec.of].double() @ dense.weight.double()  # [N, R, d]
    shift = problem.spec.rows[problem.spec.of].double() @ dense.shift.double()
    best = (problem.deployed.minimise(weights)[0] + shift).amin(1)
    assert (answers.upper <= best + 1e-3).double().mean() >= SHARE


def test_choices_are_where_it_beats_descent() -> None:
    """At equal passes, on rows of which only choices may change."""
    ours = theirs = 0.0
    for seed in range(2):
        centre = rows(seed)
        region = Tabular.around(centre, (0, 4), step=[0] * 7 + [1] * 3, groups=GROUPS, **TIES["two units"])  # type: ignore[arg-type]
        problem, budget = judged(region, centre, seed), Budget(passes=300, goal=Goal.VALUE)
        best = least(problem, every_row())
        ours += float((Discrete().solve(problem, budget).upper - best).clamp(min=0).sum())
        theirs += float((Gradient().solve(problem, budget).upper - best).clamp(min=0).sum())
    assert ours < theirs


@pytest.mark.parametrize("scale", [1000.0, 2.0**-20])
def test_scale_of_the_outputs_changes_nothing(scale: float) -> None:
    centre = rows(5)
    region = Tabular.around(centre, (0, 4), step=[0] * 7 + [1] * 3, groups=GROUPS)
    plain, scaled = (Discrete().solve(judged(region, centre, 5, scale=s), to_the_end) for s in (1.0, scale))
    assert torch.equal(plain.broken, scaled.broken)
    assert torch.allclose(plain.upper * scale, scaled.upper, rtol=0.02, atol=1e-3 * scale)


def test_without_gradients_chance_ranks_the_moves() -> None:
    """No network: values alone; better than the search by blocks, at equal passes."""
    ours = theirs = 0
    for seed in range(2):
        centre = rows(seed)
        region = Tabular.around(centre, (0, 4), step=[0] * 7 + [1] * 3, groups=GROUPS)
        seeing = judged(region, centre, seed)
        blind = Problem.make(seeing.program, None, region, seeing.overseer)
        best, budget = least(blind, every_row()), Budget(passes=600, goal=Goal.VALUE)
        answers = Discrete().solve(blind, budget)
        check(blind, answers)
        assert (answers.cost.backward == 0).all()
        ours += int((answers.upper <= best + 1e-4).sum())
        theirs += int((Values().solve(blind, budget).upper <= best + 1e-4).sum())
    assert ours >= max(theirs, 0.8 * 2 * N)


def test_a_regression_in_a_wide_range_with_immutable_features() -> None:
    """y in [-5, 5]^6 may be anything; features 0 and 3 may not move; the overseer is no table of classes."""
    network = random_network(6, 1, 7)
    g = torch.Generator().manual_seed(0)
    centre = (10 * torch.rand(N, 6, generator=g) - 5).round()
    region = Tabular.around(centre, (-5, 5), step=[1.0] * 6, immutable=(0, 3), most=[2.0] * 6)
    problem = Problem.make(Deployed(network), network, region, LinearRules.make([[1.0]], [0.0], sets=N))
    answers = Discrete().solve(problem, to_the_end)
    check(problem, answers)
    assert (answers.found.x[:, [0, 3]] == centre[:, [0, 3]]).all()
    assert (answers.found.x == answers.found.x.round()).all()
    grid = torch.tensor(list(itertools.product(range(-2, 3), repeat=4))).float()
    moves = torch.zeros(len(grid), 6).index_copy(1, torch.tensor([1, 2, 4, 5]), grid)
    best = network((centre[:, None] + moves).clamp(-5, 5).flatten(0, 1)).reshape(N, -1).amin(1)
    assert (answers.upper <= best + 1e-4).double().mean() >= SHARE


def test_a_margin_outside_automatic_differentiation_needs_none() -> None:
    network = random_network(10, 3)
    overseer = PythonOverseer(lambda x, y: y.detach().amax(1) + 2)
    problem = Problem.make(Deployed(network), network, Tabular.around(rows(1), (0, 4), groups=GROUPS), overseer)
    answers = Discrete().solve(problem, Budget(passes=100, goal=Goal.VALUE))
    check(problem, answers)
    assert answers.found.known.all() and (answers.cost.backward == 0).all()


def test_an_audit_that_stays_silent_about_choices_plants_failures_for_this_search_too() -> None:
    """Regression: what follows an audit's silence knew two attacks by name."""
    centre, seed = rows(0), 0
    region = Tabular.around(centre, (0, 4), step=[0] * 7 + [1] * 3, groups=GROUPS, budget=1.0, unit=[2.0] * 7 + [1.0] * 3)
    problem = judged(region, centre, seed)
    searched: list[tuple[Solver, int]] = []
    answers = Portfolio(searches=searched, bounds=(), case_seconds=0.0, longer=None).solve(problem, Budget(seconds=20))
    assert any(isinstance(solver, Discrete) for solver, _ in searched) and not answers.decided.all()
    assert [type(fresh(solver, 7)) for solver, _ in searched] == [type(solver) for solver, _ in searched]
