"""The laws of every attack, found by discovery: what it reports is real, it proves nothing, and it finds what is there."""

from __future__ import annotations

import itertools
import threading
from dataclasses import fields, replace
from typing import Self

import pytest
import torch
from torch import Tensor

import fathom.attacks
from fathom.attacks.decisions import Decisions
from fathom.attacks.descent import descend
from fathom.attacks.gradient import Gradient
from fathom.attacks.objective import Objective, has_gradient
from fathom.attacks.steps import ClampedStep, FrankWolfeStep, ShiftedStep, SparseStep, stepper
from fathom.attacks.values import Values
from fathom.core.answer import Answers, Reason
from fathom.core.box import Box
from fathom.core.budget import Budget, Goal
from fathom.core.confirm import confirm
from fathom.core.discover import discover
from fathom.core.errors import FathomError
from fathom.core.network import Join, Network, Node, Port
from fathom.core.operator import Operator
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.core.region import Region
from fathom.core.solver import Hints, Solver
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.targeted import Targeted
from fathom.regions.box import BoxRegion
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall

KINDS = discover(fathom.attacks, Solver)
every = pytest.mark.parametrize("attack", [kind() for kind in KINDS.values()], ids=list(KINDS))
SEEING = {name: kind for name, kind in KINDS.items() if kind is not Decisions}
every_seeing_one = pytest.mark.parametrize("attack", [kind() for kind in SEEING.values()], ids=list(SEEING))  # margins, not signs
forever = Budget()
to_the_end = Budget(goal=Goal.VALUE)


class Deployed(Program):
    """A network as its owner runs it, in float32, counting how many inputs it was given."""

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.dtype, self.digest = network.freeze(dtype), dtype, network.freeze(dtype).digest
        self.inputs, self.outputs = network.inputs, network.outputs

    def __call__(self, x: Tensor) -> Tensor:
        assert x.dtype == self.dtype
        return self.network(x)


def chain(*operators: Operator, sizes: list[int]) -> Network:
    nodes = [Node("input", None, (), (sizes[0],))]
    nodes += [Node(f"{i}", operator, (i,), (size,)) for i, (operator, size) in enumerate(zip(operators, sizes[1:], strict=True))]
    nodes.append(Node("output", Join(((sizes[-1],),)), (len(operators),), (sizes[-1],)))
    return Network(tuple(nodes), (Port("x", (sizes[0],), 0),), (Port("y", (sizes[-1],), 0),))


def random_network(d: int, classes: int, seed: int = 0, width: int = 24, scale: float = 1.0) -> Network:
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(b, a, generator=g) * (2 / a) ** 0.5 for a, b in ((d, width), (width, width), (width, classes))]
    shifts = [0.3 * torch.randn(len(w), generator=g) for w in weights]
    weights[2], shifts[2] = weights[2] * scale, shifts[2] * scale
    one, two, three = (Dense(w, b) for w, b in zip(weights, shifts, strict=True))
    return chain(one, Relu(), two, Relu(), three, sizes=[d, width, width, width, width, classes])


def linear_network(rows: Tensor, shift: Tensor) -> Network:
    return chain(Dense(rows, shift), sizes=[rows.shape[1], len(rows)])


def regions(centre: Tensor, radius: float) -> list[Region]:
    wide = centre.double()
    return [
        BoxRegion((wide - radius).clamp(0, 1), (wide + radius).clamp(0, 1)).rounded(torch.float32),
        LinfBall.around(centre, radius, (0.0, 1.0)),
        L2Ball.around(centre, 2 * radius, (0.0, 1.0)),
        L1Ball.around(centre, 4 * radius, (0.0, 1.0)),
        Corners(torch.stack([wide, wide.roll(1, 1), wide.round(), 1 - wide], 1)),
    ]


