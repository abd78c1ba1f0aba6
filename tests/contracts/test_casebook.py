"""The casebook: real SQLite files, written by several processes, killed, damaged, foreign, old and new."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sqlalchemy import Connection, inspect, text
from torch import Tensor

from fathom.casebook import database as database_module
from fathom.casebook.database import APPLICATION, CasebookError, Database
from fathom.casebook.migrations import migrations
from fathom.casebook.points import Kind
from fathom.casebook.questions import Question
from fathom.casebook.recorder import Recorder
from fathom.casebook.schema import TABLES
from fathom.casebook.store import Casebook
from fathom.core.answer import REASONS, Answers, Claim, ContradictionError, Cost, Reason, Verdict, Witnesses
from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.network import Network, Port
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.core.region import Region

INPUTS, OUTPUTS = 4, 2


class Doubler(Program):
    """A model that needs no file."""

    inputs = (Port("x", (INPUTS,), 0),)
    outputs = (Port("y", (OUTPUTS,), 0),)

    def __init__(self, digest: str = "d" * 64, dtype: torch.dtype = torch.float32) -> None:
        self.digest, self.dtype = digest, dtype

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * x[:, :OUTPUTS]


@dataclasses.dataclass(frozen=True, eq=False)
class Cube(Region):
    """Just enough of a region to have a question about it."""

    lower: Tensor

    def __str__(self) -> str:
        return f"a cube at {self.lower[:, 0].tolist()}"

    def box(self) -> Box:
        return Box(self.lower, self.lower + 1)

    def contains(self, x: Tensor) -> Tensor:
        return self.box().contains(x)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Region:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class First(Overseer):
    """The first output is to be positive."""

    severity: Severity
    scale: Tensor

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        return y[:, 0] * self.scale

    def compile(self, network: Network) -> Compiled:
        raise NotImplementedError

    def judgement(self, index: int, y: Tensor) -> str:
        return "judged"


def problem(n: int = 3, owner: Sequence[int] | None = None, first: float = 0.0, digest: str = "d" * 64) -> Problem:
    """n sets; set i is a cube at first + i."""
    lower = (first + torch.arange(n, dtype=torch.float64))[:, None].expand(n, INPUTS).clone()
    overseer = First(Severity.SERIOUS, torch.ones(n, dtype=torch.float64))
    return Problem.make(Doubler(digest), None, Cube(lower), overseer, None if owner is None else torch.tensor(owner))


def answers(
    lower: Sequence[float],
    margins: Sequence[float | None],
    *,
    seed: int = 0,
    deployed: Sequence[float] | None = None,
    reason: Reason = Reason.TIME,
    seconds: float = 0.0,
    real: bool = True,
) -> Answers:
    """Answers with a point wherever there is a margin; the real margin is enclosed within 0.01 below it."""
    n = len(lower)
    known = torch.tensor([m is not None for m in margins])
    upper = torch.tensor([math.inf if m is None else m for m in margins], dtype=torch.float64)
    x = torch.rand(n, INPUTS, generator=torch.Generator().manual_seed(seed))
    found = Witnesses(
        torch.where(known[:, None], x, torch.nan),
        torch.where(known[:, None], 2 * x[:, :OUTPUTS].double(), torch.nan),
        upper if deployed is None else torch.tensor(deployed, dtype=torch.float64),
        upper - 0.01 if real else torch.full((n,), -torch.inf, dtype=torch.float64),
        upper if real else torch.full((n,), torch.inf, dtype=torch.float64),
        known,
    )
    found = found.where(known, Witnesses.none(n, INPUTS, OUTPUTS, torch.float32))
    cost = Cost(torch.full((n,), seconds, dtype=torch.float64), *(torch.full((n,), k) for k in (10, 20, 30)))
    return Answers(torch.tensor(lower, dtype=torch.float64), found, torch.full((n,), REASONS.index(reason)), cost)


INF = math.inf


# What is stored comes back


def test_a_new_casebook_knows_nothing(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        assert book.cases() == [] and book.runs() == []
        known = book.begin(problem(), "recipe").recall(points=2)
    assert known.lower.tolist() == [-INF] * 3
    assert known.points.shape == (3, 2, INPUTS) and known.points.isnan().all() and known.points.dtype == torch.float32


def test_what_is_recorded_is_recalled_by_the_same_question(tmp_path: Path) -> None:
    found = answers([-1.0, 0.25, -INF], [-0.5, 0.75, None])
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(), "Crown()", ["three", "four", "five"], "fathom audit m.onnx")
        recorder.record(found)
        recorder.end({"proved": 1})
    with Casebook.open(tmp_path / "c.db") as book:
        known = book.begin(problem(), "Crown()").recall()
        assert known.lower.tolist() == [-1.0, 0.25, -INF]
        assert torch.equal(known.points[:2, 0], found.found.x[:2]) and known.points[2].isnan().all()
        assert book.begin(problem(digest="e" * 64), "Crown()").recall().lower.tolist() == [-INF] * 3, "another model"
        assert book.begin(problem(first=9.0), "Crown()").recall().points.isnan().all(), "another region"


def test_failures_of_other_cases_and_models_are_handed_out_newest_first(tmp_path: Path) -> None:
    """Only failures, only of inputs of this size and type, and never those of the cases that ask."""
    found = answers([-1.0, -INF, -INF], [-0.5, 0.75, -0.25])
    later = answers([-1.0, -INF, -INF], [-0.5, None, None], seed=1)
    with Casebook.open(tmp_path / "c.db") as book:
        first = book.begin(problem(), "r")
        assert first.elsewhere(9).shape == (0, INPUTS)
        first.record(found)
        assert first.elsewhere(9).shape == (0, INPUTS)
        assert book.begin(problem(), "r").elsewhere(9).shape == (0, INPUTS), "the same cases in another run"
        book.begin(problem(first=50.0), "r").record(later)
        other = book.begin(problem(digest="e" * 64), "r")
        points = other.elsewhere(9)
        assert {tuple(x) for x in points.tolist()} == {
            tuple(x) for x in [*found.found.x[[0, 2]].tolist(), later.found.x[0].tolist()]
        }
        assert torch.equal(other.elsewhere(1), later.found.x[:1])
        assert other.elsewhere(0).shape == (0, INPUTS)
        double = dataclasses.replace(problem(), program=Doubler("f" * 64, torch.float64))
        assert book.begin(double, "r").elsewhere(9).shape == (0, INPUTS), "of another type"


def test_a_bound_of_another_version_is_proved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers([-1.0, 0.25, -INF], [-0.5, 0.75, None])
    with Casebook.open(tmp_path / "c.db") as book:
        book.begin(problem(), "r").record(found)
        monkeypatch.setattr("fathom.casebook.recorder._version", lambda: "0.0.1")
        known = book.begin(problem(), "r").recall()
        assert known.lower.tolist() == [-INF] * 3, "a mistake of another version must not outlive it"
        assert torch.equal(known.points[:2, 0], found.found.x[:2]), "points are judged again anyway"
        monkeypatch.undo()
        assert book.begin(problem(), "r").recall().lower.tolist() == [-1.0, 0.25, -INF]


def test_cases_carry_bracket_verdict_claim_and_reason(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(), "r", ["a", "b", "c"])
        recorder.record(answers([-1.0, 0.25, -INF], [-0.5, 0.75, None], seconds=2.0))
        recorder.end()
        broken, proved, unknown = book.cases()
    assert (broken.title, broken.lower, broken.upper, broken.deployed) == ("a", -1.0, -0.5, -0.5)
    assert (broken.verdict, broken.claim, broken.reason) == (Verdict.BROKEN, Claim.COUNTEREXAMPLE, Reason.DECIDED.value)
    assert (proved.verdict, proved.claim) == (Verdict.PROVED, Claim.CERTIFICATE)
    assert (unknown.verdict, unknown.claim, unknown.reason) == (Verdict.UNKNOWN, Claim.UNKNOWN, Reason.TIME.value)
    assert (unknown.lower, unknown.upper, unknown.deployed) == (-INF, INF, INF)
    assert broken.region == "a cube at [0.0]" and "First" in broken.overseer and broken.program == "d" * 64
    assert (broken.seconds, broken.forward, broken.backward, broken.boxes) == (2.0, 10, 20, 30)


def test_a_case_of_many_sets_is_as_good_as_its_worst(tmp_path: Path) -> None:
    question = problem(4, owner=[0, 1, 0, 1])
    with Casebook.open(tmp_path / "c.db") as book:
        book.begin(question, "r").record(answers([0.5, 0.25, 0.75, -1.0], [None, 0.5, None, 0.125]))
        first, second = book.cases()
        assert (first.sets, first.lower, first.upper, first.verdict) == (2, 0.5, INF, Verdict.PROVED)
        assert (second.lower, second.upper, second.verdict) == (-1.0, 0.125, Verdict.UNKNOWN)
        assert [p.place for p in book.points(second.digest)] == [0, 1]
        known = book.begin(question, "r").recall()
    assert known.lower.tolist() == [0.5, 0.25, 0.75, -1.0], "which sets are proved is kept"
    assert known.points[:, 0, 0].isnan().tolist() == [True, False, True, False]


def test_equal_questions_in_one_problem_share_what_is_known(tmp_path: Path) -> None:
    whole = problem(2)
    twice = whole.take(torch.tensor([0, 0]))
    twice = dataclasses.replace(twice, owner=torch.arange(2))
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(twice, "r", ["left", "right"])
        recorder.record(answers([0.5, 0.75], [2.0, 1.0]))
        assert recorder.recall().lower.tolist() == [0.75, 0.75]
        (case,) = book.cases()
        assert (case.lower, case.upper) == (0.75, 1.0) and len(book.points(case.digest)) == 2
        assert [s.title for s in book.standings(recorder.run)] == ["left", "right"]


def test_a_part_of_a_problem_is_recorded_under_its_own_cases(tmp_path: Path) -> None:
    """`Problem.take` keeps owners, so some cases have no sets; nothing may be claimed about them."""
    part = problem(3).take(torch.tensor([2]))
    with Casebook.open(tmp_path / "c.db") as book:
        book.begin(part, "r", ["a", "b", "c"]).record(answers([1.0], [None]))
        assert [case.title for case in book.cases()] == ["c"]
        assert book.begin(problem(3), "r").recall().lower.tolist() == [-INF, -INF, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_points_keep_every_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    question = problem(1)
    question = dataclasses.replace(question, program=Doubler(dtype=dtype))
    base = answers([-1.0], [-0.5])
    x = torch.tensor([[-0.0, 1e-7, 1 / 3, 0.1]], dtype=torch.float64).to(dtype)
    found = dataclasses.replace(base, found=dataclasses.replace(base.found, x=x, y=torch.tensor([[math.nan, -INF]]).double()))
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(question, "r")
        recorder.record(found)
        again = recorder.recall().points[0, 0]
        (point,) = book.points(book.cases()[0].digest)
    assert again.dtype == dtype and torch.equal(again, x[0]) and torch.signbit(again[0]) == torch.signbit(x[0, 0])
    assert point.y.isnan().tolist() == [True, False], "outputs are kept as the program gave them"


# Brackets only tighten; nothing is lost


def test_brackets_only_tighten(tmp_path: Path) -> None:
    generator = random.Random(0)
    lows = [[generator.uniform(-5, -1) for _ in range(3)] for _ in range(12)]
    tops = [[generator.uniform(0.5, 5) for _ in range(3)] for _ in range(12)]
    with Casebook.open(tmp_path / "c.db") as book:
        recorders = [book.begin(problem(), "a"), book.begin(problem(), "b")]
        seen = []
        for step, (low, top) in enumerate(zip(lows, tops, strict=True)):
            recorders[step % 2].record(answers(low, top, seed=step))
            seen.append([(case.lower, case.upper) for case in book.cases()])
        for before, after in itertools.pairwise(seen):
            assert all(a[0] >= b[0] and a[1] <= b[1] for b, a in zip(before, after, strict=True))
        assert [case.lower for case in book.cases()] == [max(column) for column in zip(*lows)]
        assert [case.upper for case in book.cases()] == [min(column) for column in zip(*tops)]


def test_recording_again_changes_nothing_and_writes_nothing(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(), "r")
        found = answers([-1.0, 0.25, -INF], [-0.5, 0.75, None], seconds=1.0)
        recorder.record(found)
        before = _content(tmp_path / "c.db")
        recorder.record(found)
        recorder.record(dataclasses.replace(found, cost=found.cost + Cost.zero(3)))
        assert _content(tmp_path / "c.db") == before
        other = book.begin(problem(), "r")
        other.record(found)
        assert len(_content(tmp_path / "c.db")["points"]) == len(before["points"]) == 2, "a point is kept once, whoever finds it"


def test_costs_of_runs_add_up_and_repeated_records_do_not(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        for run in range(2):
            recorder = book.begin(problem(1), "r")
            for step in range(1, 4):
                recorder.record(answers([-4.0 + step], [None], seconds=float(step)))
            recorder.record(answers([-1.0], [None], seconds=5.0))  # more was spent and nothing found: kept for the end
            recorder.end()
            assert book.cases()[0].seconds == 5.0 * (run + 1)
        assert book.cases()[0].boxes == 60


def test_tensors_that_the_solver_goes_on_using_are_not_mistaken_for_written_ones(tmp_path: Path) -> None:
    found = answers([-1.0], [0.5])
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(1), "r")
        recorder.record(found)
        found.lower.fill_(0.25)
        found.found.x.fill_(7.0)
        recorder.record(found)
        assert book.cases()[0].lower == 0.25
        assert any((p.x == 7).all() for p in book.points(book.cases()[0].digest))


def test_the_best_points_are_kept_and_come_first(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(1), "r")
        margins = [3.0, 0.5, 2.0, -0.25, 0.75, 1.0, -2.0, -1.0]
        for seed, margin in enumerate(margins):
            recorder.record(answers([-INF], [margin], seed=seed))
        points = book.points(book.cases()[0].digest)
        assert [p.real_upper for p in points] == [-2.0, -1.0, -0.25, 0.5, 0.75, 1.0]
        assert [p.kind for p in points] == [Kind.WITNESS] * 3 + [Kind.NEAR] * 3
        known = recorder.recall(points=2)
        assert torch.equal(known.points[0], torch.stack([points[0].x, points[1].x]))


def test_witnesses_are_bounded_and_the_worst_stays(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(1), "r")
        count = Kind.WITNESS.kept + 5
        for seed in range(count):
            recorder.record(answers([-INF], [-1.0 - seed], seed=seed))
        points = book.points(book.cases()[0].digest)
    assert len(points) == Kind.WITNESS.kept
    assert points[0].real_upper == -float(count) and points[-1].real_upper == -6.0


def test_a_rounding_failure_is_kept_apart_and_moves_no_verdict(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(1), "r")
        recorder.record(answers([-1.0], [1e-9], deployed=[-1e-9]))
        (case,) = book.cases()
        assert case.verdict is Verdict.UNKNOWN and case.upper == 1e-9 and case.deployed == -1e-9
        assert [p.kind for p in book.points(case.digest)] == [Kind.ROUNDING_FAILURE]


def test_a_failing_point_of_a_proved_set_is_a_rounding_failure(tmp_path: Path) -> None:
    """The program fails there, and a proof says that no real network does: whether or not the real margin was judged."""
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(2), "r")
        recorder.record(answers([1e-10, 1e-10], [-1e-9, 1e-9], deployed=[-1e-9, -1e-9], real=False))
        assert [case.verdict for case in book.cases()] == [Verdict.PROVED] * 2
        assert [p.kind for case in book.cases() for p in book.points(case.digest)] == [Kind.ROUNDING_FAILURE] * 2


def test_a_deployed_margin_is_no_bound_on_the_real_one(tmp_path: Path) -> None:
    """A run that could not enclose the real margin finds a failure; a proof of another run does not contradict it."""
    with Casebook.open(tmp_path / "c.db") as book:
        book.begin(problem(1), "search").record(answers([-INF], [-1e-9], real=False))
        (case,) = book.cases()
        assert (case.verdict, case.upper, case.deployed) == (Verdict.BROKEN, INF, -1e-9)
        book.begin(problem(1), "proof").record(answers([1e-10], [None]))
        assert book.cases()[0].verdict is Verdict.PROVED


def test_a_contradiction_is_stored_and_raised(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        prover, attacker = book.begin(problem(2), "proof"), book.begin(problem(2), "attack")
        prover.record(answers([-1.0, 0.5], [None, None]))
        with pytest.raises(ContradictionError, match=r"0\.5.*0\.25.*bug in Fathom"):
            attacker.record(answers([-INF, -INF], [None, 0.25]))
        case = book.cases()[1]
        assert (case.lower, case.upper) == (0.5, 0.25) and len(book.points(case.digest)) == 1, "the evidence is kept"


@pytest.mark.parametrize("part", ["lower", "deployed", "real_lower", "real_upper", "seconds"])
def test_nan_is_refused_and_nothing_is_stored(tmp_path: Path, part: str) -> None:
    good = answers([-1.0, -1.0], [0.5, 0.5], seconds=1.0)
    spoiled = torch.tensor([-1.0, math.nan], dtype=torch.float64)
    if part == "lower":
        bad = dataclasses.replace(good, lower=spoiled)
    elif part == "seconds":
        bad = dataclasses.replace(good, cost=dataclasses.replace(good.cost, seconds=spoiled))
    else:
        bad = dataclasses.replace(good, found=dataclasses.replace(good.found, **{part: spoiled}))
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(2), "r")
        before = _content(tmp_path / "c.db")
        with pytest.raises(CasebookError, match=f"{part} of set 1, got NaN"):
            recorder.record(bad)
        assert _content(tmp_path / "c.db") == before
        recorder.record(good)
        assert book.cases()[1].lower == -1.0, "and the recorder goes on"


def test_answers_of_another_problem_are_refused(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(2), "r")
        with pytest.raises(ValueError, match="all 2 sets"):
            recorder.record(answers([0.0], [None]))
        with pytest.raises(CasebookError, match="title for each of 2 cases, got 1"):
            book.begin(problem(2), "r", ["one"])


# Runs and history


def test_runs_tell_what_was_done_and_how_it_stood(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        first = book.begin(problem(2), "Attack(steps=10)", ["a", "b"], "fathom audit m.onnx d.npz")
        first.record(answers([-2.0, -2.0], [1.0, 1.0]))
        first.end({"unknown": 2, "words": "zwölf"})
        second = book.begin(problem(1), "Crown()", ["renamed"])
        second.record(answers([0.5], [None]))
        one, two = book.runs()
        assert (one.command, one.recipe, one.summary) == (
            "fathom audit m.onnx d.npz",
            "Attack(steps=10)",
            {"unknown": 2, "words": "zwölf"},
        )
        assert one.ended is not None and one.ended >= one.started and two.ended is None and two.summary is None
        assert [(s.title, s.lower) for s in book.standings(one.id)] == [("a", -2.0), ("b", -2.0)]
        renamed, other = book.cases()
        assert (renamed.title, other.title) == ("renamed", "b")
        assert [(s.run, s.lower, s.verdict) for s in book.history(renamed.digest)] == [
            (one.id, -2.0, Verdict.UNKNOWN),
            (two.id, 0.5, Verdict.PROVED),
        ]
        with pytest.raises(ValueError, match="JSON"):
            second.end({"worst": math.nan})


def test_a_case_is_found_by_the_start_of_its_digest(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        book.begin(problem(20), "r")
        for case in book.cases():
            assert book.case(case.digest[:12]) == case
        for wrong in ("", "xyz"):
            with pytest.raises(CasebookError, match="start of one case's digest"):
                book.case(wrong)


def test_the_report_can_be_made_again_from_the_file_alone(tmp_path: Path) -> None:
    """All that a reader needs is in plain tables and one view: SQLite's file is the interface."""
    with Casebook.open(tmp_path / "c.db") as book:
        book.begin(problem(3), "r").record(answers([-1.0, 0.25, -INF], [-0.5, 0.75, None]))
    with sqlite3.connect(tmp_path / "c.db") as raw:
        rows = raw.execute("SELECT verdict, lower, upper, claim, reason FROM brackets ORDER BY lower").fetchall()
    assert rows == [
        ("unknown", -INF, INF, "unknown", "TIME"),
        ("broken", -1.0, -0.5, "counterexample", "DECIDED"),
        ("proved", 0.25, 0.75, "certificate (unchecked)", "DECIDED"),
    ]


