"""The adversary inside the network: what holds the activations holds them all, and no hit is taken for more than it is."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fathom.attacks.gradient import Gradient
from fathom.audits.latent import NaturalInputs, latent
from fathom.audits.portfolio import Portfolio
from fathom.audits.relaxed import LatentResult
from fathom.bounds.crown import Crown
from fathom.capture.torch_module import capture_module
from fathom.core.answer import Claim, ContradictionError
from fathom.core.box import Box
from fathom.core.budget import Budget
from fathom.core.confirm import confirm
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.solver import Hints, Solver, ignore
from fathom.core.spec import Spec
from fathom.hunt import natural
from fathom.hunt.latent import LatentHunt
from fathom.hunt.layers import Layer, layers, reach_boxes
from fathom.hunt.parts import EVERY, Parts, with_rounding, within
from fathom.hunt.pull_back import cut
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.rules import above
from fathom.regions.box import BoxRegion
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall

KINDS = ("reach", "box", "ellipsoid", "ball", "l2-ball")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem_of(model: nn.Module, region: Region, overseer: Overseer) -> Problem:
    captured = capture_module(model, (region.size,), live=False)
    return Problem.make(captured.program, captured.network, region, overseer)


def mlp(sizes: list[int], seed: int, bend: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), bend()]
    return nn.Sequential(*parts[:-1])


def two(head: list[list[float]], tail: list[float], bias: float) -> nn.Sequential:
    """relu(head x), then tail z + bias: the score."""
    model = nn.Sequential(nn.Linear(len(head[0]), len(head), bias=False), nn.ReLU(), nn.Linear(len(head), 1))
    model[0].weight.data, model[2].weight.data = torch.tensor(head), torch.tensor([tail])
    model[2].bias.data = torch.tensor([bias])
    return model


def excess(layer: Layer, region: Region, lower: Tensor, upper: Tensor) -> Tensor:
    """[n] how far the worst activation that an attack finds is outside the boxes: every element's both ends, by ascent."""
    w = layer.size
    sign = torch.cat([torch.ones(w), -torch.ones(w)]).double()
    which = torch.arange(w).repeat(2)
    worst = torch.full((len(region),), -math.inf, dtype=torch.float64)
    for k in range(len(region)):
        one = region.take(torch.full((2 * w,), k))
        x = one.sample(1, generator(k))[:, 0]
        for step in range(30):
            free = x.detach().requires_grad_()
            value = sign * layer.head(free)[torch.arange(2 * w), which]
            (slope,) = torch.autograd.grad(value.sum(), free)
            far = value.detach() - torch.where(sign > 0, upper[k, which], -lower[k, which])
            worst[k] = torch.maximum(worst[k], far.amax())
            x = x + (0.5 if step < 15 else 1.0) * (one.minimise(-slope[:, None])[1][:, 0] - x)
    return worst


@pytest.mark.parametrize("bend", [nn.ReLU, nn.Sigmoid])
@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
@pytest.mark.parametrize("seed", range(2))
def test_the_reach_set_holds_sampled_and_attacked_activations(bend: type[nn.Module], ball: type, seed: int) -> None:
    model = mlp([5, 12, 8, 3], seed, bend)
    x = torch.rand(3, 5, generator=generator(seed))
    region = ball.around(x, torch.tensor([0.01, 0.2, 0.8]), (0, 1))
    problem = problem_of(model, region, Misclassification(label=torch.zeros(3, dtype=torch.int64), classes=3))
    assert problem.network is not None
    for name, shape in layers(problem.network):
        layer = Layer.of(problem, name)
        box = reach_boxes(layer.head, problem.region)
        assert box.lower.shape == (3, math.prod(shape))
        z = layer.activations(region.sample(2000, generator(seed)))
        assert ((box.lower[:, None] <= z) & (z <= box.upper[:, None])).all(), name
        assert (excess(layer, region, box.lower, box.upper) <= 0).all(), name
        assert (box.width[0] <= 20 * (z.amax(1) - z.amin(1))[0] + 1e-9).all(), "and is not much larger than it need be"


