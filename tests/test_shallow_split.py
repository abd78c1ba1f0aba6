"""Half-spaces and the search that lives on them, against linear and mixed-integer programs and rational arithmetic over cells."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from scipy.optimize import linprog

import fathom.prove.branch
from fathom.bounds.halfspace import least_within
from fathom.capture.graph import Graph
from fathom.core.box import Box
from fathom.core.budget import Budget, Goal
from fathom.core.network import Network
from fathom.core.spec import Spec
from fathom.ops.dense import Dense
from fathom.ops.relu import Abs, LeakyRelu, Relu
from fathom.ops.sum import Sum
from fathom.overseers.linear_rules import LinearRules
from fathom.prove.branch import BranchAndBound
from fathom.prove.layer import is_shallow
from fathom.regions.box import BoxRegion
from tests.contracts.test_prove import chain_of, check, clear, dyadic, least_by_milp, pose, problem_of, random_boxes, random_spec
from tests.exact import Hinge


@pytest.fixture(autouse=True)
def phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fathom.prove.branch, "FEW_INPUTS", -1)


def test_least_values_over_a_cut_box_are_those_of_linear_programs() -> None:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    seen = 0
    for _ in range(40):
        a, c, h, limit = normal(4, 6) * (torch.rand(4, 6, generator=g) < 0.7), normal(4), normal(3, 6), normal(3)
        h = h * (torch.rand(3, 6, generator=g) < 0.8)
        lower = normal(3, 6)
        upper = lower + normal(3, 6).relu()
        found = least_within(Box(lower, upper), a, c, h, limit)
        for k in range(3):
            ends = list(zip(lower[k].tolist(), upper[k].tolist(), strict=True))
            for m in range(4):
                program = linprog(a[m].numpy(), A_ub=h[k].numpy()[None], b_ub=[-limit[k].item()], bounds=ends)
                if program.status == 0:
                    seen += 1
                    assert -1e-9 <= program.fun + c[m].item() - found[k, m].item() <= 1e-5
    assert seen > 200


@pytest.mark.parametrize("seed", range(20))
def test_least_values_over_a_cut_box_are_never_too_large(seed: int) -> None:
    """At points of the cut box, in rational arithmetic, with numbers of very different size that cancel."""
    g = torch.Generator().manual_seed(seed)

    def wild(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64) * 2.0 ** torch.randint(-40, 40, shape, generator=g)

    a, c, h = wild(5, 4), wild(5), wild(1, 4)
    lower = wild(1, 4)
    upper = lower + wild(1, 4).abs()
    x = torch.where(torch.rand(64, 4, generator=g) < 0.5, lower, upper)
    inside = [[Fraction(v) for v in row] for row in x.tolist()]
    slopes = [Fraction(v) for v in h[0].tolist()]
    levels = [sum(s * v for s, v in zip(slopes, row, strict=True)) for row in inside]
    cut = sorted(levels)[32]
    limit = torch.tensor([-float(cut)], dtype=torch.float64)
    found = least_within(Box(lower, upper), a, c, h, limit)[0]
    for m in range(5):
        row = [Fraction(v) for v in a[m].tolist()]
        values = [
            sum(s * v for s, v in zip(row, point, strict=True)) + Fraction(c[m].item())
            for point, level in zip(inside, levels, strict=True)
            if level + Fraction(limit.item()) <= 0
        ]
        assert all(Fraction(found[m].item()) <= value for value in values)


def one_layer(g: torch.Generator, d: int, width: int) -> Network:
    """One layer of neurons, at times read by two bends, beside an affine path."""
    graph = Graph([("x", (d,))])
    x = graph.input("x")
    y = graph.add("dense", Dense(dyadic(g, width, d), dyadic(g, width, scale=0.5)), x)
    bends = (Relu(), LeakyRelu(0.1), Abs(), Hinge(0.5), Relu())
    bent = graph.add("bend", bends[int(torch.randint(len(bends), (), generator=g))], y)
    kind = int(torch.randint(3, (), generator=g))
    if kind == 1:
        bent = graph.add("skip", Sum((1, -1)), bent, y)
    elif kind == 2:
        other = graph.add("other", bends[int(torch.randint(len(bends), (), generator=g))], y)
        bent = graph.add("both", Sum((1, -1)), bent, other)
    return graph.finish([("y", graph.add("out", Dense(dyadic(g, 2, width), dyadic(g, 2)), bent))])


@pytest.mark.parametrize("strict", [False, True], ids=["closed", "strict"])
@pytest.mark.parametrize("d", [1, 2])
def test_no_verdict_is_wrong(d: int, *, strict: bool) -> None:
    must = did = 0
    for seed in range(8):
        g = torch.Generator().manual_seed(seed + 100 * d)
        network = one_layer(g, d, 6)
        assert is_shallow(network)
        case = pose(network, random_boxes(g, 51, d), random_spec(g, 51, 2, strict=strict))
        answers = BranchAndBound().solve(case.problem, Budget(passes=200))
        check(case, answers)
        must, did = must + int(clear(case, 1e-3).sum()), did + int(answers.decided[clear(case, 1e-3)].sum())
    assert did >= 0.97 * must, f"{did} of {must} decided"


def test_brackets_of_the_value_goal_hold() -> None:
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        case = pose(one_layer(g, 2, 5), random_boxes(g, 20, 2), random_spec(g, 20, 2, strict=False), move=False)
        answers = BranchAndBound().solve(case.problem, Budget(passes=300, goal=Goal.VALUE))
        check(case, answers)
        large = torch.tensor([abs(truth.worst or 0) > 0.05 for truth in case.truths])
        assert ((answers.upper - answers.lower)[large] <= 2e-2 * answers.upper[large].abs()).all()


@pytest.mark.parametrize("seed", range(6))
def test_mixed_integer_programs_agree(seed: int) -> None:
    """Eight inputs, forty neurons, with the worst margin moved close to 0 from either side."""
    g = torch.Generator().manual_seed(seed)
    network = chain_of(g, [8, 40, 3])
    lower = torch.randn(1, 8, generator=g, dtype=torch.float64)
    region = BoxRegion(lower, lower + 1.5)
    rows = torch.randn(1, 2, 3, generator=g, dtype=torch.float64)
    least = least_by_milp(network, lower[0].numpy(), region.upper[0].numpy(), rows[0].numpy(), torch.zeros(2).numpy())
    for gap in (0.02, -0.02):
        spec = Spec.make(rows, torch.full((1, 2), gap - least), torch.zeros(1, 2), torch.zeros(1))
        answers = BranchAndBound().solve(problem_of(network, region, LinearRules(spec)), Budget(passes=5000))
        assert answers.proved.item() is (gap > 0)
        assert answers.broken.item() is (gap < 0)
