"""What people said of inputs and outputs, and what they said together."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fathom.core.overseer import Severity


class Opinion(enum.Enum):
    """What a person calls what a model did; from the best to the worst."""

    FINE = "fine"
    BENIGN = "benign"
    SERIOUS = "serious"
    MALIGN = "malign"

    @property
    def severity(self) -> Severity | None:
        """Of a failure; None for what is none."""
        return None if self is Opinion.FINE else Severity(self.value)


@dataclass(frozen=True, eq=False)
class Judgement:
    """One person's word on one input and output."""

    question: str  # the digest of program, x and y
    x: Tensor  # [d]
    y: Tensor  # [m]
    judge: str
    opinion: Opinion
    note: str = ""
    created: str = ""  # ISO 8601, UTC


def settled(words: Iterable[tuple[str, Opinion]]) -> Opinion:
    """What (judge, opinion) pairs about one question come to: a vote for each judge, however often he was asked.

    A judge who spoke several times has the majority of his own words as his vote. See `majority`.
    """
    votes: dict[str, list[Opinion]] = {}
    for judge, opinion in words:
        votes.setdefault(judge, []).append(opinion)
    return majority([majority(said) for said in votes.values()])


def majority(opinions: Sequence[Opinion]) -> Opinion:
    """FINE if more than half say so. A tie is a failure: to overlook one is worse than to look twice at what is fine.

    Of a failure, the median of what those call it who see one; the worse of two in the middle.

    Args:
        opinions: at least one.
    """
    ranks = list(Opinion)
    failures = sorted(ranks.index(opinion) for opinion in opinions if opinion is not Opinion.FINE)
    if 2 * len(failures) < len(opinions):
        return Opinion.FINE
    return ranks[failures[len(failures) // 2]]
