"""Steps of searches: where they lead, before any network is asked."""

from __future__ import annotations

import torch
from torch import nn

from fathom.attacks.gradient import Gradient
from fathom.attacks.steps import ShiftedStep, SparseStep, enlarged, stepper
from fathom.capture.torch_module import capture_module
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.ellipsoid import Ellipsoid
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.regions.product import Product

BALL = L1Ball.around(torch.full((1, 20), 0.5), 1.0, (0, 1))
SLOPE = torch.linspace(1, 2, 20)[None]
ONE = torch.ones(1)


def test_sparse_steps_take_many_inputs_at_first_and_then_ever_fewer() -> None:
    step = stepper(BALL, torch.float32)
    assert isinstance(step, SparseStep)
    x = previous = torch.full((1, 20), 0.5)
    moved = []
    for _ in range(4):
        x, previous = step.move(x, previous, SLOPE, ONE), x
        moved.append(int((x < previous).sum()))
    assert moved[0] == 8 and moved[-1] == 1 and moved == sorted(moved, reverse=True)
    assert x.argmin() == 19 and bool(BALL.contains(x))


def test_sparse_steps_do_not_depend_on_the_scale_of_the_slope() -> None:
    step, x = stepper(BALL, torch.float32), torch.full((1, 20), 0.5)
    ends = [step.move(x, x, scale * SLOPE, ONE) for scale in (1e-20, 1.0, 1e20)]
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[1], ends[2])


def test_sparse_steps_leave_out_inputs_that_stand_at_their_wall() -> None:
    step, x = stepper(BALL, torch.float32), torch.full((1, 20), 0.5)
    x[0, 18:] = 0.0  # where the slope would have them go on
    moved = (step.move(x, x, SLOPE, ONE) < x)[0]
    assert not moved[18:].any() and moved[17]


def test_a_slope_into_the_walls_alone_moves_nothing() -> None:
    ball = L1Ball.around(torch.zeros(1, 3), 1.0, (0, 1))
    x = torch.zeros(1, 3)
    assert torch.equal(stepper(ball, torch.float32).move(x, x, torch.ones(1, 3), ONE), x)


def test_steps_in_round_sets_end_at_the_surface() -> None:
    """Towards the oracle's point they would end inside, by the square of the step."""
    ball = L2Ball.around(torch.zeros(1, 2), 1.0, (-2, 2))
    factor = torch.diag(torch.tensor([2.0, 0.5]))[None]
    for region in (ball, Product((ball,)), Ellipsoid.make(torch.zeros(1, 2), factor, torch.ones(1))):
        step = stepper(region, torch.float64)
        assert isinstance(step, ShiftedStep)
        x = previous = region.minimise(torch.tensor([[[0.0, 1.0]]]))[1][:, 0]
        for _ in range(4):
            x, previous = step.move(x, previous, torch.tensor([[1.0, 0.2]], dtype=torch.float64), 0.1 * ONE), x
        length = (x / factor.diagonal(dim1=1, dim2=2) if isinstance(region, Ellipsoid) else x).norm()
        assert length.item() > 1 - 1e-9 and bool(region.contains(x)) and x[0, 0] < -0.1


def test_only_searches_of_l1_balls_begin_in_larger_sets() -> None:
    wider = enlarged(BALL)
    assert isinstance(wider, L1Ball) and torch.equal(wider.radius, 2 * BALL.radius) and torch.equal(wider.upper, BALL.upper)
    assert enlarged(LinfBall.around(torch.zeros(1, 2), 0.1)) is None


def test_what_fails_in_a_larger_ball_alone_is_no_failure() -> None:
    """A search of an L1 ball begins outside it."""
    layer = nn.Linear(2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 1.0]]), torch.tensor([0.0])
    network = capture_module(layer, (2,), live=False)
    for radius, broken in ((0.9, False), (1.1, True)):
        ball = L1Ball.around(torch.full((1, 2), 0.5), radius, (-5, 5))
        problem = Problem.make(network.program, network.network, ball, LinearRules.make([[1.0]], [0.0]))
        answers = Gradient().solve(problem, Budget(goal=Goal.VALUE))
        assert answers.broken.item() is broken
        assert bool(ball.contains(answers.found.x))
        assert abs(answers.found.deployed.item() - (1 - radius)) < 1e-5