class Corners(Region):
    """The hull of c float32 points: a region with an oracle and no projection."""

    def __init__(self, points: Tensor) -> None:
        self.points = points.float().double()  # [n, c, d]

    def __str__(self) -> str:
        return "Corners"

    def take(self, index: Tensor) -> Self:
        return type(self)(self.points[index])

    def box(self) -> Box:
        return Box(self.points.amin(1), self.points.amax(1))

    def contains(self, x: Tensor) -> Tensor:
        """Within the box, and on the right side of many random half-spaces: enough for a test."""
        a = torch.randn(64, x.shape[1], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        return self.box().contains(x.double()) & ((x.double() @ a.T) >= (self.points @ a.T).amin(1) - 1e-6).all(1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        share = torch.rand(*self.points.shape[:1], count, self.points.shape[1], generator=generator, dtype=torch.float64) ** 3
        return torch.einsum("nsc,ncd->nsd", share / share.sum(-1, keepdim=True), self.points)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.einsum("nrd,ncd->nrc", a, self.points)
        least, at = values.min(-1)
        return least - 1e-9, self.points.gather(1, at[..., None].expand(*at.shape, self.size))

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Region:
        return self.take(owner)


def classify(d: int = 6, n: int = 12, radius: float = 0.25, seed: int = 0, region: int = 1, scale: float = 1.0) -> Problem:
    """Points of a random classifier, judged by the class they have."""
    network = random_network(d, 5, seed, scale=scale)
    centre = torch.rand(n, d, generator=torch.Generator().manual_seed(seed + 100))
    label = network(centre).argmax(1)
    return Problem.make(Deployed(network), network, regions(centre, radius)[region], Misclassification(label, 5))


def check(problem: Problem, answers: Answers) -> None:
    """The laws: nothing proved, every point inside, and broken exactly where the program itself fails at it."""
    assert len(answers) == len(problem)
    assert torch.equal(answers.lower, torch.full_like(answers.lower, -torch.inf))
    found = answers.found
    assert found.x.dtype == problem.program.dtype
    known = found.known
    assert problem.deployed.contains(torch.where(known[:, None], found.x, 0.0))[known].all()
    y = problem.program(found.x[known])
    margin = problem.overseer.take(known.nonzero()[:, 0]).margin(found.x[known].double(), y.double())
    assert torch.allclose(margin, found.deployed[known], rtol=1e-5, atol=1e-5)  # float32 sums depend on the size of the batch
    assert torch.equal(answers.broken, known & (found.deployed <= 0) & (answers.upper <= 0))
    assert not answers.broken[~known].any()
    assert all(answers.why(i) is Reason.DECIDED for i in answers.broken.nonzero()[:, 0].tolist())


def test_every_kind_is_found() -> None:
    assert {"Decisions", "Discrete", "Gradient", "Learned", "Values"} <= set(KINDS)


@every
@pytest.mark.parametrize("region", range(5))
def test_results_obey_the_laws(attack: Solver, region: int) -> None:
    problem = classify(region=region)
    answers = attack.solve(problem, forever)
    check(problem, answers)
    assert answers.found.known.all()
    assert 0 < answers.broken.sum() < len(problem)
    assert (answers.cost.forward > 0).all()
    assert torch.allclose(answers.upper, confirm(problem, answers.found.x).upper, rtol=1e-9, atol=1e-9)


@every
def test_recipe_pastes_back(attack: Solver) -> None:
    settings = ", ".join(f"{f.name}={getattr(attack, f.name)!r}" for f in fields(attack))
    assert repr(attack) == f"{type(attack).__name__}({settings})"
    assert type(attack)(**{f.name: getattr(attack, f.name) for f in fields(attack)}) == attack
    assert all(isinstance(getattr(attack, f.name), int) for f in fields(attack))


@every_seeing_one
@pytest.mark.parametrize("region", range(5))
@pytest.mark.parametrize("d", [1, 4])
def test_optimum_of_a_linear_network_is_found(attack: Solver, region: int, d: int) -> None:
    """One row: the oracle of the region knows the least margin."""
    g = torch.Generator().manual_seed(3)
    network = linear_network(torch.randn(2, d, generator=g), torch.randn(2, generator=g))
    centre = torch.rand(5, d, generator=g)
    problem = Problem.make(Deployed(network), network, regions(centre, 0.2)[region], Misclassification(torch.arange(5) % 2, 2))
    best = _linear_optimum(problem, network)
    answers = attack.solve(problem, to_the_end)
    check(problem, answers)
    slack = 1e-5 if isinstance(attack, Gradient) else 0.1
    assert (answers.upper >= best - 1e-6).all()
    assert (answers.upper <= best + slack).all(), (answers.upper - best).tolist()


@pytest.mark.parametrize(("region", "radius"), [(0, 0.19), (1, 0.19), (2, 0.35), (3, 0.5)])
def test_decisions_alone_find_the_failures_of_linear_networks(region: int, radius: float) -> None:
    """In many inputs, where nearly all failures are far from what samples see."""
    g = torch.Generator().manual_seed(3)
    network = linear_network(torch.randn(2, 30, generator=g), torch.zeros(2))
    centre = torch.rand(20, 30, generator=g)
    label = network(centre).argmax(1)
    problem = Problem.make(Deployed(network), network, regions(centre, radius)[region], Misclassification(label, 2))
    best = _linear_optimum(problem, network)
    walked, sampled = (attack.solve(problem, forever).broken for attack in (Decisions(), Decisions(steps=0)))
    assert 5 < (best < -0.3).sum() < 20
    assert not walked[best > 0].any()
    assert walked[best < -0.3].double().mean() > 0.8
    assert walked.sum() > sampled.sum()


def _linear_optimum(problem: Problem, network: Network) -> Tensor:
    dense = network.nodes[1].operator
    rows = problem.spec.rows[problem.spec.of].double()
    values = problem.deployed.minimise(rows @ dense.weight.double())[0]
    return (values + rows @ dense.shift.double()).amin(1)


def test_conjunctions_and_disjunctions() -> None:
    """(y0 <= -1 and y1 <= -1) or (y2 <= -3), on the identity over a box that reaches both: the corner must be found."""
    identity = linear_network(torch.eye(3), torch.zeros(3))
    for reach, broken in ((1.01, True), (0.99, False)):
        box = BoxRegion(torch.full((1, 3), -reach).double(), torch.full((1, 3), reach).double()).rounded(torch.float32)
        rules = LinearRules.make(torch.eye(3), torch.tensor([1.0, 1.0, 3.0]), clause=[0, 0, 1])
        problem = Problem.make(Deployed(identity), identity, box, rules)
        answers = Gradient().solve(problem, to_the_end)
        check(problem, answers)
        assert answers.broken.item() is broken
        assert answers.upper.item() == pytest.approx(1 - reach, abs=1e-5)


def test_an_inner_optimum_of_a_conjunction() -> None:
    """Rows x0 - x1 and x1 - x0 + 0.1 x2: neither alone is the margin, and their least maximum is inside."""
    rows = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.1]])
    network = linear_network(rows * 50, torch.zeros(2))
    problem = Problem.make(
        Deployed(network),
        network,
        BoxRegion(torch.tensor([[-1.0, -1.0, 0.0]]).double(), torch.ones(1, 3).double()),
        LinearRules.make(torch.eye(2), torch.zeros(2), clause=[0, 0]),
    )
    answers = Gradient().solve(problem, to_the_end)
    assert answers.upper.item() == pytest.approx(0.0, abs=0.2)
    check(problem, answers)


