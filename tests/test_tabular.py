"""Rows of a table: what may move, by how much, and together with what; against enumeration in rational arithmetic."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from scipy import optimize
from torch import Tensor

import fathom
from fathom.attacks.gradient import Gradient
from fathom.attacks.values import Values
from fathom.core.budget import Budget
from fathom.prove.branch import BranchAndBound
from fathom.regions.features import certainly_at_most
from fathom.regions.tabular import Tabular
from tests.contracts.test_regions import generator, inside, rows
from tests.test_kinds_of_region import labelled

GROUP = (3, 4, 5)
RELATIONS = ([[0.0, 1.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 1.0, 1.0]], [0.5, 1.5])


def samples(n: int = 5, seed: int = 0) -> Tensor:
    """An age, a count, quarters, a kind of three, and two shares: x1 <= 2 x2 + 0.5, and x6 + x7 + 0.5 x3 <= 1.5."""
    g = generator(seed)
    x = torch.rand(n, 8, generator=g) * 0.5
    x[:, 1] = torch.randint(0, 3, (n,), generator=g)
    x[:, 2] = 1 + torch.randint(0, 5, (n,), generator=g) / 4
    x[:, 3:6] = torch.eye(3)[torch.randint(0, 3, (n,), generator=g)]
    return x


def table(n: int = 5, *, budget: float | None = 2.0, tied: bool = True, seed: int = 0) -> Tabular:
    ends = torch.zeros(8), torch.tensor([100.0, 4, 3, 1, 1, 1, 1, 1])
    step, unit = [0, 1, 0.25, 0, 0, 0, 0, 0], [1, 1, 0.5, 4, 4, 4, 0.3, 0.7]
    most = [torch.inf] * 6 + [0.4, 0.2]
    relations = RELATIONS if tied else None
    return Tabular.around(
        samples(n, seed), ends, immutable=[0], step=step, groups=[GROUP], most=most, unit=unit, budget=budget, relations=relations
    )


def points_of(region: Tabular, i: int) -> list[Tensor]:
    """Every choice of whole numbers and kind, with the shares at many places: those that lie in set i."""
    grid = torch.linspace(0, 1, 4, dtype=torch.float64)
    shares = itertools.product([*grid, region.centre[i, 6]], [*grid, region.centre[i, 7]])
    found = []
    for (p, q), count, quarter, kind in itertools.product(list(shares), range(5), torch.arange(0, 13) / 4, range(3)):
        x = region.centre[i].clone()
        x[1], x[2], x[3:6], x[6], x[7] = count, quarter, torch.eye(3)[kind], p, q
        found.append(x)
    whole = torch.stack(found)
    held = region.take(torch.full((len(whole),), i)).contains(whole)
    return list(whole[held])


@pytest.mark.parametrize(("budget", "tied"), [(None, False), (2.0, False), (None, True), (2.0, True), (0.0, True)])
def test_the_oracle_is_below_every_point_and_its_own_points_are_inside(budget: float | None, tied: bool) -> None:  # noqa: FBT001
    region = table(3, budget=budget, tied=tied)
    a = rows(region, 6)
    values, minimisers = region.minimise(a)
    for i in range(3):
        points = points_of(region, i)
        assert points
        for x in points[:: max(1, len(points) // 40)]:
            assert inside(region, i, x)
            for r in range(6):
                exact = sum(Fraction(p) * Fraction(v) for p, v in zip(a[i, r].tolist(), x.tolist(), strict=True))
                assert Fraction(values[i, r].item()) <= exact
        for r in range(6):
            assert inside(region, i, minimisers[i, r], Fraction(1, 10**9))
            best = min(float((a[i, r] * x).sum()) for x in points)
            scale = float(a[i, r].abs().max()) + 1e-200
            assert float((a[i, r] * minimisers[i, r]).sum()) <= best + 0.9 * scale  # greedy, but not blind
            if budget is None and not tied:
                assert values[i, r].item() == pytest.approx(float((a[i, r] * minimisers[i, r]).sum()), abs=1e-11 * scale)


@pytest.mark.parametrize("seed", range(4))
def test_relations_between_numbers_are_bounded_nearly_as_a_linear_program(seed: int) -> None:
    g = generator(seed)
    x, a = torch.rand(1, 6, generator=g), torch.randn(1, 1, 6, generator=g, dtype=torch.float64)
    tie = torch.randn(2, 6, generator=g, dtype=torch.float64)
    limits = (tie @ x[0].double()) + 0.2
    one, two = (Tabular.around(x, (0.0, 1.0), relations=(tie[:k], limits[:k])) for k in (1, 2))
    for region, k in ((one, 1), (two, 2)):
        best = optimize.linprog(a[0, 0].numpy(), A_ub=tie[:k].numpy(), b_ub=limits[:k].numpy(), bounds=[(0, 1)] * 6).fun
        value = region.minimise(a)[0].item()
        assert value <= best + 1e-9
        assert value >= best - (1e-7 if k == 1 else 0.05)  # one multiplier at a time may stop short of the best two


@pytest.mark.parametrize("tied", [False, True])
def test_tables_are_decided_choice_by_choice(tied: bool) -> None:  # noqa: FBT001
    region = table(3, tied=tied, seed=2)
    problem = labelled(region, seed=2)
    answers = BranchAndBound().solve(problem, Budget(seconds=60))
    assert answers.decided.all()
    network = problem.network.freeze(torch.float64)
    for i in answers.proved.nonzero()[:, 0].tolist():
        x = torch.stack(points_of(region, i))
        assert (problem.spec.take(torch.full((len(x),), i)).margin(network(x)) > 0).all()
    for i in answers.broken.nonzero()[:, 0].tolist():
        assert inside(problem.deployed, i, answers.found.x[i])
    for attack in (Gradient(restarts=6), Values()):
        found = attack.solve(problem, Budget())
        assert not (found.broken & answers.proved).any()
        assert found.broken.sum() >= answers.broken.sum() - 1


def test_what_is_repaired_lies_inside_and_what_lies_inside_stays() -> None:
    for dtype in (torch.float64, torch.float32):
        region = table(4).rounded(dtype)
        x = (torch.rand(4, 40, 8, generator=generator(5)) * 6 - 2).to(dtype)
        near = region.repair(x)
        assert near.dtype == dtype and torch.equal(region.repair(near), near)
        assert all(region.contains(near[:, j]).all() for j in range(40))
        assert (near[:, :, 0] == region.centre[:, None, 0].to(dtype)).all()
        assert near[:, :, 1].unique().numel() > 2 and near[:, :, 3:6].unique().tolist() == [0, 1]


def test_an_equality_is_kept_exactly() -> None:
    """x0 <= x1 at x0 == x1: no rounding may push it out, and none may let in what breaks it."""
    region = Tabular.around(torch.tensor([[0.1, 0.1]]), (0.0, 1.0), relations=([[1.0, -1.0]], [0.0]))
    assert region.contains(torch.tensor([[0.1, 0.1]])).all()
    assert not region.contains(torch.tensor([[0.1 + 2**-27, 0.1]], dtype=torch.float64)).any()
    tenth = Tabular.around(torch.zeros(1, 3), (0.0, 1.0), unit=[10.0] * 3, budget=0.03)
    assert tenth.contains(torch.tensor([[0.1, 0.1, 0.1]], dtype=torch.float64)).all() == (
        3 * Fraction(0.1) * Fraction(1 / 10.0) <= Fraction(0.03)
    )


def test_empty_parts_are_known_to_be_empty() -> None:
    region = table(1)
    box, owner = region.box(), torch.zeros(1, dtype=torch.int64)

    def cut(feature: int, low: float, high: float) -> Tabular:
        lower, upper = box.lower.clone(), box.upper.clone()
        lower[:, feature], upper[:, feature] = low, high
        return region.restrict(owner, lower, upper)

    assert not region.empty().any()
    assert cut(1, 0.2, 0.8).empty().all()  # no whole number
    assert cut(3, 0.1, 0.9).empty().all()  # neither 0 nor 1
    far = 0.0 if region.centre[0, 6] > 0.5 else 1.0
    assert cut(6, far, far).empty().all() or region.budget.item() >= abs(region.centre[0, 6].item() - far) / 0.3
    tight = Tabular.around(torch.tensor([[0.2, 0.4]]), (0.0, 1.0), relations=([[1.0, -1.0]], [0.0]))
    half = tight.restrict(owner, torch.tensor([[0.6, 0.0]]).double(), torch.tensor([[1.0, 0.5]]).double())
    assert half.empty().all()


def test_words_and_refusals() -> None:
    assert str(table()) == "rows of 8 features, 1 immutable, 1 one-hot, 2 relations, 2 units"
    x = samples()
    ends = torch.zeros(8), torch.tensor([100.0, 4, 3, 1, 1, 1, 1, 1])
    bad: dict[str, dict[str, object]] = {
        "multiple of 1 in feature 6": {"step": [0, 0, 0, 0, 0, 0, 1, 0]},
        "one 1 among features": {"groups": [(1, 2)]},
        "do not overlap": {"groups": [GROUP, (5, 6)]},
        "immutable features from 0 to 7": {"immutable": [8]},
        "`most` as 8 numbers": {"most": [1.0]},
        "units above 0": {"unit": [0.0] * 8, "budget": 1.0},
        "keep relation 0": {"relations": ([[0, 1.0, 1, 0, 0, 0, 0, 0]], [0.0])},
        "a limit for each of 1": {"relations": ([[0, 1.0, 0, 0, 0, 0, 0, 0]], [0.0, 1.0])},
        "multiples are float32": {"step": [0, 0.1, 0, 0, 0, 0, 0, 0]},
        "budgets >= 0": {"budget": -1.0},
    }
    for word, arguments in bad.items():
        with pytest.raises(fathom.FathomError, match=word):
            Tabular.around(x, ends, **arguments)
    with pytest.raises(fathom.FathomError, match="clipping range"):
        Tabular.around(x + 200, ends)


def test_few_digits_are_compared_as_exactly_as_many() -> None:
    """Sums that meet their limit, or miss it by one unit in the last place, on either side; against rational arithmetic."""
    g = torch.Generator().manual_seed(0)
    for scale, shift in ((1.0, 0.0), (1 / 1024, 0.0), (1.0, 2.0**-11), (1.0, 1 / 3), (2.0**26, 0.0)):
        a, x, centre = (scale * torch.randint(-50, 50, (200, 5), generator=g).double() for _ in range(3))
        x = x + shift
        for distance in (False, True):
            terms = a * ((x - centre).abs() if distance else x)
            near = terms.sum(1)
            up, down = near.nextafter(near + 1), near.nextafter(near - 1)
            for limit in (near, up, down):
                said = certainly_at_most(a, x, centre, limit, distance=distance)
                for i in range(len(a)):
                    ways = [Fraction(v) for v in x[i].tolist()]
                    if distance:
                        ways = [abs(v - Fraction(c)) for v, c in zip(ways, centre[i].tolist(), strict=True)]
                    total = sum(Fraction(p) * v for p, v in zip(a[i].tolist(), ways, strict=True))
                    assert bool(said[i]) == (total <= Fraction(limit[i].item()))
