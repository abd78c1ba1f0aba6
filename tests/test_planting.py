"""Planted failures are there, as large as stated, where nothing proves that they are not; and searches find what they should."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fathom
from fathom.attacks.gradient import Gradient
from fathom.attacks.values import Values
from fathom.audits.planting import PLAIN, listen
from fathom.audits.portfolio import Portfolio
from fathom.audits.result import AuditResult
from fathom.audits.silence import Rate, Silence, share
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.crown import Crown
from fathom.capture.onnx_file import read_onnx
from fathom.core.answer import Answers
from fathom.core.arithmetic import Arithmetic
from fathom.core.budget import Budget, Goal
from fathom.core.confirm import confirm
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.solver import Solver
from fathom.hunt.plant import LEAST_MEASURED, Pitted, Planted, measured_volumes, plant_depths, plant_pits
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.prove.branch import BranchAndBound
from fathom.regions.box import BoxRegion
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.linf import LinfBall
from fathom.regions.patch import Patch
from fathom.regions.tabular import Tabular
from fathom.regions.wasserstein import WassersteinBall
from fathom.report.page import render
from tests.command import write_model
from tests.contracts.test_attacks import Deployed, classify, random_network

SMALL = Gradient(restarts=4, steps=15, full=0)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pits(problem: Problem, volume: float, count: int = 12, seed: int = 0) -> Planted:
    sets = torch.arange(count) % len(problem)
    return plant_pits(problem, sets, problem.deployed.box().middle[sets].float(), volume, dice(seed))


def evenly(problem: Problem, count: int) -> Tensor:
    """Inputs [n, count, d] spread evenly over boxes."""
    box = problem.deployed.box()
    place = torch.rand(len(problem), count, problem.deployed.size, generator=dice(7), dtype=torch.float64)
    return (box.lower[:, None] + place * box.width[:, None]).float()


@pytest.mark.parametrize("d", [1, 2, 5, 40])
@pytest.mark.parametrize("volume", [0.3, 0.1, 0.01])
def test_pits_of_boxes_hold_the_volume_that_is_stated(d: int, volume: float) -> None:
    """The box holds it, and a quarter of the box at least fails, and nothing outside it that did not fail before."""
    problem = classify(d=d, n=6, radius=0.02)
    planted = pits(problem, volume)
    assert len(planted) >= 4
    x = evenly(planted.problem, 20_000)
    overseer = planted.problem.overseer
    assert isinstance(overseer, Pitted)
    for i in range(len(planted)):
        owner = torch.full((len(x[i]),), i)
        y = planted.problem.program(x[i]).double()
        fails = overseer.take(owner).margin(x[i].double(), y) <= 0
        away = ((x[i].double()[:, overseer.inputs[i]] - overseer.centre[i]) * overseer.steep[i]).abs().amax(1)
        held = (away <= 1).double().mean().item()
        assert held == pytest.approx(volume, abs=4 * math.sqrt(volume / 20_000))
        before = overseer.inner.take(owner).margin(x[i].double(), y) <= 0
        assert not (fails & ~before & (away >= 1)).any()
        assert 0.2 * volume < (fails & (away < 1)).double().mean().item() <= held


@pytest.mark.parametrize("region", range(4))
def test_what_is_planted_is_there(region: int) -> None:
    problem = classify(n=6, radius=0.03, region=region)
    for volume in (0.1, 0.01, LEAST_MEASURED):
        planted = pits(problem, volume)
        assert len(planted) >= 8
        assert confirm(planted.problem, planted.at).broken.all()
        inner = planted.problem.overseer.inner
        y = planted.problem.program(planted.at).double()
        assert (inner.margin(planted.at.double(), y) > 0).any()  # without the pit it would not fail


def test_no_pit_holds_what_is_spared() -> None:
    problem = classify(d=3, n=4, radius=0.1)
    sets = torch.zeros(200, dtype=torch.int64)
    spared = problem.deployed.box().middle[sets].float()
    planted = plant_pits(problem, sets, spared, 0.3, dice())
    assert 80 < len(planted) < 190
    assert not confirm(planted.problem, spared[: len(planted)]).broken.any()


@pytest.mark.parametrize("prove", [Crown(), AlphaCrown(), BranchAndBound()])
@pytest.mark.parametrize("d", [3, 8])
def test_nothing_planted_is_ever_proved_away(prove: Solver, d: int) -> None:
    """A planted failure is one, so whoever proves the problem is wrong: an oracle for every prover."""
    problem = classify(d=d, n=6, radius=0.002)
    proved = AlphaCrown().solve(problem, Budget()).proved
    assert proved.any()  # the model itself is proved there
    for volume in (0.5, 0.1, 0.001, 1e-9):
        planted = pits(problem, volume)
        assert len(planted) >= 3
        answers = prove.solve(planted.problem, Budget(passes=200))
        assert not answers.proved.any()
    at = problem.deployed.box().middle.float()
    shallow = plant_depths(problem, torch.arange(6), at, torch.full((6,), 1e-5, dtype=torch.float64))
    assert len(shallow) == 6
    assert not prove.solve(shallow.problem, Budget(passes=200)).proved.any()


@pytest.mark.parametrize("region", [0, 2])
def test_the_network_says_of_pits_what_the_overseer_says(region: int) -> None:
    """Two accounts of one pit: operators of a network, and plain arithmetic."""
    problem = classify(n=5, radius=0.05, region=region)
    planted = pits(problem, 0.05)
    network, spec = planted.problem.network, planted.problem.spec
    assert network is not None and spec is not None
    owner = torch.arange(len(planted)).repeat_interleave(64)
    x = torch.cat([planted.problem.deployed.sample(63, dice(3)), planted.at.double()[:, None]], 1).reshape(len(owner), -1)
    y = planted.problem.model.freeze(torch.float64)(x)
    theirs = planted.problem.overseer.take(owner).margin(x, y)
    mine = spec.take(owner).margin(network.freeze(torch.float64)(x))
    assert torch.allclose(mine, theirs, atol=1e-9)
    inner = planted.problem.overseer.inner.take(owner).margin(x, y)
    assert (mine < inner - 1e-6).any()
    assert (mine == inner).any()


def test_pits_in_rules_of_several_rows_and_judges_that_cannot_be_compiled() -> None:
    network = random_network(4, 3)
    box = BoxRegion(torch.zeros(2, 4).double(), torch.ones(2, 4).double())
    rules = LinearRules.make([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]], [30.0, 30.0, 20.0], clause=[0, 0, 1], sets=2)

    def tall(x: Tensor, y: Tensor) -> Tensor:
        return 30 - y.amax(1)

    for overseer in (rules, PythonOverseer(tall), rules | PythonOverseer(tall)):
        problem = Problem.make(Deployed(network), network, box, overseer)
        planted = pits(problem, 0.1)
        assert len(planted) >= 8
        answers = SMALL.solve(planted.problem, Budget())
        assert planted.found(answers).any()
        assert torch.equal(planted.found(answers), answers.broken)


def test_a_program_that_is_no_network_is_searched_by_values() -> None:
    problem = classify(n=4, radius=0.05)
    blind = Problem.make(problem.program, None, problem.written, problem.overseer)
    planted = pits(blind, 0.2)
    assert planted.problem.network is None
    assert planted.found(Values().solve(planted.problem, Budget())).double().mean() > 0.8


OTHERS: dict[str, Callable[[Tensor], Region]] = {
    "finite": lambda x: FiniteSet.of(x[:, None] + 0.1 * torch.randn(len(x), 30, 16, generator=dice())),
    "one point": lambda x: FiniteSet.of(x[:, None]),
    "no radius": lambda x: LinfBall.around(x, 0.0),
    "l0": lambda x: L0Ball.around(x, 2, clip=(0.0, 1.0)),
    "patch": lambda x: Patch.around(x.reshape(-1, 1, 4, 4), (2, 2), clip=(0.0, 1.0)),
    "wasserstein": lambda x: WassersteinBall.around(x.reshape(-1, 1, 4, 4), 0.3, (0.0, 1.0)),
    "tabular": lambda x: Tabular.around(x.round(), clip=(0.0, 1.0), step=[1.0] * 16, budget=2.0),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_of_region_takes_pits_or_says_that_it_takes_none(kind: str) -> None:
    network, x = random_network(16, 3), torch.rand(3, 16, generator=dice())
    region = OTHERS[kind](x)
    problem = Problem.make(Deployed(network), network, region, Misclassification(network(x).argmax(1), 3))
    for volume in (0.5, 0.1, 0.01):
        planted = pits(problem, volume)
        assert confirm(planted.problem, planted.at).broken.all()
        if kind in ("one point", "no radius") or (kind == "finite" and volume == 0.01):
            assert not len(planted)
    assert measured_volumes(problem.deployed) == (kind != "no radius")


def test_a_wide_pit_is_found_and_a_narrow_one_is_not() -> None:
    problem = classify(n=10, radius=0.02)
    wide, narrow = pits(problem, 0.3, 20), pits(problem, 1e-7, 20)
    assert wide.found(SMALL.solve(wide.problem, Budget())).double().mean() > 0.6
    assert not narrow.found(SMALL.solve(narrow.problem, Budget())).any()
    middling = pits(problem, 0.03, 20)
    ours = middling.found(Gradient(full=0).solve(middling.problem, Budget())).sum()
    assert ours > middling.found(PLAIN.solve(middling.problem, Budget())).sum()  # plain descents miss what ours finds


def test_a_failure_of_the_model_itself_is_no_pit_that_was_found() -> None:
    problem = classify(n=12, radius=0.3)
    real = Gradient().solve(problem, Budget())
    assert real.broken.any()
    planted = pits(problem, 1e-9, 12)
    answers = Gradient().solve(planted.problem, Budget())
    itself = planted.real(answers)
    assert itself.any()
    assert not (planted.found(answers) & itself).any()
    assert confirm(problem.take(planted.sets[itself]), answers.found.x[itself]).broken.all()


def test_deeper_failures_are_found_more_often() -> None:
    problem = classify(n=20, radius=0.06, seed=3)
    known = Gradient().solve(problem, Budget(goal=Goal.VALUE)).found
    start = problem.overseer.margin(torch.zeros(0), problem.program(problem.deployed.box().middle.float()).double())
    gain, weak = start - known.deployed, Gradient(restarts=1, steps=4, nearest=1, lone=1, full=0)
    rates = []
    for depth in (0.6, 0.2, 1e-3):
        planted = plant_depths(problem, torch.arange(20), known.x, depth * gain)
        assert len(planted) == 20
        assert confirm(planted.problem, known.x).broken.all()
        rates.append(int(planted.found(weak.solve(planted.problem, Budget())).sum()))
    assert rates[0] > rates[2]
    assert rates == sorted(rates, reverse=True)


def listened(problem: Problem, answers: Answers | None = None, **changes: object) -> tuple[Answers, Silence]:
    clean = problem.deployed.box().middle.float()
    settings = {"searches": [(SMALL, 400)], "count": 8, "budget": Budget(), "seed": 1, **changes}
    answers = SMALL.solve(problem, Budget()) if answers is None else answers
    answers, silence = listen(problem, answers, clean, **settings)  # type: ignore[arg-type]
    return answers, silence  # type: ignore[return-value]


def test_listening_gives_the_same_rates_for_the_same_seed() -> None:
    problem = classify(n=6, radius=0.01)
    one, two, other = (listened(problem, seed=seed)[1] for seed in (1, 1, 2))
    assert replace(one, seconds=0.0) == replace(two, seconds=0.0)
    assert replace(one, seconds=0.0) != replace(other, seconds=0.0)
    assert one.silent == 6 and one.masked == 0
    sizes = [rate.size for rate in one.pits]
    assert sizes == sorted(sizes, reverse=True)
    assert one.pits[0].found > 0 and one.pits[-1].found == 0


def test_nothing_is_heard_where_every_case_is_settled() -> None:
    problem = classify(n=6, radius=0.3)
    answers = Gradient().solve(problem, Budget())
    broken = answers.broken.nonzero()[:, 0]
    assert listened(problem.take(broken), answers.take(broken))[1] is None


def test_no_rate_is_told_that_time_has_cut_short() -> None:
    """An unfinished search would look like one that does not find."""
    silence = listened(classify(n=6, radius=0.01), budget=Budget(seconds=0.0))[1]
    assert silence.pits == () and silence.depths == ()
    assert "cut short" in silence.sentence


def test_what_the_search_had_missed_is_kept() -> None:
    """An attack of one step misses what the examination, or a search for what was planted, comes upon."""
    problem = classify(n=12, radius=0.3)
    weak = Gradient(restarts=1, steps=1, nearest=1, lone=1, full=0)
    before = weak.solve(problem, Budget())
    after, silence = listened(problem, before)
    assert (after.broken & ~before.broken).sum() >= silence.broke > 0
    assert confirm(problem, torch.where(after.broken[:, None], after.found.x, torch.nan)).broken.equal(after.broken)


def model(scale: float = 1.0) -> tuple[nn.Module, Tensor]:
    """Two scores and inputs that are clearly of one class; steep ones end as 0 or 1 as far as float32 can tell, and flat."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    last = nn.Linear(1, 2)
    with torch.no_grad():
        x = torch.rand(2000, 20)
        y = inner(x)[:, 0]
        last.weight.copy_(torch.tensor([[scale], [-scale]]))
        last.bias.copy_(torch.tensor([-scale, scale]) * y.median())
        clear = x[(y - y.median()).abs() > y.std()][:8]
    return nn.Sequential(inner, last, nn.Sigmoid()) if scale > 1 else nn.Sequential(inner, last), clear


