"""Regions of every kind at work: attacked, proved and audited, against answers found by enumeration."""

from __future__ import annotations

import ast
import itertools
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fathom
from fathom.attacks.discrete import Discrete
from fathom.attacks.gradient import Gradient
from fathom.attacks.values import Values
from fathom.audits.settings import REGION_KINDS
from fathom.core.answer import Answers, Reason
from fathom.core.budget import Budget, Goal
from fathom.core.discover import discover
from fathom.core.filled import require_filled
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.prove.branch import BranchAndBound
from fathom.prove.parts import MOST_PARTS
from fathom.regions.box import BoxRegion
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.regions.patch import Patch
from fathom.regions.product import Product
from fathom.regions.tabular import Tabular
from fathom.regions.union import Union
from tests.contracts.test_attacks import Corners, Deployed, random_network
from tests.contracts.test_regions import generator

FOREVER = Budget()


def labelled(region: Region, seed: int = 0, classes: int = 3, at: Tensor | None = None, scale: float = 1.0) -> Problem:
    """A random network over a region, judged by the class that it gives the centres."""
    network = random_network(region.size, classes, seed, scale=scale)
    centres = region.centres() if at is None else at
    return Problem.make(Deployed(network), network, region, Misclassification(network(centres.float()).argmax(1), classes))


def exact_margins(problem: Problem, i: int, points: Tensor) -> list[Fraction]:
    """Margins of set i at points [k, d], of the network over the real numbers, in rational arithmetic."""
    assert problem.network is not None and problem.spec is not None
    layers = [node.operator for node in problem.network.freeze(torch.float64).nodes if hasattr(node.operator, "weight")]
    rows = [[Fraction(v) for v in row.tolist()] for row in problem.spec.alone(i).rows[0]]
    found = []
    for point in points:
        x = [Fraction(v) for v in point.double().tolist()]
        for k, layer in enumerate(layers):
            shift = layer.shift.tolist()
            x = [
                sum((Fraction(w) * v for w, v in zip(row, x, strict=True)), Fraction(b))
                for row, b in zip(layer.weight.tolist(), shift, strict=True)
            ]
            x = x if k == len(layers) - 1 else [max(v, Fraction(0)) for v in x]
        found.append(min(sum((a * v for a, v in zip(row, x, strict=True)), Fraction(0)) for row in rows))
    return found


# --- finite sets ----------------------------------------------------------------------------------------------------------


def corruptions(n: int = 8, k: int = 12, d: int = 20, size: float = 0.5, seed: int = 0) -> FiniteSet:
    g = generator(seed)
    points = torch.rand(n, 1, d, generator=g) + size * (torch.rand(n, k, d, generator=g) - 0.5)
    return FiniteSet.of(points, torch.rand(n, k, generator=g) < 0.7 + (torch.arange(k) == 0))


@pytest.mark.parametrize("goal", list(Goal))
@pytest.mark.parametrize("size", [0.1, 0.6, 2.0])
def test_a_finite_set_is_always_decided(size: float, goal: Goal) -> None:
    """Also where the hull of the points holds failures, and none of the points is one."""
    region = corruptions(size=size)
    problem = labelled(region)
    answers = BranchAndBound().solve(problem, Budget(goal=goal))
    assert answers.decided.all()
    for i in range(len(problem)):
        worst = min(exact_margins(problem, i, region.points[i][region.present[i]]))
        assert answers.proved[i] == (worst > 0)
        assert Fraction(answers.lower[i].item()) <= worst or answers.broken[i]
        if goal is Goal.VALUE:
            assert answers.lower[i].item() == pytest.approx(float(worst), abs=1e-9)
            assert answers.upper[i].item() == pytest.approx(float(worst), abs=1e-9)


def test_some_of_these_finite_sets_are_safe_though_their_hull_is_not() -> None:
    region = corruptions(size=0.6)
    problem = labelled(region)
    finite = BranchAndBound().solve(problem, FOREVER)
    box = region.box()
    hull = fathom.regions.BoxRegion(box.lower, box.upper)
    inside = labelled(hull, at=region.centres())
    assert (finite.proved & BranchAndBound().solve(inside, FOREVER).broken).any()
    assert finite.broken.any()


