"""What reading and writing the casebook's tables share: rows by the thousand, and the rules that a row keeps."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import torch
from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, select, update

from fathom.casebook.database import DAMAGED, CasebookError
from fathom.casebook.points import Kind, decode, rank
from fathom.casebook.schema import BRACKETS, CASES, POINTS, RUN_CASES, SETS
from fathom.core.answer import Reason
from fathom.core.problem import Problem

Row = dict[str, Any]
E = TypeVar("E", bound=enum.Enum)

OPEN: Row = {"lower": -torch.inf, "upper": torch.inf, "verdict": "unknown"}
"""A case of a run of which nothing is known."""

_NEW_SET: Row = {
    "lower": -torch.inf,
    "upper": torch.inf,
    "deployed": torch.inf,
    "broken": 0,
    "reason": Reason.NOT_STARTED.name,
    "seconds": 0.0,
    "forward": 0,
    "backward": 0,
    "boxes": 0,
}


def timestamp() -> str:
    """Now, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def number(value: object) -> float:
    """A number as it was stored.

    Raises:
        CasebookError: it is something else.
    """
    if not isinstance(value, float | int):
        raise CasebookError(f"expected a number, got {value!r}; {DAMAGED}")
    return float(value)


def seal(digest: str, place: int, arithmetic: str, lower: float) -> str:
    """A checksum that binds a proved bound to its set, and to what it holds under. It finds accidents, not forgers."""
    return hashlib.sha256(f"{digest} {place} {arithmetic} {lower!r}".encode()).hexdigest()[:16]


def proved(row: Mapping[str, Any]) -> float:
    """The lower bound of a row of `sets`, as it was stored.

    Raises:
        CasebookError: it is not what was stored.
    """
    lower = number(row["lower"])
    if row["seal"] != seal(row["case_digest"], row["place"], row["arithmetic"], lower):
        which = f"set {row['place']} of case {row['case_digest'][:12]}"
        raise CasebookError(f"expected the lower bound of {which} as it was stored, got {lower!r}; {DAMAGED}")
    return lower


def word(kind: type[E], value: object) -> E:
    """A member of an enumeration as it was stored, by its value.

    Raises:
        CasebookError: it is something else.
    """
    try:
        return kind(value)
    except ValueError:
        raise CasebookError(f"expected one of {[member.value for member in kind]}, got {value!r}; {DAMAGED}") from None


def rank_of(row: Mapping[str, Any]) -> tuple[int, float]:
    """Sorts the points of one set, best first."""
    return rank(word(Kind, row["kind"]), number(row["deployed"]), number(row["real_lower"]), number(row["real_upper"]))


def among(
    connection: Connection, query: Any, column: ColumnElement[Any], values: Iterable[Any], step: int = 1000
) -> Iterator[Any]:
    """The rows of `query` whose `column` is one of `values`, some at a time: databases limit the parameters of a query."""
    ordered = sorted(set(values))
    for start in range(0, len(ordered), step):
        yield from connection.execute(query.where(column.in_(ordered[start : start + step]))).all()


def by_id(connection: Connection, query: Any, column: ColumnElement[Any], ids: Iterable[int]) -> dict[int, Any]:
    """The rows of these ids, each of which must be there.

    Raises:
        CasebookError: one is not.
    """
    rows = {row.id: row for row in among(connection, query, column, ids)}
    missing = set(ids) - rows.keys()
    if missing:
        raise CasebookError(f"expected row {min(missing)} of table {column.table.name}, got none; {DAMAGED}")
    return rows


def execute_many(connection: Connection, statement: Any, rows: Iterable[Row]) -> None:
    """One statement for many rows; none, where there are none."""
    rows = list(rows)
    if rows:
        connection.execute(statement, rows)


def change(rows: Iterable[Row], names: Sequence[str], table: Any) -> tuple[Any, list[Row]]:
    """An update of the columns `names` of the rows of `table` with these ids, for `execute_many`."""
    statement = update(table).where(table.c.id == bindparam("key")).values({name: bindparam(f"new_{name}") for name in names})
    return statement, [{"key": row["id"]} | {f"new_{name}": row[name] for name in names} for row in rows]