def audited(scale: float, radius: float, **changes: object) -> AuditResult:
    """By an attack alone, which settles nothing but what it breaks."""
    module, x = model(scale)
    settings = {
        "solver": Portfolio(bounds=(), opening=SMALL, longer=None, last=None, case_boxes=1),
        "budget": Budget(seconds=600),
        **changes,
    }
    judge = Misclassification(module(x).argmax(1), 2)
    return fathom.audit(module, LinfBall.around(x, radius, (0, 1)), judge, **settings)  # type: ignore[arg-type]


def test_an_audit_says_how_far_its_silence_can_be_trusted(tmp_path) -> None:  # type: ignore[no-untyped-def]
    told = [audited(1.0, 0.1, planted=6, casebook=tmp_path / f"{k}.db") for k in range(2)]
    first = told[0].silence
    assert first is not None and first.silent >= told[0].counts.unknown > 0
    assert first.masked == 0
    assert replace(first, seconds=0.0) == replace(told[1].silence, seconds=0.0)
    lines = told[0].lines()
    assert any(line.startswith("silence: nothing was found or proved in") for line in lines)
    assert any("isolated failures planted" in line for line in lines)
    heard = json.loads(json.dumps(told[0].to_json(), allow_nan=False))["silence"]
    assert heard["pits"][0]["planted"] == 6 and heard["pits"][0]["interval"][1] <= 1
    assert heard["confidence"] == 0.95
    page = render(told[0])
    assert "How far silence can be trusted" in page and "pits of 10" in page
    none = audited(1.0, 0.1, planted=0)
    assert none.silence is None
    assert "was not put to a test" in render(none)