def test_targeted_failures() -> None:
    network = random_network(6, 5)
    centre = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
    target = (network(centre).argmax(1) + 1) % 5
    problem = Problem.make(Deployed(network), network, LinfBall.around(centre, 0.3, (0, 1)), Targeted(target, 5))
    answers = Gradient().solve(problem, forever)
    check(problem, answers)
    assert answers.broken.sum() >= 3
    assert problem.program(answers.found.x)[answers.broken].argmax(1).equal(target[answers.broken])


@pytest.mark.parametrize("factor", [1000.0, 2.0**-20])
def test_scale_of_the_outputs_changes_nothing(factor: float) -> None:
    """Powers of two exactly; thousands up to the rounding of the scaled weights."""
    plain, scaled = (Gradient().solve(classify(scale=s), to_the_end) for s in (1.0, factor))
    assert torch.equal(plain.broken, scaled.broken)
    assert torch.allclose(plain.upper * factor, scaled.upper, rtol=0.02, atol=1e-3 * factor)
    if factor < 1:
        assert torch.equal(plain.found.x, scaled.found.x)


@every
def test_same_seed_same_result(attack: Solver) -> None:
    problem = classify(n=8)
    one, two = attack.solve(problem, to_the_end), attack.solve(problem, to_the_end)
    assert torch.equal(one.found.x, two.found.x)
    assert torch.equal(one.cost.forward, two.cost.forward)
    other = replace(attack, seed=1).solve(problem, to_the_end)
    assert not torch.equal(one.found.x, other.found.x)


