"""What is known starts what comes next: one step from the centre, failures carried over, minimisers of relaxations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fathom.attacks.gradient import Gradient
from fathom.attacks.reuse import CARRIED, KEPT, attempt, carried, nearest, reuse
from fathom.audits.engine import audit
from fathom.audits.portfolio import Portfolio
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.crown import Crown
from fathom.bounds.interval import Interval
from fathom.capture.torch_module import capture_module
from fathom.core.answer import Answers
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.regions.l0 import L0Ball
from fathom.regions.linf import LinfBall
from fathom.regions.tabular import Tabular
from tests.contracts.test_attacks import Deployed, check, classify, forever, linear_network, random_network, regions

D, RADIUS = 8, 0.3
SIGNS = torch.tensor([1.0, -1.0]).repeat(D // 2)


def steep(rise: float) -> nn.Sequential:
    """Of rows (x, sample): fails within a whisker of the corner sample + RADIUS * SIGNS, and there alone; flat but for the last
    `rise` before it, so that without one no gradient leads there."""
    model = nn.Sequential(nn.Linear(2 * D, 1), nn.ReLU(), nn.Linear(1, 1))
    model[0].weight.data = torch.cat([SIGNS, -SIGNS])[None]
    model[0].bias.data = torch.tensor([0.05 + rise - RADIUS * D])
    model[2].weight.data, model[2].bias.data = torch.tensor([[-1.0]]), torch.tensor([0.04 + rise])
    return model


def spikes(n: int = 6) -> Problem:
    """Sets of inputs that one change alone breaks."""
    captured = capture_module(steep(0.0), (2 * D,), live=False)
    base = torch.rand(n, D, generator=torch.Generator().manual_seed(0))
    region = Tabular.around(torch.cat([base, base], 1), (-5, 5), most=[RADIUS] * D + [0.0] * D)
    return Problem.make(captured.program, captured.network, region, LinearRules.make([[1.0]], [0.0], sets=n))


def corner(problem: Problem) -> Tensor:
    centre = problem.deployed.centres().float()
    return problem.deployed.repair(centre + RADIUS * torch.cat([SIGNS, 0 * SIGNS]))  # type: ignore[attr-defined]


def test_one_failure_breaks_all_sets_that_share_its_change() -> None:
    problem = spikes()
    failing = attempt(problem, corner(problem)[:, None], forever)
    assert failing.broken.all()
    blind = Gradient(restarts=1, steps=3, lone=1, full=0).solve(problem, forever)
    assert blind.broken.sum() < len(problem)
    sets = torch.arange(1, len(problem))
    found = reuse(problem, failing.found.x, torch.tensor([0]), sets, forever)
    check(problem.take(sets), found)
    assert found.broken.all()
    assert (found.cost.forward == 1).all() and (found.cost.backward == 0).all()


@pytest.mark.parametrize("region", range(5))
def test_what_is_carried_over_lies_inside_and_is_judged_by_the_program(region: int) -> None:
    problem = classify(region=region, n=20)
    first = Gradient(restarts=1, full=0).solve(problem, forever)
    broken, sets = first.broken.nonzero()[:, 0], torch.arange(len(problem))
    found = reuse(problem, first.found.x, broken, sets, forever)
    check(problem, found)
    if region == 4:  # it repairs nothing
        assert not found.found.known.any()
        return
    assert found.broken[broken].all(), "each failure carried to its own set"
    assert found.points is not None and found.points.shape == (20, KEPT, 6)
    owner, place = (~torch.isnan(found.points).any(2)).nonzero().T
    assert problem.deployed.take(owner).contains(found.points[owner, place]).all()
    assert torch.equal(found.points[:, 0], found.found.x)


def test_budgets_of_what_is_carried_over_are_kept() -> None:
    problem = classify(n=9)
    ways = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = carried(problem, ways)
    points[2, 3:] = torch.nan
    for passes in (0, 1, 5, 100):
        found = attempt(problem, points, Budget(passes=passes))
        assert found.cost.forward.tolist() == [min(passes, 3 if i == 2 else 12) for i in range(9)]
        check(problem, found)
    assert not attempt(problem, points, Budget(seconds=0.0)).found.known.any()
    assert not attempt(problem, points[:, :0], forever).found.known.any()
    many = torch.arange(9).repeat(20)
    found = reuse(problem.take(many), points[many, 0], torch.arange(180), torch.arange(180), Budget(memory=10_000))
    assert (found.cost.forward == CARRIED).all()


def test_a_stranger_finds_the_case_that_it_belongs_to() -> None:
    """A failure of another model at the same sample, outside this case's smaller set, is brought into it."""
    centre = torch.rand(5, 6, generator=torch.Generator().manual_seed(2))
    network = random_network(6, 5)
    region = LinfBall.around(centre, 0.1, (0, 1))
    problem = Problem.make(Deployed(network), network, region, Misclassification(network(centre).argmax(1), 5))
    far = centre[[3, 1]] + 0.2
    points = nearest(problem, far, 1)[:, 0]
    assert problem.deployed.contains(points).all()
    assert torch.allclose(points[3], (centre[3] + 0.1).clamp(max=1)) and torch.allclose(points[1], (centre[1] + 0.1).clamp(max=1))
    assert nearest(problem, far[:0], 3).shape == (5, 0, 6)
    assert nearest(problem, far, 3).shape == (5, 2, 6)


