"""The semidefinite relaxation holds for every input, its moments lead to failures, and what it cannot do is refused."""

from __future__ import annotations

import builtins
from dataclasses import replace

import pytest
import torch

from fathom.bounds.intermediate import tighten
from fathom.core.budget import Budget, Goal
from fathom.core.errors import FathomError
from fathom.core.problem import Problem
from fathom.hunt.moments import Moments
from fathom.hunt.semidefinite import Lifted, relax
from fathom.hunt.semidefinite import Moments as InputMoments
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.ops.sigmoid import Sigmoid
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.prove.branch import BranchAndBound
from fathom.regions.box import BoxRegion
from tests.contracts.test_attacks import Deployed, chain, check, forever, linear_network, random_network, regions

pytest.importorskip("clarabel")
SMALL = Moments(samples=4)


def question(d: int = 3, radius: float = 0.3, seed: int = 0, width: int = 8, kind: int = 0, n: int = 4) -> Problem:
    network = random_network(d, 3, seed, width)
    centre = torch.rand(n, d, generator=torch.Generator().manual_seed(seed))
    return Problem.make(
        Deployed(network), network, regions(centre, radius)[kind], Misclassification(network(centre).argmax(1), 3)
    )


def relaxed(problem: Problem, i: int, most: int = 60) -> tuple[Lifted, list[InputMoments]]:
    """Of the set i, and each of its clauses."""
    one = problem.take(torch.tensor([i]))
    network = one.network.freeze(torch.float64)
    lifted, spec = Lifted.of(network, tighten(network, one.region)[0], most), one.spec
    found = []
    for clause in range(int(spec.clause.max()) + 1):
        mine = spec.clause[spec.of[0]] == clause
        found.append(relax(lifted, spec.rows[spec.of[0]][mine], spec.offsets[spec.of[0]][mine]))
    assert all(moments is not None for moments in found)
    return lifted, found


@pytest.mark.parametrize("seed", range(3))
def test_the_relaxation_is_never_above_the_worst_margin(seed: int) -> None:
    """And not far below: products of bounds make it tighter than intervals of the whole."""
    problem = question(seed=seed)
    worst = BranchAndBound(tolerance=1e-3).solve(problem, Budget(seconds=60, goal=Goal.VALUE))
    for i in range(len(problem)):
        _, found = relaxed(problem, i)
        value = min(moments.value for moments in found)
        assert value <= worst.upper[i] + 1e-5
        assert value >= worst.lower[i] - 2.0


def test_the_lifted_network_is_the_network() -> None:
    """With the values that rectifiers have at an input, its output is that of the network there; inputs that stay fixed stay."""
    problem = question(kind=0)
    network = problem.network.freeze(torch.float64)
    box = problem.region.box()
    fixed = BoxRegion(torch.cat([box.lower[:, :1], box.lower[:, 1:]], 1), torch.cat([box.lower[:, :1], box.upper[:, 1:]], 1))
    for i in range(len(problem)):
        region = fixed.take(torch.tensor([i]))
        lifted = Lifted.of(network, tighten(network, region)[0], 60)
        assert lifted.varying.tolist() == [1, 2]
        t = 2 * torch.rand(20, 2, generator=torch.Generator().manual_seed(i), dtype=torch.float64) - 1
        x, v = lifted.inputs(t), torch.cat([torch.ones(20, 1, dtype=torch.float64), t], 1)
        for rectifier in lifted.rectifiers:
            value = (v[:, : len(rectifier.before)] @ rectifier.before).clamp(min=0) / rectifier.high
            assert rectifier.variable == v.shape[1] - 1 and ((value >= 0) & (value <= 1 + 1e-9)).all()
            v = torch.cat([v, value[:, None]], 1)
        assert torch.allclose(v @ lifted.output, network(x), atol=1e-9)


def test_moments_of_rank_one_are_the_minimiser() -> None:
    """Affine, so that nothing is open: the least margin is at a corner, and the moments are those of that point."""
    network = linear_network(torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([0.3]))
    region = BoxRegion(torch.tensor([[-1.0, 0, 2]]).double(), torch.tensor([[1.0, 3, 4]]).double())
    problem = Problem.make(Deployed(network), network, region, LinearRules.make([[1.0]], [0.0]))
    lifted, (found,) = relaxed(problem, 0)
    assert not lifted.rectifiers and found.value == pytest.approx(-1 - 6 + 1 + 0.3, abs=1e-6)
    assert found.spread.abs().max() < 1e-5
    assert torch.allclose(lifted.inputs(found.mean[None]), torch.tensor([[-1.0, 3, 2]]).double(), atol=1e-4)


