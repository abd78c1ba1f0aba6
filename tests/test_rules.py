"""Top-k, costly confusions, thresholds and orders, monotonicity: each against its own definition."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import fathom
from fathom.capture.monotone import monotone
from fathom.capture.torch_module import capture_module
from fathom.core.budget import Budget
from fathom.core.errors import FathomError
from fathom.overseers.confusions import Confusions
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.rules import above, below, between, ordered
from fathom.overseers.top_k import TopK
from fathom.regions.box import BoxRegion
from tests.contracts.test_overseers import network


def ties(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 4, (n, classes), generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_is_a_count(k: int) -> None:
    n, classes = 500, 5
    y, label = ties(n, classes), torch.arange(n) % classes
    judge = TopK(label, classes, k)
    at_least = (y >= y.gather(1, label[:, None])).sum(1) - 1  # other classes that score at least as high
    assert torch.equal(judge.margin(y, y) <= 0, at_least >= k)
    compiled = judge.compile(network(2, classes))
    assert compiled.exact
    assert torch.equal(compiled.spec.margin(y), judge.margin(y, y))
    if k == 1:
        assert torch.equal(judge.margin(y, y), Misclassification(label, classes).margin(y, y))


def test_top_k_of_many_classes_is_proved_from_fewer() -> None:
    """5 of 99 are 71 million choices; 2 of 99 are 4851, and too many too: so proofs are about 1, and carry over."""
    n, classes = 300, 100
    y, label = torch.randn(n, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.zeros(n).long()
    judge = TopK(label, classes, 5)
    compiled = judge.compile(network(2, classes))
    fails = judge.margin(y, y) <= 0
    assert not compiled.exact and bool(fails.any())
    assert bool((compiled.spec.margin(y)[fails] <= 0).all())
    assert bool((compiled.spec.margin(y) <= judge.margin(y, y)).all())
    smaller = TopK(torch.zeros(n).long(), 40, 3).compile(network(2, 40))  # 9139 choices; 741 of two
    assert not smaller.exact and int(smaller.spec.clause.max()) + 1 == 741


@pytest.mark.parametrize("k", [0, 5, -1, True, 1.5])
def test_k_is_below_the_number_of_classes(k: object) -> None:
    with pytest.raises(FathomError, match=r"k in 1 \.\. 4"):
        TopK(torch.tensor([0]), 5, k)  # type: ignore[arg-type]


def test_confusions_fail_where_the_decision_is_costly() -> None:
    """Against the definition: some highest score is that of a costly class."""
    n, classes = 600, 4
    costs = torch.tensor([[0.0, 1, 5, 9], [1, 0, 1, 1], [5, 5, 0, 5], [0, 0, 9, 0]])
    y, label = ties(n, classes, 1), torch.arange(n) % classes
    judge = Confusions.make(label, costs, 5.0)
    top = y == y.amax(1, keepdim=True)
    fails = (top & (costs[label] >= 5)).any(1)
    assert torch.equal(judge.margin(y, y) <= 0, fails) and 0 < fails.sum() < n
    compiled = judge.compile(network(2, classes))
    assert compiled.exact and compiled.spec.rows.shape[0] == 4
    assert torch.equal(compiled.spec.margin(y), judge.margin(y, y))
    assert judge.margin(y, y)[label == 1].min().item() == torch.inf  # no confusion of class 1 costs so much
    every = Confusions.make(label, 1 - torch.eye(classes), 1.0)
    assert torch.equal(every.margin(y, y), Misclassification(label, classes).margin(y, y))
    assert judge.judgement(0, torch.tensor([0.0, 0.0, 0.0, 1.0])) == "0 read as 3, which costs 9"


def test_confusions_refuse_what_cannot_be() -> None:
    label = torch.tensor([0, 1])
    for costs, threshold, words in (
        (torch.zeros(2, 3), 1.0, r"\[classes, classes\]"),
        (torch.ones(2, 2), 1.0, "got none at set 0"),
        (torch.tensor([[0.0, float("nan")], [1.0, 0.0]]), 1.0, "finite"),
    ):
        with pytest.raises(FathomError, match=words):
            Confusions.make(label, costs, threshold)
    with pytest.raises(FathomError, match="float64"):
        Confusions(label, torch.zeros(2, 2), 1.0)


def test_thresholds_and_orders_fail_at_their_limits() -> None:
    y = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [3.0, 2.0, 1.0], [2.0, 3.0, 1.0]])
    assert below(1.0, output=0, outputs=3, sets=4).margin(y, y).tolist() == [1, 0, -2, -1]
    assert above(1.0, output=2, outputs=3, sets=4).margin(y, y).tolist() == [1, 0, 0, 0]
    assert between(0.5, 3.0, output=1, outputs=3, sets=4).margin(y, y).tolist() == [0.5, 0.5, 1, 0]
    assert ordered([0, 1, 2], outputs=3, sets=4).margin(y, y).tolist() == [-1, 0, 1, -1]
    for wrong in (lambda: below(1.0, output=3, outputs=3), lambda: ordered([0], outputs=3), lambda: ordered([1, 1], outputs=3)):
        with pytest.raises(FathomError):
            wrong()


class Price(nn.Module):
    """|x0 - dip| + x1, which falls in x0 up to `dip`."""

    def __init__(self, dip: float) -> None:
        super().__init__()
        self.dip = dip

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :1] - self.dip).abs() + x[:, 1:]


@pytest.mark.parametrize(("dip", "verdict"), [(-1.0, "proved"), (0.0, "proved"), (0.05, "proved"), (0.5, "broken")])
def test_monotonicity_is_about_pairs(dip: float, verdict: str) -> None:
    """|x - dip| on [0, 1] falls by `dip` from 0 to dip; and a failure names a pair that does."""
    captured = capture_module(Price(dip), (2,))
    box = BoxRegion(torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    model, region, overseer = monotone(captured, box, feature=0, tolerance=0.1)
    result = fathom.audit(model, region, overseer, budget=Budget(seconds=20))
    assert result.answers.verdict(0).value == verdict
    if verdict == "broken":
        x = result.answers.found.x[0]
        assert x[2] >= x[0]
        y, other = captured.program(x[None, :2]).item(), captured.program(torch.stack([x[2], x[1]])[None]).item()
        assert other <= y - 0.1
    falling = monotone(captured, box, feature=0, tolerance=0.1, falling=True)
    assert fathom.audit(*falling, budget=Budget(seconds=20)).answers.verdict(0).value == "broken"


def test_monotonicity_refuses_what_cannot_be() -> None:
    captured = capture_module(Price(0.0), (2,))
    box = BoxRegion(torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    for settings in (
        {"feature": 2, "tolerance": 0.1},
        {"feature": 0, "tolerance": 0.0},
        {"feature": 0, "tolerance": 1, "output": 1},
    ):
        with pytest.raises(FathomError):
            monotone(captured, box, **settings)


def test_ties_in_every_place_agree_with_the_definition_of_top_k() -> None:
    for scores in itertools.product((0.0, 1.0), repeat=4):
        y = torch.tensor([scores])
        for k in (1, 2, 3):
            worst = sum(score >= scores[0] for score in scores[1:])  # the rank that it may get
            assert (TopK(torch.tensor([0]), 4, k).margin(y, y).item() <= 0) == (worst >= k)
