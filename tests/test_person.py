"""People as judges: their words counted, kept, measured against one another, and put into an audit."""

from __future__ import annotations

import dataclasses
import io
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from fathom.audits.portfolio import Portfolio
from fathom.audits.questions import _drawn, _worst, judged_failures, questions
from fathom.capture.torch_module import capture_module
from fathom.casebook.database import CasebookError
from fathom.casebook.questions import Question, line
from fathom.casebook.store import Casebook
from fathom.core.budget import Budget
from fathom.core.confirm import confirm
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.overseer import Severity
from fathom.core.problem import Problem
from fathom.core.solver import Solver
from fathom.core.value import fingerprint
from fathom.overseers.agreement import agreements, kappa
from fathom.overseers.judgements import Judgement, Opinion, majority, settled
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.person import Person
from fathom.regions.box import BoxRegion
from tests.command import Outcome, fathom
from tests.onnx_models import model, op

FINE, BENIGN, SERIOUS, MALIGN = Opinion
HOSTILE = "'); DROP TABLE judgements; -- <script>alert(1)</script> {{7*7}} %s"


def said(words: Sequence[tuple[float, str, Opinion]]) -> list[Judgement]:
    """Judgements of (number, judge, opinion): the number makes x and y."""
    return [
        Judgement(f"question {value}", torch.full((2,), value), torch.tensor([2 * value, 1.0]).double(), judge, opinion)
        for value, judge, opinion in words
    ]


def at(*values: float) -> tuple[Tensor, Tensor]:
    x = torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, 2).double()
    return x, torch.stack([2 * x[:, 0], torch.ones(len(x))], 1)


# What several words come to


@pytest.mark.parametrize(
    ("opinions", "together"),
    [
        ([FINE], FINE),
        ([MALIGN], MALIGN),
        ([FINE, FINE, MALIGN], FINE),
        ([FINE, BENIGN], BENIGN),  # a tie is a failure
        ([FINE, FINE, SERIOUS, BENIGN], SERIOUS),  # the worse of two in the middle
        ([BENIGN, BENIGN, MALIGN], BENIGN),
        ([BENIGN, MALIGN, SERIOUS, FINE], SERIOUS),
    ],
)
def test_a_majority_decides_and_a_tie_is_a_failure(opinions: list[Opinion], together: Opinion) -> None:
    assert majority(opinions) is together
    assert majority(opinions[::-1]) is together


def test_each_judge_has_one_vote_however_often_he_is_asked() -> None:
    often = [("ada", FINE)] * 5
    assert settled(often) is FINE
    assert settled([*often, ("ben", SERIOUS), ("cem", SERIOUS)]) is SERIOUS
    assert settled([("ada", FINE), ("ada", MALIGN), ("ben", FINE), ("cem", FINE)]) is FINE
    assert settled([("ada", FINE), ("ada", MALIGN), ("ben", FINE)]) is MALIGN


# The overseer


def test_margins_are_what_people_say_and_nothing_elsewhere() -> None:
    person = Person.of(said([(1.0, "ada", FINE), (2.0, "ada", MALIGN), (3.0, "ada", BENIGN), (3.0, "ben", FINE)]), sets=5)
    x, y = at(1.0, 2.0, 3.0, 4.0, 2.0)
    y[4, 1] += 2.0**-50  # the same input with another output is another question
    assert person.margin(x, y)[:3].tolist() == [1, -1, -1] and person.margin(x, y)[3:].isnan().all()
    assert person.severities(x, y).tolist() == [-1, Severity.MALIGN.rank, Severity.BENIGN.rank, -1, -1]
    close = x.clone()
    close[1, 0] = torch.nextafter(close[1, 0], torch.tensor(9.0).double())
    assert person.margin(close, y)[1].isnan()
    zero = Person.of(said([(0.0, "ada", FINE)]))
    assert zero.margin(-at(0.0)[0], at(0.0)[1]).tolist() == [1], "-0 and 0 are one number"