# Several processes at once


def _hammer(path: str, worker: int, steps: int) -> None:
    torch.set_num_threads(1)
    generator = random.Random(worker)
    with Casebook.open(path) as book:
        recorder = book.begin(problem(4), f"worker {worker}")
        for step in range(steps):
            lower = [generator.uniform(-9, -5) for _ in range(4)]
            margins = [generator.uniform(1, 5) for _ in range(3)] + [-1.0 - step / 100]
            recorder.record(answers(lower, margins, seed=1000 * worker + step, seconds=float(step)))
        recorder.end({"worker": worker})


def test_two_processes_hammer_one_file_and_nothing_is_lost(tmp_path: Path) -> None:
    """They also race to make it. What each would have written alone, and how, is known, so the end is."""
    steps, workers = 40, 2
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_hammer, args=(str(tmp_path / "c.db"), w, steps)) for w in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * workers
    best_lower, best_upper = [-INF] * 4, [INF] * 4
    for worker in range(workers):
        generator = random.Random(worker)
        for step in range(steps):
            lower = [generator.uniform(-9, -5) for _ in range(4)]
            margins = [generator.uniform(1, 5) for _ in range(3)] + [-1.0 - step / 100]
            best_lower = [max(a, b) for a, b in zip(best_lower, lower)]
            best_upper = [min(a, b) for a, b in zip(best_upper, margins)]
    with Casebook.open(tmp_path / "c.db") as book:
        book.check()
        cases = book.cases()
        assert [c.lower for c in cases] == best_lower and [c.upper for c in cases] == best_upper
        assert [c.seconds for c in cases] == [float(workers * (steps - 1))] * 4
        points = book.points(cases[3].digest)
        assert len(points) == Kind.WITNESS.kept and {p.run for p in points} == {1, 2}
        worst = sorted([-1.0 - step / 100 for step in range(steps)] * workers)[: Kind.WITNESS.kept]
        assert [p.real_upper for p in points] == worst
        assert sorted(run.recipe for run in book.runs()) == ["worker 0", "worker 1"]


