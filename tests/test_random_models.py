"""Models that answer at random: failures are scored over fresh runs, and never called counterexamples."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import fathom
from fathom.audits.draws import RUNS, answers_at_random
from fathom.core.answer import Claim
from fathom.estimates.intervals import clopper_pearson
from fathom.regions.linf import LinfBall
from fathom.report.page import render


class Noisy(nn.Module):
    """Two scores, the difference of which is x_0 - x_1, and noise."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] + self.deviation * torch.randn_like(x[:, :2])


X = torch.tensor([[0.5, 0.48], [0.9, 0.1], [0.6, 0.5], [0.1, 0.9]])


def audited(deviation: float, radius: float = 0.06) -> fathom.AuditResult:
    torch.manual_seed(0)
    program = fathom.run_module(Noisy(deviation), (2,))
    judge = fathom.Misclassification(torch.zeros(4, dtype=torch.int64), 2)
    return fathom.audit(program, LinfBall.around(X, radius, (0, 1)), judge, budget=fathom.Budget(seconds=60), planted=0)


def test_failures_are_scored_over_fresh_runs() -> None:
    result = audited(0.02)
    assert result.draws is not None and result.draws.runs == RUNS
    assert result.already_wrong.tolist() == [False, False, False, True]
    assert bool(result.broken[0])
    claims = {result.claim(i) for i in result.broken.nonzero()[:, 0].tolist()}
    assert claims == {Claim.CONFIDENCE}
    fails = result.draws.fails[0]
    assert fails is not None
    x, deviation = result.answers.found.x[0], 0.02 * 2**0.5
    truth = 0.5 * (1 + torch.erf(-(x[0] - x[1]) / (deviation * 2**0.5))).item()  # of a normal difference to be below 0
    lower, upper = result.draws.interval(0)
    assert lower <= truth <= upper
    assert (lower, upper) == clopper_pearson(fails, 0, RUNS, 0.95)
    assert not result.proved.any()
    assert "different answers" in result.obstacle
    assert any("ANSWERS AT RANDOM" in line for line in result.lines())
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))["answers"][0]
    assert told["claim"] == "bound with confidence" and told["draws"]["fails"] == fails
    page = render(result)
    assert f"{fails} of 100 fresh runs" in page and "is a counterexample: this very input" not in page


def test_a_failure_by_one_unlucky_draw_alone_does_not_count() -> None:
    """The noise is so rarely large that of a hundred fresh runs none fails; the search, which asks more often, may see one."""
    result = audited(0.1, radius=0.0)
    assert result.draws is not None
    for case in result.broken.nonzero()[:, 0].tolist():
        assert result.draws.fails[case]
    assert not bool(result.broken[1])


def test_a_model_without_noise_is_not_called_random() -> None:
    program = fathom.run_module(Noisy(0.0), (2,))
    assert not answers_at_random(program, X)
    assert answers_at_random(fathom.run_module(Noisy(1e-6), (2,)), X)
    result = audited(0.0)
    assert result.draws is None
    assert result.claim(0) is Claim.COUNTEREXAMPLE
    assert result.counts.unknown == 2 or result.counts.broken >= 1


def test_capture_refuses_what_draws_at_random() -> None:
    with pytest.raises(fathom.FathomError, match="randn"):
        fathom.capture_module(Noisy(0.1), (2,), live=False)


def test_nothing_is_certified_of_a_bare_program(tmp_path) -> None:  # type: ignore[no-untyped-def]
    judge = fathom.Misclassification(torch.zeros(4, dtype=torch.int64), 2)
    program = fathom.run_module(Noisy(0.1), (2,))
    with pytest.raises(fathom.FathomError, match="a program that was not captured"):
        fathom.audit(program, LinfBall.around(X, 0.1), judge, certificates=tmp_path)
