"""Whether boxes are halved by lean forms: a choice by counted work, which may cost time and never a verdict."""

from __future__ import annotations

import pytest
import torch

from fathom.audits.portfolio import Portfolio
from fathom.capture.graph import Graph
from fathom.core.budget import Budget
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.overseers.linear_rules import LinearRules
from fathom.prove import lean as choice
from fathom.prove.branch import BranchAndBound, halves_nimbly
from fathom.prove.lean import lean
from fathom.regions.box import BoxRegion
from tests.contracts.test_affine import pictures
from tests.contracts.test_bounds import Deployed


@pytest.fixture
def in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Structure never decides."""
    monkeypatch.setattr(choice, "NEVER", -1e9)
    monkeypatch.setattr(choice, "SURE", 1e9)


def dense(layers: int, width: int, inputs: int) -> Network:
    """A deep narrow network: forms without symbols lose much from layer to layer."""
    g = torch.Generator().manual_seed(1)
    graph = Graph([("x", (inputs,))])
    x, size = graph.input("x"), inputs
    for k in range(layers):
        weight, bias = 1.4 * torch.randn(width, size, generator=g) / size**0.5, 0.1 * torch.randn(width, generator=g)
        x, size = graph.add(f"bend{k}", Relu(), graph.add(f"wide{k}", Dense(weight, bias), x)), width
    return graph.finish([("y", graph.add("out", Dense(torch.randn(1, size, generator=g) / size**0.5), x))])


def stays_above(network: Network, share: float, sets: int = 1) -> Problem:
    """That the output over [-1, 1]^q stays above its least sampled value less a share of how much it varies."""
    ends = torch.ones(sets, network.input_size, dtype=torch.float64)
    region = BoxRegion(-ends, ends)
    y = network.freeze(torch.float64)(region.sample(5000, torch.Generator().manual_seed(0))[0])
    least = y.min() - share * (y.max() - y.min())
    return Problem.make(Deployed(network), network, region, LinearRules.make([[1.0]], [-least.item()], sets=sets))


def boxes(problem: Problem, *, forms: bool) -> int:
    answers = BranchAndBound(forms=forms).solve(problem, Budget(passes=20_000))
    assert answers.proved.all()
    return int(answers.cost.boxes.sum())


@pytest.mark.usefixtures("in_doubt")
def test_rows_are_taken_where_forms_need_far_more_boxes() -> None:
    problem = stays_above(dense(6, 12, 3), 0.2)
    assert boxes(problem, forms=True) > 5 * boxes(problem, forms=False)
    assert not lean(problem)


@pytest.mark.usefixtures("in_doubt")
def test_forms_are_taken_where_they_need_hardly_more_boxes_and_rows_are_many() -> None:
    problem = stays_above(pictures(2, 3), 0.2)
    assert boxes(problem, forms=True) < 5 * boxes(problem, forms=False)
    assert lean(problem)


@pytest.mark.usefixtures("in_doubt")
@pytest.mark.parametrize("share", [0.2, -0.5], ids=["safe", "broken"])
def test_the_choice_is_the_same_whatever_was_drawn_before(share: float) -> None:
    for network in (dense(6, 12, 3), pictures(2, 3)):
        problem, found = stays_above(network, share, sets=3), set()
        for seed in range(3):
            torch.manual_seed(seed)
            found.add(lean(problem))
        assert len(found) == 1


def test_nothing_is_measured_where_structure_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_measured", lambda problem, memory: pytest.fail("measured"))
    assert lean(stays_above(pictures(8, 2), 0.2))
    assert not lean(stays_above(dense(2, 8, 2), 0.2))
    assert not lean(stays_above(dense(2, 8, 5), 0.2))


def test_an_audit_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it found before the search holds for the search of every group."""
    asked = []
    monkeypatch.setattr("fathom.prove.branch.lean", lambda problem: asked.append(len(problem)) or True)
    monkeypatch.setattr("fathom.prove.input_split.lean", lambda problem, memory: pytest.fail("asked again"))
    problem = stays_above(dense(6, 12, 3), 0.2, sets=3)
    assert Portfolio(group=1).solve(problem, Budget(seconds=60)).proved.all()
    assert asked == [3] and halves_nimbly(problem)