@every
@pytest.mark.parametrize("passes", [0, 1, 2, 7, 50, 333])
def test_budget_of_passes_is_kept(attack: Solver, passes: int) -> None:
    for goal in Goal:
        answers = attack.solve(classify(n=7, radius=0.01), Budget(passes=passes, goal=goal))
        spent = answers.cost.forward + answers.cost.backward
        assert (spent <= passes).all()
        assert answers.found.known.all() == (passes > 0)
        if goal is Goal.VALUE and passes < 100:
            assert all(answers.why(i) is Reason.PASSES for i in range(7) if not answers.broken[i])


@every
def test_time_and_interruption(attack: Solver) -> None:
    problem = classify()
    late = attack.solve(problem, Budget(seconds=0.0))
    assert all(late.why(i) is Reason.TIME for i in range(len(late)))
    stop = threading.Event()
    stop.set()
    stopped = attack.solve(problem, Budget(stop=stop))
    assert all(stopped.why(i) is Reason.INTERRUPTED for i in range(len(late)))
    # From within: what was found before it was stopped stays.
    midway = Budget(goal=Goal.VALUE)
    answers = attack.solve(problem, midway, observe=lambda a: midway.stop.set())
    check(problem, answers)
    assert answers.found.known.any()


@every
def test_observer_sees_brackets_tighten(attack: Solver) -> None:
    seen: list[Answers] = []
    problem = classify()
    last = attack.solve(problem, to_the_end, observe=seen.append)
    assert len(seen) >= 2
    for before, after in itertools.pairwise(seen):
        assert (after.upper <= before.upper).all()
        assert (after.cost.forward >= before.cost.forward).all()
    assert torch.equal(seen[-1].upper, last.upper)


@every
def test_what_is_decided_is_left_alone(attack: Solver) -> None:
    problem = classify()
    first = attack.solve(problem, forever)
    again = attack.solve(problem, forever, Hints(answers=first))
    assert (again.cost.forward[first.broken] == 0).all()
    assert (again.cost.forward[~first.broken] > 0).all()
    assert (again.upper[~first.broken] <= first.upper[~first.broken]).all()  # its points were starting points
    assert torch.equal(first.tighten(again).broken, first.broken)


@every
def test_given_points_are_used_and_not_trusted(attack: Solver) -> None:
    """A narrow failure that no search finds, given away; and points far outside, which must come to nothing."""
    narrow = needle(d=20)
    assert not replace(attack, seed=5).solve(narrow, Budget(passes=20)).broken.any()
    points = torch.full((1, 3, 20), torch.nan)
    points[:, 1] = 100 * torch.eye(20)[0]  # a low margin, far outside
    points[:, 2] = 0.9
    answers = attack.solve(narrow, Budget(passes=20), Hints(points=points))
    check(narrow, answers)
    assert answers.broken.all()


def needle(d: int, height: float = 0.5) -> Problem:
    """Broken near (0.9, .., 0.9) alone: margin = 1 - (1 + height) relu(sum x - 0.9 d + 1) + a slope that leads away."""
    ones = torch.ones(1, d)
    network = chain(
        Dense(torch.cat([ones, ones / d]), torch.tensor([1.0 - 0.9 * d, 0.0])),
        Relu(),
        Dense(torch.tensor([[-(1 + height), 0.5]]), torch.ones(1)),
        sizes=[d, 2, 2, 1],
    )
    region = BoxRegion(torch.zeros(1, d).double(), torch.full((1, d), 0.9).double()).rounded(torch.float32)
    return Problem.make(Deployed(network), network, region, LinearRules.make([[1.0]], [0.0]))


def test_gradient_beats_sampling_and_the_value_search() -> None:
    problem = classify(d=30, n=40, radius=0.06, seed=2)
    sampled = problem.deployed.sample(900, torch.Generator().manual_seed(0)).float()
    by_chance = torch.stack([problem.spec.margin(problem.network(sampled[:, j])) for j in range(900)], 1).amin(1)
    by_gradient = Gradient().solve(problem, to_the_end).upper
    by_values = Values().solve(problem, to_the_end).upper
    assert (by_gradient <= by_chance + 1e-6).all()
    assert (by_values <= by_chance).double().mean() > 0.9
    assert (by_gradient <= by_values + 1e-4).double().mean() > 0.95
    assert (by_gradient < by_chance - 0.05).double().mean() > 0.9


