"""Shrinking: what comes out fails still, lies in the region, and is simpler; on rules whose simplest failure is known.
The minimum radius: on half-spaces, whose distance is known."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fathom.attacks.gradient import Gradient
from fathom.bounds.crown import Crown
from fathom.capture.torch_module import capture_module
from fathom.core.answer import Witnesses
from fathom.core.budget import Budget
from fathom.core.confirm import confirm
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.hunt.radius import Family, minimum_radius
from fathom.hunt.shrink import shrink
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.prove.branch import BranchAndBound
from fathom.regions.box import BoxRegion
from fathom.regions.l0 import L0Ball
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.regions.product import Product
from fathom.regions.tabular import Tabular
from fathom.regions.union import Union

FREE = Budget()
QUICK = Gradient(restarts=2, steps=6, full=0)  # one step finds the failures of a half-space


def linear(rows: list[list[float]], region: Region, overseer: Overseer) -> Problem:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    captured = capture_module(layer, (len(rows[0]),), live=False)
    return Problem.make(captured.program, captured.network, region, overseer)


def cube(d: int, n: int = 1) -> BoxRegion:
    return BoxRegion(torch.zeros(n, d, dtype=torch.float64), torch.ones(n, d, dtype=torch.float64))


def at_least(value: float, n: int = 1) -> LinearRules:
    """Y_0 >= value is a failure."""
    return LinearRules.make([[-1.0]], [value], sets=n)


def test_only_the_inputs_that_matter_stay_changed() -> None:
    weights = [0.0, 0.01, 1.0, 0.0, 0.02, 1.0, 0.0, 0.0]
    problem = linear([weights], cube(8), at_least(1.9))
    found = confirm(problem, torch.full((1, 8), 0.99))
    assert found.broken.all()
    shrunk = shrink(problem, found, torch.zeros(1, 8), FREE)
    assert shrunk.broken.all() and (shrunk.x[0] != 0).nonzero()[:, 0].tolist() == [2, 5]


def test_changes_become_small_and_round() -> None:
    problem = linear([[1.0, 1.0]], cube(2), at_least(0.5))
    found = confirm(problem, torch.tensor([[0.0, 0.9371823]]))
    shrunk = shrink(problem, found, torch.zeros(1, 2), FREE)
    assert shrunk.broken.all() and shrunk.x[0, 0] == 0
    assert shrunk.x[0, 1].item() == torch.tensor(0.53).item(), "0.5 is a failure only if nothing is rounded"


def test_an_input_that_fails_already_is_put_back_whole() -> None:
    problem = linear([[1.0, 1.0]], cube(2), at_least(0.4))
    shrunk = shrink(problem, confirm(problem, torch.ones(1, 2)), torch.full((1, 2), 0.25), FREE)
    assert torch.equal(shrunk.x, torch.full((1, 2), 0.25))


@pytest.mark.parametrize("make", [LinfBall, L2Ball, L1Ball])
def test_what_is_shrunk_fails_and_is_inside(make: type[LinfBall | L2Ball | L1Ball]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3, bias=False))
    model[2].weight.data -= model[2].weight.data.mean(1, keepdim=True)  # no class is read everywhere
    x = torch.rand(20, 12)
    captured = capture_module(model, (12,), live=False)
    overseer = Misclassification(captured.program(x).argmax(1), 3)
    radius = {LinfBall: 0.3, L2Ball: 0.8, L1Ball: 2.0}[make]
    problem = Problem.make(captured.program, captured.network, make.around(x, radius, (0, 1)), overseer)
    found = Gradient(seed=1).solve(problem, Budget()).found
    assert found.broken.any()
    shrunk = shrink(problem, found, x, FREE)
    assert torch.equal(shrunk.broken, found.broken) and torch.equal(shrunk.known, found.broken)
    sets = found.broken.nonzero()[:, 0]
    assert problem.deployed.take(sets).contains(shrunk.x[sets]).all()
    margin = problem.overseer.take(sets).margin(shrunk.x[sets].double(), captured.program(shrunk.x[sets]).double())
    assert (margin <= 0).all()
    before, after = (found.x != x)[sets].sum(1), (shrunk.x != x)[sets].sum(1)
    assert (after <= before).all() and after.sum() < before.sum()


@pytest.mark.parametrize("make", [LinfBall, L2Ball])
def test_no_single_input_can_be_put_back(make: type[LinfBall | L2Ball]) -> None:
    """The law of delta debugging, where the budget is no limit: of what is left everything is needed, rounding apart."""
    torch.manual_seed(1)
    weights = torch.randn(6).tolist()
    problem = linear([weights], make.around(torch.zeros(1, 6), 1.0), at_least(0.7))
    found = Gradient().solve(problem, Budget()).found
    shrunk = shrink(problem, found, torch.zeros(1, 6), FREE)
    changed = (shrunk.x[0] != 0).nonzero()[:, 0].tolist()
    least = next(k for k in range(1, 7) if sum(sorted(map(abs, weights))[-k:]) >= 0.7) if make is LinfBall else 1
    assert least <= len(changed) <= 6
    for i in changed:
        without = shrunk.x.clone()
        without[0, i] = 0
        assert not confirm(problem, without).broken.any()


def test_a_category_that_does_not_matter_is_put_back_though_its_group_is_not_together() -> None:
    """Only feature 2 matters; of a group no input alone can be put back, and feature 2 stands between its members."""
    centre = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]])
    region = Tabular.around(centre, (0, 1), groups=[[0, 1, 3, 4]])
    problem = linear([[0.0, 0.0, 1.0, 0.0, 0.0]], region, at_least(0.4))
    found = confirm(problem, torch.tensor([[0.0, 0.0, 0.9, 0.0, 1.0]]))
    assert found.broken.all()
    assert shrink(problem, found, centre, FREE).x[0].tolist() == [1, 0, pytest.approx(0.4, abs=0.05), 0, 0]


def test_inputs_tied_by_relations_are_put_back_and_made_small_together() -> None:
    """x0 = x8, and x8 = x3 besides: only all three can move, and x4 = x6 between them matters, which shrinks as one."""
    equal = torch.zeros(6, 9)
    for k, (i, j) in enumerate(((0, 8), (8, 3), (4, 6))):
        equal[2 * k, [i, j]], equal[2 * k + 1, [i, j]] = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])
    region = Tabular.around(torch.zeros(1, 9), (0, 1), relations=(equal, torch.zeros(6)))
    problem = linear([[0.0] * 4 + [1.0] + [0.0] * 4], region, at_least(0.25))
    found = confirm(problem, torch.tensor([[1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 1.0, 0.5, 1.0]]))
    assert found.broken.all()
    shrunk = shrink(problem, found, torch.zeros(1, 9), FREE)
    assert shrunk.broken.all() and shrunk.x[0].nonzero()[:, 0].tolist() == [4, 6]
    assert 0.25 <= shrunk.x[0, 4] == shrunk.x[0, 6] <= 0.3


def test_the_channels_of_a_pixel_are_put_back_together_in_products_and_unions_too() -> None:
    """Channels of a pixel stand four apart; here each may change only if the others do, as two of a kind."""
    zero = torch.zeros(1, 2, 2, 2)
    ball = L0Ball.around(zero, 2, (0, 1), groups=L0Ball.pixels((2, 2, 2)))
    table = Tabular.around(torch.zeros(1, 3), (0, 1), relations=([[1, 0, -1], [-1, 0, 1]], [0, 0]))
    (pixels,), (sides,) = ball.ties(), table.ties()
    assert pixels[0].tolist() == [0, 1, 2, 3] * 2 and sides[0].tolist() == [0, -1, 0]
    first, second = Product((ball, table)).ties()
    assert first[0].tolist() == [0, 1, 2, 3] * 2 + [-1] * 3 and second[0].tolist() == [-1] * 8 + [0, -1, 0]
    assert len(Union.of(ball, LinfBall.around(zero, 0.1)).ties()) == 1
    assert LinfBall.around(zero, 0.1).ties() == L0Ball.around(zero, 2, (0, 1)).ties() == ()
    together = PythonOverseer(lambda x, y: torch.where((x[:, 1] > 0) == (x[:, 5] > 0), 0.5 - x[:, 0], torch.nan))
    problem = linear([[1.0] * 8], ball, together)
    found = confirm(problem, torch.tensor([[1.0, 1.0, 0, 0, 0, 1.0, 0, 0]]))
    assert found.broken.all()
    shrunk = shrink(problem, found, zero.flatten(1), FREE)
    assert shrunk.x[0].tolist() == [0.5] + [0.0] * 7


def test_rows_that_are_not_broken_are_left_out() -> None:
    problem = linear([[1.0, 1.0]], cube(2, 3), at_least(1.5, 3))
    x = torch.tensor([[1.0, 1.0], [0.1, 0.1], [torch.nan, torch.nan]])
    shrunk = shrink(problem, confirm(problem, x), torch.zeros(3, 2), FREE)
    assert shrunk.known.tolist() == [True, False, False]


def _jagged(x: Tensor, y: Tensor) -> Tensor:
    """Fails at integers alone, and is no number in between half-way."""
    step = x[:, 0] * 4
    return torch.where(step == step.round(), 1.5 - step, torch.nan)


def test_margins_that_are_no_numbers_are_no_failures() -> None:
    problem = linear([[1.0, 1.0]], cube(2), PythonOverseer(_jagged))
    found = confirm(problem, torch.ones(1, 2))
    assert found.broken.all()
    shrunk = shrink(problem, found, torch.zeros(1, 2), FREE)
    assert shrunk.x.tolist() == [[0.5, 0.0]]


def test_a_failure_of_the_program_alone_is_not_the_simplest() -> None:
    """In float32 1e8 + 1 is 1e8: the program calls fewer changes a failure than the real network does."""
    problem = linear([[1e8, 1.0]], BoxRegion(torch.tensor([[1.0, 0.0]]).double(), torch.ones(1, 2).double()), at_least(1e8 + 1))
    found = confirm(problem, torch.ones(1, 2))
    if found.broken.any():
        shrunk = shrink(problem, found, torch.tensor([[1.0, 0.0]]), FREE)
        assert shrunk.x.tolist() == [[1.0, 1.0]]
    assert not confirm(problem, torch.tensor([[1.0, 0.0]])).broken.any()


@pytest.mark.parametrize("budget", [Budget(passes=0), Budget(passes=7), Budget(seconds=0.0)])
def test_a_spent_budget_leaves_a_failure(budget: Budget) -> None:
    problem = linear([[1.0] * 8], cube(8), at_least(3.5))
    found = confirm(problem, torch.ones(1, 8))
    assert shrink(problem, found, torch.zeros(1, 8), budget).broken.all()


def test_interrupted_it_gives_what_it_has() -> None:
    stop = threading.Event()
    stop.set()
    problem = linear([[1.0] * 8], cube(8), at_least(3.5))
    found = confirm(problem, torch.ones(1, 8))
    shrunk = shrink(problem, found, torch.zeros(1, 8), replace(FREE, stop=stop))
    assert torch.equal(shrunk.x, found.x) and isinstance(shrunk, Witnesses)


def test_no_sets_are_no_work() -> None:
    problem = linear([[1.0, 1.0]], cube(2), at_least(0.5)).take(torch.zeros(0, dtype=torch.int64))
    nothing = Witnesses.none(0, 2, 1, torch.float32)
    assert len(shrink(problem, nothing, torch.zeros(0, 2), FREE)) == 0


# The minimum radius


def half_spaces(make: type[LinfBall | L2Ball | L1Ball], clip: tuple[float, float] | None = None) -> tuple[Family, Tensor]:
    """Balls round five points, and how far each is from failing: its margin over the dual norm of the row."""
    row = torch.tensor([1.0, -2.0, 0.5])
    x = torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0], [-0.5, 0.5, 0.25], [0.3, 0.1, -0.2], [0.5, -0.5, 0.5]])
    margin = 1 - x @ row  # failure: row x >= 1

    def family(radius: Tensor) -> Problem:
        return linear([row.tolist()], make.around(x, radius, clip), at_least(1.0, 5))

    dual = {LinfBall: row.abs().sum(), L2Ball: row.norm(), L1Ball: row.abs().amax()}[make]
    return family, (margin / dual).double()


@pytest.mark.parametrize("make", [LinfBall, L2Ball, L1Ball])
def test_the_minimum_radius_of_a_half_space_is_its_distance(make: type[LinfBall | L2Ball | L1Ball]) -> None:
    family, distance = half_spaces(make)
    assert (distance[:4] > 0).all() and distance[4] < 0
    found = minimum_radius(family, torch.full((5,), 3.0, dtype=torch.float64), QUICK, Crown(), Budget(), 0.01)
    assert (found.lower <= distance.clamp(min=-1)).logical_or(found.lower == -1).all(), "proved too far"
    assert (found.upper[:4] >= distance[:4]).all() and (found.upper[:4] <= 1.02 * distance[:4]).all()
    assert (found.lower[:4] >= 0.98 * distance[:4]).all()
    assert found.upper[4] == 0 and found.lower[4] == -1, "it fails where it stands"
    assert found.found.broken.all()
    problem = family(found.upper)
    assert problem.deployed.contains(found.found.x).all() and confirm(problem, found.found.x).broken.all()


def test_beyond_the_greatest_radius_nothing_is_said() -> None:
    family, distance = half_spaces(L2Ball)
    found = minimum_radius(family, torch.full((5,), 0.1, dtype=torch.float64), QUICK, Crown(), Budget())
    far = distance > 0.1
    assert far.any() and found.upper[far].isinf().all() and (found.lower[far] == 0.1).all()
    assert not found.found.known[far].any()


def test_without_a_bound_nothing_is_proved() -> None:
    family, distance = half_spaces(LinfBall)
    found = minimum_radius(family, torch.full((5,), 3.0, dtype=torch.float64), QUICK, None, Budget())
    assert (found.lower == -1).all() and (found.upper[:4] <= 1.05 * distance[:4]).all()


def test_out_of_time_both_ends_are_still_true() -> None:
    family, _ = half_spaces(LinfBall)
    found = minimum_radius(family, torch.full((5,), 3.0, dtype=torch.float64), QUICK, Crown(), Budget(seconds=0.0))
    assert (found.lower == -1).all() and found.upper.isinf().all() and len(found.take(torch.tensor([1, 2])).lower) == 2


def test_whole_radii_end_beside_one_another() -> None:
    """Failing takes the sum of the inputs over 2.5, each at most 1: three changed inputs, from none."""
    x = torch.zeros(2, 8)

    def family(count: Tensor) -> Problem:
        return linear([[1.0] * 8], L0Ball.around(x, count.long(), (0, 1)), at_least(2.5, 2))

    most = torch.tensor([8.0, 2.0], dtype=torch.float64)
    found = minimum_radius(family, most, QUICK, Crown(), Budget(), whole=True)
    assert found.lower.tolist() == [2, 2] and found.upper.tolist() == [3, torch.inf]


def test_each_bound_goes_on_from_where_the_one_before_it_ended() -> None:
    """A backward pass proves less than branch and bound."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    for layer in net[::2]:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    captured = capture_module(net, (2,), live=False)
    least = captured.program(torch.zeros(1, 2)).item() - 4.0

    def family(radius: Tensor) -> Problem:
        ball = LinfBall.around(torch.zeros(1, 2), radius)
        return Problem.make(captured.program, captured.network, ball, LinearRules.make([[1.0]], [-least]))

    most = torch.tensor([3.0], dtype=torch.float64)
    quick = minimum_radius(family, most, QUICK, Crown(), Budget())
    whole = minimum_radius(family, most, QUICK, [Crown(), BranchAndBound()], Budget(seconds=60))
    assert quick.upper.isfinite().all() and quick.lower < 0.9 * quick.upper
    assert quick.lower <= whole.lower < whole.upper <= quick.upper
    assert whole.lower >= 0.97 * whole.upper


@pytest.mark.parametrize("most", [torch.zeros(5), torch.ones(4), torch.full((5,), torch.nan)])
def test_a_greatest_radius_that_is_none_is_refused(most: Tensor) -> None:
    family, _ = half_spaces(LinfBall)
    with pytest.raises(FathomError, match="radius > 0"):
        minimum_radius(lambda radius: family(torch.zeros(5)), most.double(), QUICK, None, Budget())


def test_parts_of_another_kind_are_refused_before_anything_is_searched() -> None:
    family, _ = half_spaces(LinfBall)
    most = torch.ones(5, dtype=torch.float64)
    with pytest.raises(FathomError, match=r"expected `attack` as a solver, got 'pgd'"):
        minimum_radius(family, most, "pgd", None, Budget())  # type: ignore[arg-type]
    with pytest.raises(FathomError, match=r"expected `budget` as a budget, got 5"):
        minimum_radius(family, most, QUICK, None, 5)  # type: ignore[arg-type]
