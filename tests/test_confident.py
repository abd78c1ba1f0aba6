"""Confident mistakes and abstaining: signs exact at the threshold, proofs carried over, and coverage said beside."""

from __future__ import annotations

import decimal
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import fathom
import fathom.core.box
from fathom.audits.distances import distances
from fathom.core.budget import Budget
from fathom.core.coverage import Coverage
from fathom.core.errors import FathomError
from fathom.estimates.effort import Effort
from fathom.overseers.abstain import Abstain
from fathom.overseers.confident import Confident
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.logits import logit, sign_of_confidence
from fathom.report.page import render
from tests.contracts.test_overseers import network

TAUS = [5e-324, 1e-12, 0.1, 0.25, math.nextafter(0.5, 0), 0.5, math.nextafter(0.5, 1), 0.8, 0.9, 0.999, math.nextafter(1.0, 0)]


@pytest.mark.parametrize("tau", TAUS)
def test_the_threshold_is_enclosed(tau: float) -> None:
    """Against 400 digits of the same logarithm, by another formula."""
    near, off = logit(tau)
    with decimal.localcontext(decimal.Context(prec=400)):
        exact = decimal.Decimal(tau).ln() - (1 - decimal.Decimal(tau)).ln()
        assert abs(exact - decimal.Decimal(near)) <= decimal.Decimal(off)
    assert off <= 2.0**-52 * abs(near)


@pytest.mark.parametrize("tau", TAUS)
def test_two_scores_at_the_threshold(tau: float) -> None:
    """Gaps a unit in the last place round ln(tau / (1 - tau)): confident above it, and not below."""
    near, _ = logit(tau)
    for gap in (math.nextafter(near, -math.inf), near, math.nextafter(near, math.inf)):
        with decimal.localcontext(decimal.Context(prec=400)):
            exact = decimal.Decimal(tau).ln() - (1 - decimal.Decimal(tau)).ln()
            want = 1 if decimal.Decimal(gap) > exact else 0 if tau == 0.5 and gap == 0 else -1
        assert sign_of_confidence([gap, 0.0], 0, tau) == want
        judge = Confident(torch.tensor([1]), 2, tau)
        y = torch.tensor([[gap, 0.0]], dtype=torch.float64)
        acts = want >= 0 and gap >= 0  # a class that is not the highest is not acted on
        assert (judge.margin(y, y).item() <= 0) == acts
        spec = judge.compile(network(2, 2)).spec
        assert spec.certain_margin(y).item() > 0 or acts  # nothing but a failure is certainly one
        assert spec.enclose(fathom.core.box.Box(y, y)).lower.item() <= 0 or not acts  # and no failure certainly none


def test_ties_that_are_exactly_at_the_threshold() -> None:
    """m equal scores have a softmax of 1 / m each, which is at least tau = 1 / m."""
    for m, tau in ((2, 0.5), (4, 0.25), (8, 0.125)):
        assert sign_of_confidence([3.7] * m, 1, tau) == 0
        y = torch.full((1, m), 3.7)
        assert Confident(torch.tensor([0]), m, tau).margin(y, y).item() == 0
        assert Confident(torch.tensor([0]), m, math.nextafter(tau, 1)).margin(y, y).item() > 0
    assert sign_of_confidence([0.0] * 3, 0, 1 / 3) == (1 if Fraction(1, 3) > Fraction(1 / 3) else -1)


def test_scores_of_every_size() -> None:
    assert sign_of_confidence([1e300, -1e300, 0.0], 0, 0.9) == 1
    assert sign_of_confidence([-1e300, 1e300], 0, 1e-300) == -1
    assert sign_of_confidence([0.0, 0.0, -1e300], 0, 0.5) == -1
    assert sign_of_confidence([0.0, 0.0, -1e300], 0, math.nextafter(0.5, 0)) == 1
    assert sign_of_confidence([-1e-320, 0.0], 0, 0.5) == -1


