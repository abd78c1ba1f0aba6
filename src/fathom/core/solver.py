"""The one verb: attacks, bounds and searches all answer `solve(problem, budget, ...) -> answers`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.problem import Problem

Observer = Callable[[Answers], None]


def ignore(answers: Answers) -> None:
    """The observer that looks away."""


@dataclass(frozen=True, eq=False)
class Hints:
    """Search aids from whoever worked on the problem before. Never trusted: points are confirmed and bounds derived again."""

    points: Tensor | None = None  # [n, k, d] starting points; NaN rows are none
    answers: Answers | None = None  # what is known already: sets decided there need no work

    def take(self, index: Tensor) -> Hints:
        return replace(
            self,
            points=None if self.points is None else self.points[index],
            answers=None if self.answers is None else self.answers.take(index),
        )


@dataclass(frozen=True)
class Solver(ABC):
    """A frozen dataclass: its `repr` is the recipe that pastes back. Docstrings have the heads
    Requires / Returns / Method / Sound? complete? / Reference."""

    @abstractmethod
    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        """A bracket for every set of the problem, at any time: an exhausted budget ends the work, never the answer.

        An attack never raises `lower`; a bound reports points only through `confirm`. `observe` sees answers for all n sets
        as they tighten, and must store what it wants to keep.
        """