def test_points_that_no_float32_equals_are_covered_with_those_that_a_program_gets() -> None:
    g = generator(1)
    points = torch.rand(2, 3, 4, generator=g, dtype=torch.float64)
    problem = labelled(FiniteSet.of(points))
    assert problem.region.points.shape[1] == 6
    for dtype in (torch.float64, torch.float32):
        assert all(problem.region.contains(points[:, j].to(dtype)).all() for j in range(3))
    assert not problem.deployed.contains(points[:, 0]).any()
    assert BranchAndBound().solve(problem, FOREVER).decided.all()


def test_branch_and_bound_on_inputs_ends_on_finite_sets_too() -> None:
    """Without parts: sub-boxes are tightened to their points, and those that hold none are closed."""
    region = corruptions(n=6, k=5, d=2, size=0.8)
    problem = labelled(region)
    answers = BranchAndBound()._search(problem, FOREVER, fathom.core.solver.Hints(), lambda a: None)
    assert torch.equal(answers.proved, BranchAndBound().solve(problem, FOREVER).proved)
    assert answers.decided.all()


def test_a_search_by_parts_keeps_its_limits() -> None:
    problem = labelled(corruptions(n=3, k=5))
    none = BranchAndBound().solve(problem, Budget(seconds=0.0))
    assert not none.proved.any() and all(none.why(i) is Reason.TIME for i in (~none.decided).nonzero()[:, 0].tolist())
    seen: list[Answers] = []
    full = BranchAndBound().solve(problem, FOREVER, observe=seen.append)
    assert seen and torch.equal(seen[-1].lower, full.lower)


@pytest.mark.parametrize("attack", [Gradient(restarts=3, steps=5), Values(steps=10)])
def test_attacks_find_the_failures_of_finite_sets(attack: fathom.Solver) -> None:
    problem = labelled(corruptions(k=5))
    found, sure = attack.solve(problem, FOREVER), BranchAndBound().solve(problem, FOREVER)
    assert sure.broken.any()
    assert torch.equal(found.broken, sure.broken)


def test_finite_sets_say_what_is_wrong_with_their_parts() -> None:
    points = torch.rand(2, 3, 4)
    for bad, word in (
        (lambda: FiniteSet.of(points[0]), r"\[n, k, \*shape\]"),
        (lambda: FiniteSet.of(points, torch.zeros(2, 3, dtype=torch.bool)), "a point in every set"),
        (lambda: FiniteSet.of(points, torch.ones(2, 2, dtype=torch.bool)), "present"),
        (lambda: FiniteSet(points.double() * torch.inf, torch.ones(2, 3, dtype=torch.bool)), "finite"),
        (lambda: FiniteSet(points, torch.ones(2, 3, dtype=torch.bool)), "float64"),
    ):
        with pytest.raises(fathom.FathomError, match=word):
            bad()
    padded = FiniteSet.of(torch.tensor([[[1.0, 2.0], [torch.nan, torch.nan]]]))
    assert padded.present.tolist() == [[True, False]] and str(padded) == "one of 1 points"


# --- L0 balls and patches -------------------------------------------------------------------------------------------------


def images(n: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, 2, 4, 4, generator=generator(seed))


def changed(kind: str, n: int = 8) -> Region:
    if kind == "Patch":
        return Patch.around(images(n), 2, (0.0, 1.0), radius=0.4)
    return L0Ball.around(images(n), 2, (0.0, 1.0), radius=0.5, groups=L0Ball.pixels((2, 4, 4)))


@pytest.mark.parametrize("kind", ["L0Ball", "Patch"])
def test_sparse_changes_are_always_decided(kind: str) -> None:
    """Place by place; never against what sampling and the relaxation of the hull say."""
    region = changed(kind)
    problem = labelled(region)
    answers = BranchAndBound().solve(problem, FOREVER)
    assert answers.decided.all() and 0 < answers.proved.sum() < len(problem)
    x = region.sample(3000, generator(1))
    for i in answers.proved.nonzero()[:, 0].tolist():
        assert (problem.spec.take(torch.full((3000,), i)).margin(problem.network.freeze(torch.float64)(x[i])) > 0).all()
    hull = BranchAndBound()._search(problem, Budget(seconds=3), fathom.core.solver.Hints(), lambda a: None)
    assert not (hull.proved & answers.broken).any() and not (hull.broken & answers.proved).any()


