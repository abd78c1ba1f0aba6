"""Numbers that are none, in every constructor of an overseer, a region and a budget: refused in words, never carried along.

A limit that is NaN is met by nothing, and a ball of negative radius holds nothing: both would be proved safe.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fathom
import fathom.overseers
import fathom.regions
from fathom.capture.monotone import monotone
from fathom.core.budget import Budget
from fathom.core.discover import discover
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.region import Region
from fathom.core.spec import Spec
from fathom.overseers.abstain import Abstain
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.confident import Confident
from fathom.overseers.confusions import Confusions
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.person import Person
from fathom.overseers.plausible import Plausible, plausible_where
from fathom.overseers.program import ProgramOverseer
from fathom.overseers.reference import OtherDecision, Reference
from fathom.overseers.rules import above, below, between, ordered
from fathom.overseers.targeted import Targeted
from fathom.overseers.top_k import TopK
from fathom.regions.balls import Ball
from fathom.regions.box import BoxRegion
from fathom.regions.ellipsoid import Ellipsoid
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.patch import Patch
from fathom.regions.tabular import Tabular
from fathom.regions.wasserstein import WassersteinBall
from tests.contracts.test_overseers import captured

Make = Callable[[Any], object]
NAN, INF = math.nan, math.inf
LABEL, COSTS = torch.tensor([0, 1]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
X, IMAGE, ROWS = torch.full((2, 4), 0.5), torch.full((2, 1, 4, 4), 0.5), torch.eye(4)[:2]
MODEL, SCORE = captured(4, 3, 0), captured(4, 1, 1)
BOX = BoxRegion(torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64))

TEXT, NUMBER = ("0.1", "a"), (NAN, INF, -INF, "0.1", None)
LEAST_0 = (*NUMBER, -1)
WHOLE = (*LEAST_0, 1.5)


def filled(value: float) -> torch.Tensor:
    return torch.full((1, 2), value, dtype=torch.float64)


def spec(value: float) -> Spec:
    return Spec.make(torch.tensor([[[value, 1.0]]]), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))


OVERSEERS: dict[str, tuple[Make, tuple[object, ...]]] = {
    "Misclassification classes": (lambda v: Misclassification(LABEL, v), WHOLE),
    "Targeted classes": (lambda v: Targeted(LABEL, v), WHOLE),
    "TopK k": (lambda v: TopK(LABEL, 3, v), (*WHOLE, 0, True)),
    "TopK classes": (lambda v: TopK(LABEL, v, 1), WHOLE),
    "Abstain abstain": (lambda v: Abstain(LABEL, 3, v), (*WHOLE, True)),
    "Abstain classes": (lambda v: Abstain(LABEL, v, 0), WHOLE),
    "Confident tau": (lambda v: Confident(LABEL, 3, v), (*LEAST_0, 0, 1, True)),
    "Confident classes": (lambda v: Confident(LABEL, v, 0.5), WHOLE),
    "Confusions threshold": (lambda v: Confusions.make(LABEL, COSTS, v), (*NUMBER, True, 10**400)),
    "Confusions threshold of costs": (lambda v: Confusions(LABEL, COSTS[LABEL].double(), v), (*NUMBER, True)),
    "Confusions costs": (lambda v: Confusions.make(LABEL, [[0.0, v], [1.0, 0.0]], 0.5), NUMBER),  # type: ignore[arg-type]
    "Reference eps": (lambda v: Reference.make(MODEL, v), (*LEAST_0, True)),
    "Reference eps of a table": (lambda v: Reference.to_table(X, v), (*LEAST_0, True)),
    "Reference table": (lambda v: Reference.to_table([[v, 1.0]], 0.1), NUMBER),  # type: ignore[arg-type]
    "Reference sets": (lambda v: Reference.make(MODEL, 0.1, sets=v), (*WHOLE, True)),
    "OtherDecision sets": (lambda v: OtherDecision.make(MODEL, sets=v), WHOLE),
    "CheckerNetwork threshold": (lambda v: CheckerNetwork.make(SCORE, v), (*NUMBER, True)),
    "CheckerNetwork sets": (lambda v: CheckerNetwork.make(SCORE, 0.0, sets=v), WHOLE),
    "Plausible where": (lambda v: plausible_where(SCORE, v), NUMBER),
    "Plausible rows": (lambda v: Plausible.make([[v, 1.0]], [0.0]), NUMBER),
    "Plausible offsets": (lambda v: Plausible.make([[1.0, 1.0]], [v]), NUMBER),
    "Plausible sets": (lambda v: Plausible.make([[1.0, 1.0]], [0.0], sets=v), WHOLE),
    "Plausible spec": (lambda v: Plausible(spec(v)), (NAN, INF, -INF)),
    "LinearRules rows": (lambda v: LinearRules.make([[v, 1.0]], [0.0]), NUMBER),
    "LinearRules offsets": (lambda v: LinearRules.make([[1.0, 1.0]], [v]), NUMBER),
    "LinearRules clause": (lambda v: LinearRules.make([[1.0, 1.0]], [0.0], clause=[v]), (*WHOLE, True)),
    "LinearRules strict": (lambda v: LinearRules.make([[1.0, 1.0]], [0.0], strict=[v]), (*WHOLE, 1)),
    "LinearRules sets": (lambda v: LinearRules.make([[1.0, 1.0]], [0.0], sets=v), WHOLE),
    "LinearRules spec": (lambda v: LinearRules(spec(v)), (NAN, INF, -INF)),
    "LinearRules below": (below, (*NUMBER, True)),
    "LinearRules above": (above, (*NUMBER, True)),
    "LinearRules between": (lambda v: between(v, 5.0), (*NUMBER, 5.0, 6)),
    "LinearRules between, upper": (lambda v: between(-5.0, v), (*NUMBER, -5.0, -6)),
    "LinearRules output": (lambda v: below(1.0, output=v), WHOLE),
    "LinearRules outputs": (lambda v: below(1.0, outputs=v), WHOLE),
    "LinearRules ordered": (lambda v: ordered([0, v], outputs=3), WHOLE),
    "LinearRules monotone": (lambda v: monotone(MODEL, BOX, feature=0, tolerance=v), (*LEAST_0, 0)),
    "LinearRules monotone, feature": (lambda v: monotone(MODEL, BOX, feature=v, tolerance=0.1), WHOLE),
    "ProgramOverseer seconds": (lambda v: ProgramOverseer.make([sys.executable], seconds=v), (*LEAST_0, 0, True)),
    "ProgramOverseer sets": (lambda v: ProgramOverseer.make([sys.executable], sets=v), WHOLE),
    "Person sets": (lambda v: Person.of([], sets=v), WHOLE),
}


def balls(kind: type[Ball]) -> dict[str, tuple[Make, tuple[object, ...]]]:
    return {
        f"{kind.__name__} radius": (lambda v: kind.around(X, v), LEAST_0),
        f"{kind.__name__} clip": (lambda v: kind.around(X, 0.1, (0.0, v)), LEAST_0),
        f"{kind.__name__} centre": (lambda v: kind.around(X + v, 0.1), (NAN, INF, -INF)),
    }


KINDS_OF_REGION = discover(fathom.regions, Region)
REGIONS: dict[str, tuple[Make, tuple[object, ...]]] = {
    "BoxRegion lower": (lambda v: BoxRegion(filled(v), filled(1.0)), (NAN, INF, -INF)),
    "BoxRegion upper": (lambda v: BoxRegion(filled(0.0), filled(v)), (NAN, INF, -INF)),
    "L0Ball count": (lambda v: L0Ball.around(X, v, (0, 1)), (*WHOLE, True)),
    "L0Ball radius": (lambda v: L0Ball.around(X, 1, radius=v), (NAN, INF, -INF, *TEXT, -1)),
    "L0Ball clip": (lambda v: L0Ball.around(X, 1, (0.0, v)), LEAST_0),
    "L0Ball groups": (lambda v: L0Ball.around(X, 1, (0, 1), groups=torch.tensor([0, 1, 2, v])), (NAN, INF, 0.5, -1)),
    "Patch window": (lambda v: Patch.around(IMAGE, v, (0, 1)), (*WHOLE, 0, 5, True, (1, 2, 3))),
    "Patch radius": (lambda v: Patch.around(IMAGE, 2, radius=v), (NAN, INF, -INF, *TEXT, -1)),
    "Patch clip": (lambda v: Patch.around(IMAGE, 2, (0.0, v)), LEAST_0),
    "WassersteinBall radius": (lambda v: WassersteinBall.around(IMAGE, v), LEAST_0),
    "WassersteinBall window": (lambda v: WassersteinBall.around(IMAGE, 0.1, window=v), WHOLE),
    "WassersteinBall slack": (lambda v: WassersteinBall.around(IMAGE, 0.1, slack=v), LEAST_0),
    "WassersteinBall clip": (lambda v: WassersteinBall.around(IMAGE, 0.1, clip=(0.0, v)), LEAST_0),
    "Ellipsoid radius": (
        lambda v: Ellipsoid.make(filled(0.0), torch.eye(2)[None], torch.tensor([v])),
        (NAN, INF, -INF, -1.0),
    ),
    "Ellipsoid factor": (
        lambda v: Ellipsoid.make(filled(0.0), torch.tensor([[[v, 0], [0, 1]]]), torch.ones(1)),
        (NAN, INF, -INF, -1.0, 0.0),
    ),
    "FiniteSet points": (lambda v: FiniteSet.of(torch.tensor([[[v, 1.0], [0.0, 0.0]]])), (NAN, INF, -INF)),
    "Tabular clip": (lambda v: Tabular.around(X, (0, v)), LEAST_0),
    "Tabular step": (lambda v: Tabular.around(ROWS, (0, 1), step=[v, 0, 0, 0]), (NAN, INF, -INF, -1, "a")),
    "Tabular most": (lambda v: Tabular.around(X, (0, 1), most=[v, 1, 1, 1]), (NAN, -INF, -1, "a", None)),
    "Tabular unit": (lambda v: Tabular.around(X, (0, 1), unit=[v, 1, 1, 1], budget=1.0), (NAN, -INF, -1, 0, "a", None)),
    "Tabular budget": (lambda v: Tabular.around(X, (0, 1), budget=v), (NAN, -INF, -1, "a")),
    "Tabular immutable": (lambda v: Tabular.around(X, (0, 1), immutable=[v]), (*WHOLE, 4, True)),
    "Tabular groups": (lambda v: Tabular.around(ROWS, (0, 1), groups=[[0, v]]), (*WHOLE, 4, True)),
    "Tabular relations": (lambda v: Tabular.around(X, (0, 1), relations=([[v, 0, 0, 0]], [5.0])), NUMBER),
    "Tabular limits": (lambda v: Tabular.around(X, (0, 1), relations=([[1.0, 0, 0, 0]], [v])), NUMBER),
}
for one in (fathom.regions.LinfBall, fathom.regions.L2Ball, fathom.regions.L1Ball):
    REGIONS |= balls(one)
BUDGETS: dict[str, tuple[Make, tuple[object, ...]]] = {
    "Budget seconds": (lambda v: Budget(seconds=v), (NAN, "1", True)),
    "Budget passes": (lambda v: Budget(passes=v), (NAN, "1", True)),
}
ALL = OVERSEERS | REGIONS | BUDGETS


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, values) in ALL.items() for value in values])
def test_no_wrong_number_is_taken(name: str, value: object) -> None:
    with pytest.raises(FathomError, match=r"expected .*got "):
        ALL[name][0](value)


def test_every_kind_is_asked() -> None:
    """A new kind adds its numbers to the tables above; these few have none of their own."""
    without = {"PythonOverseer", "Product", "Union"}
    kinds = {*discover(fathom.overseers, Overseer), *KINDS_OF_REGION} - without
    assert {name.split()[0] for name in OVERSEERS | REGIONS} == kinds


def test_costs_against_no_number_are_never_proved() -> None:
    """At a threshold of NaN nothing is costly, so that every case was proved."""
    for threshold in (NAN, INF):
        with pytest.raises(FathomError, match="`threshold` as a finite number, got"):
            Confusions.make(LABEL, COSTS, threshold)


@pytest.mark.parametrize("kind", [L0Ball, Patch])
def test_a_change_by_less_than_nothing_is_never_proved(kind: Any) -> None:
    """The range of what may change was empty, and so was every set: all of them were proved."""
    with pytest.raises(FathomError, match=r"expected radii >= 0 and finite, got -1\.0"):
        kind.around(IMAGE, 1, radius=-1.0)


def test_numbers_in_tensors_of_one_count() -> None:
    assert Reference.make(MODEL, torch.tensor(0.5)).eps.tolist() == [0.5]  # type: ignore[arg-type]
    assert Confusions.make(LABEL, COSTS, torch.tensor(0.5)).take(torch.tensor([1])).threshold == 0.5  # type: ignore[arg-type]
    assert fathom.regions.LinfBall.around(X, torch.tensor([0.5, 0.25])).radius.tolist() == [0.5, 0.25]


def test_an_endless_budget_is_one_without_a_limit() -> None:
    """Shares of infinity are NaN, whose end never comes."""
    assert Budget(seconds=INF).seconds is None and Budget(seconds=INF).part(seconds=2.0).seconds == 2.0
