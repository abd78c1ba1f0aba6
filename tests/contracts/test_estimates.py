"""Estimates of the probability of failure, held to questions whose answer is known exactly, and to inputs that mislead."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import fathom
from fathom.core.answer import Claim
from fathom.core.box import Box
from fathom.core.budget import Budget, Clock
from fathom.core.errors import FathomError
from fathom.estimates.distribution import Distribution, Latent, Product
from fathom.estimates.distributions import over
from fathom.estimates.distributions.empirical import Empirical
from fathom.estimates.distributions.normal_numbers import enclose_below, enclose_between
from fathom.estimates.effort import Effort
from fathom.estimates.enumeration import Enumeration
from fathom.estimates.importance import Importance
from fathom.estimates.intervals import at_most, clopper_pearson, of_mean
from fathom.estimates.question import Question
from fathom.estimates.sampling import Sampling
from fathom.estimates.splitting import Splitting
from fathom.estimates.unseen import Unseen
from fathom.estimates.volume import Volume
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.regions.box import BoxRegion
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.regions.union import Union
from tests.estimation import BELOW_ZERO, Diamond, ask, box, by_value, exact_share, half_space, linear, piecewise


def clock(seconds: float | None = None) -> Clock:
    return Budget(seconds=seconds).start()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Distributions


def distributions() -> dict[str, Distribution]:
    centre = torch.tensor([[0.2, 0.5, 0.9], [0.5, 0.5, 0.5]])
    boxes = BoxRegion(
        torch.tensor([[0.0, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([[1.0, 3.0, 2.0], [1.0, 1e-3, 5.0]], dtype=torch.float64),
    )
    linf = LinfBall.around(centre, 0.3, clip=(0, 1))
    return {
        "uniform box": over(boxes),
        "uniform linf": over(linf),
        "normal box": over(boxes, "normal"),
        "normal linf": over(linf, "normal", 0.4),
        "nearly whole normal": over(linf, "normal", 0.05),
        "l2": over(L2Ball.around(centre, 0.3)),
        "l2 cut": over(L2Ball.around(centre, 0.3, clip=(0, 1))),
        "l1": over(L1Ball.around(centre, 0.3, clip=(0, 1))),
        "points": over(FiniteSet.of(torch.rand(2, 9, 3), torch.arange(9) < torch.tensor([[4], [9]]))),
        "data": Empirical(centre.to(torch.float64)),
    }


@pytest.mark.parametrize("name", list(distributions()))
def test_draws_lie_in_their_sets_and_have_a_density_there(name: str) -> None:
    distribution = distributions()[name]
    points = distribution.sample(2000, generator())
    assert bool(torch.isfinite(distribution.log_density(points.owner, points.x)).all())
    assert 0.45 < (points.owner == 0).double().mean() < 0.55
    assert bool((distribution.log_density(points.owner, points.x + 10) == -math.inf).all())


@pytest.mark.parametrize("name", [name for name, value in distributions().items() if isinstance(value, Latent)])
def test_lifted_points_are_placed_where_they_were(name: str) -> None:
    distribution = distributions()[name]
    assert isinstance(distribution, Latent)
    points = distribution.sample(500, generator(1))
    again = distribution.place(points.owner, distribution.lift(points.owner, points.x))
    assert torch.allclose(again, points.x, atol=1e-9)


@pytest.mark.parametrize("name", ["l2", "l1"])
def test_balls_are_filled_evenly(name: str) -> None:
    """Half the radius holds 2^-d of the volume, and no direction has more than its share."""
    distribution = distributions()[name]
    points = distribution.sample(20_000, generator())
    mine = points.x[points.owner == 1] - 0.5
    norm = mine.abs().sum(1) if name == "l1" else mine.norm(dim=1)
    assert abs((norm < 0.15).double().mean().item() - 1 / 8) < 0.012
    assert bool((mine.mean(0).abs() < 0.004).all())


@pytest.mark.parametrize("name", [name for name, value in distributions().items() if isinstance(value, Product)])
def test_masses_add_up_to_one_and_agree_with_draws(name: str) -> None:
    distribution = distributions()[name]
    assert isinstance(distribution, Product)
    owner = torch.zeros(8, dtype=torch.int64)
    whole = distribution.outer.take(owner)
    pick = torch.arange(8)[:, None].bitwise_and(torch.tensor([1, 2, 4])) > 0
    cut = whole.lower + 0.3 * whole.width
    varies = whole.width > 0
    boxes = Box(torch.where(pick & varies, cut, whole.lower), torch.where(pick | ~varies, whole.upper, cut))
    mass = distribution.mass(owner, boxes)
    copies = 2 ** int((~varies[0]).sum())  # an input that does not vary is not cut
    assert mass.lower.sum().item() / copies <= 1 <= mass.upper.sum().item() / copies
    assert mass.upper.sum().item() - mass.lower.sum().item() < 1e-9
    points = distribution.sample(20_000, generator())
    mine = points.x[points.owner == 0]
    inside = torch.stack([boxes.take(torch.tensor([i])).contains(mine) for i in range(8)]).double().mean(1)
    assert torch.allclose(inside, mass.lower, atol=0.02)


def test_the_mass_of_a_box_is_rounded_outward() -> None:
    """Against rational arithmetic, for ends that are no round numbers."""
    random = generator(3)
    lower, width = (
        torch.rand(1, 3, generator=random, dtype=torch.float64),
        torch.rand(1, 3, generator=random, dtype=torch.float64),
    )
    region = BoxRegion(lower, lower + width)
    distribution = over(region)
    assert isinstance(distribution, Product)
    ends = lower + width * torch.rand(200, 2, 3, generator=random, dtype=torch.float64).sort(1).values.transpose(0, 1)
    mass = distribution.mass(torch.zeros(200, dtype=torch.int64), Box(ends[0], ends[1]))
    for i in range(200):
        exact = Fraction(1)
        for a, b, low, high in zip(ends[0, i].tolist(), ends[1, i].tolist(), region.lower[0].tolist(), region.upper[0].tolist()):
            exact *= (Fraction(b) - Fraction(a)) / (Fraction(high) - Fraction(low))
        assert Fraction(mass.lower[i].item()) <= exact <= Fraction(mass.upper[i].item())
        assert mass.upper[i] - mass.lower[i] <= 1e-13 * mass.upper[i]


def normal_below(z: float) -> Decimal:
    """P(Z < z) to 60 digits, by the series 1/2 + density (z + z^3/3 + z^5/15 + ...), all of whose terms have one sign."""
    getcontext().prec = 60
    x = Decimal(z)
    term = total = x
    for k in range(1, 2000):
        term = term * x * x / (2 * k + 1)
        total += term
        if abs(term) < Decimal(10) ** -58:
            break
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
    return Decimal("0.5") + total * (-x * x / 2).exp() / (2 * pi).sqrt()


def test_normal_probabilities_are_enclosed() -> None:
    z = torch.cat([torch.linspace(-8, 8, 97, dtype=torch.float64), 8 * (torch.rand(100, generator=generator()) - 0.5)])
    enclosed = enclose_below(z.double())
    for i, value in enumerate(z.double().tolist()):
        assert Decimal(enclosed.lower[i].item()) <= normal_below(value) <= Decimal(enclosed.upper[i].item())
    a = z.double()
    for width in (1e-9, 1e-3, 1.0):
        between = enclose_between(a, a + width)
        assert width > 1e-6 or bool((between.upper - between.lower <= 1e-7 * between.upper).all())
        for i, (low, high) in enumerate(zip(a.tolist(), (a + width).tolist())):
            exact = normal_below(high) - normal_below(low)
            assert Decimal(between.lower[i].item()) <= exact <= Decimal(between.upper[i].item())


def test_what_has_no_distribution_is_refused() -> None:
    with pytest.raises(FathomError, match="expected a distribution of uniform, normal, got 'cauchy'"):
        over(box([0.0], [1.0]), "cauchy")
    with pytest.raises(FathomError, match="standard deviation > 0"):
        over(box([0.0], [1.0]), "normal", -1.0)
    with pytest.raises(FathomError, match="ask for a uniform one"):
        over(L2Ball.around(torch.zeros(1, 3), 1.0), "normal")
    x = torch.zeros(1, 4)
    for other in (L0Ball.around(x, 1, (0, 1)), Union.of(L2Ball.around(x, 1.0), LinfBall.around(x, 0.6))):
        with pytest.raises(FathomError, match=r"boxes, linf, l2 and l1 balls, transformations and finite sets.*FiniteSet"):
            over(other)
        with pytest.raises(FathomError, match=r"\(boxes and linf balls\).*FiniteSet"):
            over(other, "normal")
    with pytest.raises(FathomError, match="hold an input, got an empty one"):
        over(box([1.0], [0.0]))
    corner = over(L2Ball.around(torch.zeros(1, 30), 1.0, clip=(0, 1)))
    with pytest.raises(FathomError, match="in the range of legal inputs"):
        corner.sample(10, generator())


# Intervals


def tail(at_least: int, draws: int, share: Fraction) -> Fraction:
    """P(at least so many of `draws` fail), exactly."""
    return sum((math.comb(draws, k) * share**k * (1 - share) ** (draws - k) for k in range(at_least, draws + 1)), Fraction(0))


@pytest.mark.parametrize(("fails", "draws"), [(0, 1), (0, 60), (1, 60), (7, 60), (30, 60), (59, 60), (60, 60)])
def test_limits_leave_no_more_than_the_stated_doubt(fails: int, draws: int) -> None:
    """In rational arithmetic, at the ends exactly as they are stored; and they are no wider than they need be."""
    doubt = Fraction(1, 100)
    lower, upper = clopper_pearson(fails, 0, draws, 0.99)
    if fails:
        assert tail(fails, draws, Fraction(lower)) <= doubt / 2 < tail(fails, draws, Fraction(lower) * Fraction(1 + 1e-6))
    else:
        assert lower == 0
    if fails < draws:
        assert 1 - tail(fails + 1, draws, Fraction(upper)) <= doubt / 2
        assert 1 - tail(fails + 1, draws, Fraction(upper) * Fraction(1 - 1e-6)) > doubt / 2
        assert 1 - tail(fails + 1, draws, Fraction(at_most(fails, draws, 0.99))) <= doubt
    else:
        assert upper == at_most(fails, draws, 0.99) == 1


def test_a_draw_without_a_margin_counts_against_both_ends() -> None:
    assert clopper_pearson(3, 2, 100, 0.99) == (clopper_pearson(3, 0, 100, 0.99)[0], clopper_pearson(5, 0, 100, 0.99)[1])


def test_the_interval_of_a_log_normal_mean_covers_it() -> None:
    random, hits = generator(), 0
    for _ in range(400):
        logs = 0.6 * torch.randn(10, generator=random, dtype=torch.float64)
        lower, upper = of_mean((logs.exp() / 1e6).tolist(), 0.95)
        hits += lower <= math.exp(0.18) / 1e6 <= upper
    assert hits >= 0.92 * 400


@pytest.mark.parametrize(
    "fields",
    [{"draws": 0}, {"evaluations": -5}, {"confidence": 1.0}, {"confidence": 0.0}, {"confidence": math.nan}, {"seed": -1}],
)
def test_efforts_that_are_none_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(FathomError, match="expected"):
        Effort(**fields)  # type: ignore[arg-type]


# Plain sampling


def test_sampling_counts_the_deployed_programs_failures() -> None:
    part = Sampling(draws=4000, seed=1).estimate(half_space(3, 0.25), clock())
    assert part.claim is Claim.CONFIDENCE
    assert part.lower is not None and part.upper is not None
    assert part.lower < 0.25 < part.upper and part.upper - part.lower < 0.05
    assert part.forward == 4000


def test_sampling_covers_the_truth_as_often_as_it_says() -> None:
    share, hits = 0.006, 0
    question = half_space(1, share)
    for seed in range(150):
        part = Sampling(draws=200, confidence=0.9, seed=seed).estimate(question, clock())
        assert part.lower is not None and part.upper is not None
        hits += part.lower <= share <= part.upper
    assert hits >= 0.9 * 150


def test_data_are_counted_once_each() -> None:
    x = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
    region = LinfBall.around(x, 0.0)
    rules = LinearRules.make([[1.0]], [-0.25], sets=11)
    part = Sampling(draws=10**9).estimate(ask(linear([1.0]), region, rules, Empirical(x)), clock())
    assert dict(part.facts)["draws"] == 11 and dict(part.facts)["failures"] == 3
    assert part.seed is None
    assert "taken for independent draws" in part.sentence


# Enumeration


def counted(margins: list[list[float]]) -> Question:
    """Sets of points at whose only input a margin is given; inf for no point."""
    points = torch.tensor(margins, dtype=torch.float64)[..., None]
    region = FiniteSet(points.nan_to_num(nan=7.0, posinf=0.0), ~points[..., 0].isinf())
    undefined = PythonOverseer(lambda x, y: torch.where(x[:, 0] == 7.0, torch.nan, x[:, 0]))
    return ask(linear([1.0]), region, undefined)


def test_points_are_counted_exactly_and_sets_weigh_alike() -> None:
    """Half of the first set and a third of the second: 5/12, not 2/5."""
    inf, nan = math.inf, math.nan
    part = Enumeration().estimate(counted([[-1.0, 1.0, inf], [-1.0, 1.0, 2.0]]), clock())
    assert part.claim is Claim.CERTIFICATE and part.value == pytest.approx(5 / 12, abs=1e-15)
    assert Fraction(part.lower) <= Fraction(5, 12) <= Fraction(part.upper) and part.upper - part.lower < 1e-15
    assert "exactly 5/12" in part.sentence and part.forward == 5 and not part.stopped and not part.warnings
    unsure = Enumeration().estimate(counted([[-1.0, 1.0, nan, nan]]), clock())
    assert (unsure.lower, unsure.upper, unsure.value) == (0.25, 0.75, None)


def test_points_that_are_not_run_leave_a_bracket() -> None:
    question = counted([[-1.0] * 2 + [1.0] * 8])
    few = Enumeration(evaluations=4).estimate(question, clock())
    assert (
        (few.lower, few.upper) == pytest.approx((0.2, 0.8)) and few.stopped and "6 of 10 points were not run" in few.warnings[0]
    )
    stopped = Budget()
    stopped.stop.set()
    none = Enumeration().estimate(question, stopped.start())
    assert (none.lower, none.upper) == (0.0, 1.0)
    refused = Enumeration().estimate(half_space(2, 0.5), clock())
    assert refused.claim is Claim.UNKNOWN and "finitely many points" in refused.sentence


def test_an_estimate_over_finite_sets_is_exact_where_points_are_few() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).eval(), torch.rand(6, 50, 4)
    region, judge = FiniteSet.of(x), Misclassification(model(x[:, 0]).argmax(1), 3)
    wrong = (model(x).argmax(2) != judge.label[:, None]).double().mean().item()
    answer = fathom.estimate(model, region, judge, budget=Budget(seconds=20))
    assert [part.method for part in answer.parts] == ["enumeration"] and 0 < wrong < 1
    assert answer.parts[0].value == pytest.approx(wrong, abs=1e-12) and "300 points" in answer.distribution
    more = fathom.estimate(model, region, judge, budget=Budget(seconds=20), effort=fathom.Effort(draws=4000, evaluations=100))
    assert [part.method for part in more.parts] == ["enumeration", "sampling", "unseen"]
    assert all(part.lower <= wrong <= part.upper for part in more.parts[:2])


def test_a_sampling_that_is_stopped_says_so() -> None:
    budget = Budget()
    budget.stop.set()
    part = Sampling(draws=1000).estimate(half_space(2, 0.5), budget.start())
    assert part.stopped and part.warnings
    assert (part.value, part.lower, part.upper) == (None, 0.0, 1.0)


# NaN margins


def undefined(x: Tensor) -> Tensor:
    """Fails for a hundredth of [0, 1], and has no margin for another."""
    margin = x[:, 0] - 0.01
    return torch.where(x[:, 0] > 0.99, torch.nan, margin)


def test_a_margin_that_is_not_a_number_is_never_counted_as_safe() -> None:
    part = Sampling(draws=20_000).estimate(by_value(undefined, box([0.0], [1.0])), clock())
    facts = dict(part.facts)
    assert 100 < facts["failures"] < 300 and 100 < facts["unjudged"] < 300  # type: ignore[operator]
    assert part.lower is not None and part.upper is not None
    assert part.lower < 0.01 and part.upper > 0.02
    assert "not a number" in part.warnings[0]
    found = Splitting(evaluations=10_000).search(by_value(undefined, box([0.0], [1.0])), clock())
    assert found.part.value is not None and 0.013 < found.part.value < 0.03
    assert "not a number" in found.part.warnings[-1]


def test_a_margin_that_never_is_a_number_fails_for_certain() -> None:
    question = by_value(lambda x: torch.full((len(x),), torch.nan, dtype=x.dtype), box([0.0], [1.0]))
    part = Sampling(draws=50).estimate(question, clock())
    assert (part.lower, part.upper) == (0.0, 1.0)
    assert Splitting(evaluations=1000).estimate(question, clock()).value == 1.0


# Multi-level splitting


@pytest.mark.parametrize("share", [1e-3, 1e-6])
def test_splitting_finds_rare_failures_within_a_factor_of_two(share: float) -> None:
    part = Splitting(evaluations=20_000, seed=1).estimate(half_space(4, share), clock())
    assert part.claim is Claim.ESTIMATE
    assert part.value is not None and share / 2 < part.value < 2 * share
    assert part.lower is not None and part.upper is not None and part.lower < part.value < part.upper
    assert part.forward < 45_000


def test_splitting_needs_no_gradient_and_no_scale() -> None:
    """A margin that can only be evaluated, and one that is the same but for a monotone change."""
    values = []
    for change in (lambda m: m, lambda m: 1e6 * m**3):
        question = by_value(lambda x, change=change: change(x[:, 0] - 1e-4), box([0.0, 0.0], [1.0, 1.0]))
        values.append(Splitting(evaluations=15_000).estimate(question, clock()).value)
    assert values[0] == values[1]
    assert values[0] is not None and 5e-5 < values[0] < 2e-4


@pytest.mark.parametrize("levels", [4, 20])
def test_ties_are_dropped_together(levels: int) -> None:
    """A margin in steps: every particle of a level ties. Booked one at a time, the estimate would come out far too high."""
    question = by_value(lambda x: (x[:, 0] * levels).ceil() / levels - 1.0 / levels, box([0.0, 0.0], [1.0, 1.0]))
    parts = [Splitting(evaluations=12_000, seed=seed).estimate(question, clock()) for seed in range(4)]
    values = [part.value for part in parts if part.value is not None]
    assert len(values) == 4
    assert 0.75 / levels < sum(values) / 4 < 1.35 / levels


def test_a_flat_margin_gives_no_estimate() -> None:
    """Nothing but failure or not: there is nothing to follow, and no number is made up."""
    question = by_value(lambda x: torch.where(x[:, 0] < 1e-5, -1.0, 1.0).double(), box([0.0, 0.0], [1.0, 1.0]))
    part = Splitting(evaluations=5000).estimate(question, clock())
    assert part.value is None and part.upper is None
    assert "flat" in part.sentence


def test_failures_that_are_certain_or_impossible() -> None:
    always = Splitting(evaluations=1000).estimate(by_value(lambda x: -1 - x[:, 0], box([0.0], [1.0])), clock())
    assert always.value == 1.0 and always.upper == 1.0 and always.lower is not None and always.lower > 0.95
    never = Splitting(evaluations=60_000).estimate(by_value(lambda x: x[:, 0] + 0.5, box([0.0], [1.0])), clock())
    assert never.value in (0.0, None)
    assert never.value is None or (never.upper is not None and never.upper < 1e-12)


def test_splitting_that_is_stopped_makes_no_number_up() -> None:
    part = Splitting(evaluations=10**7).estimate(half_space(3, 1e-9), clock(0.2))
    assert part.value is None and part.stopped
    assert "no estimate" in part.sentence


def ring(x: Tensor) -> Tensor:
    """Fails outside a circle that leaves the corners of the square."""
    return 1.38 - x.norm(dim=1)


def corners(radius: float) -> float:
    """The share of [-1, 1]^2 outside a circle of radius in (1, sqrt 2), by the area of its circular segments."""
    half = math.acos(1 / radius)
    inside = math.pi * radius**2 - 4 * (radius**2 * half - math.sqrt(radius**2 - 1))
    return 1 - inside / 4


@pytest.mark.parametrize("method", ["splitting", "importance"])
def test_failures_on_all_sides_are_all_counted(method: str) -> None:
    """Four corners, none of which leads to another."""
    question = by_value(ring, box([-1.0, -1.0], [1.0, 1.0]))
    found = Splitting(evaluations=20_000, seed=2).search(question, clock())
    part = found.part
    if method == "importance":
        question = by_value(ring, box([-1.0, -1.0], [1.0, 1.0]))
        part = Importance(evaluations=20_000, known=found.failing).estimate(question, clock())
    assert part.value is not None and corners(1.38) / 1.5 < part.value < corners(1.38) * 1.5


def test_a_far_second_region_is_not_forgotten() -> None:
    """Two corners: one that most of the square leads to, one that few draws lead to, and as likely to fail."""

    def margin(x: Tensor) -> Tensor:
        near, far = x[:, 0] - 1e-4, (1 - x[:, 0] - 1e-4) * 3
        return torch.minimum(near, far)

    values = [
        Splitting(evaluations=20_000, seed=seed).estimate(by_value(margin, box([0.0], [1.0])), clock()) for seed in range(3)
    ]
    for part in values:
        assert part.value is not None and part.lower is not None and part.upper is not None
        assert part.lower < 2e-4 < part.upper


def test_cases_are_drawn_evenly() -> None:
    """Of two sets one always fails and one seldom does."""
    region = BoxRegion(torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([[1.0], [2.0]], dtype=torch.float64))
    rules = LinearRules.make([[1.0]], [-1.01], sets=2)
    part = Splitting(evaluations=5000).estimate(ask(linear([1.0]), region, rules), clock())
    assert part.value is not None and abs(part.value - 0.505) < 0.08


# Importance sampling


@pytest.mark.parametrize("share", [1e-3, 1e-7])
def test_importance_sampling_is_close_and_knows_how_close(share: float) -> None:
    known = Splitting(evaluations=12_000, seed=3).search(half_space(4, share), clock()).failing
    part = Importance(evaluations=12_000, known=known, confidence=0.999).estimate(half_space(4, share), clock())
    assert part.reliable and part.claim is Claim.ESTIMATE
    assert part.value is not None and part.lower is not None and part.upper is not None
    assert part.lower < share < part.upper and part.upper < 1.5 * part.lower


def test_importance_sampling_from_little_says_that_it_is_unreliable() -> None:
    known = Splitting(evaluations=12_000, seed=3).search(half_space(4, 1e-6), clock()).failing
    part = Importance(evaluations=60, known=known).estimate(half_space(4, 1e-6), clock())
    assert not part.reliable


def test_importance_sampling_without_a_failure_says_so() -> None:
    part = Importance().estimate(half_space(2, 1e-9), clock())
    assert part.claim is Claim.UNKNOWN and part.value is None


# Branch and bound on volume


def bracket(question: Question, boxes: int = 3000) -> tuple[float, float]:
    part = Volume(boxes).estimate(question, clock())
    assert part.claim is Claim.CERTIFICATE
    assert part.lower is not None and part.upper is not None
    return part.lower, part.upper


@pytest.mark.parametrize("share", [0.3, 1e-3, 1e-8])
def test_the_volume_of_a_half_space_is_exact(share: float) -> None:
    lower, upper = bracket(half_space(3, share))
    assert lower <= share <= upper and upper <= 1.02 * lower


@pytest.mark.parametrize("seed", range(12))
def test_the_volume_holds_the_exact_one(seed: int) -> None:
    """Random networks of one input, in rational arithmetic."""
    module = piecewise(seed)
    truth = exact_share(module, Fraction(-2), Fraction(2))
    for boxes in (1, 20, 1000):
        lower, upper = bracket(ask(module, box([-2.0], [2.0]), BELOW_ZERO), boxes)
        assert Fraction(lower) <= truth <= Fraction(upper)
    assert upper - lower <= 0.011 * upper


@pytest.mark.parametrize("radius", [0.5, 0.01])
def test_the_volume_of_a_diamond(radius: float) -> None:
    lower, upper = bracket(ask(Diamond(radius), box([-1.0, -1.0], [1.0, 1.0]), BELOW_ZERO))
    assert lower <= radius**2 / 2 <= upper and upper < 1.2 * lower


def test_the_volume_under_a_normal_distribution() -> None:
    question = ask(linear([1.0, 0.0]), box([-4.0, -4.0], [4.0, 4.0]), LinearRules.make([[1.0]], [3.0]), "normal", 0.25)
    cut = normal_below(-4.0)
    truth = (normal_below(-3.0) - cut) / (1 - 2 * cut)
    lower, upper = bracket(question)
    assert Decimal(lower) <= truth <= Decimal(upper) and upper < 1.02 * lower


def test_rules_that_hold_together_and_rules_that_hold_alone() -> None:
    """y0 <= 0.5 and y1 <= 0.5: a quarter; y0 <= 0.5 or y1 <= 0.5: three quarters. Where the clauses meet, neither fails alone."""
    plane = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        plane.weight.copy_(torch.eye(2))
    square, rows, offsets = box([0.0, 0.0], [1.0, 1.0]), [[1.0, 0.0], [0.0, 1.0]], [-0.5, -0.5]
    both = bracket(ask(plane, square, LinearRules.make(rows, offsets, clause=[0, 0])))
    either = bracket(ask(plane, square, LinearRules.make(rows, offsets)))
    assert both[0] <= 0.25 <= both[1] and both[1] - both[0] < 0.01
    assert either[0] <= 0.75 <= either[1] and either[1] - either[0] < 0.02


@pytest.mark.parametrize(("strict", "share"), [(False, 1.0), (True, 0.0)])
def test_strict_rules_on_a_plateau(*, strict: bool, share: float) -> None:
    """A network that is 0 everywhere fails y <= 0 always, and y < 0 never."""
    lower, upper = bracket(ask(linear([0.0]), box([0.0], [1.0]), LinearRules.make([[1.0]], [0.0], strict=[strict])), 200)
    assert lower <= share <= upper
    assert (upper == 1.0) if share else (lower == 0.0)


def test_volumes_are_never_wrong_under_a_budget() -> None:
    random = generator(5)
    module = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    for label in range(3):
        overseer = Misclassification(label=torch.tensor([label]), classes=3)
        question = ask(module, box([-1.0, -1.0], [1.0, 1.0]), overseer)
        grid = (torch.arange(400, dtype=torch.float64) + 0.5) / 200 - 1
        x = torch.cartesian_prod(grid, grid)
        y = module(x)
        share = (y.argmax(1) != label).double().mean().item()
        before = (0.0, 1.0)
        for boxes in (1, 50, 500, 5000):
            lower, upper = bracket(question, boxes)
            assert before[0] <= lower <= share + 2e-3 and share - 2e-3 <= upper <= before[1]
            before = (lower, upper)
        assert upper - lower < 0.02


def test_what_has_no_volume_is_refused_with_the_reason() -> None:
    many = Volume().estimate(half_space(7, 0.5), clock())
    assert many.claim is Claim.UNKNOWN and "7 inputs vary" in many.sentence
    value = Volume().estimate(by_value(lambda x: x[:, 0], box([0.0], [1.0])), clock())
    assert value.claim is Claim.UNKNOWN and value.upper is None


# What is unseen


def test_kinds_of_failures_are_told_apart() -> None:
    """Four corners of a square, four rules, of which two are seldom broken."""
    plane = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        plane.weight.copy_(torch.eye(2))
    rows = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    rules = LinearRules.make(rows, [-0.1, 0.9, -1e-4, 1.0001])
    question = ask(plane, box([0.0, 0.0], [1.0, 1.0]), rules)
    drawn = Sampling(draws=3000).draw(question, clock())
    part = Unseen(drawn).estimate(question, clock())
    facts = dict(part.facts)
    assert part.claim is Claim.ESTIMATE
    assert 2 <= facts["kinds"] <= 4  # type: ignore[operator]
    assert part.value == facts["seen_once"] / 3000  # type: ignore[operator]


def test_nothing_is_said_of_the_unseen_without_a_failure() -> None:
    question = half_space(2, 1e-9)
    part = Unseen(Sampling(draws=100).draw(question, clock())).estimate(question, clock())
    assert part.claim is Claim.UNKNOWN and part.value is None


def test_good_and_turing_are_right_on_average() -> None:
    """Kinds of known probability: what is missing after n draws, against what is estimated from those."""
    shares = torch.tensor([2.0**-k for k in range(1, 14)], dtype=torch.float64)
    ends = shares.cumsum(0)

    class Steps(nn.Module):
        """A rectifier for each end: which are on tells the kind."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(1, 13).double(), nn.Linear(13, 1).double()
            with torch.no_grad():
                self.inner.weight.fill_(1.0)
                self.inner.bias.copy_(-ends)
                self.outer.weight.fill_(0.0)
                self.outer.bias.fill_(-1.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.relu(self.inner(x)))

    question = ask(Steps(), box([0.0], [1.0]), BELOW_ZERO)
    estimated, missing = [], []
    masses = torch.cat([shares, 1 - shares.sum(0, keepdim=True)])
    for seed in range(40):
        drawn = Sampling(draws=100, seed=seed).draw(question, clock())
        part = Unseen(drawn).estimate(question, clock())
        estimated.append(float(dict(part.facts)["patterns_seen_once"]) / 100)
        kind = torch.bucketize(drawn.x[:, 0].double(), ends)
        missing.append(masses[torch.bincount(kind, minlength=14) == 0].sum().item())
    assert abs(sum(estimated) - sum(missing)) / 40 < 0.006