@pytest.mark.parametrize("kind", ["L0Ball", "Patch"])
def test_attacks_find_sparse_failures(kind: str) -> None:
    problem = labelled(changed(kind))
    sure = BranchAndBound().solve(problem, FOREVER)
    for attack in (Gradient(), Values()):
        found = attack.solve(problem, FOREVER)
        assert not (found.broken & sure.proved).any()
        assert found.broken.sum() >= sure.broken.sum() - 1
        held = found.found.known
        assert problem.deployed.contains(found.found.x)[held].all() and held.any()


def test_many_small_parts_are_left_to_the_hull_which_says_so() -> None:
    """More choices than are enumerated: what stays open is not called close to zero."""
    region = L0Ball.around(torch.rand(2, 40, generator=generator()), 5, (0.0, 1.0))
    assert region.parts(MOST_PARTS) is None
    problem = labelled(region)
    answers = BranchAndBound().solve(problem, Budget(seconds=3))
    reasons = {answers.why(i) for i in range(2)}
    assert reasons <= {Reason.DECIDED, Reason.INCOMPLETE, Reason.TIME}


def test_a_sample_that_no_float32_equals_is_still_unchanged() -> None:
    """Every input of what a program gets differs from the sample by a rounding, and none of that is a change."""
    centre = torch.rand(2, 10, generator=generator(), dtype=torch.float64)
    problem = labelled(L0Ball.around(centre, 1, (0.0, 1.0)))
    for x in (centre, centre.float()):
        assert problem.region.contains(x).all()
    assert problem.deployed.contains(centre.float()).all() and not problem.deployed.contains(centre).any()
    assert not problem.region.contains((centre.float() + torch.tensor([0.01] * 2 + [0.0] * 8)).clamp(0, 1)).any()


def test_sparse_changes_say_what_they_are_and_refuse_what_they_are_not() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert str(Patch.around(x, 2, (0, 1))) == "a patch of 2 x 2 pixels anywhere"
    assert str(L0Ball.around(x, 2, (0, 1))) == "at most 2 inputs changed"
    assert str(L0Ball.around(x, torch.tensor([1, 2]), (0, 1), groups=L0Ball.pixels((3, 4, 4)))).startswith(
        "at most 1 to 2 groups"
    )
    bad = {
        "neither": lambda: L0Ball.around(x, 2),
        "clipping range": lambda: Patch.around(x + 1, 2, (0, 1)),
        "fits into 4 x 4": lambda: Patch.around(x, 5, (0, 1)),
        "images": lambda: Patch.around(x.flatten(1), 1, (0, 1)),
        "count": lambda: L0Ball.around(x, 1.5, (0, 1)),
        "counts >= 0": lambda: L0Ball.around(x, -1, (0, 1)),
        "a group for each of 48": lambda: L0Ball.around(x, 1, (0, 1), groups=torch.arange(3)),
    }
    for word, make in bad.items():
        with pytest.raises(fathom.FathomError, match=word):
            make()


# --- products and unions --------------------------------------------------------------------------------------------------


def test_a_product_of_sparse_and_finite_sets_is_decided() -> None:
    g = generator(3)
    codes = FiniteSet.of(torch.rand(4, 3, 4, generator=g))
    noise = L0Ball.around(torch.rand(4, 6, generator=g), 1, (0.0, 1.0))
    region = Product((codes, noise, LinfBall.around(torch.rand(4, 2, generator=g), 0.1)))
    problem = labelled(region)
    answers = BranchAndBound().solve(problem, FOREVER)
    assert answers.decided.all() and answers.broken.any()
    parts = region.parts(100)
    assert parts is not None and len(parts[0]) == 4 * 3 * 6 and region.parts(17) is None
    x = region.sample(2000, g)
    for i in answers.proved.nonzero()[:, 0].tolist():
        assert (problem.spec.take(torch.full((2000,), i)).margin(problem.network.freeze(torch.float64)(x[i])) > 0).all()