def test_it_can_only_be_evaluated() -> None:
    person = Person.of([])
    assert not person.compilable and not person.differentiable
    with pytest.raises(NotCompilable, match="looked up"):
        person.compile(None)  # type: ignore[arg-type]
    assert "Nobody has judged" in person.troubles()[0]
    assert (~person).margin(*at(1.0)).isnan().all() and (person | person).margin(*at(1.0)).isnan().all()


def test_another_word_makes_another_question_of_an_audit() -> None:
    words = [(1.0, "ada", FINE), (2.0, "ada", FINE)]
    assert fingerprint(Person.of(said(words))) == fingerprint(Person.of(said(words[::-1])))
    assert fingerprint(Person.of(said(words))) != fingerprint(Person.of(said([*words, (1.0, "ben", MALIGN)])))


def test_only_where_all_that_counts_is_what_people_have_seen_no_search_is_made() -> None:
    person, rule = Person.of(said([(1.0, "ada", FINE)])), LinearRules.make([[1.0, 0.0]], [0.0])
    assert not person.searchable and not (~person).searchable and not (person & rule).searchable
    assert rule.searchable and (person | rule).searchable


def test_an_audit_of_people_runs_the_program_on_what_they_judged_and_nothing_else() -> None:
    captured = capture_module(torch.nn.Linear(2, 2), (2,), live=False)
    region = BoxRegion(torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64))
    problem = Problem.make(captured.program, captured.network, region, Person.of([], sets=3))
    searches: list[tuple[Solver, int]] = []
    answers = Portfolio(searches=searches).solve(problem, Budget(seconds=5))
    assert not searches and not answers.decided.any() and not answers.cost.forward.any()
    ruled = Problem.make(
        captured.program, captured.network, region, Person.of([], sets=3) | LinearRules.make([[1.0, 0.0]], [9.0], sets=3)
    )
    Portfolio(searches=searches).solve(ruled, Budget(seconds=5))
    assert searches


def test_judgements_of_two_models_are_refused() -> None:
    other = dataclasses.replace(said([(1.0, "ada", FINE)])[0], x=torch.zeros(3))
    with pytest.raises(FathomError, match="judgements of one model"):
        Person.of([*said([(1.0, "ada", FINE)]), other])


# Agreement


def pairs(table: Sequence[Sequence[int]], opinions: Sequence[Opinion]) -> list[tuple[Opinion, Opinion]]:
    return [(a, b) for i, a in enumerate(opinions) for j, b in enumerate(opinions) for _ in range(table[i][j])]


@pytest.mark.parametrize(
    ("table", "by_hand"),
    [
        ([[20, 5], [10, 15]], 0.4),  # alike 35/50, by chance 1/2
        ([[45, 15], [25, 15]], 0.06 / 0.46),  # alike 0.6, by chance 0.7 * 0.6 + 0.3 * 0.4 = 0.54
        ([[25, 35], [5, 35]], 0.14 / 0.54),
        ([[0, 5], [5, 0]], -1.0),
        ([[5, 0], [0, 5]], 1.0),
        ([[1, 0, 0], [0, 1, 1], [0, 0, 1]], (0.75 - 0.3125) / (1 - 0.3125)),
        ([[7, 0], [0, 0]], None),
    ],
)
def test_kappa_is_what_it_is_by_hand(table: list[list[int]], by_hand: float | None) -> None:
    found = kappa(pairs(table, [FINE, SERIOUS, MALIGN][: len(table)]))
    assert found == (None if by_hand is None else pytest.approx(by_hand, abs=1e-12))


def test_agreement_is_between_judges_and_with_oneself() -> None:
    words = [(1.0, "ada", FINE), (2.0, "ada", MALIGN), (3.0, "ada", FINE), (1.0, "ben", FINE), (2.0, "ben", SERIOUS)]
    again = [(2.0, "ada", SERIOUS), (1.0, "ada", FINE), (4.0, "cem", FINE)]
    self_, both = agreements(said([*words, *again]))
    assert (self_.first, self_.second, self_.pairs, self_.alike) == ("ada", "ada", 2, 1)
    assert (both.first, both.second, both.pairs, both.alike) == ("ada", "ben", 2, 1), (
        "first words alone, and not cem, who shares none"
    )
    assert both.kappa == pytest.approx((0.5 - 0.25) / 0.75)
    assert both.sentence() == (
        "ada and ben both judged 2 inputs, with the same answer for 1 (50 %, kappa 0.33); too few to lean on."
    )
    assert "was asked again about 2 inputs" in self_.sentence()
    assert agreements([]) == []
    assert any("kappa" in sentence for sentence in Person.of(said(words)).troubles())