def add_cases(connection: Connection, problem: Problem, digests: Sequence[str], sets: Mapping[int, list[int]]) -> None:
    """The cases, [case] -> indices of its sets, that are not there yet, with all their sets."""
    there = {row.digest for row in among(connection, select(CASES.c.digest), CASES.c.digest, (digests[case] for case in sets))}
    moment = timestamp()
    cases: list[Row] = []
    rows: list[Row] = []
    for case, members in sets.items():
        if digests[case] in there:
            continue
        there.add(digests[case])
        part = problem.take(torch.tensor(members))
        texts = {"region": _describe(part.written), "overseer": _describe(part.overseer)}
        cases.append({"digest": digests[case], "program": problem.program.digest, "created": moment} | texts)
        way = problem.arithmetic.value  # part of the digest too, so that a case has sets of one arithmetic
        new = {"case_digest": digests[case], "arithmetic": way, "updated": moment} | _NEW_SET
        seals = [seal(digests[case], place, way, -torch.inf) for place in range(len(members))]
        rows.extend(new | {"place": place, "seal": check} for place, check in enumerate(seals))
    execute_many(connection, insert(CASES), cases)
    execute_many(connection, insert(SETS), rows)


def _describe(value: object) -> str:
    """In words, where the value's class has them; else its recipe. At most a few lines of it."""
    return " ".join(str(value).split())[:1000]


def set_ids(connection: Connection, sets: Sequence[tuple[str, int]]) -> list[int]:
    """The rows in `sets` of sets given as (digest of the case, place in it).

    Raises:
        CasebookError: one is not there.
    """
    query = select(SETS.c.case_digest, SETS.c.place, SETS.c.id)
    rows = among(connection, query, SETS.c.case_digest, (digest for digest, _ in sets))
    ids = {(row.case_digest, row.place): row.id for row in rows}
    missing = set(sets) - ids.keys()
    if missing:
        digest, place = min(missing)
        raise CasebookError(f"expected set {place} of case {digest[:12]}, got none; {DAMAGED}")
    return [ids[key] for key in sets]


def copy_brackets(connection: Connection, run: int, digests: Iterable[str]) -> None:
    """Brings a run's own account of the brackets of its cases up to date."""
    found = among(connection, select(BRACKETS), BRACKETS.c.case_digest, digests)
    rows = [{"case": row.case_digest} | {f"new_{name}": row._mapping[name] for name in OPEN} for row in found]
    mine = (RUN_CASES.c.run == run) & (RUN_CASES.c.case_digest == bindparam("case"))
    execute_many(connection, update(RUN_CASES).where(mine).values({name: bindparam(f"new_{name}") for name in OPEN}), rows)


def best_points(connection: Connection, ids: Iterable[int], count: int, largest: int) -> dict[int, list[int]]:
    """For every set with points the ids of the best `count`, best first.

    Raises:
        CasebookError: one takes more than `largest` bytes.
    """
    size = func.length(POINTS.c.arrays).label("size")
    columns = [POINTS.c[name] for name in ("id", "set_id", "digest", "kind", "deployed", "real_lower", "real_upper")]
    rows = [row._mapping for row in among(connection, select(*columns, size), POINTS.c.set_id, ids)]
    best: dict[int, list[int]] = {}
    for row in sorted(rows, key=rank_of):
        if row["size"] > largest:
            raise CasebookError(f"expected a point of at most {largest} bytes, got one of {row['size']}; {DAMAGED}")
        kept = best.setdefault(row["set_id"], [])
        if len(kept) < count:
            kept.append(row["id"])
    return best


def inputs(connection: Connection, points: Iterable[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """The ids and x [d] of points.

    Raises:
        CasebookError: one is not what was stored.
    """
    query = select(POINTS.c.id, POINTS.c.digest, POINTS.c.arrays)
    for row in among(connection, query, POINTS.c.id, points, step=64):
        yield row.id, decode(row.digest, row.arrays)[0]