def two_places(kind: str, n: int = 6, d: int = 5) -> Union:
    """Unions of two sets that lie apart, or reach into one another, of one kind or of two."""
    g = generator(4)
    centre, way = torch.rand(n, d, generator=g), torch.tensor([0.0, 0.1, 0.25, 0.5, 1.0, 2.0])[:n, None]
    other = centre + way * (torch.rand(n, d, generator=g) - 0.5)
    first = L2Ball.around(centre, 0.15)
    if kind == "balls":
        return Union.of(first, L2Ball.around(other, 0.3))
    if kind == "boxes":
        return Union.of(LinfBall.around(centre, 0.1), LinfBall.around(other, 0.2), BoxRegion(other.double(), other.double()))
    if kind == "a ball or points":
        return Union.of(first, FiniteSet.of(other[:, None] + 0.4 * torch.rand(n, 7, d, generator=g)))
    return Union.of(first, Tabular.around(other.round(decimals=1), (-9, 9), most=[0.2] * d), L1Ball.around(other, 0.3))


@pytest.mark.parametrize("kind", ["balls", "boxes", "a ball or points", "three kinds"])
def test_a_union_is_decided_as_its_members_are(kind: str) -> None:
    """Against each member alone: proved where all are, broken where one is, and the bracket that of the worst."""
    region = two_places(kind)
    problem = labelled(region, scale=2.0)
    answers = BranchAndBound().solve(problem, FOREVER)
    alone = [BranchAndBound().solve(replace_region(problem, member), FOREVER) for member in region.members]
    assert answers.decided.all() and answers.broken.any() and answers.proved.any()
    assert torch.equal(answers.proved, torch.stack([one.proved for one in alone]).all(0))
    x = region.sample(3000, generator(1))
    for i in range(len(problem)):
        judge = problem.spec.take(torch.full((3000,), i))
        assert (judge.margin(problem.network.freeze(torch.float64)(x[i])) >= answers.lower[i] - 1e-12).all()
        assert not answers.broken[i] or region.rounded(torch.float32).contains(answers.found.x)[i]


def test_a_bracket_over_sets_that_overlap_is_that_of_the_worst_member() -> None:
    """The witness of one ball lies in the box of the other, and outside that ball, whose bound is above its margin."""
    problem = labelled(two_places("balls", n=3, d=2))
    tight = Budget(goal=Goal.VALUE)
    answers = BranchAndBound().solve(problem, tight)
    alone = [BranchAndBound().solve(replace_region(problem, member), tight) for member in problem.region.members]
    assert torch.allclose(answers.lower, torch.stack([one.lower for one in alone]).amin(0), rtol=1e-2, atol=1e-6)
    assert torch.allclose(answers.upper, torch.stack([one.upper for one in alone]).amin(0), rtol=1e-2, atol=1e-6)


def replace_region(problem: Problem, region: Region) -> Problem:
    return Problem.make(problem.program, problem.model, region, problem.overseer)


@pytest.mark.parametrize("kind", ["balls", "boxes", "a ball or points", "three kinds"])
def test_attacks_find_what_fails_in_either_member_of_a_union(kind: str) -> None:
    problem = labelled(two_places(kind), scale=2.0)
    broken = BranchAndBound().solve(problem, FOREVER).broken
    for attack in (Gradient(), Discrete(), Values()):
        found = attack.solve(problem, Budget(passes=3000))
        assert not (found.broken & ~broken).any()
        assert found.broken.sum() >= broken.sum() - 1, attack


def test_an_audit_of_a_union_answers_a_case_a_set() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()
    region = two_places("a ball or points")
    label = model(region.centres().float()).argmax(1)
    result = fathom.audit(model, region, Misclassification(label, 3), budget=Budget(seconds=20), planted=0)
    assert result.answers.decided.all() and len(result.titles) == 6
    assert "L2 0.15" in result.region and "7 points" in result.region