def test_moments_of_a_tight_relaxation_are_the_minimiser() -> None:
    """relu(x) + relu(-x) - y / 2 has its least value at (0, 1), inside, where both rectifiers bend."""
    first = Dense(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 0.0, 2.0]))
    network = chain(first, Relu(), Dense(torch.tensor([[1.0, 1.0, -0.5]]), torch.tensor([1.0])), sizes=[2, 3, 3, 1])
    region = BoxRegion(torch.full((1, 2), -1.0).double(), torch.ones(1, 2).double())
    problem = Problem.make(Deployed(network), network, region, LinearRules.make([[1.0]], [0.0]))
    lifted, (found,) = relaxed(problem, 0)
    assert len(lifted.rectifiers) == 2 and found.value == pytest.approx(-0.5, abs=1e-4)
    assert torch.allclose(found.mean, torch.tensor([0.0, 1.0]).double(), atol=1e-2)


@pytest.mark.parametrize("kind", range(5))
def test_points_are_real_and_inside(kind: int) -> None:
    problem = question(kind=kind, radius=0.2)
    for goal in Goal:
        answers = SMALL.solve(problem, Budget(goal=goal))
        check(problem, answers)
        assert answers.points is not None
        known = ~torch.isnan(answers.points).any(2)
        assert known.any() or goal is Goal.DECIDE
        for i, k in known.nonzero().tolist() if kind < 3 else ():
            assert problem.deployed.take(torch.tensor([i])).contains(answers.points[i, k][None]).all()
    again = SMALL.solve(problem, Budget(goal=Goal.VALUE))
    assert torch.equal(again.found.x, answers.found.x), "a seed repeats"


def test_several_clauses_of_several_rows_each_get_moments() -> None:
    network = random_network(3, 4, 2, 8)
    rules = LinearRules.make(
        [[1.0, -1, 0, 0], [0, 0, 1, -1], [0, 1, -1, 0], [1, 0, 0, 0]], [0.1, 0.2, 0.3, 0.1], clause=[0, 0, 1, 2]
    )
    region = BoxRegion(torch.zeros(1, 3).double(), torch.ones(1, 3).double()).rounded(torch.float32)
    problem = Problem.make(Deployed(network), network, region, rules)
    worst = BranchAndBound().solve(problem, Budget(seconds=60, goal=Goal.VALUE))
    _, found = relaxed(problem, 0)
    assert len(found) == 3 and min(moments.value for moments in found) <= worst.upper[0] + 1e-5
    check(problem, SMALL.solve(problem, Budget(goal=Goal.VALUE)))


def test_what_is_decided_or_late_costs_nothing() -> None:
    problem = question()
    late = SMALL.solve(problem, Budget(seconds=0.0))
    assert late.points is not None and torch.isnan(late.points).all()
    none = problem.take(torch.arange(0))
    assert len(SMALL.solve(none, forever)) == 0


def test_it_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = question()
    with pytest.raises(FathomError, match=r"at most 4 variables.*raise `most`"):
        replace(SMALL, most=4).solve(problem, forever)
    smooth = chain(Dense(torch.eye(3), None), Sigmoid(), Dense(-torch.ones(1, 3), torch.tensor([1.0])), sizes=[3, 3, 3, 1])
    region = BoxRegion(torch.zeros(1, 3).double(), torch.ones(1, 3).double())
    with pytest.raises(FathomError, match="got Sigmoid"):
        SMALL.solve(Problem.make(Deployed(smooth), smooth, region, LinearRules.make([[1.0]], [0.0])), forever)
    boxes = tighten(problem.network.freeze(torch.float64), problem.region.take(torch.tensor([0])))[0]
    with pytest.raises(FathomError, match="unbounded"):
        Lifted.of(problem.network, [replace(boxes[0], upper=boxes[0].upper + torch.inf), *boxes[1:]], 60)
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "clarabel":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FathomError, match=r"fathom-verify\[moments\]"):
        SMALL.solve(problem, Budget(goal=Goal.VALUE))