def test_half_spaces_hold_what_is_reached_and_cut_between() -> None:
    model = mlp([4, 10, 6, 2], 3)
    region = LinfBall.around(torch.rand(4, 4, generator=generator()), 0.3, (0, 1))
    problem = problem_of(model, region, Misclassification(label=torch.zeros(4, dtype=torch.int64), classes=2))
    layer = Layer.of(problem, "relu_1")
    z = layer.activations(region.sample(3000, generator()))
    rows = torch.randn(4, 7, 6, generator=generator(), dtype=torch.float64)
    rows[0, 0] = 0
    cuts = cut(layer, problem.region, torch.float32, rows, z[:, 0], Budget())
    value = torch.einsum("hdw,hsw->hds", cuts.rows, z)
    assert (value >= cuts.limit[..., None]).all()
    assert (value.amin(2) - cuts.limit < 1.0).all(), "they are near what they hold"
    assert not any(cuts.exclude(z[:, j]).any() for j in range(50))
    assert cuts.exclude(z[:, 0] - 100 * cuts.rows[:, 1]).all()


def test_a_failure_has_to_lie_in_all_half_spaces_that_its_clause_is_told_of() -> None:
    """Against margins put together by hand, with clauses of several rows, padding, and half-spaces for one clause or for all."""
    g, k, w, m = generator(3), 5, 3, 4
    clause = torch.tensor([[0, 0, 1], [0, 1, 2], [0, 0, -1]])
    spec = Spec.make(torch.randn(3, 3, m, generator=g), torch.randn(3, 3, generator=g), clause, torch.tensor([0, 1, 2, 1, 0]))
    rows, limit = torch.randn(k, 4, w, generator=g).double(), torch.randn(k, 4, generator=g).double()
    limit[torch.rand(k, 4, generator=g) < 0.3] = -math.inf
    told = torch.randint(-1, 3, (k, 4), generator=g)
    nothing = torch.zeros(k)
    box = Box(torch.zeros(k, w), torch.ones(k, w))
    parts = Parts(torch.arange(k), box, box, rows, limit, told, *[nothing] * 6)
    joint = within(spec, parts)
    for _ in range(50):
        y, z = torch.randn(k, m, generator=g).double(), torch.randn(k, w, generator=g).double()
        found = joint.margin(torch.cat([y, z], 1))
        for i in range(k):
            worst, of = math.inf, int(spec.of[i])
            for c in range(3):
                mine = [(spec.rows[of, r] @ y[i] + spec.offsets[of, r]).item() for r in range(3) if clause[of, r] == c]
                if mine:
                    cuts = [j for j in range(4) if told[i, j] in (EVERY, c) and limit[i, j] > -math.inf]
                    mine += [(limit[i, j] - rows[i, j] @ z[i]).item() for j in cuts]
                    worst = min(worst, max(mine))
            assert found[i].item() == pytest.approx(worst, abs=1e-9)
    bare = replace(parts, limit=torch.full_like(limit, -math.inf))
    assert within(spec, bare) is spec