def test_a_union_is_an_entry_of_its_room_and_counts_empty_members_out() -> None:
    region = two_places("a ball or points")
    assert isinstance(region, fathom.regions.Union)
    far = torch.full((6, 5), 50.0).double()
    cut = region.restrict(torch.arange(6), region.members[1].box().lower, region.members[1].box().upper)
    away = Union((region.members[0], BoxRegion(far, far - 1)))
    assert not cut.empty().any() and away.empty().sum() == 0 and not away.contains(far).any()
    a = torch.randn(6, 4, 5, generator=generator(2)).double()
    assert torch.equal(away.minimise(a)[0], region.members[0].minimise(a)[0])
    assert torch.equal(away.repair(far), region.members[0].repair(far))
    assert away.contains(away.sample(1, generator())[:, 0] * 0.999 + region.centres() * 0.001).all()
    assert Union((BoxRegion(far, far - 1), BoxRegion(far, far - 2))).empty().all()


def test_what_cannot_be_united_or_multiplied_is_refused() -> None:
    x = torch.rand(2, 4)
    for bad, word in (
        (lambda: Union.of(), "one number of sets"),
        (lambda: Union.of(L2Ball.around(x, 1.0), L2Ball.around(x[:1], 1.0)), r"\[2, 1\]"),
        (lambda: Union.of(L2Ball.around(x, 1.0), L2Ball.around(x[:, :3], 1.0)), r"sizes \[4, 3\]"),
        (lambda: Union.of(L2Ball.around(x, 1.0), BoxRegion(x.double() + 1, x.double())), "an empty one: in set 0"),
        (lambda: Union((Corners(x[:, None]),)), "Corners"),
        (lambda: Product((L2Ball.around(x, 1.0), L2Ball.around(x[:1], 1.0))), "one number of sets"),
        (lambda: Product(()), "one number of sets"),
        (lambda: Product((Corners(x[:, None]),)), "Corners"),
    ):
        with pytest.raises(fathom.FathomError, match=word):
            bad()


# --- claims ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["FiniteSet", "L0Ball", "Patch", "Union"])
def test_a_proof_about_another_kind_of_set_is_never_called_checked(kind: str, tmp_path: Path) -> None:
    kinds = {"FiniteSet": lambda: corruptions(n=3, k=4, size=0.1), "Union": lambda: two_places("balls")}
    region = kinds[kind]() if kind in kinds else changed(kind, 3)
    model = torch.nn.Sequential(torch.nn.Linear(region.size, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    with torch.no_grad():
        model[2].bias += 10.0
    overseer = LinearRules.make([[1.0]], [0.0], sets=len(region))
    result = fathom.audit(model, region, overseer, budget=Budget(seconds=20), certificates=tmp_path)
    assert result.answers.proved.all()
    assert result.check is not None and not result.check.accepted and kind in result.check.words
    assert result.check.claim.value == "certificate (unchecked)"
    assert not (tmp_path / "certificate.npz").exists()
    assert any(kind in line for line in result.limits)


def test_no_combination_is_forgotten() -> None:
    """`itertools` and the region's own list agree on what a padded set holds."""
    region = corruptions(n=2, k=4, d=3)
    parts = region.parts(4)
    assert parts is not None and region.parts(1) is None
    boxes, owner = parts
    for i, j in itertools.product(range(2), range(4)):
        held = bool((boxes.contains(region.points[i, j].expand(len(owner), -1)) & (owner == i)).any())
        assert held == bool(region.present[i, j])


# --- the page -------------------------------------------------------------------------------------------------------------


def test_the_page_of_regions_runs_and_names_every_kind() -> None:
    """All its Python, in order; every region that it makes fits the model that it audits."""
    text = (Path(__file__).parent.parent / "docs" / "regions.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    made = set()
    for statement in ast.parse("".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))).body:
        exec(compile(ast.Module([statement], []), "docs/regions.md", "exec"), names)  # noqa: S102 (our own page)
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "region":
            region = names["region"]
            require_filled(region)
            assert (len(region), region.size) == (5, 4), ast.unparse(statement)
            made.add(type(region).__name__)
    assert made == set(discover(fathom.regions, Region))
    assert len(names["result"].titles) == 5
    for kind in REGION_KINDS:
        assert f"| `{kind}`" in text or f", `{kind}`" in text, kind