def test_an_audit_of_a_masked_model_raises_the_flag() -> None:
    result = audited(4000.0, 0.15, planted=2)
    assert result.silence is not None and result.silence.masked > 0
    assert any("GRADIENTS ARE MASKED" in line for line in result.lines())
    assert "GRADIENTS ARE MASKED" in render(result)


def test_planting_beside_a_float32_program(tmp_path) -> None:  # type: ignore[no-untyped-def]
    captured = read_onnx(write_model(tmp_path / "model.onnx", [4, 8, 2]), Arithmetic.FLOAT32)
    box = BoxRegion(torch.zeros(1, 4).double(), torch.ones(1, 4).double())
    problem = Problem.make(captured.program, captured.network, box, LinearRules.make([[1.0, 1.0]], [100.0]))
    planted = pits(problem, 0.1)
    assert len(planted) >= 8
    assert planted.problem.arithmetic is Arithmetic.REAL
    assert planted.found(SMALL.solve(planted.problem, Budget())).any()


def test_rates_in_words() -> None:
    assert Rate(0.01, 20, 9, 1).words == "9 of 20 ([23 %, 69 %])"
    assert Rate(0.01, 20, 0, None).words == "0 of 20 ([0 %, 17 %])"
    assert Rate(0.01, 20, 20, 0).interval_words == "[83 %, 100 %]"
    assert [share(size) for size in (0.1, 0.01, 1e-3, 1e-4, 1e-6)] == ["10 %", "1 %", "0.1 %", "0.01 %", "1e-06"]