_WRITER = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from test_casebook import answers, problem
from fathom.casebook.store import Casebook
torch.set_num_threads(1)
with Casebook.open(sys.argv[1]) as book:
    recorder = book.begin(problem(3), "doomed")
    step = 0
    while True:
        recorder.record(answers([-1e6 + step] * 3, [-1.0 - step] * 3, seed=step))
        print(step, flush=True)
        step += 1
"""


def test_killed_in_the_middle_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    reached = -1
    for kill_after in (1, 30):
        command = [sys.executable, "-c", _WRITER, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= kill_after:
                    os.kill(process.pid, signal.SIGKILL)
                    break
            reached = max([reached, int(line), *(int(rest) for rest in process.stdout if rest.endswith("\n"))])
        with Casebook.open(path) as book:
            book.check()
            cases = book.cases()
            assert len(cases) == 3
            stands = {(case.lower, case.upper) for case in cases}
            assert len(stands) == 1, "a record of three sets is written whole or not at all"
            ((lower, upper),) = stands
            assert lower - -1e6 == -1.0 - upper >= reached, "what was committed is there"
            for case in cases:
                points = book.points(case.digest)
                assert points[0].real_upper == upper
                assert torch.equal(points[0].y, 2 * points[0].x[:OUTPUTS].double())
            assert book.runs()[-1].ended is None


def test_a_writer_that_holds_the_file_too_long_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "WAIT", 0.1)
    path = tmp_path / "c.db"
    with Casebook.open(path) as book:
        recorder = book.begin(problem(1), "r")
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(CasebookError, match="another process has been writing"):
            recorder.record(answers([0.5], [None]))
        assert book.cases()[0].lower == -INF, "readers are not held up"
        blocker.execute("ROLLBACK")
        blocker.close()
        recorder.record(answers([0.5], [None]))
        assert book.cases()[0].lower == 0.5, "what could not be written is written the next time"


# Versions


def test_a_casebook_of_version_1_opens_today(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    Database.open(path, migrations()[:1]).close()
    seal = hashlib.sha256(b"abc 0 real 0.5").hexdigest()[:16]
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
        raw.execute("INSERT INTO runs VALUES (1, '0.1.0', 'fathom audit', 'r', '2020-01-01', NULL, NULL)")
        raw.execute("INSERT INTO cases VALUES ('abc', 'p', 'a box', 'o', '2020-01-01')")
        raw.execute(
            "INSERT INTO sets VALUES (1, 'abc', 0, 'real', 0.5, ?, 1.5, 1.5, 0, 'TIME', 1, NULL, 1.0, 1, 2, 3, '2020-01-01')",
            (seal,),
        )
        raw.execute("INSERT INTO run_cases VALUES (1, 0, 'abc', 'an old case', 0.5, 1.5, 'proved')")
    with Casebook.open(path) as book:
        case = book.case("abc")
        assert book.judgements() == book.queue("ada") == []
        book.ask([Question("p", "a question", torch.ones(2), torch.ones(1, dtype=torch.float64))])
        assert [question.title for question in book.queue("ada")] == ["a question"]
    assert _version(path) == len(migrations())
    assert (case.title, case.lower, case.upper, case.verdict) == ("an old case", 0.5, 1.5, Verdict.PROVED)


def test_tables_and_queries_are_in_step(tmp_path: Path) -> None:
    """`schema.py` names exactly what the migrations make."""
    database = Database.open(tmp_path / "c.db")
    found = inspect(database.engine)
    made = {name: [c["name"] for c in found.get_columns(name)] for name in (*found.get_table_names(), *found.get_view_names())}
    database.close()
    assert made == {table.name: [column.name for column in table.columns] for table in TABLES}


def _second(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE cases ADD COLUMN note VARCHAR"))
    connection.execute(text("UPDATE cases SET note = 'upgraded'"))


def _failing(connection: Connection) -> None:
    connection.execute(text("DELETE FROM points"))
    raise RuntimeError("power cut")


def test_an_upgrade_is_one_transaction(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with Casebook.open(path) as book:
        book.begin(problem(2), "r").record(answers([0.5, 0.5], [1.0, 1.0]))
    before = _content(path)
    with pytest.raises(RuntimeError, match="power cut"):
        Database.open(path, [*migrations(), _second, _failing])
    assert _content(path) == before and _version(path) == len(migrations()), "half an upgrade is none"
    Database.open(path, [*migrations(), _second]).close()
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT DISTINCT note FROM cases").fetchall() == [("upgraded",)]
    assert _version(path) == len(migrations()) + 1


def test_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    Database.open(path, [*migrations(), _second]).close()
    before = path.read_bytes()
    with pytest.raises(
        CasebookError, match=rf"version {len(migrations())} or older.*got version {len(migrations()) + 1}.*pip install --upgrade"
    ):
        Casebook.open(path)
    assert path.read_bytes() == before


def test_migrations_are_numbered_without_a_gap() -> None:
    names = sorted(p.name for p in Path(next(iter(sys.modules["fathom.casebook.migrations"].__path__))).glob("m*.py"))
    assert [int(name[1:5]) for name in names] == list(range(1, len(migrations()) + 1))


# Files that are no casebook, or a damaged one


def test_an_empty_file_is_what_a_killed_process_leaves(tmp_path: Path) -> None:
    (tmp_path / "c.db").touch()
    with Casebook.open(tmp_path / "c.db") as book:
        assert book.cases() == []


@pytest.mark.parametrize("content", [b"x", b"PK\x03\x04 an npz", random.Random(0).randbytes(5000)])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(content)
    with pytest.raises(CasebookError, match=r"expected a casebook at .*no SQLite database.*another path"):
        Casebook.open(path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_random_bytes_after_a_true_header(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    content = b"SQLite format 3\0" + random.Random(1).randbytes(8000)
    path.write_bytes(content)
    with pytest.raises(CasebookError, match="got from SQLite"):
        Casebook.open(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("application", [0, 0x1234])
def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, application: int) -> None:
    path = tmp_path / "places.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE bookmarks (url TEXT)")
        raw.execute("INSERT INTO bookmarks VALUES ('https://example.org')")
        raw.execute(f"PRAGMA application_id = {application}")
    before = path.read_bytes()
    with pytest.raises(CasebookError, match=r"another program's SQLite database.*bookmarks.*another path"):
        Casebook.open(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(CasebookError, match="got the folder"):
        Casebook.open(tmp_path)
    with pytest.raises(CasebookError, match="make it first"):
        Casebook.open(tmp_path / "none" / "c.db")


def _filled(path: Path) -> list[str]:
    with Casebook.open(path) as book:
        recorder = book.begin(problem(30), "r")
        for seed in range(4):
            recorder.record(answers([-9.0 + seed] * 30, [-1.0 - seed] * 30, seed=seed))
        return [case.digest for case in book.cases()]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_casebook_is_refused_and_left_alone(tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.db"
    _filled(path)
    content = path.read_bytes()[: int(path.stat().st_size * share)]
    path.write_bytes(content)
    with pytest.raises(CasebookError, match=r"got from SQLite.*restore it from a copy"), Casebook.open(path) as book:
        book.check()
    assert path.read_bytes() == content


def test_bytes_overwritten_anywhere_are_an_error_or_harmless(tmp_path: Path) -> None:
    """Never another exception than ours, and never a point that was not stored."""
    path = tmp_path / "c.db"
    _filled(path)
    whole = path.read_bytes()
    with Casebook.open(path) as book:
        true_points = {tuple(p.x.tolist()) for c in book.cases() for p in book.points(c.digest)}
    generator, refused = random.Random(2), 0
    for _ in range(60):
        start = generator.randrange(100, len(whole) - 600)
        path.write_bytes(whole[:start] + generator.randbytes(500) + whole[start + 500 :])
        try:
            with Casebook.open(path) as book:
                points = [p for c in book.cases() for p in book.points(c.digest)]
                recorder = book.begin(problem(30), "r")
                recalled = recorder.recall(points=4).points.reshape(-1, INPUTS)
            assert {tuple(p.x.tolist()) for p in points} <= true_points
            assert {tuple(x) for x in recalled[~recalled.isnan().any(1)].tolist()} <= true_points
        except FathomError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE points SET arrays = x'00'",
        "UPDATE points SET arrays = 'text'",
        "UPDATE points SET arrays = substr(arrays, 1, length(arrays) - 1) || x'ff'",
        "UPDATE points SET arrays = zeroblob(100000)",
        "UPDATE points SET arrays = x'ffffffffffffff7f' || arrays",
        "UPDATE points SET digest = digest || 'x'",
        "UPDATE points SET kind = 'certain'",
        "UPDATE points SET deployed = 'low'",
        "UPDATE sets SET lower = 'high'",
        "UPDATE sets SET lower = 0.5",
        "UPDATE sets SET seal = (SELECT seal FROM sets WHERE id = 1), lower = (SELECT lower FROM sets WHERE id = 1)",
        "PRAGMA foreign_keys = OFF; DELETE FROM sets WHERE place = 0",
        "UPDATE sets SET place = 7",
        "DROP TABLE points",
    ],
)
def test_tampered_rows_are_refused_with_what_to_do(tmp_path: Path, tamper: str) -> None:
    path = tmp_path / "c.db"
    _filled(path)
    with sqlite3.connect(path) as raw:
        raw.executescript(tamper)
    with pytest.raises(CasebookError, match=r"got .*restore it from a copy"), Casebook.open(path) as book:
        book.begin(problem(30), "r").recall(points=4)


def test_a_point_of_another_size_is_refused(tmp_path: Path) -> None:
    """A point that is sound in itself, moved to a case of another model."""
    path = tmp_path / "c.db"
    _filled(path)
    question = problem(1)
    with Casebook.open(path) as book:
        book.begin(question, "r")
    question = dataclasses.replace(question, program=Doubler(dtype=torch.float64))
    with Casebook.open(path) as book, pytest.raises(CasebookError, match=r"expected a point torch.float64 \[4\]"):
        book.begin(question, "r").recall()


def test_an_enormous_field_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.db"
    digest = _filled(path)[0]
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE points SET arrays = zeroblob(3000000) WHERE id = (SELECT min(id) FROM points)")
    monkeypatch.setattr(database_module, "MAX_BYTES", 1 << 20)
    with Casebook.open(path) as book, pytest.raises(CasebookError, match="too big"):
        book.points(digest)


def test_a_point_too_large_to_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.casebook.points.MAX_BYTES", 4100)
    with Casebook.open(tmp_path / "c.db") as book:
        recorder = book.begin(problem(1), "r")
        with pytest.raises(CasebookError, match="at most 4100 bytes"):
            recorder.record(answers([-1.0], [0.5]))
        assert book.cases()[0].upper == INF


def test_nothing_stored_is_ever_executed(tmp_path: Path) -> None:
    """A pickle in place of arrays is bytes that were not stored, and stays bytes."""
    path, proof = tmp_path / "c.db", tmp_path / "executed"
    _filled(path)
    pickled = f"cos\nsystem\n(S'touch {proof}'\ntR.".encode()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE points SET arrays = ?", (pickled,))
    with Casebook.open(path) as book, pytest.raises(CasebookError, match="not what was stored"):
        book.check()
    assert not proof.exists()


def test_the_file_is_marked_and_the_recorder_is_made_by_the_book(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        assert isinstance(book.begin(problem(1), "r"), Recorder) and book.path == tmp_path / "c.db"
    with sqlite3.connect(tmp_path / "c.db") as raw:
        assert raw.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def _content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    names = ("runs", "cases", "sets", "points", "run_cases")
    with sqlite3.connect(path) as raw:
        return {name: raw.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names}


def _version(path: Path) -> int:
    with sqlite3.connect(path) as raw:
        return int(raw.execute("PRAGMA user_version").fetchone()[0])
