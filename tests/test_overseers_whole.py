"""Every kind of overseer through a whole audit: what is proved is searched on a fine grid, and what is broken is judged again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import fathom
from fathom.capture.captured import Captured
from fathom.capture.torch_module import capture_module
from fathom.core.answer import REASONS, Reason
from fathom.core.budget import Budget
from fathom.core.composed import all_of, any_of
from fathom.core.overseer import Overseer, Severity
from fathom.core.problem import Problem
from fathom.core.spec import Spec
from fathom.overseers.confident import Confident
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.plausible import Plausible
from fathom.overseers.reference import OtherDecision
from fathom.overseers.top_k import TopK
from fathom.prove.branch import BranchAndBound
from fathom.report.page import render
from tests.contracts.test_overseers import KINDS, judge

N, CLASSES = 6, 4
SIDE = 81


def several(seed: int) -> dict[str, Overseer]:
    """Compositions of kinds that compile to one network and to several, exactly and not."""
    label = torch.randint(0, CLASSES, (N,), generator=torch.Generator().manual_seed(seed))
    wrong, sure, ranked = Misclassification(label, CLASSES), Confident(label, CLASSES, 0.7), TopK(label, CLASSES, 2)
    inside = Plausible.make([[1.0, -1.0], [0.3, 1.0]], [-0.1, -0.4], sets=N)
    checked, near, program = (judge(kind, N, CLASSES, 2, seed) for kind in ("CheckerNetwork", "Reference", "ProgramOverseer"))
    return {
        "wrong and inside": wrong & inside,
        "wrong and not inside": wrong & ~inside,
        "sure and inside": sure & inside,
        "wrong but not by rank, or checked": (wrong & ~ranked) | checked,
        "near or sure": near | sure,
        "not (near or wrong)": ~(near | wrong),
        "near, checked and inside": all_of(near, checked, inside),
        "wrong and judged by a program": wrong & program,
        "any": any_of(ranked & ~checked, near & inside, sure),
    }


def points(region: fathom.regions.LinfBall, i: int) -> torch.Tensor:
    box = region.box()
    axes = [torch.linspace(box.lower[i, k], box.upper[i, k], SIDE, dtype=torch.float64) for k in range(2)]
    return torch.cartesian_prod(*axes).to(torch.float32)


@pytest.mark.parametrize(
    "name", [*sorted(set(KINDS) - {"AllOf", "AnyOf", "Not", "Person", "ProgramOverseer", "PythonOverseer"}), *several(0)]
)
def test_no_failure_is_left_where_there_is_a_proof(name: str) -> None:
    torch.manual_seed(len(name))
    model = capture_module(nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, CLASSES)), (2,))
    overseer = judge(name, N, CLASSES, 2) if name in KINDS else several(0)[name]
    region = fathom.regions.LinfBall.around(torch.rand(N, 2), 0.2)
    region = replace(region, radius=torch.linspace(0.002, 0.3, N, dtype=torch.float64))
    result = fathom.audit(model, region, overseer, budget=Budget(seconds=4))
    for i in range(N):
        x = points(region, i)
        x = x[region.rounded(torch.float32).take(torch.full((len(x),), i)).contains(x)]
        y = outputs(model, x)
        margin = (
            overseer.take(torch.full((len(x),), i)).margin(x.double(), y) if name != "wrong and judged by a program" else None
        )
        if margin is not None and result.answers.proved[i]:
            assert bool((margin > 0).all())
            assert bool((margin >= result.answers.lower[i] - 1e-4 * (1 + margin.abs())).all())
        if result.answers.broken[i]:
            one, found = torch.tensor([i]), result.answers.found
            again = overseer.take(one).margin(found.x[one].double(), found.y[one])
            assert again.item() <= 0 and again.item() == pytest.approx(found.deployed[i].item(), rel=1e-12, abs=1e-300)
    assert bool(result.answers.decided.any())


def outputs(model: Captured, x: torch.Tensor) -> torch.Tensor:
    """The network's outputs in float64, which are within rounding of the program's, without one call a sample."""
    return model.network.freeze(torch.float64)(x.double())


def test_features_that_tie_meet_a_relation_however_the_output_is_rounded() -> None:
    """x0 <= x1 of whole numbers holds at [1, 1], which is read wrongly; the margin's other rows are known only nearly."""
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor([[0.1, 0.0], [0.0, 0.3]]), torch.tensor([-1.0, 1.0])
    judge = Misclassification(torch.tensor([0]), 2) & Plausible.make([[1.0, -1.0]], [0.0])
    x = torch.tensor([[2.0, 1.0]])
    region = fathom.regions.Tabular.around(x, (0, 3), step=[1, 1], most=[1, 0.0])
    result = fathom.audit(layer.eval(), region, judge, clean=x, budget=Budget(seconds=20), planted=0)
    assert result.counts.broken == 1
    assert result.answers.found.x[0].tolist() == [1.0, 1.0]


def test_a_hundred_pairs_of_decisions_are_bounded_without_a_value_for_every_pair_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,620 rows a set: their minimisers, put before all rows of all sets, were 13 GiB."""
    seen: list[int] = []
    values = Spec.values

    def counted(spec: Spec, y: torch.Tensor) -> torch.Tensor:
        seen.append(len(y) * spec.rows.shape[1])
        return values(spec, y)

    monkeypatch.setattr(Spec, "values", counted)
    torch.manual_seed(0)
    fast, slow = (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10)).eval() for _ in range(2))
    slow.load_state_dict(fast.state_dict())
    with torch.no_grad():
        slow[0].weight.add_(0.01 * torch.randn(16, 8))
    x = torch.rand(40, 8)
    judge_ = OtherDecision.make(capture_module(slow, (8,), live=False), sets=40)
    result = fathom.audit(fast, fathom.regions.LinfBall.around(x, 0.01), judge_, budget=Budget(seconds=60), planted=0)
    assert result.counts.proved > 20 and result.counts.unknown == 0
    assert max(seen) <= 1 << 25


def test_more_rules_than_a_search_can_hold_are_said_to_be_the_reason() -> None:
    captured = capture_module(nn.Linear(4, 80), (4,), live=False)
    x = torch.rand(1, 4)
    region = fathom.regions.LinfBall.around(x, 9.0)
    problem = Problem.make(captured.program, captured.network, region, Confident(captured.program(x).argmax(1), 80, 0.9))
    answers = BranchAndBound().solve(problem, Budget())
    assert REASONS[int(answers.reason[0])] is Reason.RULES and not answers.decided.any()


def test_what_fails_is_as_bad_as_its_overseer_says() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.eye(2), torch.zeros(2)
    x, label = torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0, 0])
    region = fathom.regions.LinfBall.around(x, 0.2)
    bad = Misclassification(label, 2, severity=Severity.MALIGN)
    result = fathom.audit(layer.eval(), region, bad, budget=Budget(seconds=10), planted=0)
    assert [answer["severity"] for answer in result.to_json()["answers"]] == ["malign", None]
    worse = Misclassification(label, 2, severity=Severity.BENIGN) | LinearRules.make([[1.0, 0.0]], [-0.75], sets=2)
    result = fathom.audit(layer.eval(), region, worse, budget=Budget(seconds=10), planted=0)
    assert {answer["severity"] for answer in result.to_json()["answers"]} == {"serious"}
    assert "severity" in render(result)