def ask(
    model: nn.Module, x: Tensor, change: float, overseer: Overseer, layer: str, within: str, **others: object
) -> LatentResult:
    given = {"natural": NaturalInputs(torch.rand(300, x.shape[1], generator=generator())), "budget": Budget(seconds=60)} | others
    if "ball" in within:
        given = {"radius": 0.6} | given
    return latent(model, LinfBall.around(x, change, (0, 1)), overseer, layer=layer, within=within, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("within", KINDS)
def test_a_failure_that_no_input_reaches_is_called_spurious_and_refined_away(within: str) -> None:
    """z_1 = z_2 for every input, and the score is 0.5 - z_1 + z_2: a box lets the two differ."""
    model, x = two([[1.0, 0.0], [1.0, 0.0]], [-1.0, 1.0], 0.5), torch.tensor([[0.5, 0.5]])
    result = ask(model, x, 0.5, above(0.0), "relu", within)
    assert result.claim(0) is Claim.CERTIFICATE and not result.found.broken.any()
    first = result.relaxed.rounds[0]
    if within == "ellipsoid":  # of points on a line: it is hardly wider
        assert first.proved == 1 and first.hits == 0 and result.spuriousness is None
    else:
        assert (first.hits, first.real, first.spurious, first.certain) == (1, 0, 1, 1)
        assert result.spuriousness == 1.0 and result.relaxed.rounds[-1].proved == 1
    assert bool(result.lower[0] > 0) == (within == "reach"), "only what holds all that is reached proves the model"


@pytest.mark.parametrize("within", KINDS)
def test_a_failure_that_is_real_is_found_through_the_pull_back(within: str) -> None:
    model, x = two([[1.0, 0.0], [1.0, 0.0]], [-1.0, 0.2], 0.5), torch.tensor([[0.5, 0.5]])
    result = ask(model, x, 0.5, above(0.0), "relu", within)
    assert result.claim(0) is Claim.COUNTEREXAMPLE and result.spuriousness == 0.0
    assert model(result.found.x[0]).item() <= 0 and (result.found.x[0] - x[0]).abs().max() <= 0.5
    assert result.lower[0] == -math.inf


def test_what_convex_bounds_let_in_is_refined_away_by_halving_inputs() -> None:
    """z = (relu(x), relu(-x)) is on the axes, and fails where both are 0.3: inside the convex hull."""
    head, inner = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[1.0], [-1.0]])
    inner.weight.data = torch.tensor([[0.0, 1.0], [-1.0, 1.0]])  # z_2, and z_2 - z_1
    last = nn.Linear(2, 1)
    last.weight.data, last.bias.data = torch.tensor([[-1.0, 1.0]]), torch.tensor([0.3])  # 0.3 - min(z_1, z_2)
    model = nn.Sequential(head, nn.ReLU(), inner, nn.ReLU(), last)
    region = BoxRegion(torch.full((1, 1), -1.0, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    result = latent(model, region, above(0.0), layer="linear_1", rounds=8)
    assert result.relaxed.rounds[0].spurious == 1 and result.claim(0) is Claim.CERTIFICATE
    assert any(now.hits > now.certain for now in result.relaxed.rounds), "no half-space was enough"
    alone = latent(model, region, above(0.0), layer="linear_1", rounds=0)
    assert alone.claim(0) is not Claim.CERTIFICATE and alone.spuriousness == 1.0


@pytest.mark.parametrize("within", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_proofs_at_a_layer_never_contradict_failures(within: str, seed: int) -> None:
    """What an attack on the whole model breaks is never proved; and proofs that split the inputs agree."""
    model, n = mlp([3, 8, 6, 3], seed), 8
    x = torch.rand(n, 3, generator=generator(seed))
    model[-1].bias.data -= model(x).mean(0)  # no class is read everywhere
    label = model(x).argmax(1)
    overseer = Misclassification(label=label, classes=3)
    radius = [0.02, 0.1, 0.4][seed]
    data = torch.rand(200, 3, generator=generator(seed + 1))
    others = {"natural": NaturalInputs(data, model(data).argmax(1)), "group": label, "rounds": 3}
    result = ask(model, x, radius, overseer, "relu_1", within, **others)
    problem = problem_of(model, LinfBall.around(x, radius, (0, 1)), overseer)
    attacked = Gradient(restarts=20).solve(problem, Budget())
    proved = result.lower > 0
    assert not (proved & attacked.broken).any()
    assert not (proved & result.found.broken).any()
    for i in result.found.broken.nonzero()[:, 0].tolist():
        assert problem.deployed.take(torch.tensor([i])).contains(result.found.x[i : i + 1]).all()
        assert model(result.found.x[i]).argmax() != label[i] or result.found.deployed[i] <= 0
    if within == "reach":
        assert proved[Crown().solve(problem, Budget()).lower > 0.05].all(), "what bounds prove at once is proved here too"
    # What is proved of a region of activations holds at samples of it, run through the layers behind.
    whole = result.relaxed.proved & ~result.relaxed.refined
    if within == "ball" and bool(whole.any()):
        layer = Layer.of(problem, "relu_1")
        ball = LinfBall.around(layer.activations(x), 0.6)
        z = ball.sample(500, generator())
        y = layer.tail(z.flatten(0, 1))
        label_of = label.repeat_interleave(500)
        margin = overseer.take(torch.arange(n).repeat_interleave(500)).margin(z.flatten(0, 1), y).reshape(n, 500)
        assert len(label_of) == len(y) and (margin[whole] >= result.relaxed.lower[whole][:, None] - 1e-9).all()


def test_a_hit_outside_by_rounding_alone_is_not_proved_out_of_reach() -> None:
    """The end 0.7 of a region is above 0.7 in float32: a hit there was called proved, and found again for ever."""
    box = Box(torch.tensor([[-0.7, 0.1]], dtype=torch.float64), torch.tensor([[0.7, 0.1]], dtype=torch.float64))
    ends = torch.stack([box.lower, box.upper]).float().double()
    near = with_rounding(box, torch.float32)
    assert not all(bool(box.contains(end)) for end in ends) and all(bool(near.contains(end)) for end in ends)
    assert not near.contains(box.upper + 1e-6) and torch.equal(with_rounding(box, torch.float64).upper, box.upper)


def test_a_proof_against_a_real_failure_is_a_contradiction() -> None:
    """A solver that calls all layers safe whatever they do is found out by the input that fails."""
    model, x = two([[1.0, 0.0], [1.0, 0.0]], [-1.0, 0.2], 0.5), torch.tensor([[0.5, 0.5]])
    problem = problem_of(model, LinfBall.around(x, 0.5, (0, 1)), above(0.0))

    class Lying(Gradient):
        def solve(self, *asked):  # type: ignore[no-untyped-def]
            answers = super().solve(*asked)
            return replace(answers, lower=answers.upper - 1e-3 + 1.0)

    layer = Layer.of(problem, "relu")
    box = reach_boxes(layer.head, problem.region)
    hunt = LatentHunt(
        problem, layer, BoxRegion(box.lower, box.upper), covers=True, solver=Lying(), attack=Gradient(), group=torch.arange(1)
    )
    with pytest.raises(ContradictionError):
        hunt.solve(Budget())


def test_what_is_left_of_an_ellipsoid_may_be_proved_of_the_box_round_it() -> None:
    """By a solver that can only bound boxes, say; failures in the box alone are none of the region."""
    model, x = two([[1.0, 0.0], [0.0, 1.0]], [-1.0, -1.0], 1.9), torch.tensor([[0.5, 0.5]])
    kinds: list[str] = []

    class Boxes(Crown):
        def solve(self, problem, *others):  # type: ignore[no-untyped-def]
            kinds.append(type(problem.region).__name__)
            answers = super().solve(problem, *others)
            return answers if kinds[-1] == "BoxRegion" else replace(answers, lower=torch.full_like(answers.lower, -math.inf))

    for radius, proved in ((0.3, True), (0.46, False)):  # the box reaches 1.9 from 0.45 on, and the ball from 0.64 on
        problem = problem_of(model, LinfBall.around(x, 0.4, (0, 1)), above(0.0))
        ball = L2Ball.around(x, radius)
        hunt = LatentHunt(
            problem,
            Layer.of(problem, "relu"),
            ball,
            covers=False,
            solver=Boxes(),
            attack=Gradient(),
            group=torch.arange(1),
            rounds=0,
        )
        result = hunt.solve(Budget())
        assert bool(result.proved) == proved and result.hit.isnan().all()
        assert result.rounds[0].hits == 0, "a failure in the box alone is not counted"
    assert kinds == ["L2Ball", "BoxRegion"] * 2


def test_what_is_neither_proved_nor_hit_is_refined_too() -> None:
    """By a solver that can only bound, and not enough for the box of what is reached: z_1 = z_2, and 0.5 - z_1 + z_2."""
    model, x = two([[1.0, 0.0], [1.0, 0.0]], [-1.0, 1.0], 0.5), torch.tensor([[0.5, 0.5]])
    problem = problem_of(model, LinfBall.around(x, 0.5, (0, 1)), above(0.0))
    layer = Layer.of(problem, "relu")

    class Blind(Solver):
        def solve(self, problem, budget, hints=Hints(), observe=ignore):  # type: ignore[no-untyped-def]
            answers = Portfolio(worsen=False).solve(problem, budget)
            middle = confirm(problem, problem.region.box().middle)
            return replace(answers, found=middle)

    box = reach_boxes(layer.head, problem.region)
    region = BoxRegion(box.lower, box.upper)
    hunt = LatentHunt(problem, layer, region, covers=True, solver=Blind(), attack=Gradient(), group=torch.arange(1))
    result = hunt.solve(Budget(seconds=60))
    assert result.rounds[0].hits == result.rounds[0].proved == 0 and result.proved.all() and len(result.rounds) > 1


def test_a_refined_proof_is_about_reached_activations_alone() -> None:
    model, x = two([[1.0, 0.0], [1.0, 0.0]], [-1.0, 1.0], 0.5), torch.tensor([[0.5, 0.5]])
    result = ask(model, x, 0.5, above(0.0), "relu", "ball")
    assert result.relaxed.refined.all() and "whose activation lies in the region" in "\n".join(result.lines())
    easy = ask(model, x, 0.5, above(0.0), "relu", "ball", radius=0.2)
    assert not easy.relaxed.refined.any() and "whether an input reaches it or not" in "\n".join(easy.lines())


def test_containment_counts_exactly() -> None:
    """The layer is relu of the input itself: activations are the inputs, and can be counted by hand."""
    model = two([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0], 5.0)
    x = torch.tensor([[0.2, 0.2], [0.8, 0.8]])
    near = torch.tensor([[0.2, 0.2], [0.25, 0.25], [0.5, 0.5], [0.8, 0.71], [0.8, 0.69], [0.95, 0.9], [0.2, 0.8]])
    both = ask(model, x, 0.1, above(0.0, sets=2), "relu", "ball", radius=0.1, natural=NaturalInputs(near), confidence=0.9)
    assert both.containment is not None
    assert (both.containment.inside, both.containment.held) == (2, 7), "a case's own input does not count, nor what is outside"
    assert both.containment.interval[0] < 2 / 7 < both.containment.interval[1]
    group = torch.tensor([0, 1, 0, 0, 1, 1, 0])
    by_class = {"natural": NaturalInputs(near, group), "group": torch.tensor([0, 1])}
    apart = ask(model, x, 0.1, above(0.0, sets=2), "relu", "ball", radius=0.1, **by_class)
    assert apart.containment is not None and apart.containment.inside == 0, "those two are of the other class"
    assert both.containment.stated is None


@pytest.mark.parametrize("kind", ["box", "ellipsoid"])
@pytest.mark.parametrize("width", [1, 3, 30])
def test_stated_coverage_holds_as_often_as_it_is_said_to(kind: str, width: int) -> None:
    """Skewed, correlated draws of one class, of which the true share inside is known from many more."""
    mix, g = torch.randn(width, width, generator=generator(width), dtype=torch.float64), generator(4)

    def draw(count: int) -> Tensor:
        return torch.randn(count, width, generator=g, dtype=torch.float64).exp() @ mix

    many, wrong, times = draw(2000), 0, 25
    for _ in range(times):
        found = natural.fit(kind, draw(120), torch.zeros(120, dtype=torch.int64), 0.8, 0.9, g)
        assert 0.8 <= found.share[0] < 0.9 and found.calibrated[0] == 40 and len(found.held) == 40
        inside = found.region.take(torch.zeros(len(many), dtype=torch.int64)).contains(many).double().mean().item()
        wrong += inside < found.share[0] - 0.02  # 2,000 draws are off by 0.01
    assert wrong <= 0.1 * times + 3 * math.sqrt(0.09 * times)


def test_a_coverage_that_so_few_activations_cannot_show_is_not_stated() -> None:
    z = torch.rand(9, 2, generator=generator(), dtype=torch.float64)
    found = natural.fit("box", z, torch.zeros(9, dtype=torch.int64), 0.99, 0.95, generator())
    assert found.share[0].item() == pytest.approx(0.05 ** (1 / 3), abs=1e-6)


def test_constant_elements_and_one_class_of_many() -> None:
    z = torch.cat([torch.full((90, 1), 2.0), torch.rand(90, 1, generator=generator())], 1)
    for kind in ("box", "ellipsoid"):
        found = natural.fit(kind, z, torch.arange(90) % 3 * 5, 0.9, 0.95, generator())
        assert found.group.tolist() == [0, 5, 10] and found.of(torch.tensor([10, 0, 10])).tolist() == [2, 0, 2]
        assert all(found.region.contains(z[found.held[:1]].double().expand(3, -1)).tolist()) or kind == "ellipsoid"
        with pytest.raises(FathomError, match="class 4"):
            found.of(torch.tensor([4]))
    dead = natural.fit("box", torch.zeros(30, 2), torch.zeros(30, dtype=torch.int64), 0.9, 0.9, generator())
    assert dead.region.contains(torch.zeros(1, 2, dtype=torch.float64)).all()


def test_one_class_and_a_regression_output_can_be_asked_about() -> None:
    pair, single = mlp([2, 4, 2], 0), mlp([2, 4, 1], 0)
    pair[2].bias.data = torch.tensor([9.0, -9.0])
    x = torch.rand(2, 2, generator=generator())
    always = ask(pair, x, 0.1, Misclassification(label=torch.zeros(2, dtype=torch.int64), classes=2), "relu", "box")
    assert [always.claim(i) for i in range(2)] == [Claim.CERTIFICATE] * 2
    low = single(x).min().item() - 5
    price = ask(single, x, 0.1, above(low, sets=2), "relu", "reach")
    assert [price.claim(i) for i in range(2)] == [Claim.CERTIFICATE] * 2


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(x + torch.sigmoid(self.inner(x)))


def test_layers_are_those_that_every_path_passes_and_errors_list_them() -> None:
    region = LinfBall.around(torch.rand(1, 3, generator=generator()), 0.1)
    problem = problem_of(Around(), region, Misclassification(label=torch.zeros(1, dtype=torch.int64), classes=2))
    assert problem.network is not None
    names = [name for name, _ in layers(problem.network)]
    every = [node.name for node in problem.network.nodes[1:-1]]
    for name in every:
        if name in names:
            layer = Layer.of(problem, name)
            x = torch.rand(5, 3, generator=generator(), dtype=torch.float64)
            assert torch.allclose(layer.tail(layer.head(x)), problem.network.freeze(torch.float64)(x))
        else:
            with pytest.raises(FathomError, match=r"goes round them.*every path passes .*relu \[3\]"):
                Layer.of(problem, name)
    assert "sigmoid" in every and "sigmoid" not in names and names[:3] == ["input", "linear", "relu"]
    with pytest.raises(FathomError, match=r"got 'conv9'; there are .*relu \[3\]"):
        Layer.of(problem, "conv9")
    with pytest.raises(FathomError, match="between input and output"):
        Layer.of(problem, "(output)")


def test_what_does_not_fit_together_is_refused() -> None:
    model, x, over = mlp([2, 4, 2], 0), torch.rand(2, 2), Misclassification(label=torch.tensor([0, 1]), classes=2)
    for kind, others, words in (
        ("cube", {}, "reach, box"),
        ("ball", {"radius": -1.0}, "radius > 0"),
        ("ball", {"radius": None}, "radius > 0"),
        ("reach", {"radius": 0.1}, "no radius"),
        ("box", {"natural": None}, "natural inputs"),
        ("box", {"natural": NaturalInputs(torch.rand(9, 3))}, r"\[N, 2\]"),
        ("box", {"coverage": 1.0}, "coverage between"),
        ("box", {"natural": NaturalInputs(torch.rand(2, 2))}, "at least 3"),
        ("reach", {"group": torch.tensor([0])}, "a class for each of 2"),
    ):
        with pytest.raises(FathomError, match=words):
            ask(model, x, 0.1, over, "relu", kind, **others)


def test_cases_with_one_region_and_one_judge_are_asked_about_once() -> None:
    model = mlp([2, 6, 2], 1)
    x = torch.rand(12, 2, generator=generator())
    label = torch.arange(12) % 2
    asked: list[int] = []

    class Counting(Gradient):
        def solve(self, problem, *others):  # type: ignore[no-untyped-def]
            asked.append(len(problem))
            return super().solve(problem, *others)

    problem = problem_of(model, LinfBall.around(x, 0.01), Misclassification(label=label, classes=2))
    layer = Layer.of(problem, "relu")
    z = layer.activations(torch.rand(90, 2, generator=generator()))
    found = natural.fit("box", z, torch.arange(90) % 2, 0.9, 0.9, generator())
    of = found.of(label)
    hunt = LatentHunt(
        problem, layer, found.region.take(of), covers=False, solver=Counting(), attack=Gradient(), group=of, rounds=0
    )
    hunt.solve(Budget())
    assert asked[0] == 2


def test_what_is_known_is_given_where_time_ends_or_somebody_stops_it() -> None:
    model, x = two([[1.0, 0.0], [1.0, 0.0]], [-1.0, 1.0], 0.5), torch.tensor([[0.5, 0.5]])
    stopped = Budget(seconds=60)
    stopped.stop.set()
    for budget in (stopped, Budget(seconds=0)):
        result = ask(model, x, 0.5, above(0.0), "relu", "reach", budget=budget)
        assert result.claim(0) is Claim.UNKNOWN and not result.relaxed.rounds and result.spuriousness is None
        assert "nothing was searched" in "\n".join(result.lines())
        json.dumps(result.to_json(), allow_nan=False)
    assert result.interrupted is False


def test_the_answer_as_json_says_what_the_lines_say() -> None:
    model, x = two([[1.0, 0.0], [1.0, 0.0]], [-1.0, 1.0], 0.5), torch.tensor([[0.5, 0.5]])
    result = ask(model, x, 0.5, above(0.0), "relu", "reach", rounds=0)
    read = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert read["format"] == "fathom-latent/1" and read["spuriousness"] == 1.0 and read["rounds"][0]["certain"] == 1
    assert read["cases"][0]["claim"] == "unknown", "what is proved out of reach is no relaxed counterexample"
    assert read["containment"]["inside"] == read["containment"]["held"] == 300
    assert sum(read["counts"].values()) == 1
