"""The casebook: one file of cases, opened, read, and handed to a `Recorder` for writing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import func, select

from fathom.casebook import questions as people
from fathom.casebook.database import DAMAGED, CasebookError, Database
from fathom.casebook.points import Kind, Point, decode, rank
from fathom.casebook.questions import Question
from fathom.casebook.recorder import Recorder
from fathom.casebook.rows import number, proved, word
from fathom.casebook.schema import BRACKETS, CASES, POINTS, QUESTIONS, RUN_CASES, RUNS, SETS
from fathom.core.answer import Claim, Reason, Verdict
from fathom.core.problem import Problem
from fathom.overseers.judgements import Judgement, Opinion


@dataclass(frozen=True)
class Case:
    """A case and its bracket: the least over its sets."""

    digest: str
    title: str  # by which the latest run called it
    program: str  # digest
    region: str  # in words
    overseer: str
    created: str  # times are ISO 8601, UTC
    arithmetic: str  # under which lower and upper hold
    sets: int
    lower: float
    upper: float
    deployed: float  # least margin of the deployed program at a point of the region; inf where no point is known
    verdict: Verdict
    claim: Claim
    reason: str
    seconds: float  # of all runs together, as are the counts
    forward: int
    backward: int
    boxes: int
    updated: str


@dataclass(frozen=True)
class Run:
    """One audit that wrote into this casebook."""

    id: int
    fathom: str  # version
    command: str
    recipe: str
    started: str
    ended: str | None  # None: still going on, or killed
    summary: dict[str, Any] | None


@dataclass(frozen=True)
class Standing:
    """The bracket of a case as one run left it."""

    run: int
    place: int  # of the case in the run
    digest: str
    title: str
    lower: float
    upper: float
    verdict: Verdict


class Casebook:
    """An open casebook; a context manager.

    Several processes may have one open and write. `with Casebook.open(path) as book: ...`
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def open(path: str | Path) -> Casebook:
        """The casebook at `path`: made where there is none, upgraded where it is of an older version.

        Raises:
            CasebookError: it is no casebook, damaged, or of a later version than this Fathom; the file is as it was.
        """
        return Casebook(Database.open(Path(path).resolve()))

    def __enter__(self) -> Casebook:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file. What was recorded is in it already."""
        self._database.close()

    @property
    def path(self) -> Path:
        return self._database.path

    def begin(self, problem: Problem, recipe: str, titles: list[str] | None = None, command: str = "") -> Recorder:
        """A run on the cases of `problem`, whose sets' answers the `Recorder` takes.

        Args:
            recipe: what solves, as text that pastes back: `repr` of a solver.
            titles: what a person calls each case; "case 0", ... by default.
            command: the command line, for whoever wants to do it again.

        Raises:
            CasebookError: the file cannot be written, or the titles are not one a case.
        """
        return Recorder.begin(self._database, problem, recipe, titles, command)

    def cases(self) -> list[Case]:
        """All cases, oldest first.

        Raises:
            CasebookError: the file cannot be read, or what it holds is not what was stored.
        """
        for row in self._rows(select(*(SETS.c[name] for name in ("case_digest", "place", "arithmetic", "lower", "seal")))):
            proved(row._mapping)
        mine = RUN_CASES.c.case_digest == CASES.c.digest
        latest = select(RUN_CASES.c.title).where(mine).order_by(RUN_CASES.c.run.desc(), RUN_CASES.c.place).limit(1)
        title = latest.correlate(CASES).scalar_subquery()
        entered = select(func.min(SETS.c.id)).where(SETS.c.case_digest == CASES.c.digest).correlate(CASES).scalar_subquery()
        joined = CASES.join(BRACKETS, BRACKETS.c.case_digest == CASES.c.digest)
        query = select(CASES, BRACKETS, title.label("title")).select_from(joined).order_by(entered)
        return [_case(row) for row in self._rows(query)]

    def case(self, digest: str) -> Case:
        """The case whose digest starts with `digest`.

        Raises:
            CasebookError: there is none, or more than one.
        """
        found = [case for case in self.cases() if digest and case.digest.startswith(digest)]
        if len(found) != 1:
            raise CasebookError(
                f"expected the start of one case's digest, got {digest!r}, with which {len(found)} of the digests in {self.path} "
                "start; list the cases to see them"
            )
        return found[0]

    def points(self, digest: str) -> list[Point]:
        """The points stored of the case of this full digest, set by set, best first.

        Raises:
            CasebookError: the arrays of one are not those that were stored.
        """
        query = select(POINTS, SETS.c.place).join(SETS, SETS.c.id == POINTS.c.set_id).where(SETS.c.case_digest == digest)
        points = [_point(row) for row in self._rows(query)]
        return sorted(points, key=lambda p: (p.place, rank(p.kind, p.deployed, p.real_lower, p.real_upper)))

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return [_run(row) for row in self._rows(select(RUNS).order_by(RUNS.c.id))]

    def standings(self, run: int) -> list[Standing]:
        """The cases of one run in its order, with the brackets as it left them."""
        return [_standing(row) for row in self._rows(select(RUN_CASES).where(RUN_CASES.c.run == run).order_by(RUN_CASES.c.place))]

    def history(self, digest: str) -> list[Standing]:
        """The case of this full digest as each run left it, oldest first."""
        query = select(RUN_CASES).where(RUN_CASES.c.case_digest == digest).order_by(RUN_CASES.c.run, RUN_CASES.c.place)
        return [_standing(row) for row in self._rows(query)]

    def ask(self, questions: Sequence[Question]) -> int:
        """Puts questions to people, and returns how many were not there yet.

        Raises:
            CasebookError: the file cannot be written, or an input is too large to be kept.
        """
        with self._database.write() as connection:
            return people.ask(connection, questions)

    def queue(self, judge: str, limit: int | None = None) -> list[Question]:
        """What this judge is to be asked next, at most `limit` questions. After every ten of his judgements an earlier question
        comes back to him, unannounced; see `fathom.casebook.questions.line`.

        Raises:
            CasebookError: the file cannot be read, or what it holds is not what was stored.
        """
        with self._database.read() as connection:
            return people.queue(connection, judge, limit)

    def waiting(self, program: str) -> int:
        """How many questions about the program of this digest nobody has judged."""
        with self._database.read() as connection:
            return people.waiting(connection, program)

    def judge(self, digest: str, who: str, opinion: Opinion, note: str = "") -> None:
        """Stores what a person said of the question of this full digest; it is in the file when this returns.

        Raises:
            CasebookError: no such question, a name that cannot be printed, or a note that is too long.
        """
        with self._database.write() as connection:
            people.judge(connection, digest, who, opinion, note)

    def take_back(self, digest: str, who: str) -> None:
        """Forgets what this person said last of the question of this full digest, and so asks him again.

        Raises:
            CasebookError: he said nothing of it.
        """
        with self._database.write() as connection:
            people.take_back(connection, digest, who)

    def judgements(self, program: str | None = None) -> list[Judgement]:
        """All that people have said of the program of this digest, or of any, in the order in which they did.

        Raises:
            CasebookError: the file cannot be read, or what it holds is not what was stored.
        """
        with self._database.read() as connection:
            return people.judgements(connection, program)

    def check(self) -> None:
        """Reads everything once.

        Raises:
            CasebookError: the file's structure is broken, or some proof, point or question is not what was stored.
        """
        self.cases()
        with self._database.read() as connection:
            said = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
            if said != "ok":
                raise CasebookError(f"expected a sound casebook at {self.path}, got: {said}; {DAMAGED}")
            for row in connection.execution_options(yield_per=16).execute(select(POINTS.c.digest, POINTS.c.arrays)):
                decode(row.digest, row.arrays)
            for row in connection.execution_options(yield_per=16).execute(select(QUESTIONS)):
                people.question_of(row)

    def _rows(self, query: Any) -> list[Any]:
        with self._database.read() as connection:
            return list(connection.execute(query).all())


def _case(row: Any) -> Case:
    values = {name: row._mapping[name] for name in Case.__dataclass_fields__}
    values |= {name: number(values[name]) for name in ("lower", "upper", "deployed", "seconds")}
    reason = values["reason"]
    return Case(
        **values
        | {
            "title": values["title"] or "",
            "verdict": word(Verdict, values["verdict"]),
            "claim": word(Claim, values["claim"]),
            "reason": Reason[reason].value if reason in Reason.__members__ else str(reason),
        }
    )


def _point(row: Any) -> Point:
    x, y = decode(row.digest, row.arrays)
    numbers = (number(row.deployed), number(row.real_lower), number(row.real_upper))
    return Point(row.place, word(Kind, row.kind), x, y, *numbers, bool(row.in_written), row.run, row.created)


def _run(row: Any) -> Run:
    try:
        summary = None if row.summary is None else json.loads(row.summary)
    except json.JSONDecodeError as error:
        raise CasebookError(f"expected the summary of run {row.id} as JSON, got {row.summary[:80]!r}; {DAMAGED}") from error
    return Run(row.id, row.fathom, row.command, row.recipe, row.started, row.ended, summary)


def _standing(row: Any) -> Standing:
    numbers = (number(row.lower), number(row.upper))
    return Standing(row.run, row.place, row.case_digest, row.title, *numbers, word(Verdict, row.verdict))
