"""How far people agree: with one another, and with themselves when a question comes back unannounced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from fathom.overseers.judgements import Judgement, Opinion

FEW = 20
"""Pairs; what rests on fewer says little."""


@dataclass(frozen=True)
class Agreement:
    """Of two judges on the questions that both were asked; or of one with himself, on those he was asked twice."""

    first: str
    second: str  # the same name: with himself
    pairs: int  # at least 1
    alike: int  # pairs of equal opinions
    kappa: float | None  # Cohen's; None where both always said one and the same thing, so that chance explains all

    @property
    def share(self) -> float:
        return self.alike / self.pairs

    def sentence(self) -> str:
        """For a person to read."""
        inputs = f"{self.pairs} {'input' if self.pairs == 1 else 'inputs'}"
        who = (
            f"{self.first} was asked again about" if self.first == self.second else f"{self.first} and {self.second} both judged"
        )
        chance = "kappa says nothing, as one answer was given always" if self.kappa is None else f"kappa {self.kappa:.2f}"
        few = "; too few to lean on" if self.pairs < FEW else ""
        return f"{who} {inputs}, with the same answer for {self.alike} ({100 * self.share:.0f} %, {chance}){few}."


def agreements(judgements: Iterable[Judgement]) -> list[Agreement]:
    """Of every judge with himself, then of every two judges; those without a pair in common are left out.

    Args:
        judgements: of one or several programs, in the order in which they were given. Of a judge asked several times the first
            word counts beside another's, and the first two beside each other.
    """
    said: dict[str, dict[str, list[Opinion]]] = {}
    for one in judgements:
        said.setdefault(one.judge, {}).setdefault(one.question, []).append(one.opinion)
    names = sorted(said)
    found = []
    for name in names:
        found.append((name, name, [(words[0], words[1]) for words in said[name].values() if len(words) > 1]))
    for first, second in combinations(names, 2):
        common = [question for question in said[first] if question in said[second]]
        found.append((first, second, [(said[first][question][0], said[second][question][0]) for question in common]))
    return [
        Agreement(first, second, len(pairs), sum(a is b for a, b in pairs), kappa(pairs))
        for first, second, pairs in found
        if pairs
    ]


def kappa(pairs: Sequence[tuple[Opinion, Opinion]]) -> float | None:
    """(alike - by chance) / (1 - by chance), with shares of pairs; 1 is perfect agreement, 0 what chance gives.

    Returns None where chance alone gives 1: all words are the same.
    Reference: Cohen, A coefficient of agreement for nominal scales, 1960.
    """
    n = len(pairs)
    alike = sum(a is b for a, b in pairs)
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(left[opinion] * right[opinion] for opinion in Opinion)  # times n squared, as is the rest: whole numbers
    return None if chance == n * n else (alike * n - chance) / (n * n - chance)
