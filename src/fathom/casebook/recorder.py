"""Writing one audit of one problem into a casebook, while it goes on: brackets only tighten, and no point is lost."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from torch import Tensor

from fathom.casebook.database import DAMAGED, CasebookError, Database
from fathom.casebook.points import Kind, encode, kind_of
from fathom.casebook.rows import (
    OPEN,
    Row,
    add_cases,
    among,
    best_points,
    by_id,
    change,
    copy_brackets,
    execute_many,
    inputs,
    number,
    proved,
    rank_of,
    seal,
    set_ids,
    timestamp,
)
from fathom.casebook.schema import POINTS, RUN_CASES, RUNS, SETS
from fathom.core.answer import REASONS, Answers, ContradictionError, Reason
from fathom.core.problem import Problem
from fathom.core.value import fingerprint, map_tensors

_CHANGING = (
    *("lower", "seal", "upper", "deployed", "broken", "reason", "lower_run", "found_run"),
    *("seconds", "forward", "backward", "boxes", "updated"),
)
MOST_OUTPUTS = 4096
"""Of a model whose failures are looked at; larger ones are of another kind."""
_MARGINS = ("deployed", "real_lower", "real_upper")


@dataclass(frozen=True, eq=False)
class Known:
    """What a casebook knows of n sets."""

    lower: Tensor  # [n] float64: proved by this version of Fathom; -inf where nothing is. What another proved is proved again
    points: Tensor  # [n, k, d] in the program's dtype, best first; NaN rows are none. Candidates: `confirm` judges them again


@dataclass(frozen=True, eq=False)
class _Findings:
    """The part of n answers that the casebook keeps, as it was last written. Column i is a finding about set i."""

    numbers: Tensor  # [3, n] float64: lower, upper (rigorous, or inf), deployed
    broken: Tensor  # [n] bool
    reason: Tensor  # [n] int64
    cost: Tensor  # [4, n] float64: seconds, forward, backward, boxes
    x: Tensor  # [n, d]

    @staticmethod
    def of(answers: Answers) -> _Findings:
        found, cost, inf = answers.found, answers.cost, torch.inf
        upper = torch.where(found.known & found.judged_real, found.real_upper, inf)
        deployed = torch.where(found.known, found.deployed, inf)
        reason = torch.where(answers.decided, REASONS.index(Reason.DECIDED), answers.reason)
        spent = torch.stack([t.to(torch.float64) for t in (cost.seconds, cost.forward, cost.backward, cost.boxes)])
        return _Findings(torch.stack([answers.lower, upper, deployed]), answers.broken, reason, spent, found.x)


class Recorder:
    """One run's hold on a casebook: `recall` what was known, `record` what is found, `end`. Made by `Casebook.begin`."""

    def __init__(self, database: Database, problem: Problem, run: int, ids: Sequence[int], digests: Sequence[str]) -> None:
        self._database = database
        self._problem = problem
        self._run = run
        self._ids = ids  # [n] a row of `sets` each; equal questions share one
        self._digests = digests  # [n] of the case of each set
        outputs = sum(port.size for port in problem.program.outputs)
        nothing = Answers.none(len(problem), problem.written.size, outputs, problem.program.dtype)
        self._written = map_tensors(_Findings.of(nothing), torch.clone)
        self._last = nothing

    @property
    def run(self) -> int:
        """The number of this run in the casebook."""
        return self._run

    @staticmethod
    def begin(database: Database, problem: Problem, recipe: str, titles: Sequence[str] | None, command: str) -> Recorder:
        """A new run on the cases of `problem`, in one transaction. See `Casebook.begin`."""
        cases = problem.cases
        if titles is not None and len(titles) != cases:
            raise CasebookError(f"expected a title for each of {cases} cases, got {len(titles)}")
        titles = [f"case {case}" for case in range(cases)] if titles is None else titles
        digests = problem.digests()
        owners = problem.owner.tolist()
        sets: dict[int, list[int]] = {}
        for index, owner in enumerate(owners):
            sets.setdefault(owner, []).append(index)
        with database.write() as connection:
            values = {"fathom": _version(), "command": command, "recipe": recipe, "started": timestamp()}
            run = connection.execute(insert(RUNS).values(values).returning(RUNS.c.id)).scalar_one()
            add_cases(connection, problem, digests, sets)
            named = [{"run": run, "place": case, "case_digest": digests[case], "title": titles[case]} for case in sorted(sets)]
            execute_many(connection, insert(RUN_CASES), (row | OPEN for row in named))
            copy_brackets(connection, run, (digests[case] for case in sets))
            places = {index: place for members in sets.values() for place, index in enumerate(members)}
            ids = set_ids(connection, [(digests[owner], places[index]) for index, owner in enumerate(owners)])
        return Recorder(database, problem, run, ids, [digests[owner] for owner in owners])

    def recall(self, points: int = 1) -> Known:
        """What is known of every set, with its `points` best points.

        Raises:
            CasebookError: the file cannot be read, or what it holds is not what was stored.
        """
        n, d, dtype = len(self._ids), self._problem.written.size, self._problem.program.dtype
        largest = d * dtype.itemsize + self._last.found.y.shape[1] * 8 + 4096
        candidates = torch.full((n, points, d), torch.nan, dtype=dtype)
        with self._database.read() as connection:
            proofs = SETS.outerjoin(RUNS, RUNS.c.id == SETS.c.lower_run)
            query = select(SETS, RUNS.c.fathom).select_from(proofs)
            bounds = by_id(connection, query, SETS.c.id, self._ids)
            best = best_points(connection, self._ids, points, largest)
            places: dict[int, list[tuple[int, int]]] = {}
            for index, key in enumerate(self._ids):
                for k, point in enumerate(best.get(key, ())):
                    places.setdefault(point, []).append((index, k))
            for point, x in inputs(connection, places):
                if x.shape != (d,) or x.dtype != dtype:
                    raise CasebookError(f"expected a point {dtype} [{d}] of this model, got {x.dtype} {list(x.shape)}; {DAMAGED}")
                for place in places[point]:
                    candidates[place] = x
        lower = torch.tensor([proved(bounds[key]._mapping) for key in self._ids], dtype=torch.float64)
        mine = torch.tensor([bounds[key].fathom == _version() for key in self._ids])
        return Known(torch.where(mine, lower, -torch.inf), candidates)

    def elsewhere(self, count: int) -> Tensor:
        """Failures [w, d] of other cases, of this model and of others, over inputs like these: the newest `count`, at most.

        Raises:
            CasebookError: the file cannot be read, or what it holds is not what was stored.
        """
        d, dtype = self._problem.written.size, self._problem.program.dtype
        size, least = func.length(POINTS.c.arrays), d * dtype.itemsize
        likely = (POINTS.c.kind == Kind.WITNESS.value) & (size > least) & (size < least + 4096 + MOST_OUTPUTS * 8)
        other = SETS.c.case_digest.not_in(select(RUN_CASES.c.case_digest).where(RUN_CASES.c.run == self._run))
        query = select(POINTS.c.id).join(SETS, SETS.c.id == POINTS.c.set_id).where(likely & other)
        with self._database.read() as connection:
            newest = [row.id for row in connection.execute(query.order_by(POINTS.c.id.desc()).limit(count))]
            found = [x for _, x in inputs(connection, newest)]
        found = [x for x in found if x.shape == (d,) and x.dtype == dtype]
        return torch.stack(found) if found else torch.zeros(0, d, dtype=dtype)

    def record(self, answers: Answers) -> None:
        """Store what is new in answers for all n sets, in one transaction; a point is in the file when this returns.

        Brackets in the file only tighten, whoever else writes; costs are those of this run, and add up over runs.

        Raises:
            CasebookError: it could not be written; a number is NaN.
            ContradictionError: a bound crosses one that another run stored. Both are in the file.
        """
        self._store(answers, everything=False)

    def end(self, summary: Mapping[str, object] | None = None) -> None:
        """The run is over: store all costs, and `summary`, which JSON must be able to hold.

        Raises:
            CasebookError: it could not be written.
            ValueError: the summary holds NaN or an infinity.
        """
        text = json.dumps(dict(summary or {}), allow_nan=False)
        self._store(self._last, everything=True)
        with self._database.write() as connection:
            connection.execute(update(RUNS).where(RUNS.c.id == self._run).values(ended=timestamp(), summary=text))

    def _store(self, answers: Answers, *, everything: bool) -> None:
        if len(answers) != len(self._ids):
            raise ValueError(f"expected answers for all {len(self._ids)} sets of the problem, got {len(answers)}")
        answers = map_tensors(answers, lambda t: t.detach().cpu())
        now, then = _Findings.of(answers), self._written
        _refuse_nan(answers)
        points = answers.found.known & (now.x != then.x).any(1)
        changed = points | (now.numbers != then.numbers).any(0) | (now.broken != then.broken) | (now.reason != then.reason)
        if everything:
            changed = changed | (now.cost != then.cost).any(0)
        self._last = answers
        at = changed.nonzero()[:, 0]
        if not len(at):
            return
        with self._database.write() as connection:
            crossed = self._merge(connection, now, now.cost - then.cost, at)
            self._keep_points(connection, answers, points.nonzero()[:, 0].tolist())
            copy_brackets(connection, self._run, (self._digests[i] for i in at.tolist()))
        then.numbers[:, at], then.cost[:, at] = now.numbers[:, at], now.cost[:, at]
        then.broken[at], then.reason[at], then.x[at] = now.broken[at], now.reason[at], now.x[at]
        if crossed is not None:
            raise ContradictionError(
                f"case {crossed['case_digest'][:12]}: a proof says that the margin is at least {crossed['lower']!r}, and a point "
                f"has one of at most {crossed['upper']!r}; one is a bug in Fathom; please report it, with the casebook"
            )

    def _merge(self, connection: Connection, now: _Findings, spent: Tensor, at: Tensor) -> Row | None:
        """Tightens the rows of the sets `at`; returns one whose bracket has crossed, if any."""
        indices, moment = at.tolist(), timestamp()
        stored = by_id(connection, select(SETS), SETS.c.id, {self._ids[i] for i in indices})
        rows = {key: dict(row._mapping) for key, row in stored.items()}
        parts = (now.numbers[:, at].T, now.broken[at], now.reason[at], spent[:, at].T)
        for i, (lower, upper, deployed), broken, reason, cost in zip(indices, *(part.tolist() for part in parts)):
            row = rows[self._ids[i]]
            if lower > proved(row):
                row |= {
                    "lower": lower,
                    "lower_run": self._run,
                    "seal": seal(row["case_digest"], row["place"], row["arithmetic"], lower),
                }
            if upper < number(row["upper"]) or deployed < number(row["deployed"]):
                row |= {"upper": min(upper, row["upper"]), "deployed": min(deployed, row["deployed"]), "found_run": self._run}
            row["broken"] = int(row["broken"] or broken)
            if reason != REASONS.index(Reason.NOT_STARTED):
                row["reason"] = REASONS[reason].name
            row["seconds"] = number(row["seconds"]) + cost[0]
            row |= {name: int(number(row[name]) + more) for name, more in zip(("forward", "backward", "boxes"), cost[1:])}
            row["updated"] = moment
        execute_many(connection, *change(rows.values(), _CHANGING, SETS))
        return next((row for row in rows.values() if row["lower"] > row["upper"]), None)

    def _keep_points(self, connection: Connection, answers: Answers, indices: list[int]) -> None:
        """Adds the points of the sets `indices`, and lets go of the worst where there are more of a kind than are kept."""
        found = answers.found
        columns = [POINTS.c[name] for name in ("id", "set_id", "digest", "kind", *_MARGINS)]
        sets: dict[int, dict[str, Row]] = {}
        for stored in among(connection, select(*columns), POINTS.c.set_id, (self._ids[i] for i in indices)):
            sets.setdefault(stored.set_id, {})[stored.digest] = dict(stored._mapping)
        for i in indices:
            row: Row = {"id": None, "set_id": self._ids[i], "digest": fingerprint(found.x[i]), "kind": kind_of(answers, i).value}
            row |= {name: getattr(found, name)[i].item() for name in _MARGINS} | {"index": i}
            sets.setdefault(self._ids[i], {}).setdefault(row["digest"], row)
        keep: list[Row] = []
        drop: list[Row] = []
        for points in sets.values():
            room = {kind.value: kind.kept for kind in Kind}
            for row in sorted(points.values(), key=rank_of):
                room[row["kind"]] -= 1
                if row["id"] is None and room[row["kind"]] >= 0:
                    keep.append(row)
                elif row["id"] is not None and room[row["kind"]] < 0:
                    drop.append({"key": row["id"]})
        moment = timestamp()
        execute_many(connection, delete(POINTS).where(POINTS.c.id == bindparam("key")), drop)
        for row in keep:
            i = row.pop("index")
            row |= {"arrays": encode(found.x[i], found.y[i]), "in_written": int(found.in_written[i])}
            row |= {"run": self._run, "created": moment}
        execute_many(connection, insert(POINTS), keep)


def _version() -> str:
    return importlib.metadata.version("fathom-verify")


def _refuse_nan(answers: Answers) -> None:
    found = answers.found
    margins = [getattr(found, name).where(found.known, 0.0) for name in _MARGINS]
    parts = dict(zip((*_MARGINS, "lower", "seconds"), (*margins, answers.lower, answers.cost.seconds)))
    for name, values in parts.items():
        wrong = torch.isnan(values).nonzero()[:, 0]
        if len(wrong):
            raise CasebookError(
                f"expected a number as {name} of set {int(wrong[0])}, got NaN; does the model's output overflow in its region? "
                "nothing of these answers was stored"
            )
