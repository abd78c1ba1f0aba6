"""The learned and the amplified adversary: their points are real, their passes counted, and what they are for is done."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fathom.attacks.gradient import Gradient
from fathom.attacks.learned import Learned, Proposer
from fathom.capture.torch_module import capture_module
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from fathom.core.solver import Hints
from fathom.hunt.amplify import Amplified
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.regions.box import BoxRegion
from fathom.regions.tabular import Tabular
from tests.contracts.test_attacks import Deployed, check, classify, forever, random_network

SMALL = Amplified(levels=2, passes=150, steps=8)


def bumps(d: int = 3, n: int = 6, width: float = 0.05, wide: float = 5.0) -> Problem:
    """Sets [-wide, wide]^d, flat but for one narrow bump that fails, where inputs that may not move say."""
    g = torch.Generator().manual_seed(0)
    place = 2 * wide * (torch.rand(n, d, generator=g) - 0.5)
    near = nn.Linear(2 * d, 2 * d)
    near.weight.data = torch.cat([torch.cat([torch.eye(d), -torch.eye(d)], 1), torch.cat([-torch.eye(d), torch.eye(d)], 1)])
    near.bias.data.zero_()
    hat, last = nn.Linear(2 * d, 1), nn.Linear(1, 1)
    hat.weight.data, hat.bias.data = torch.full((1, 2 * d), -1.0 / (width * 2 * wide)), torch.tensor([1.0])
    last.weight.data, last.bias.data = torch.tensor([[-2.0]]), torch.tensor([1.0])
    captured = capture_module(nn.Sequential(near, nn.ReLU(), hat, nn.ReLU(), last), (2 * d,), live=False)
    centre = torch.cat([torch.zeros(n, d), place], 1)
    region = BoxRegion(
        torch.cat([torch.full((n, d), -wide), place], 1).double(), torch.cat([torch.full((n, d), wide), place], 1).double()
    )
    assert region.contains(centre.double()).all()
    return Problem.make(captured.program, captured.network, region, LinearRules.make([[1.0]], [0.0], sets=n))


@pytest.mark.parametrize("region", range(4))
def test_what_the_amplified_adversary_finds_is_real(region: int) -> None:
    for goal in Goal:
        problem = classify(n=8, region=region)
        answers = SMALL.solve(problem, Budget(goal=goal))
        check(problem, answers)
        plain = SMALL.first.solve(problem, Budget(goal=goal))
        assert (answers.upper <= plain.upper).all() and bool((plain.broken <= answers.broken).all())


@pytest.mark.parametrize("attack", [SMALL, Learned()], ids=["Amplified", "Learned"])
def test_passes_are_kept_and_seeds_repeat(attack: Amplified | Learned) -> None:
    problem = classify(n=5, radius=0.02)
    for passes in (0, 1, 40, 200):
        answers = attack.solve(problem, Budget(passes=passes, goal=Goal.VALUE))
        assert (answers.cost.forward + answers.cost.backward <= passes).all()
    again = attack.solve(problem, Budget(passes=200, goal=Goal.VALUE))
    assert torch.equal(again.found.x, answers.found.x) and torch.equal(again.cost.forward, answers.cost.forward)


@pytest.mark.parametrize("attack", [SMALL, Learned()], ids=["Amplified", "Learned"])
@pytest.mark.parametrize("factor", [1000.0, 2.0**-20])
def test_scale_of_the_outputs_changes_nothing(attack: Amplified | Learned, factor: float) -> None:
    plain, scaled = (attack.solve(classify(n=8, scale=s), Budget(goal=Goal.VALUE)) for s in (1.0, factor))
    assert torch.equal(plain.broken, scaled.broken)
    assert torch.allclose(plain.upper * factor, scaled.upper, rtol=0.05, atol=1e-2 * factor)


def test_bounds_lead_to_failures_that_gradients_do_not_see() -> None:
    """At no more passes than the plain attack gets. Nothing is said to be proved."""
    problem = bumps()
    answers = Amplified(levels=6, passes=1000).solve(problem, forever)
    check(problem, answers)
    most = int((answers.cost.forward + answers.cost.backward).max())
    plain = Gradient(restarts=2000, full=0).solve(problem, Budget(passes=most))
    assert answers.broken.sum() >= 5 and answers.broken.sum() > plain.broken.sum()


@pytest.mark.parametrize("attack", [SMALL, Learned()], ids=["Amplified", "Learned"])
def test_two_classes_and_features_that_may_not_move(attack: Amplified | Learned) -> None:
    network = random_network(6, 2, 3)
    centre = (10 * torch.rand(10, 6, generator=torch.Generator().manual_seed(0)) - 5).round()
    region = Tabular.around(centre, (-5, 5), step=[1.0, 0, 0, 0, 0, 0], immutable=(1, 4), most=[2.0] * 6)
    problem = Problem.make(Deployed(network), network, region, Misclassification(network(centre).argmax(1), 2))
    answers = attack.solve(problem, Budget(goal=Goal.VALUE))
    check(problem, answers)
    assert (answers.found.x[:, [1, 4]] == centre[:, [1, 4]]).all()


def test_a_model_without_gradients_is_attacked_by_what_was_learned_of_others() -> None:
    """All sets fail at the same change: a few failures given, the rest are proposed."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(40, generator=g)
    centre = torch.rand(30, 40, generator=g)
    least = -0.3 * weight.abs().sum() * 0.9  # a point must be nearly at the corner

    class Blind(Deployed):
        def __init__(self) -> None:
            super().__init__(random_network(80, 1))

        def __call__(self, x: Tensor) -> Tensor:
            return ((x[:, :40] - x[:, 40:]) @ weight - least)[:, None]

    both = torch.cat([centre, centre], 1)
    region = Tabular.around(both, (-5, 5), most=[0.3] * 40 + [0.0] * 40)
    problem = Problem.make(Blind(), None, region, LinearRules.make([[1.0]], [0.0], sets=30))
    points = torch.full((30, 1, 80), torch.nan)
    points[:3, 0] = problem.deployed.take(torch.arange(3)).repair(  # type: ignore[attr-defined]
        both[:3] - 0.3 * torch.cat([weight.sign(), 0 * weight])
    )
    budget = Budget(passes=200)
    answers = Learned().solve(problem, budget, Hints(points=points))
    check(problem, answers)
    alone = Learned().solve(problem, budget)
    assert alone.broken.sum() < 5 and answers.broken.sum() >= 25


def test_a_proposer_learns_the_direction_it_is_shown() -> None:
    problem = classify(n=12)
    proposer, slope = Proposer(6, 4, 32, 0), torch.zeros(12, 6)
    way = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))

    def likeness() -> float:
        return float(nn.functional.cosine_similarity(proposer.rows(problem, slope), way).mean().detach())

    before = likeness()
    for _ in range(200):
        proposer.learn(proposer.rows(problem, slope), way)
    assert likeness() > max(0.8, before + 0.5)