def test_more_is_broken_than_by_one_long_plain_descent() -> None:
    """45 sign steps of a twentieth of the width, from the middle, on the margin itself; at equal cost."""
    ours = plain = 0
    for seed in range(8):
        problem = classify(d=10, n=40, radius=0.25, seed=seed)
        ours += int(Gradient().solve(problem, Budget(passes=90)).broken.sum())
        plain += int((plain_descent(problem, 45) <= 0).sum())
    assert ours > plain


def plain_descent(problem: Problem, steps: int) -> Tensor:
    step = stepper(problem.deployed, torch.float32)
    assert isinstance(step, ClampedStep)
    x, best = (step.lower + step.upper) / 2, torch.full((len(problem),), torch.inf)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        margin = problem.spec.margin(problem.network(x))
        best = torch.minimum(best, margin.detach())
        (slope,) = torch.autograd.grad(margin.sum(), x)
        moved = x.detach() - 0.05 * (step.upper - step.lower) * slope.sign()
        x = torch.maximum(torch.minimum(moved, step.upper), step.lower)
    return best


@every
def test_fixed_inputs_stay_fixed(attack: Solver) -> None:
    """Decimals that no float32 equals, in a box of zero width; and a box that is one point."""
    network = random_network(4, 3)
    lower = torch.tensor([[0.1, 0.0, 0.3, 0.0], [0.1, 0.2, 0.3, 0.7]], dtype=torch.float64)
    upper = torch.tensor([[0.1, 1.0, 0.3, 1.0], [0.1, 0.2, 0.3, 0.7]], dtype=torch.float64)
    label = network(lower.float()).argmax(1)
    problem = Problem.make(Deployed(network), network, BoxRegion(lower, upper), Misclassification(label, 3))
    answers = attack.solve(problem, to_the_end)
    check(problem, answers)
    assert answers.found.known.all()
    assert (answers.found.x[:, ::2] == lower[:, ::2].float()).all()
    assert (answers.found.x[1] == lower[1].float()).all()
    assert not answers.found.in_written.any()


@every_seeing_one
@pytest.mark.parametrize("region", range(5))
def test_one_input(attack: Solver, region: int) -> None:
    """d = 1 against a fine grid."""
    network = random_network(1, 3, seed=4)
    centre = torch.tensor([[0.2], [0.5], [0.8]])
    problem = Problem.make(
        Deployed(network), network, regions(centre, 0.15)[region], Misclassification(network(centre).argmax(1), 3)
    )
    answers = attack.solve(problem, to_the_end)
    check(problem, answers)
    box = problem.deployed.box()
    grid = (box.lower + torch.linspace(0, 1, 2001, dtype=torch.float64) * box.width)[..., None].float()
    best = torch.stack([problem.spec.margin(network(grid[:, j])) for j in range(2001)], 1).amin(1)
    assert (answers.upper <= best + 1e-3).all()


@every
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(attack: Solver, n: int) -> None:
    problem = classify().take(torch.arange(n))
    answers = attack.solve(problem, forever)
    assert len(answers) == n
    check(problem, answers)


@every
def test_many_sets_in_small_memory(attack: Solver) -> None:
    problem = classify(n=300)
    answers = attack.solve(problem, Budget(memory=200_000, passes=60))
    check(problem, answers)
    assert answers.found.known.all()


def test_a_judge_without_rows_is_attacked_through_its_gradient() -> None:
    network = random_network(6, 4)
    centre = torch.rand(10, 6, generator=torch.Generator().manual_seed(1))
    level = network(centre).norm(dim=1).double() - 0.5
    overseer = PythonOverseer(lambda x, y, level: y.norm(dim=1) - level.to(y.dtype), (level,))
    problem = Problem.make(Deployed(network), network, LinfBall.around(centre, 0.2, (0, 1)), overseer)
    assert problem.spec is None
    by_gradient, by_values = (attack.solve(problem, to_the_end) for attack in (Gradient(), Values()))
    check(problem, by_gradient)
    check(problem, by_values)
    assert by_gradient.broken.sum() >= by_values.broken.sum() > 0
    assert (by_gradient.upper <= by_values.upper + 1e-3).all()