# The casebook


def question(value: float, *, program: str = "p", judges: int = 2) -> Question:
    return Question(program, f"case {value:g}", torch.full((1, 2), value), torch.tensor([value, 1.0]).double(), judges)


def test_questions_and_judgements_come_back_from_the_file(tmp_path: Path) -> None:
    first, second, other = question(1.0), question(2.0), question(1.0, program="q")
    with Casebook.open(tmp_path / "c.db") as book:
        assert book.ask([first, second, other]) == 3
        assert book.ask([first, question(3.0)]) == 1, "what is there stays"
        book.judge(first.digest, "ada", MALIGN, HOSTILE)
        book.judge(other.digest, "ada", FINE)
    with Casebook.open(tmp_path / "c.db") as book:
        book.check()
        (one,) = book.judgements("p")
        assert (one.question, one.judge, one.opinion, one.note) == (first.digest, "ada", MALIGN, HOSTILE)
        assert torch.equal(one.x, torch.full((2,), 1.0)) and one.x.dtype == torch.float32
        assert len(book.judgements()) == 2 and book.waiting("p") == 2 and book.waiting("q") == 0
        assert book.queue("ben", 2)[0].x.shape == (1, 2), "in the shape that people see"
        assert Person.of(book.judgements("p")).margin(one.x[None], one.y[None]).tolist() == [-1]


def test_a_name_that_is_sql_is_a_name(tmp_path: Path) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        book.ask([question(1.0)])
        book.judge(question(1.0).digest, HOSTILE, FINE)
        assert book.judgements()[0].judge == HOSTILE and book.queue(HOSTILE) == [] and len(book.queue("ada")) == 1
        assert book.queue("' OR '1'='1") != []
        for name in ("", "  ", "a\x1b[2J", "x" * 101):
            with pytest.raises(CasebookError, match="judge's name"):
                book.judge(question(1.0).digest, name, FINE)
        with pytest.raises(CasebookError, match="note"):
            book.judge(question(1.0).digest, "ada", FINE, "x" * 4001)
        with pytest.raises(CasebookError, match="digest of a question"):
            book.judge("none", "ada", FINE)
        assert len(book.judgements()) == 1


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE questions SET arrays = x'00'",
        "UPDATE questions SET program = 'another'",
        "UPDATE questions SET arrays = substr(arrays, 1, length(arrays) - 1) || x'ff'",
    ],
)
def test_a_question_that_is_not_what_was_stored_is_refused(tmp_path: Path, tamper: str) -> None:
    with Casebook.open(tmp_path / "c.db") as book:
        book.ask([question(1.0)])
        book.judge(question(1.0).digest, "ada", MALIGN)
    with sqlite3.connect(tmp_path / "c.db") as raw:
        raw.executescript(tamper)
    with Casebook.open(tmp_path / "c.db") as book:
        for read in (book.judgements, book.check, lambda: book.queue("ben")):
            with pytest.raises(CasebookError, match="restore it from a copy"):
                read()


def test_every_tenth_question_comes_back_unannounced() -> None:
    wanted = {f"q{i:02}": 1 for i in range(25)}
    order = line(wanted, [], "ada")
    assert order[:10] == [f"q{i:02}" for i in range(10)]
    assert order[10] == "q00" and order[20] == "q01", "the oldest, once"
    assert len(order) == 27 and set(order) == set(wanted)
    given: list[tuple[str, str]] = []
    for expected in order:  # asked one at a time, it is the same line
        assert line(wanted, given, "ada")[0] == expected
        given.append((expected, "ada"))
    assert line(wanted, given, "ada") == []
    assert line(wanted, given, "ben") == [], "one judge was enough"
    assert line(dict.fromkeys(wanted, 2), given, "ben")[:2] == ["q00", "q01"]