def near_the_threshold(tau: float, classes: int, n: int, seed: int) -> Tensor:
    """Scores whose highest has a softmax within some units in the last place of tau."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(n, classes, generator=g, dtype=torch.float64) * 3
    y[:, 1] = y[:, torch.arange(classes) != 1].logsumexp(1) + logit(tau)[0]
    return y + torch.randint(-2, 3, (n, 1), generator=g) * 2.0**-52 * torch.eye(classes, dtype=torch.float64)[1]


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("tau", [0.3, 0.5, 0.9, 0.999999])
def test_a_confident_mistake_is_never_proved_away(classes: int, tau: float) -> None:
    """At and round the threshold, whatever is a failure by 100 digits is one directly, and meets the rows that are compiled."""
    n = 40
    y = near_the_threshold(tau, classes, n, classes)
    judge = Confident(torch.zeros(n, dtype=torch.int64), classes, tau)
    fails = []
    with decimal.localcontext(decimal.Context(prec=100)):
        for row in y.tolist():
            powers = [decimal.Decimal(v).exp() for v in row]
            wrong = [p for p, v in zip(powers[1:], row[1:]) if v == max(row)]
            level = decimal.Decimal(tau) * sum(powers) * (1 - decimal.Decimal("1e-90"))  # so that ties count
            fails.append(any(power >= level for power in wrong))
    assert torch.equal(judge.margin(y, y) <= 0, torch.tensor(fails))
    compiled = judge.compile(network(2, classes))
    assert compiled.exact == (classes == 2)
    if not compiled.exact:
        assert bool((compiled.spec.certain_margin(y)[torch.tensor(fails)] <= 0).all())
    assert bool((compiled.spec.enclose(fathom.core.box.Box(y, y)).lower[torch.tensor(fails)] <= 0).all())
    if tau >= 0.5:
        assert 0 < sum(fails) < n


def test_many_classes_are_judged_against_the_label_alone() -> None:
    """Still implied by a confident mistake; 300 classes would need 27 million coefficients a label."""
    n, classes = 200, 300
    g = torch.Generator().manual_seed(0)
    y, label = torch.randn(n, classes, generator=g, dtype=torch.float64) * 4, torch.randint(0, classes, (n,), generator=g)
    judge = Confident(label, classes, 0.7)
    spec = judge.compile(network(2, classes)).spec
    assert spec.rows.shape[1] == classes - 1
    fails = judge.margin(y, y) <= 0
    assert 0 < fails.sum() < n and bool((spec.certain_margin(y)[fails] <= 0).all())


def test_what_is_not_confident_is_no_failure() -> None:
    y = torch.tensor([[1.0, 1.5, 0.0], [0.0, 9.0, 0.0], [9.0, 0.0, 0.0]])
    judge = Confident(torch.zeros(3, dtype=torch.int64), 3, 0.9, ("a", "b", "c"))
    assert (judge.margin(y, y) <= 0).tolist() == [False, True, False]
    assert judge.acts(y).tolist() == [False, True, True] and judge.coverage(y) == Coverage(2, 3)
    assert judge.judgement(1, y[1]).startswith("a read as b with confidence 1")
    low = Confident(torch.zeros(3, dtype=torch.int64), 3, 0.1)  # acting is still choosing the highest
    assert (low.margin(y, y) <= 0).tolist() == [True, True, False]


def test_its_gradient_leads_to_confidence() -> None:
    y = torch.randn(6, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(Confident(torch.zeros(6, dtype=torch.int64), 4, 0.9).margin(y, y).sum(), y)
    assert bool((slope.abs().sum(1) > 0).all()) and bool(torch.isfinite(slope).all())


def test_abstaining_is_never_a_failure() -> None:
    y = torch.tensor([[0.0, 2.0, 3.0], [0.0, 3.0, 3.0], [1.0, 0.0, 0.0], [2.0, 2.0, 0.0], [5.0, 2.0, 9.0]])
    judge = Abstain(torch.zeros(5, dtype=torch.int64), 3, abstain=2)
    assert judge.margin(y, y).tolist() == [1, 0, 1, 0, 7]
    assert judge.acts(y).tolist() == [False, True, True, True, False]
    assert judge.judgement(0, y[0]) == "0: abstains" and judge.judgement(1, y[3]) == "0 read as 0"
    to_abstain = Abstain(torch.tensor([2]), 3, abstain=2)
    assert to_abstain.margin(y[:1], y[:1]).item() == 1 and to_abstain.margin(y[2:3], y[2:3]).item() == -1


@pytest.mark.parametrize("abstain", [3, -1, True, 1.0])
def test_abstaining_needs_an_output(abstain: object) -> None:
    with pytest.raises(FathomError, match=r"`abstain` in 0 \.\. 2"):
        Abstain(torch.tensor([0]), 3, abstain)  # type: ignore[arg-type]
    with pytest.raises(FathomError, match="always right"):
        Abstain(torch.tensor([0]), 2, 1)


@pytest.mark.parametrize("tau", [0, 1, 1.5, -0.1, float("nan"), "0.9", True])
def test_a_threshold_is_a_probability(tau: object) -> None:
    with pytest.raises(FathomError, match="`tau` strictly between 0 and 1"):
        Confident(torch.tensor([0]), 3, tau)  # type: ignore[arg-type]


class Timid(nn.Module):
    """Three scores; the last says "I do not know", more loudly than any other."""

    def __init__(self, doubt: float) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
            self.linear.bias.copy_(torch.tensor([0.0, 0.0, doubt]))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.parametrize(("doubt", "useful"), [(9.0, False), (0.1, True)])
def test_a_model_that_always_abstains_is_seen_to_be_useless(doubt: float, *, useful: bool) -> None:
    """It has no failures at all, and the audit says loudly that this means nothing."""
    centre = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.5], [0.05, 0.0]])
    region = fathom.regions.LinfBall.around(centre, 0.2)
    judge = Abstain(torch.tensor([0, 1, 0, 0]), 3, abstain=2)
    result = fathom.audit(Timid(doubt), region, judge, budget=Budget(seconds=20))
    words = "\n".join(result.lines())
    assert result.useful == useful and result.to_json()["useful"] == useful
    assert ("NOT USEFUL" in words) == (not useful) and "coverage: the model acts on" in words
    assert result.coverage is not None and result.coverage.share == (0.75 if useful else 0.0)
    assert result.counts.proved == 4 if not useful else result.counts.broken >= 1
    page = render(result)
    assert ("NOT USEFUL" in page) == (not useful) and "the model acts on" in page


def test_coverage_stands_beside_radii_estimates_and_layers_too() -> None:
    centre = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    region, judge = fathom.regions.LinfBall.around(centre, 0.2), Abstain(torch.tensor([0, 1]), 3, abstain=2)
    captured = fathom.capture_module(Timid(9.0), (2,))
    likely = fathom.estimate(captured, region, judge, effort=Effort(draws=100, evaluations=1000))
    far = distances(captured, region, judge, budget=Budget(seconds=5))
    inside = fathom.latent(captured, region, judge, layer="linear", within="ball", radius=0.1, budget=Budget(seconds=5))
    for answer in (likely, far, inside):
        assert any(line.startswith("NOT USEFUL: coverage") for line in answer.lines())
        assert answer.to_json()["coverage"] == 0
    assert any(line.startswith("containment: not measured") for line in inside.lines())


def test_coverage_is_said_of_compositions_too() -> None:
    y = torch.tensor([[0.0, 2.0, 3.0], [9.0, 2.0, 3.0]])
    judge, rule = Abstain(torch.tensor([0, 0]), 3, abstain=2), LinearRules.make([[1.0, 0.0, 0.0]], [0.0], sets=2)
    assert rule.coverage(y) is None
    for composed in (judge & rule, judge | rule, ~judge):
        assert composed.coverage(y) == Coverage(len(y) // 2, len(y))
    assert (Confident(torch.tensor([0, 0]), 3, 0.99) & judge).acts(y).tolist() == [False, True]


def test_proofs_of_confident_mistakes_carry_over() -> None:
    """Proved where no wrong class gets confident, though the decision does change; broken where one does."""
    linear = nn.Linear(2, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        linear.bias.zero_()
    centre = torch.tensor([[0.6, 0.4], [0.6, 0.4]])
    label = torch.tensor([0, 0])
    for radius, want in ((0.3, "proved"), (9.0, "broken")):
        region = fathom.regions.LinfBall.around(centre, radius)
        assert fathom.audit(linear, region, fathom.Misclassification(label, 3), budget=Budget(seconds=20)).counts.broken == 2
        result = fathom.audit(linear, region, Confident(label, 3, 0.9), budget=Budget(seconds=20))
        assert [result.answers.verdict(i).value for i in range(2)] == [want, want]
        assert result.coverage is not None and result.coverage.acts == 0 and not result.useful


@pytest.mark.parametrize("tau", [tau for tau in TAUS if tau > 0.5])
def test_the_threshold_of_more_than_two_classes_is_rounded_down(tau: float) -> None:
    """A third class far below changes nothing but that the rows are no longer exact: not one failure may miss them."""
    near, off = logit(tau)
    pairs = [(0.0, near), (0.0, math.nextafter(near, math.inf)), (0.0, math.nextafter(near, -math.inf)), (off / 2, near)]
    y = torch.tensor([[low, high, -1e4] for low, high in pairs], dtype=torch.float64)  # the last gap is no float64
    judge = Confident(torch.zeros(4, dtype=torch.int64), 3, tau)
    fails = judge.margin(y, y) <= 0
    assert fails.tolist() == [sign_of_confidence(row, 1, tau) >= 0 for row in y.tolist()] and fails[1] and not fails[2]
    assert bool((judge.compile(network(2, 3)).spec.certain_margin(y)[fails] <= 0).all())


def test_no_lower_bound_passes_the_margin_of_a_low_threshold() -> None:
    """Rows against the other wrong class had a margin of -0.0002, where the overseer's is -0.84."""
    linear = nn.Linear(2, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0, 0.0], [1e-3, 0.0], [0.0, 1e-3]]))
        linear.bias.copy_(torch.tensor([-5.0, 0.0, 0.0]))
    region = fathom.regions.LinfBall.around(torch.zeros(1, 2), 0.1)
    result = fathom.audit(linear, region, Confident(torch.tensor([0]), 3, 0.3), budget=Budget(seconds=3), planted=0)
    assert result.answers.broken.tolist() == [True]
    assert result.answers.lower[0] <= result.answers.upper[0] < -0.8
