"""Questions that the casebook puts to people, and their judgements: who is asked what next, and what was said.

Every word that people give, names and notes, is text: it is stored by bound parameters, and nothing reads it as anything else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from sqlalchemy import Connection, Select, delete, insert, select, update
from torch import Tensor

from fathom.casebook.database import DAMAGED, CasebookError
from fathom.casebook.points import encode
from fathom.casebook.rows import among, execute_many, timestamp, word
from fathom.casebook.schema import JUDGEMENTS, QUESTIONS
from fathom.core.value import fingerprint
from fathom.overseers.judgements import Judgement, Opinion

AGAIN = 10
"""After so many judgements of one judge, an earlier question comes back to him, unannounced."""
LONGEST_NAME, LONGEST_NOTE = 100, 4000


@dataclass(frozen=True, eq=False)
class Question:
    """What a person is asked: whether it is fine that this program makes y of x."""

    program: str  # digest
    title: str
    x: Tensor  # in the shape that people see, in the program's dtype
    y: Tensor  # [m]
    judges: int = 2  # how many people's word is wanted; more than one shows how far they agree

    @property
    def digest(self) -> str:
        return fingerprint((self.program, self.x.reshape(-1), self.y))


def ask(connection: Connection, questions: Sequence[Question]) -> int:
    """Puts questions, and returns how many are new; of the others, the larger number of judges is kept."""
    rows = {question.digest: question for question in questions}
    there = {
        row.digest: row for row in among(connection, select(QUESTIONS.c.digest, QUESTIONS.c.judges), QUESTIONS.c.digest, rows)
    }
    moment = timestamp()
    execute_many(
        connection,
        insert(QUESTIONS),
        (
            {"digest": digest, "program": one.program, "title": one.title, "arrays": encode(one.x, one.y)}
            | {"judges": one.judges, "created": moment}
            for digest, one in rows.items()
            if digest not in there
        ),
    )
    for digest, row in there.items():
        if row.judges < rows[digest].judges:
            connection.execute(update(QUESTIONS).where(QUESTIONS.c.digest == digest).values(judges=rows[digest].judges))
    return len(rows) - len(there)


def judge(connection: Connection, digest: str, who: str, opinion: Opinion, note: str) -> None:
    """Stores one judgement.

    Raises:
        CasebookError: no such question, or no name that can be printed.
    """
    if not who.strip() or len(who) > LONGEST_NAME or not who.isprintable():
        raise CasebookError(f"expected the judge's name, of at most {LONGEST_NAME} printable characters, got {who[:200]!r}")
    if len(note) > LONGEST_NOTE:
        raise CasebookError(f"expected a note of at most {LONGEST_NOTE} characters, got {len(note)}; make it shorter")
    if connection.execute(select(QUESTIONS.c.digest).where(QUESTIONS.c.digest == digest)).first() is None:
        raise CasebookError(f"expected the digest of a question of this casebook, got {digest!r}")
    values = {"question": digest, "judge": who, "opinion": opinion.value, "note": note, "created": timestamp()}
    connection.execute(insert(JUDGEMENTS).values(values))


def take_back(connection: Connection, digest: str, who: str) -> None:
    """Removes what this judge said last of a question.

    Raises:
        CasebookError: he said nothing of it.
    """
    mine = (JUDGEMENTS.c.question == digest) & (JUDGEMENTS.c.judge == who)
    last = connection.execute(select(JUDGEMENTS.c.id).where(mine).order_by(JUDGEMENTS.c.id.desc()).limit(1)).scalar()
    if last is None:
        raise CasebookError(f"expected a question of which {who!r} has said something, got {digest!r}")
    connection.execute(delete(JUDGEMENTS).where(JUDGEMENTS.c.id == last))


def queue(connection: Connection, who: str, limit: int | None) -> list[Question]:
    """What this judge is asked next, in order: see `line`."""
    asked = connection.execute(select(QUESTIONS.c.digest, QUESTIONS.c.judges).order_by(QUESTIONS.c.created, QUESTIONS.c.digest))
    wanted = {row.digest: int(row.judges) for row in asked}
    given = connection.execute(select(JUDGEMENTS.c.question, JUDGEMENTS.c.judge).order_by(JUDGEMENTS.c.id))
    order = line(wanted, [(row.question, row.judge) for row in given], who)[:limit]
    found = {row.digest: question_of(row) for row in among(connection, select(QUESTIONS), QUESTIONS.c.digest, order, step=64)}
    return [found[digest] for digest in order]


def line(wanted: Mapping[str, int], given: Sequence[tuple[str, str]], who: str) -> list[str]:
    """The questions for a judge, in order: what he has not judged and too few others have, first what nobody has; and, after
    every `AGAIN` judgements of his, once more the one that he judged longest ago, which tells how far he agrees with himself.

    Args:
        wanted: question to how many judges it is for.
        given: (question, judge) of every judgement, in the order in which they were given.
    """
    mine = [question for question, name in given if name == who]
    times, done = Counter(mine), len(mine)
    others = Counter(question for question, name in set(given) if name != who)
    fresh = deque(sorted((q for q, most in wanted.items() if not times[q] and others[q] < most), key=lambda q: others[q]))
    once = deque(question for question in mine if times[question] == 1)
    again, order = done - len(times), []
    while True:
        if once and again < done // AGAIN:
            order.append(once.popleft())
            again += 1
        elif fresh:
            order.append(fresh.popleft())
            once.append(order[-1])
        else:
            return order
        done += 1


def judgements(connection: Connection, program: str | None) -> list[Judgement]:
    """All that was said, of one program or of any, in the order in which it was."""
    joined = JUDGEMENTS.join(QUESTIONS, QUESTIONS.c.digest == JUDGEMENTS.c.question)
    query: Select[Any] = select(JUDGEMENTS).select_from(joined).order_by(JUDGEMENTS.c.id)
    query = query if program is None else query.where(QUESTIONS.c.program == program)
    given = connection.execute(query).all()
    arrays = {
        row.digest: question_of(row)
        for row in among(connection, select(QUESTIONS), QUESTIONS.c.digest, (one.question for one in given), step=64)
    }
    return [
        Judgement(
            one.question,
            arrays[one.question].x.reshape(-1),
            arrays[one.question].y,
            one.judge,
            word(Opinion, one.opinion),
            one.note,
            one.created,
        )
        for one in given
    ]


def waiting(connection: Connection, program: str) -> int:
    """How many questions about a program nobody has judged."""
    judged = QUESTIONS.c.digest.in_(select(JUDGEMENTS.c.question))
    return len(connection.execute(select(QUESTIONS.c.digest).where((QUESTIONS.c.program == program) & ~judged)).all())


def question_of(row: Any) -> Question:
    """A question as it was stored.

    Raises:
        CasebookError: its arrays are not those that were stored.
    """
    try:
        if not isinstance(row.arrays, bytes):
            raise TypeError(f"{type(row.arrays).__name__} instead of bytes")
        arrays = safetensors.torch.load(row.arrays)
        question = Question(row.program, row.title, arrays["x"], arrays["y"], row.judges)
        if question.y.ndim != 1 or question.y.dtype != torch.float64 or question.digest != row.digest:
            raise ValueError(f"x {list(question.x.shape)}, y {list(question.y.shape)} of digest {question.digest[:12]}")
    except (TypeError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CasebookError(
            f"expected the arrays of question {str(row.digest)[:12]}, got bytes that are not what was stored ({error}); {DAMAGED}"
        ) from error
    return question