def test_what_nobody_has_judged_is_asked_first() -> None:
    wanted = {"a": 2, "b": 2, "c": 2, "d": 1}
    assert line(wanted, [("a", "ada"), ("d", "ada"), ("b", "ada"), ("b", "cem"), ("a", "ada")], "ben") == ["c", "a"]


# An audit


TOML = """
model = "model.onnx"
[data]
path = "data.npz"
[region]
kind = "linf"
radius = 0.1
[overseer]
kind = "person"
questions = 6
[budget]
total_seconds = 4
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    onnx.save(model(op("MatMul", "x", random.normal(size=(4, 3)).astype(np.float32)), x=(1, 4)), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=random.random((3, 4), dtype=np.float32), y=np.arange(3))
    (tmp_path / "audit.toml").write_text(TOML)
    return tmp_path


def judged(folder: Path, name: str, *lines: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return fathom("judge", "casebook.db", "--as", name, folder=folder)


def test_an_audit_goes_by_what_people_say_and_asks_for_more(folder: Path) -> None:
    first = fathom("audit", "audit.toml", "--json", folder=folder)
    assert first.code == 0, first.err
    result = json.loads(first.out)
    assert result["unknown"] == 3 and result["waiting"] == 6 and result["silence"] is None
    page = (folder / "report.html").read_text()
    assert "6 questions wait to be judged by people" in page and "Nobody has judged" in page

    asked = judged(folder, HOSTILE, f"m {HOSTILE}", "f", "?", "", "b")
    assert asked.code == 0 and "1 of 6: case" in asked.out and "3 answers stored" in asked.out, asked.err
    with Casebook.open(folder / "casebook.db") as book:
        given = book.judgements()
    assert [one.opinion for one in given] == [MALIGN, FINE, BENIGN] and given[0].note == HOSTILE

    second = fathom("audit", "audit.toml", folder=folder)
    assert "6 questions wait to be judged by people: `fathom judge casebook.db --as NAME`" in second.out, "topped up"
    third = json.loads(fathom("audit", "audit.toml", "--json", folder=folder).out)
    broken = {case["severity"]: case["witness"]["x"] for case in third["answers"] if case["verdict"] == "broken"}
    assert third["proved"] == 0 and set(broken) <= {"malign", "benign"} and "malign" in broken
    assert torch.tensor(broken["malign"]).equal(given[0].x)
    page = (folder / "report.html").read_text()
    assert "malign" in page and "<script>alert(1)" not in page


def test_what_people_call_fine_later_is_no_failure_any_more(folder: Path) -> None:
    fathom("audit", "audit.toml", folder=folder)
    judged(folder, "ada", *"mmmmmm")
    assert json.loads(fathom("audit", "audit.toml", "--json", folder=folder).out)["broken"] == 3
    with Casebook.open(folder / "casebook.db") as book:
        for question in {one.question for one in book.judgements()}:
            for name in ("ben", "cem"):
                book.judge(question, name, FINE)
    result = json.loads(fathom("audit", "audit.toml", "--json", folder=folder).out)
    assert (result["broken"], result["unknown"]) == (0, 3)
    assert any("ada and ben both judged 6 inputs" in limit for limit in result["limits"])


def test_the_last_answer_can_be_taken_back(folder: Path) -> None:
    fathom("audit", "audit.toml", folder=folder)
    told = judged(folder, "ada", "u", "m a slip", "u", "f", "s", "q")
    assert "nothing was answered yet" in told.out and "2 answers stored; 4 to go" in told.out
    asked = [line.split(":")[0] for line in told.out.splitlines() if " of 6: " in line]
    assert asked == ["1 of 6", "1 of 6", "2 of 6", "1 of 6", "2 of 6", "3 of 6"]  # the question comes again
    kept = json.loads(fathom("judge", "casebook.db", "--as", "ada", "--json", folder=folder).out)["judgements"]
    assert [(one["opinion"], one["note"]) for one in kept] == [("fine", ""), ("serious", "")]
    with Casebook.open(folder / "casebook.db") as book, pytest.raises(CasebookError, match="'ben' has said something"):
        book.take_back(kept[0]["question"], "ben")


def test_answers_are_stored_one_by_one(folder: Path) -> None:
    """Whoever is interrupted, or has had enough, loses nothing."""
    fathom("audit", "audit.toml", folder=folder)
    assert "1 answer stored; 5 to go" in judged(folder, "ada", "s", "q", "f").out
    with pytest.MonkeyPatch.context() as patch:
        lines = iter(["fine all well"])
        patch.setattr("builtins.input", lambda: next(lines, None) or (_ for _ in ()).throw(KeyboardInterrupt))
        assert fathom("judge", "casebook.db", "--as", "ada", folder=folder).code == 130
    told = json.loads(fathom("judge", "casebook.db", "--as", "ada", "--json", folder=folder).out)
    assert [(one["opinion"], one["note"]) for one in told["judgements"]] == [("serious", ""), ("fine", "all well")]
    assert len(told["queue"]) == 4 and told["queue"][0]["shape"] == [4] and told["agreements"] == []
    judged(folder, "ben", *"ffffff")
    said = fathom("judge", "casebook.db", "--agreement", folder=folder).out
    assert "8 judgements by 2 people" in said and "ada and ben both judged 2 inputs, with the same answer for 1" in said
    assert fathom("judge", "casebook.db", folder=folder).code == 2
    assert fathom("judge", "none.db", "--as", "ada", folder=folder).code == 1


def test_a_picture_is_shown_as_one() -> None:
    from fathom.cli.commands.judge import _input

    x = torch.zeros(1, 28, 28)
    x[0, 10:18, :] = 1
    lines = _input(x)
    assert len(lines) == 29 and lines[0] == " " * 56 and lines[12] == "@" * 56
    assert max(map(len, _input(torch.rand(3, 224, 224)))) <= 64
    assert _input(torch.ones(3, 2))[0].startswith("input: 1  1")
    assert len(_input(torch.full((8, 8), torch.nan))) == 1


def test_a_guide_proposes_and_only_people_judge(tmp_path: Path) -> None:
    """People call large first outputs failures; the guide proposes more of those, and its word makes no witness."""
    torch.manual_seed(0)
    captured = capture_module(torch.nn.Linear(6, 2), (6,), live=False)
    region = BoxRegion(torch.zeros(4, 6).double(), torch.ones(4, 6).double())

    def problem(book: Casebook) -> Problem:
        return Problem.make(captured.program, captured.network, region, Person.of(book.judgements(), sets=4))

    with Casebook.open(tmp_path / "c.db") as book:
        assert questions(problem(book), book, 40) == 40
        asked = book.queue("ada", 40)
        limit = torch.stack([one.y[0] for one in asked]).median()
        for one in asked:
            book.judge(one.digest, "ada", FINE if one.y[0] < limit else SERIOUS)
        judged, generator = problem(book), torch.Generator().manual_seed(1)
        sets, x = _worst(judged, Person.of(book.judgements()), *_drawn(judged, 32, generator), 8, generator, 1)
        assert x.shape == (8, 6) and bool((captured.program(x)[:, 0] > limit).all()), "where people saw failures"
        assert bool(judged.deployed.take(sets).contains(x).all())
        assert not bool(confirm(judged.take(sets), x).known.any()), "nobody has judged it, whatever the guide thinks"
        assert questions(judged, book, 10, seed=1) == 10
        again = judged_failures(judged)
        assert again.shape == (4, 16, 6)
        assert bool((confirm(judged, again[:, 0]).deployed == -1).all())


def test_people_are_asked_about_models_that_are_no_network(tmp_path: Path) -> None:
    captured = capture_module(torch.nn.Linear(3, 2), (3,), live=False)
    region = BoxRegion(torch.zeros(1, 3).double(), torch.ones(1, 3).double())
    with Casebook.open(tmp_path / "c.db") as book:
        problem = Problem.make(captured.program, None, region, Person.of([]))
        assert questions(problem, book, 5, titles=["the only one"]) == 5
        book.judge(book.queue("ada")[0].digest, "ada", FINE)
        assert questions(problem, book, 5, seed=1) == 5
        assert {one.title for one in book.queue("ada")} == {"the only one", "case 0"}
