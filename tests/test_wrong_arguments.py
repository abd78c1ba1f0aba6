"""What users get wrong when they call Fathom from Python: each is refused, with what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

import fathom
import tests.onnx_models as onnx_models
from fathom.attacks.gradient import Gradient
from fathom.capture.vnnlib import read_property, to_problem
from fathom.core.arguments import require_overseer, require_parts, require_solver
from fathom.core.filled import require_filled
from fathom.core.overseer import Overseer
from fathom.core.region import Region
from fathom.prove.branch import BranchAndBound
from fathom.regions.box import BoxRegion
from fathom.regions.ellipsoid import Ellipsoid
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.regions.patch import Patch
from fathom.regions.product import Product
from fathom.regions.tabular import Tabular
from fathom.regions.wasserstein import WassersteinBall

BUDGET = fathom.Budget(seconds=1)
JUDGE = fathom.Targeted(torch.tensor([0]), 3)


def linear() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3).eval()


def numbers(*rows: float) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float64)


# --- empty sets -----------------------------------------------------------------------------------------------------------

ONE, NONE = torch.ones(1, 4).double(), torch.zeros(1, 4).double()
HALF = torch.full((1, 4), 0.5).double()
RADIUS = torch.ones(1).double()
CROSSED = BoxRegion(ONE, NONE)
CORNER = (2 * ONE / 3, ONE)  # each input within a ball round 0 of radius 1, but not all of them together


def cut_off() -> Tabular:
    """x0 >= x1 + 1 and x0 <= x1: no feature alone shows that nothing keeps to both."""
    made = Tabular.around(HALF, (0.0, 1.0), relations=([[1, -1, 0, 0], [-1, 1, 0, 0]], [0, 0]))
    return Tabular(*(getattr(made, part) for part in ("centre", "lower", "upper", "step", "price", "budget", "rows")),
                   limits=numbers(0, -0.9))  # fmt: skip


EMPTY: dict[str, tuple[Region, str]] = {
    "a box": (CROSSED, r"set 0 input 0 is to be at least 1 and at most 0 \(and 3 others likewise\)"),
    "a box in one input": (BoxRegion(NONE, numbers(1, 1, -1, 1)), r"input 2 is to be at least 0 and at most -1;"),
    "an L-infinity ball": (LinfBall(NONE, RADIUS, 2 * ONE, 3 * ONE), "input 0 is to be at least 2 and at most 1 "),
    "an L2 ball": (L2Ball(NONE, RADIUS, *CORNER), r"none in set 0 \(L2 1"),
    "an L1 ball": (L1Ball(NONE, RADIUS, *CORNER), r"none in set 0 \(L1 1"),
    "an ellipsoid": (Ellipsoid(NONE, torch.eye(4)[None].double(), RADIUS, *CORNER), r"none in set 0 \(an ellipsoid"),
    "a finite set": (FiniteSet(NONE[None], torch.zeros(1, 1, dtype=torch.bool)), "in set 0 there is no point"),
    "an L0 ball": (
        L0Ball(NONE, NONE, numbers(1, 1, 0, 0), ONE, torch.tensor([1]), torch.arange(4)[None]),
        "2 inputs cannot stay as they are",
    ),
    "a patch": (Patch(NONE, NONE, ONE, NONE, (1, 2, 2), (1, 1)), "input 0 is to be at least 1 and at most 0"),
    "rows of a table": (Tabular.around(HALF, (0, 1)).restrict(torch.tensor([0]), ONE, NONE), "input 0 is to be at least 1 and"),
    "rows with relations": (cut_off(), r"none in set 0 \(rows of 4 features"),
    "a Wasserstein ball": (
        WassersteinBall(NONE, RADIUS, RADIUS / 100, HALF, ONE, (1, 2, 2), 1),
        "none in set 0 \\(Wasserstein|input 0 is to be at least",
    ),
    "a product": (
        Product((BoxRegion(*(end[:, :2] for end in (ONE, NONE))), LinfBall.around(NONE[:, :2], 1.0))),
        r"factor 0 \(BoxRegion\) is empty: there input 0 is to be at least 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", EMPTY)
def test_an_empty_set_that_a_user_writes_is_refused_and_never_proved(kind: str) -> None:
    region, words = EMPTY[kind]
    with pytest.raises(fathom.FathomError, match=words):
        fathom.audit(linear(), region, JUDGE, budget=BUDGET, planted=0)


def test_every_public_function_refuses_an_empty_set() -> None:
    captured = fathom.capture_module(linear(), (4,), live=False)
    calls: dict[str, Callable[[], object]] = {
        "audit of a program": lambda: fathom.audit(fathom.run_module(linear(), (4,)), CROSSED, JUDGE, budget=BUDGET, planted=0),
        "latent": lambda: fathom.latent(linear(), CROSSED, JUDGE, layer="none", budget=BUDGET),
        "estimate": lambda: fathom.estimate(linear(), CROSSED, JUDGE, budget=BUDGET),
        "Problem.make": lambda: fathom.Problem.make(captured.program, captured.network, CROSSED, JUDGE),
    }
    for word, call in calls.items():
        with pytest.raises(fathom.FathomError, match="an empty one: in set 0"):
            call()
            pytest.fail(word)


def test_the_second_set_is_named_where_it_is_the_empty_one() -> None:
    region = BoxRegion(torch.cat([NONE, ONE]), torch.cat([ONE, NONE]))
    with pytest.raises(fathom.FathomError, match="in set 1 input 0"):
        require_filled(region)


def test_a_minimum_radius_of_empty_sets_is_refused() -> None:
    captured = fathom.capture_module(linear(), (4,), live=False)

    def family(radius: torch.Tensor) -> fathom.Problem:
        return fathom.Problem.make(captured.program, captured.network, BoxRegion(NONE + radius[:, None], NONE - 1), JUDGE)

    with pytest.raises(fathom.FathomError, match="an empty one: in set 0"):
        fathom.minimum_radius(family, RADIUS, BranchAndBound(), None, BUDGET)


def test_sets_without_width_are_not_empty() -> None:
    for region in (BoxRegion(HALF, HALF), LinfBall.around(HALF, 0.0), L2Ball.around(HALF, 0.0, (0, 1)), L1Ball.around(HALF, 0.0)):
        require_filled(region)
        assert not region.empty().any()


def test_a_property_that_allows_no_input_still_holds_as_the_standard_says(tmp_path: Path) -> None:
    model, prop = tmp_path / "m.onnx", tmp_path / "p.vnnlib"
    onnx.save(onnx_models.model(onnx_models.op("Gemm", "x", onnx_models.w(4, 3))), model)
    declared = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 1))(assert (<= X_{i} 0))" for i in range(4))
    prop.write_text(declared + "".join(f"(declare-const Y_{i} Real)" for i in range(3)) + "(assert (<= Y_0 0))")
    assert fathom.verify(model, prop, seconds=10).verdict == "unsat"
    assert len(to_problem(read_property(prop), fathom.read_onnx(model))) == 0


def test_a_ball_with_a_radius_for_each_input_is_told_the_way() -> None:
    x = torch.rand(5, 4)
    with pytest.raises(fathom.FathomError, match=r"got \[4\]; for one for each input see LinfBall.per_input"):
        LinfBall.around(x, torch.ones(4))
    for radii, words in ((torch.ones(3), r"each of 4 inputs, got \[3\]"), ([1, 1, -1, 1], "radii >= 0 and finite, got -1")):
        with pytest.raises(fathom.FathomError, match=words):
            LinfBall.per_input(x, radii)


# --- parts of another kind ------------------------------------------------------------------------------------------------

REGION = BoxRegion(NONE, ONE)
PARTS: dict[str, tuple[dict[str, object], str]] = {
    "a function as overseer": (
        {"overseer": lambda x, y: y[:, 0]},
        r"overseer.*got a function; .*fathom.overseers.PythonOverseer\(",
    ),
    "labels as overseer": ({"overseer": torch.tensor([0])}, r"got a tensor \[1\]; labels y become .*fathom.Misclassification\("),
    "a class as overseer": ({"overseer": fathom.Targeted}, "got the class Targeted itself"),
    "samples as region": ({"region": NONE}, r"`region`.*got a tensor \[1, 4\]; .*fathom.regions.LinfBall.around\("),
    "nothing as region": ({"region": None}, "`region` as a region, .*got None"),
    "seconds as budget": ({"budget": 5}, r"`budget` as a budget, got 5; write fathom.Budget\(seconds=5\)"),
    "text as budget": ({"budget": "5 s"}, r"got '5 s'; write fathom.Budget\(seconds=60\)"),
    "a function as model": (
        {"model": lambda x: x},
        "`model` as a torch.nn.Module, .*got a function; .*forward of a torch.nn.Module",
    ),
    "numbers as model": ({"model": [1.0, 2.0]}, "got a value of the type list"),
}


@pytest.mark.parametrize("word", PARTS)
@pytest.mark.parametrize("function", ["audit", "estimate", "latent"])
def test_a_part_of_another_kind_is_refused_with_the_way(function: str, word: str) -> None:
    wrong, message = PARTS[word]
    given = {"model": linear(), "region": REGION, "overseer": JUDGE, "budget": BUDGET, **wrong}
    more = {"latent": {"layer": "none"}}.get(function, {})
    with pytest.raises(fathom.FathomError, match=message):
        getattr(fathom, function)(given.pop("model"), given.pop("region"), given.pop("overseer"), **given, **more)


def test_what_is_no_solver_is_refused() -> None:
    for solver in ("pgd", BranchAndBound, lambda problem: None):
        with pytest.raises(fathom.FathomError, match=r"`solver` as a solver, got .*Gradient\(\) from fathom.attacks.gradient"):
            fathom.audit(linear(), REGION, JUDGE, budget=BUDGET, solver=solver)


def test_what_is_no_file_or_time_is_refused() -> None:
    for call, message in (
        (lambda: fathom.verify(linear(), "p.vnnlib"), "`network` as the path of an .onnx file, got a value of the type Linear"),
        (lambda: fathom.verify({"N": linear()}, "p.vnnlib"), "`network` as the path"),
        (lambda: fathom.verify("m.onnx", None), "`prop` as the path of a .vnnlib file, got None"),
        (
            lambda: fathom.verify("m.onnx", "p.vnnlib", seconds=BUDGET),
            "`seconds` as a number of seconds, got a value of the type",
        ),
    ):
        with pytest.raises(fathom.FathomError, match=message):
            call()


def test_the_ways_that_errors_show_can_be_gone() -> None:
    """What the texts say to write makes what is asked for."""
    x, y = torch.rand(3, 4), torch.tensor([0, 1, 2])
    require_parts(
        linear(),
        torch.nn.Module,
        fathom.regions.LinfBall.around(x, radius=0.03, clip=(0, 1)),
        fathom.Misclassification(label=y, classes=10),
        fathom.Budget(seconds=5),
    )
    require_overseer(fathom.overseers.PythonOverseer(lambda x, y: y[:, 0]))
    require_solver(Gradient())
    assert isinstance(fathom.overseers.PythonOverseer(lambda x, y: y[:, 0]), Overseer)