def test_missing_gradients_are_errors_that_name_the_way_out() -> None:
    network = random_network(6, 4)
    region = LinfBall.around(torch.rand(3, 6), 0.2, (0, 1))
    blind = PythonOverseer(lambda x, y: y.detach().amax(1) - 1)
    problem = Problem.make(Deployed(network), network, region, blind)
    with pytest.raises(FathomError, match="Values"):
        Gradient().solve(problem, forever)
    assert not has_gradient(problem)
    assert has_gradient(classify())
    assert has_gradient(classify(n=2).take(torch.arange(0)))
    check(problem, Values().solve(problem, forever))
    bare = Problem.make(Deployed(network), None, region, blind)
    with pytest.raises(FathomError, match="captured network"):
        Gradient().solve(bare, forever)
    assert not has_gradient(bare)
    check(bare, Values().solve(bare, forever))


def test_live_parameters_get_no_gradient() -> None:
    problem = classify()
    live = problem.network.map(lambda t: t.clone().requires_grad_())
    Gradient(restarts=1).solve(replace(problem, network=live), forever)
    weights: list[Tensor] = []
    live.map(lambda t: weights.append(t) or t)
    assert all(w.grad is None for w in weights)


def test_a_rounding_failure_does_not_end_the_search() -> None:
    """The deployed program fails where the real network is safe; the attack must go on, and find the real failure.

    y = ((x0 + 2^24) - 2^24 - x0) + 0.2 - relu(x1 - 0.5): float32 loses the fraction of x0, the real network does not.
    """
    big = 2.0**24
    first = Dense(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([big, 0.0, -0.5, 0.2]))
    last = Dense(torch.tensor([[1.0, -1.0, -1.0, 1.0]]), torch.tensor([-big]))
    network = chain(first, Relu(), last, sizes=[2, 4, 4, 1])
    for reach, broken in ((0.6, False), (0.9, True)):
        region = BoxRegion(torch.zeros(1, 2).double(), torch.tensor([[0.9, reach]]).double()).rounded(torch.float32)
        problem = Problem.make(Deployed(network), network, region, LinearRules.make([[1.0]], [0.0]))
        answers = Gradient().solve(problem, forever)
        check(problem, answers)
        assert answers.broken.item() is broken
        assert broken or answers.found.rounding_failure.item()


def test_a_region_is_moved_in_by_its_own_means() -> None:
    kinds = [ClampedStep, ClampedStep, ShiftedStep, SparseStep, FrankWolfeStep]
    for region, kind in zip(regions(torch.rand(3, 4), 0.1), kinds, strict=True):
        step = stepper(region, torch.float32)
        assert type(step) is kind
        x = region.sample(1, torch.Generator().manual_seed(0))[:, 0].float()
        for size in (2.0, 0.1):
            moved = step.move(x, x, torch.randn(3, 4), torch.full((3,), size))
            assert moved.dtype == torch.float32
            assert region.contains(moved).all() or kind is FrankWolfeStep
        index = torch.tensor([2, 0])
        slope = torch.randn(3, 4)
        assert torch.equal(
            step.take(index).move(x[index], x[index], slope[index], torch.ones(2)), step.move(x, x, slope, torch.ones(3))[index]
        )


@pytest.mark.parametrize("region", range(5))
def test_descent_from_leaves(region: int) -> None:
    """Few steps from many points of few sets: no worse than the points, inside, and NaN for sets without any."""
    problem = classify(n=6, region=region)
    owner = torch.tensor([0, 4, 4, 4, 1, 0])
    x = problem.deployed.take(owner).sample(1, torch.Generator().manual_seed(3))[:, 0]
    objective = Objective.of(problem)
    found = descend(problem, owner, x, 8, objective=objective)
    assert found.x.shape == (6, 6)
    assert torch.isnan(found.x[[2, 3, 5]]).all()
    assert torch.isinf(found.margin[[2, 3, 5]]).all()
    some = torch.tensor([0, 1, 4])
    assert problem.deployed.take(some).contains(found.x[some]).all()
    part = problem.take(some)
    assert torch.allclose(part.spec.margin(part.network(found.x[some])), found.margin[some], atol=1e-6)
    start = problem.take(owner).spec.margin(problem.network(x.float()))
    assert (found.margin[owner] <= start + 1e-5).all()
    assert (found.margin[owner] < start - 0.01).any()
    assert torch.equal(descend(problem, owner, x, 8).x[some], found.x[some])
    assert torch.isnan(descend(problem, owner[:0], x[:0]).x).all()