@pytest.mark.parametrize("bound", [Crown(), AlphaCrown(), Interval()], ids=["Crown", "AlphaCrown", "Interval"])
def test_bounds_hand_on_where_their_relaxations_are_least(bound: Solver) -> None:
    problem = classify(n=8)
    answers = bound.solve(problem, Budget(goal=Goal.VALUE))
    assert answers.points is not None
    some = answers.points[~torch.isnan(answers.points).any(2)]
    owner = (~torch.isnan(answers.points).any(2)).nonzero()[:, 0]
    assert set(owner.tolist()) == set(range(8))
    assert problem.region.take(owner).contains(some).double().mean() > 0.9  # up to rounding
    margins = problem.spec.margin(problem.network(answers.points[:, 0]))
    for k in range(1, answers.points.shape[1]):
        rest = problem.spec.margin(problem.network(answers.points[:, k]))
        assert (margins <= rest + 1e-6).logical_or(rest.isnan()).all(), "the best one first"


def test_a_single_step_breaks_what_is_easy_for_three_passes() -> None:
    """On a linear network the oracle's point is the optimum, in any region."""
    g = torch.Generator().manual_seed(3)
    network = linear_network(torch.randn(2, 30, generator=g), torch.zeros(2))
    centre = torch.rand(20, 30, generator=g)
    for region in [*regions(centre, 0.2)[:4], L0Ball.around(centre, 3, (-5, 5))]:
        problem = Problem.make(Deployed(network), network, region, Misclassification(network(centre).argmax(1), 2))
        answers = Gradient().solve(problem, Budget(passes=3))
        check(problem, answers)
        plain = Gradient().solve(problem, forever)
        assert answers.broken.any() and torch.equal(answers.broken, plain.broken)
        assert (plain.cost.forward + plain.cost.backward)[plain.broken].max() == 3


@dataclass(frozen=True)
class Listening(Solver):
    """Finds nothing, and tells what it was given."""

    given: list[Tensor] = field(default_factory=list)
    restarts: int = 30
    seed: int = 0

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        assert hints.points is not None
        self.given.append(hints.points)
        outputs = sum(port.size for port in problem.program.outputs)
        return Answers.none(len(problem), problem.deployed.size, outputs, problem.program.dtype)


@pytest.mark.parametrize("on", [True, False])
def test_the_longer_attack_starts_from_what_is_known(on: bool) -> None:  # noqa: FBT001
    """From points that others broke with and where relaxations are least; else from its own best alone."""
    problem, listening = classify(n=30, radius=0.1, seed=1), Listening()
    weak = Gradient(restarts=0, lone=0, full=0)
    portfolio = Portfolio(opening=weak, longer=listening, case_seconds=0.0, reuse=on, worsen=False)  # type: ignore[arg-type]
    portfolio.solve(problem, Budget(seconds=30))
    (points,) = listening.given
    assert points.shape[1] == (1 + KEPT if on else 1)
    if on:
        assert not torch.isnan(points).all(2).any(), "bounds alone hand on a point for each"


def test_an_audit_tries_what_broke_another_model(tmp_path: Path) -> None:
    """A failure that the search does not find by itself, found in the casebook under another model."""
    problem, book = spikes(n=3), tmp_path / "cases.db"
    centre, judge = problem.deployed.centres().float(), problem.overseer
    weak = Gradient(restarts=0, lone=0, full=0)

    def broken(model: nn.Module) -> int:
        result = audit(model, problem.written, judge, clean=centre, casebook=book, solver=weak, budget=Budget(seconds=20))
        return int(result.answers.broken.sum())

    assert broken(steep(0.0)) == 0, "nothing is known yet"
    assert broken(steep(10.0)) == 3, "the same failures, at the end of a slope"
    assert broken(steep(0.0)) == 3
