"""Searches look at the clock in time. Time here is counted in evaluations, so nothing is measured."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import fathom.attacks
from fathom.bounds import intermediate
from fathom.bounds.intermediate import bends, by_backward, tighten
from fathom.bounds.work import products
from fathom.capture.torch_module import capture_module
from fathom.core import budget as budgets
from fathom.core.budget import Budget, Goal
from fathom.core.discover import discover
from fathom.core.network import Network
from fathom.core.region import Region
from fathom.core.solver import Solver
from fathom.hunt.amplify import Amplified
from fathom.prove.branch import BranchAndBound
from fathom.regions.box import BoxRegion
from tests.contracts.test_attacks import classify
from tests.test_amplify import bumps

SEARCHES: list[Solver] = [
    *(kind() for kind in discover(fathom.attacks, Solver).values()),
    Amplified(levels=6, passes=1000),
    BranchAndBound(),
]


class Evaluations:
    """A clock that goes on by one second with each evaluation of a network, and each pass back through it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        forward, back = Network.__call__, intermediate.backward

        def evaluate(network: Network, x: Tensor) -> Tensor:
            self.now += 1
            return forward(network, x)

        def pushed(*args, **kwargs):  # type: ignore[no-untyped-def]
            self.now += 1
            return back(*args, **kwargs)

        monkeypatch.setattr(Network, "__call__", evaluate)
        monkeypatch.setattr(intermediate, "backward", pushed)
        monkeypatch.setattr(budgets, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: type(search).__name__)
def test_a_search_ends_within_few_evaluations_of_its_time(search: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    """collins_rul_cnn, if_then_7levels_w20: 10 s took 22 s. Bounds began a budget of their own, and descents never asked."""
    clock, problem = Evaluations(monkeypatch), bumps() if isinstance(search, Amplified) else classify(n=3, radius=0.05)
    for seconds in (1, 7, 20, 33, 50, 73, 97, 121):
        began = clock.now
        search.solve(problem, Budget(seconds=float(seconds), goal=Goal.VALUE))
        assert clock.now - began <= seconds + 8, "a step, and the last points put before `confirm`"


def convolutions() -> tuple[Network, Region]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    captured = capture_module(model, (1, 10, 10), live=False)
    assert captured.network is not None
    middle = torch.rand(3, 100, dtype=torch.float64)
    return captured.network.freeze(torch.float64), BoxRegion(middle - 0.3, middle + 0.3)


def test_a_pass_is_cut_into_pieces_between_which_the_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece was as large as memory allowed, and took seconds."""
    network, region = convolutions()
    boxes, reach = tighten(network, region)
    (*_, at) = (i for i in bends(network) if i)
    each, widths = 2 * products(network)[at], []
    wide = [box.take(torch.arange(3)) for box in boxes]
    monkeypatch.setattr(intermediate, "PIECE", 20 * each)

    def push(boxes: object, reach: object, start: int, rows: Tensor, part: Region) -> Tensor:
        widths.append(rows.shape[0] * rows.shape[1])
        return torch.full(rows.shape[:2], -torch.inf, dtype=torch.float64)

    def bound(asked: int) -> int:
        widths.clear()
        answers = iter([False] * asked)
        by_backward(network, region, wide, reach, at, bends(network)[at], 1 << 30, lambda: next(answers, True), push)
        return len(widths)

    whole = bound(10**6)
    assert whole > 10 and max(widths) <= 2 * 20 and sum(widths) >= 3 * 100
    assert bound(4) == 4, "it ends as soon as it is late"


def test_pieces_change_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    network, region = convolutions()
    whole, _ = tighten(network, region)
    monkeypatch.setattr(intermediate, "PIECE", 1.0)
    for mine, theirs in zip(tighten(network, region)[0], whole, strict=True):
        assert torch.allclose(mine.lower, theirs.lower, rtol=0, atol=1e-12)
        assert torch.allclose(mine.upper, theirs.upper, rtol=0, atol=1e-12)


def test_learning_loads_no_compiler() -> None:
    """The first use of torch.optim did, for three seconds in which no clock was asked."""
    script = (
        "import sys, torch\n"
        "from fathom.attacks.guided import Guide\n"
        "from fathom.attacks.learned import Proposer\n"
        "proposer = Proposer(2, 1, 4, 0)\n"
        "proposer.learn(proposer.layers(torch.ones(3, 7)), torch.ones(3, 2))\n"
        "known = [(torch.zeros(4).long(), torch.rand(4, 1), torch.rand(4, 1), torch.arange(4.0) - 1)]\n"
        "Guide(torch.zeros(1).long(), 1, 2, torch.Generator()).fit(known)\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("passes", [1, 5, 50, 500])
def test_an_audit_spends_no_more_passes_than_it_may(passes: int) -> None:
    """Each of its searches kept to the limit, and all together spent several times as much."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(6, 16)
    region = fathom.regions.LinfBall.around(x, torch.tensor([0.01, 0.03, 0.05, 0.07, 0.1, 0.3]))
    judge = fathom.Misclassification(model(x).argmax(1), 3)
    result = fathom.audit(model, region, judge, budget=fathom.Budget(seconds=60, passes=passes), planted=0)
    spent = result.answers.cost.forward + result.answers.cost.backward
    assert (spent > 0).all()
    # Bounds of whole sets are one batch, however few passes are left: two for the inside, and one for each row.
    assert (spent <= passes + 2 + 2).all(), spent
