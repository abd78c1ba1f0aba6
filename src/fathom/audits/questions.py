"""Where people judge: what they have called failures is tried first, and what to ask them next is put into the casebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fathom.attacks.guided import Guide
from fathom.core.arithmetic import Arithmetic
from fathom.core.budget import Budget
from fathom.core.composed import Not, Several
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Repairable
from fathom.overseers.person import Person

if TYPE_CHECKING:
    from fathom.casebook.store import Casebook

QUESTIONS = 20
"""That may wait to be judged at the end of an audit, if nothing else is said."""
AT_RANDOM = 0.2
"""Of the questions, so that the guide sees more than its own taste."""
LOOKED_AT = 4
"""Sets in which the guide looks, for each question of its own; the worst are asked about."""
FITTINGS = 10
"""Of the guide, one after the other."""
MOST_FAILURES = 16
"""Judged failures that are tried on one set."""


def people(overseer: Overseer) -> list[Person]:
    """The people among the parts of an overseer."""
    if isinstance(overseer, Person):
        return [overseer]
    parts = overseer.parts if isinstance(overseer, Several) else (overseer.part,) if isinstance(overseer, Not) else ()
    return [person for part in parts for person in people(part)]


def judged_failures(problem: Problem) -> Tensor:
    """Points [n, k, d] of the deployed sets that people have called failures, NaN for none: no search would meet them."""
    n, d, dtype = len(problem), problem.deployed.size, problem.program.dtype
    found: list[list[Tensor]] = [[] for _ in range(n)]
    for person in people(problem.overseer):
        x, _, margin = person.judged()
        for point in x[margin <= 0].to(dtype):
            if len(point) == d:
                for i in problem.deployed.contains(point.expand(n, d)).nonzero()[:, 0].tolist():
                    found[i].append(point)
    most = min(MOST_FAILURES, max((len(points) for points in found), default=0))
    candidates = torch.full((n, most, d), torch.nan, dtype=dtype)
    for i, points in enumerate(found):
        for k, point in enumerate(points[:most]):
            candidates[i, k] = point
    return candidates


def questions(problem: Problem, casebook: Casebook, count: int = QUESTIONS, *, titles: Sequence[str] = (), seed: int = 0) -> int:
    """Puts questions to people: inputs of the problem's sets, with what the deployed program makes of them.

    What people have said of this program so far a small network is fitted to, and where it expects the worst, people are asked;
    a fifth of the questions, and all before anybody has judged, are drawn at random. Nobody but people judges: what the network
    thinks of an input is not kept.

    Args:
        count: how many, at most; equal ones are put once.
        titles: what people call each case.

    Returns:
        How many were new.
    """
    generator = torch.Generator().manual_seed(seed)
    person = Person.of(casebook.judgements(problem.program.digest))
    guided = 0
    if len(person.memory.known) and problem.model is not None and problem.arithmetic is Arithmetic.REAL:
        guided = round((1 - AT_RANDOM) * count)
    sets, x = _drawn(problem, guided * LOOKED_AT, generator)
    if guided:
        sets, x = _worst(problem, person, sets, x, guided, generator, seed)
    more_sets, more = _drawn(problem, count - len(sets), generator)
    new = _put(problem, casebook, torch.cat([sets, more_sets]), torch.cat([x, more]), titles)
    if new < count:  # some were equal, or asked before
        new += _put(problem, casebook, *_drawn(problem, count - new, generator), titles)
    return new


def _put(problem: Problem, casebook: Casebook, sets: Tensor, x: Tensor, titles: Sequence[str]) -> int:
    """Questions about points [k, d] of sets [k], without those outside; returns how many are new."""
    from fathom.casebook.questions import Question  # here, because a database is not needed for every audit

    inside = problem.deployed.take(sets).contains(x)
    sets, x = sets[inside], x[inside]
    y = problem.program(x).to(torch.float64)
    (shape, *others) = [port.shape for port in problem.program.inputs]
    put = []
    for i, case in enumerate(problem.owner[sets].tolist()):
        title = titles[case] if titles else f"case {case}"
        put.append(Question(problem.program.digest, title, x[i] if others else x[i].reshape(shape), y[i]))
    return casebook.ask(put)


def put_questions(
    problem: Problem, casebook: str | Path | None, count: int, titles: Sequence[str], *, budget: Budget, seed: int
) -> int | None:
    """At the end of an audit: tops up what waits to be judged to `count` questions, where people judge.

    Returns:
        How many wait; None where people do not judge, or there is no casebook to keep questions in.
    """
    if casebook is None or not people(problem.overseer):
        return None
    from fathom.casebook.store import Casebook

    with Casebook.open(casebook) as book:
        wait = book.waiting(problem.program.digest)
        if wait < count and not budget.stop.is_set():
            # Judgements change what the guide proposes; what is drawn at random has to change too.
            seed += len(book.judgements(problem.program.digest))
            questions(problem, book, count - wait, titles=titles, seed=seed)
        return book.waiting(problem.program.digest)


def _drawn(problem: Problem, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sets [count], each as often as any other, and a random point of each, [count, d] in the program's dtype."""
    n, dtype = len(problem), problem.program.dtype
    if not count:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, problem.deployed.size, dtype=dtype)
    sets = torch.randperm(n, generator=generator)[torch.arange(count) % n]
    region = problem.deployed.take(sets)
    x = region.sample(1, generator)[:, 0].to(dtype)
    return sets, region.repair(x) if isinstance(region, Repairable) else x


def _worst(
    problem: Problem, person: Person, sets: Tensor, x: Tensor, count: int, generator: torch.Generator, seed: int
) -> tuple[Tensor, Tensor]:
    """Of the sets [k], from points [k, d] on, the `count` where a guide expects the worst, and where in them."""
    assert problem.model is not None
    inputs, size = problem.model.input_size, problem.model.input_size + problem.model.output_size
    guide = Guide(torch.arange(len(problem)), inputs, size, generator)
    given, made, margin = person.judged()
    known = [(torch.zeros(len(given), dtype=torch.int64), given, made, margin)]
    for _ in range(FITTINGS):
        guide.fit(known)
    found = guide.worst(problem, sets, x, Budget(seconds=5), seed).found
    best = torch.where(found.known, found.deployed, torch.inf).argsort(stable=True)
    best = best[found.known[best]][:count]
    return sets[best], found.x[best]
