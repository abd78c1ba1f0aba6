"""How often a judge could not judge: a margin of NaN is neither a failure nor its absence, and whoever reads a result is told."""

from __future__ import annotations

from torch import Tensor

UNASKED = {"fingerprint": False, "export": False}
"""Of a field that is no part of what is asked, neither where problems are told apart nor where they are written down."""


class Tally:
    """Of one judge and all its parts. It changes as they judge, and is no part of what is asked."""

    def __init__(self) -> None:
        self.asked, self.unjudged = 0, 0

    def counted(self, margin: Tensor) -> Tensor:
        """The margins [n], as they are."""
        self.asked += len(margin)
        self.unjudged += int(margin.isnan().sum())
        return margin

    def troubles(self, name: str, why: str) -> tuple[str, ...]:
        """A sentence, if there is anything to tell; `why` in words, "returned NaN"."""
        if not self.unjudged:
            return ()
        return (
            f"{name} gave no judgement on {self.unjudged} of {self.asked} inputs, which are neither failures nor safe: it {why}.",
        )
