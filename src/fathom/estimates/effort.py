"""How much is spent on an estimation, and how sure its intervals are to be."""

from __future__ import annotations

from dataclasses import dataclass

from fathom.core.errors import FathomError
from fathom.estimates.intervals import check_confidence


@dataclass(frozen=True)
class Effort:
    """The numbers that an estimation starts from.

    Raises:
        FathomError: a count below 1, a confidence that is not between 0 and 1, or a seed below 0.
    """

    draws: int = 100_000  # of plain sampling
    evaluations: int = 100_000  # of each other method, about; boxes, of branch and bound
    confidence: float = 0.99  # of every interval
    seed: int = 0

    def __post_init__(self) -> None:
        for name, number, least in (("draws", self.draws, 1), ("evaluations", self.evaluations, 1), ("a seed", self.seed, 0)):
            if number < least:
                raise FathomError(f"expected {name} of {least} or more, got {number}")
        check_confidence(self.confidence)
